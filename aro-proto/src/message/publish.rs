//! Giving a content to a node: the upload, how far it was taken, and the node's signed receipt.

use serde::{Deserialize, Serialize};

use super::{message, signature_field};
use crate::amount::{Amount, ByteCount};
use crate::identity::{SecretKey, SignatureError, verify_strict};
use crate::ids::{AgentId, ContentId, NodeId};
use crate::limits::MAX_CONTENT_SIZE;
use crate::merkle::ByteRanges;
use crate::tariff::Tariff;

/// On which terms a node takes uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishTerms {
    /// What it asks for content bytes that it takes.
    pub tariff: Tariff,
    /// Bytes of the largest content that it takes.
    pub max_content_bytes: u64,
}

/// Asks the node to take a content. After the node's [`PublishHead`] the same stream carries it: the encoding of what
/// the node lacks, or, for a content that nobody has hashed yet, its raw bytes and a [`Trailer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The content, if its id is known; none for a source whose end has not been seen.
    pub content: Option<ContentId>,
    /// Its bytes; the most that will come if the content is not known.
    pub size: u64,
    /// Log2 of the chunk group in BLAKE3 chunks: 4 (16 KiB) to 6 (64 KiB).
    pub group_log2: u8,
    /// The most that the upload may cost; a node that wants more answers with its price.
    // r[impl request.max_price]
    pub max_price: Amount,
}
message!(Publish = 0x26, check: |m| m.size <= MAX_CONTENT_SIZE);

/// The node is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishHead {
    /// What it lacks of the content; everything if the content is not known.
    pub missing: ByteRanges,
    /// Content bytes that the node will take, proofs not counted: what is billed once taken. For a content that is not
    /// known the most that it takes, which may be less than was announced.
    pub content_bytes: ByteCount,
    /// Their price.
    pub price: Amount,
}
message!(PublishHead = 0x27);

/// How far the node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Content bytes of this upload that are verified and written: what the agent owes for. Only rises.
    pub bytes: u64,
}
message!(Taken = 0x28);

/// The content is durable at the node, and served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The node's word for it.
    pub receipt: SignedPublishReceipt,
}
message!(Published = 0x29);

/// What a node has taken, from whom, for how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishReceipt {
    /// The content.
    pub content: ContentId,
    /// Its bytes.
    pub size: ByteCount,
    /// Who published it: the key that signed the request.
    pub publisher: AgentId,
    /// Content bytes that this request brought; what the node had before is not billed again.
    pub taken: ByteCount,
    /// Their price by itself, rounded up, in base units.
    pub price: Amount,
    /// Unix seconds at which the content was durable.
    pub at: i64,
}

/// A receipt with the node's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedPublishReceipt {
    /// The receipt.
    pub receipt: PublishReceipt,
    /// The node's signature over `"aro/1 publish receipt\0"` and the receipt's postcard bytes.
    #[serde(with = "signature_field")]
    pub signature: [u8; 64],
}

/// The last 40 bytes of an upload whose content was not known: what the sender has hashed and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The id of all bytes before the trailer.
    pub content: ContentId,
    /// How many they are.
    pub size: u64,
}

impl PublishReceipt {
    /// Signs with the node's key.
    pub fn sign(self, key: &SecretKey) -> SignedPublishReceipt {
        SignedPublishReceipt { receipt: self, signature: key.sign(&self.signed_bytes()) }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        [RECEIPT_DOMAIN, &super::to_postcard(self)].concat()
    }
}

impl SignedPublishReceipt {
    /// The receipt, if the node signed it.
    // r[impl publish.receipt.signed]
    pub fn verify(&self, node: &NodeId) -> Result<PublishReceipt, SignatureError> {
        verify_strict(node.as_bytes(), &self.receipt.signed_bytes(), &self.signature)?;
        Ok(self.receipt)
    }
}

impl Trailer {
    /// As it stands at the end of the stream: the id, then the size as u64 LE.
    pub fn to_bytes(&self) -> [u8; TRAILER_LEN] {
        let mut bytes = [0; TRAILER_LEN];
        bytes[..32].copy_from_slice(self.content.as_bytes());
        bytes[32..].copy_from_slice(&self.size.to_le_bytes());
        bytes
    }

    /// Reads a trailer; any 40 bytes are one.
    pub fn from_bytes(bytes: &[u8; TRAILER_LEN]) -> Self {
        let (mut content, mut size) = ([0; 32], [0; 8]);
        content.copy_from_slice(&bytes[..32]);
        size.copy_from_slice(&bytes[32..]);
        Self { content: ContentId::from_bytes(content), size: u64::from_le_bytes(size) }
    }
}

/// Bytes of a [`Trailer`].
pub const TRAILER_LEN: usize = 40;

const RECEIPT_DOMAIN: &[u8] = b"aro/1 publish receipt\0";

#[cfg(test)]
mod tests {
    use super::*;

    // r[verify publish.receipt.signed]
    #[test]
    fn a_receipt_counts_only_from_its_node_and_unaltered() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let receipt = PublishReceipt {
            content: ContentId::of(b"x"),
            size: ByteCount::new(1),
            publisher: key.agent_id(),
            taken: ByteCount::new(1),
            price: Amount::new(1),
            at: 60,
        };
        let signed = receipt.sign(&key);
        assert_eq!(signed.verify(&key.node_id()), Ok(receipt));
        assert!(signed.verify(&SecretKey::from_bytes(&[8; 32]).node_id()).is_err());
        let larger = SignedPublishReceipt { receipt: PublishReceipt { size: ByteCount::new(2), ..receipt }, ..signed };
        assert!(larger.verify(&key.node_id()).is_err());
    }

    #[test]
    fn a_trailer_reads_back() {
        let trailer = Trailer { content: ContentId::of(b"x"), size: 0x0102_0304_0506_0708 };
        let bytes = trailer.to_bytes();
        assert_eq!(bytes[32..], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(Trailer::from_bytes(&bytes), trailer);
    }
}
