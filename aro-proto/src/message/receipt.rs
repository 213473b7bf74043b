//! The node's word for what it has delivered and what has paid for it.

use serde::{Deserialize, Serialize};

use super::{message, signature_field};
use crate::amount::{Amount, ByteCount};
use crate::identity::{SecretKey, SignatureError, verify_strict};
use crate::ids::{ChannelId, ContentId, NodeId};
use crate::limits::MAX_RECEIPT_DELIVERIES;
use crate::merkle::ByteRanges;

/// One request that has ended and is paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// QUIC id of the request's stream on this connection.
    pub stream: u64,
    /// The content; of several the id of the list of their ids, see [`list_id`].
    pub content: ContentId,
    /// How many contents the request was for.
    pub contents: u32,
    /// Which bytes of the one content were asked for; of several all.
    pub ranges: ByteRanges,
    /// Content bytes that were delivered and are billed.
    pub bytes: ByteCount,
    /// Their price by itself, rounded up, in base units.
    pub amount: Amount,
}

/// What a node has delivered on a channel, and up to where the channel is paid. One signature is for all requests that one
/// voucher has paid, so that it costs as little as the voucher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryReceipt {
    /// The channel that has paid.
    pub channel: ChannelId,
    /// The node's watermark, which is durable and pays for all of these.
    pub cumulative: Amount,
    /// Unix seconds.
    pub at: i64,
    /// The requests.
    pub deliveries: Vec<Delivery>,
}

/// A receipt with the node's signature. Sent to agents of minor version 1 and above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The receipt.
    pub receipt: DeliveryReceipt,
    /// The node's signature over `"aro/1 receipt\0"` and the receipt's postcard bytes.
    #[serde(with = "signature_field")]
    pub signature: [u8; 64],
}
// r[impl receipt.bounds]
message!(Receipt = 0x0f, check: |m| (1..=MAX_RECEIPT_DELIVERIES).contains(&m.receipt.deliveries.len()));

/// The id of a list of contents: the BLAKE3 root of their ids, one after another in the order of the request.
pub fn list_id(contents: impl IntoIterator<Item = ContentId>) -> ContentId {
    let ids: Vec<u8> = contents.into_iter().flat_map(ContentId::to_bytes).collect();
    ContentId::of(&ids)
}

impl DeliveryReceipt {
    /// Signs with the node's key.
    pub fn sign(self, key: &SecretKey) -> Receipt {
        let signature = key.sign(&self.signed_bytes());
        Receipt { receipt: self, signature }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        [RECEIPT_DOMAIN, &super::to_postcard(self)].concat()
    }
}

impl Receipt {
    /// The receipt, if the node signed it.
    // r[impl receipt.signed]
    pub fn verify(&self, node: &NodeId) -> Result<&DeliveryReceipt, SignatureError> {
        verify_strict(node.as_bytes(), &self.receipt.signed_bytes(), &self.signature)?;
        Ok(&self.receipt)
    }
}

const RECEIPT_DOMAIN: &[u8] = b"aro/1 receipt\0";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::wire::{decode_body, encode_body};

    fn delivery(stream: u64) -> Delivery {
        Delivery {
            stream,
            content: ContentId::of(b"x"),
            contents: 1,
            ranges: ByteRanges::all(),
            bytes: ByteCount::new(1),
            amount: Amount::new(1),
        }
    }

    fn receipt(deliveries: Vec<Delivery>) -> DeliveryReceipt {
        DeliveryReceipt { channel: ChannelId::from_bytes([9; 32]), cumulative: Amount::new(7), at: 60, deliveries }
    }

    // r[verify receipt.signed]
    #[test]
    fn a_receipt_counts_only_from_its_node_and_unaltered() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let signed = receipt(vec![delivery(4), delivery(8)]).sign(&key);
        assert_eq!(signed.verify(&key.node_id()), Ok(&signed.receipt));
        assert!(signed.verify(&SecretKey::from_bytes(&[8; 32]).node_id()).is_err());
        let mut more = signed.clone();
        more.receipt.cumulative = Amount::new(8);
        assert!(more.verify(&key.node_id()).is_err());
        let mut fewer = signed;
        fewer.receipt.deliveries.pop();
        assert!(fewer.verify(&key.node_id()).is_err());
    }

    // r[verify receipt.bounds]
    #[test]
    fn a_receipt_is_for_one_to_so_many_deliveries() {
        let key = SecretKey::from_bytes(&[7; 32]);
        for (count, is_fine) in
            [(0, false), (1, true), (MAX_RECEIPT_DELIVERIES, true), (MAX_RECEIPT_DELIVERIES + 1, false)]
        {
            let signed = receipt(vec![delivery(4); count]).sign(&key);
            let body = encode_body(&signed).unwrap();
            assert_eq!(decode_body::<Receipt>(Receipt::KIND, &body).is_ok(), is_fine, "{count}");
        }
    }

    #[test]
    fn the_id_of_a_list_depends_on_its_order() {
        let (a, b) = (ContentId::of(b"a"), ContentId::of(b"b"));
        assert_ne!(list_id([a, b]), list_id([b, a]));
        assert_eq!(list_id([a]), ContentId::of(a.as_bytes()));
    }
}
