//! A node hands its best vouchers to its operator.

use serde::{Deserialize, Serialize};

use super::{message, signature_field};
use crate::amount::Amount;
use crate::error::Refusal;
use crate::ids::ChannelId;
use crate::limits::MAX_HANDOFF;

/// A voucher with its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoffVoucher {
    /// The channel.
    pub channel: ChannelId,
    /// Total paid on it.
    pub cumulative: Amount,
    /// Unix seconds, or 0 for never.
    pub expires_at: i64,
    /// The agent's signature over the 50 voucher bytes.
    #[serde(with = "signature_field")]
    pub signature: [u8; 64],
    /// True if the node wants the channel closed, not only settled.
    pub close: bool,
}

/// The node's best voucher of each channel that has news. Signed by the node's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handoff {
    /// The vouchers.
    pub vouchers: Vec<HandoffVoucher>,
}
message!(Handoff = 0x24, check: |m| m.vouchers.len() <= MAX_HANDOFF);

/// What became of one voucher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoffVerdict {
    /// The channel.
    pub channel: ChannelId,
    /// What is safe on this channel, if anything: the higher of what is durable at the operator and what is settled
    /// on chain.
    pub watermark: Option<Amount>,
    /// Why this voucher was refused, if it was.
    pub refusal: Option<Refusal>,
}

/// Sent only when all accepted vouchers are durable at the operator.
// r[impl settlement.handoff.durable]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoffAck {
    /// One for each voucher, in order.
    pub verdicts: Vec<HandoffVerdict>,
}
message!(HandoffAck = 0x25, check: |m| {
    m.verdicts.len() <= MAX_HANDOFF
        && m.verdicts.iter().all(|v| v.refusal.as_ref().is_none_or(Refusal::is_within_bounds))
});
