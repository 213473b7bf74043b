//! The control stream's money talk: binding a channel, vouchers, credit.

use serde::{Deserialize, Serialize};

use super::{message, signature_field};
use crate::amount::Amount;
use crate::error::Refusal;
use crate::ids::ChannelId;

/// Ties the connection to one channel for its whole life. Signed by the channel's signer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The channel that pays for every request on this connection.
    pub channel: ChannelId,
}
message!(Bind = 0x08);

/// A voucher without its channel, which the connection is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoucherOnWire {
    /// Total paid on the channel so far, this voucher included.
    pub cumulative: Amount,
    /// Unix seconds, or 0 for never.
    pub expires_at: i64,
    /// The agent's signature over the 50 voucher bytes.
    #[serde(with = "signature_field")]
    pub signature: [u8; 64],
}

/// The channel is bound: where the node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The channel.
    pub channel: ChannelId,
    /// The node's best voucher, so that an agent that lost its state finds its own signature here.
    pub watermark: Option<VoucherOnWire>,
    /// What the node has billed on this channel in all, in 2^-20 base units.
    pub billed: u128,
    /// Deposit on chain, as far as the node has seen.
    pub deposit: Amount,
    /// Settled on chain, as far as the node has seen.
    pub settled: Amount,
    /// Credit window now.
    pub window: Amount,
}
message!(Bound = 0x09);

/// The agent pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pay {
    /// The voucher.
    pub voucher: VoucherOnWire,
}
message!(Pay = 0x0a);

/// A voucher is durable at the node, and the window with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// The node's watermark.
    pub cumulative: Amount,
    /// Credit window now.
    pub window: Amount,
}
message!(Credit = 0x0b);

/// A voucher does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayRefused {
    /// The refused voucher's amount.
    pub cumulative: Amount,
    /// Why.
    pub refusal: Refusal,
    /// The node's best voucher, if any.
    pub watermark: Option<VoucherOnWire>,
}
message!(PayRefused = 0x0c, check: |m| m.refusal.is_within_bounds());

/// The agent stopped a request before its end: what it proved until then is what it owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEnd {
    /// QUIC id of the request's stream.
    pub stream: u64,
    /// Content bytes of it that the agent proved.
    pub proven_bytes: u64,
}
message!(StreamEnd = 0x0d);

/// The agent added to the deposit on chain: the node reads the channel anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToppedUp {
    /// The new deposit, for the node to expect.
    pub deposit: Amount,
}
message!(ToppedUp = 0x0e);
