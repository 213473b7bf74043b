//! Who speaks, on which chain, at what price.

use serde::{Deserialize, Serialize};

use super::publish::PublishTerms;
use super::{Message, from_postcard, message, to_postcard};
use crate::amount::Amount;
use crate::error::Refusal;
use crate::tariff::Tariff;
use crate::wire::{DecodeError, Extension, read_extensions, write_extension};

/// The chain that a peer settles on. All three must agree before money moves.
// r[impl identity.chain]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainIds {
    /// Hash of the cluster's genesis: keeps vouchers of a test network away from the real one.
    pub genesis_hash: [u8; 32],
    /// Address of the settlement program.
    pub program: [u8; 32],
    /// Address of the $ARO mint.
    pub mint: [u8; 32],
}

/// A client's first frame on the control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Minor version; the ALPN is the major one.
    pub minor_version: u16,
    /// The client's chain.
    pub chain: ChainIds,
}
message!(Hello = 0x01);

/// A node's first frame on the control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeHello {
    /// Minor version.
    pub minor_version: u16,
    /// The node's chain.
    pub chain: ChainIds,
    /// What the node asks.
    pub tariff: Tariff,
    /// Request streams that the agent may have open at once.
    pub max_request_streams: u32,
    /// Shortest grace of a channel to this node, in seconds.
    pub min_grace_s: u32,
    /// On which terms the node takes uploads; none if it takes none. An optional field.
    pub publish: Option<PublishTerms>,
}

impl Message for NodeHello {
    const KIND: u8 = 0x02;
    const NAME: &'static str = "NodeHello";

    fn to_body(&self) -> Vec<u8> {
        let Self { minor_version, chain, tariff, max_request_streams, min_grace_s, publish } = self;
        let mut body = to_postcard(&(minor_version, chain, tariff, max_request_streams, min_grace_s));
        if let Some(terms) = publish {
            write_extension(&mut body, Extension { tag: PUBLISH_TAG, value: &to_postcard(terms) });
        }
        body
    }

    fn from_body(body: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let ((minor_version, chain, tariff, max_request_streams, min_grace_s), rest) = from_postcard(body, Self::NAME)?;
        let fields = read_extensions(rest)?;
        let terms = fields.iter().find(|field| field.tag == PUBLISH_TAG);
        let publish = terms.map(|field| from_postcard(field.value, Self::NAME).map(|(terms, _)| terms)).transpose()?;
        Ok((Self { minor_version, chain, tariff, max_request_streams, min_grace_s, publish }, rest))
    }
}

/// An operator's first frame on the control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorHello {
    /// Minor version.
    pub minor_version: u16,
    /// The operator's chain.
    pub chain: ChainIds,
    /// Address of the operator's account on chain.
    pub operator: [u8; 32],
    /// Settling a channel is not worth it below this much unsettled.
    pub min_settle: Amount,
}
message!(OperatorHello = 0x03);

/// A server's last frame on the control stream: no new requests, open ones finish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goaway {
    /// Why, and who must act.
    pub refusal: Refusal,
}
message!(Goaway = 0x04, check: |m| m.refusal.is_within_bounds());

/// The optional field of [`NodeHello::publish`].
const PUBLISH_TAG: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode_body, encode_body};

    #[test]
    fn a_hello_with_and_without_terms_for_uploads_reads_back() {
        let chain = ChainIds { genesis_hash: [1; 32], program: [2; 32], mint: [3; 32] };
        let tariff = Tariff { per_mib: 300 };
        let terms = PublishTerms { tariff: Tariff { per_mib: 7 }, max_content_bytes: 1 << 40 };
        for publish in [None, Some(terms)] {
            let hello =
                NodeHello { minor_version: 0, chain, tariff, max_request_streams: 256, min_grace_s: 900, publish };
            let body = encode_body(&hello).unwrap();
            assert_eq!(decode_body(NodeHello::KIND, &body), Ok(hello));
            assert!(decode_body::<NodeHello>(NodeHello::KIND, &body[..body.len() - 1]).is_err());
        }
    }
}
