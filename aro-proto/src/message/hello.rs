//! Who speaks, on which chain, at what price.

use serde::{Deserialize, Serialize};

use super::message;
use crate::amount::Amount;
use crate::error::Refusal;
use crate::tariff::Tariff;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}
message!(NodeHello = 0x02);

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
