//! Asking for a content's size and price, and the node's signed quote.

use serde::{Deserialize, Serialize};

use super::{message, signature_field};
use crate::amount::{Amount, ByteCount};
use crate::identity::{SecretKey, SignatureError, verify_strict};
use crate::ids::{ContentId, NodeId};
use crate::merkle::ByteRanges;
use crate::tariff::Tariff;

/// Asks what a fetch would cost. Free, and needs no channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Describe {
    /// The content.
    pub content: ContentId,
    /// The ranges that would be fetched.
    pub ranges: ByteRanges,
    /// Log2 of the chunk group in BLAKE3 chunks that would be used.
    pub group_log2: u8,
}
message!(Describe = 0x20);

/// What the node would do for which price, until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// The content.
    pub content: ContentId,
    /// Its size as the node holds it; proven only by fetching its end.
    pub size: ByteCount,
    /// Content bytes that the asked ranges come to, in whole chunk groups: what is billed.
    pub content_bytes: ByteCount,
    /// What they cost.
    pub price: Amount,
    /// The price list behind it.
    pub tariff: Tariff,
    /// Unix seconds after which the node may ask another price.
    pub valid_until: i64,
}

/// A quote with the node's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedQuote {
    /// The quote.
    pub quote: Quote,
    /// The node's signature over `"aro/1 quote\0"` and the quote's postcard bytes.
    #[serde(with = "signature_field")]
    pub signature: [u8; 64],
}

/// The answer to [`Describe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Size and price, signed, so that a broken promise can be shown.
    pub quote: SignedQuote,
}
message!(Description = 0x21);

impl Describe {
    /// Asks about a whole content, in bulk groups.
    pub fn whole(content: ContentId) -> Self {
        Self { content, ranges: ByteRanges::all(), group_log2: crate::merkle::GroupSize::KIB64.log2() }
    }
}

impl Quote {
    /// Signs with the node's key.
    pub fn sign(self, key: &SecretKey) -> SignedQuote {
        SignedQuote { quote: self, signature: key.sign(&self.signed_bytes()) }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        [QUOTE_DOMAIN, &super::to_postcard(self)].concat()
    }
}

impl SignedQuote {
    /// The quote, if the node signed it.
    // r[impl pricing.quote.signed]
    pub fn verify(&self, node: &NodeId) -> Result<Quote, SignatureError> {
        verify_strict(node.as_bytes(), &self.quote.signed_bytes(), &self.signature)?;
        Ok(self.quote)
    }
}

const QUOTE_DOMAIN: &[u8] = b"aro/1 quote\0";

#[cfg(test)]
mod tests {
    use super::*;

    // r[verify pricing.quote.signed]
    #[test]
    fn a_quote_counts_only_from_its_node_and_unaltered() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let quote = Quote {
            content: ContentId::of(b"x"),
            size: ByteCount::new(1),
            content_bytes: ByteCount::new(1),
            price: Amount::new(1),
            tariff: Tariff { per_mib: 100 },
            valid_until: 60,
        };
        let signed = quote.sign(&key);
        assert_eq!(signed.verify(&key.node_id()), Ok(quote));
        assert!(signed.verify(&SecretKey::from_bytes(&[8; 32]).node_id()).is_err());
        let cheaper = SignedQuote { quote: Quote { price: Amount::ZERO, ..quote }, ..signed };
        assert!(cheaper.verify(&key.node_id()).is_err());
    }
}
