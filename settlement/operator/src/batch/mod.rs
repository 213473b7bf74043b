//! From channels to transactions: what is worth sending, packed to the byte.

mod due;
mod pack;
pub(crate) mod planner;
mod size;

use aro_proto::{Amount, ChannelId};
use settlement_chain::{Address, Instruction};
use settlement_interface::accounts::{Channel, Node};

pub use due::{Candidate, Cost, Due, Rules};
pub use planner::{Facts, Planner};
pub use size::transaction_bytes;

/// What a transaction does to its channels. The numbers are stored in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Credits vouchers.
    Settle = 1,
    /// Credits vouchers and closes their channels.
    Close = 2,
    /// Closes channels whose grace is over.
    Finalize = 3,
    /// Refunds agents of closed channels.
    Reclaim = 4,
}

impl Kind {
    /// Its name in reports, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Settle => "settle",
            Self::Close => "close",
            Self::Finalize => "finalize",
            Self::Reclaim => "reclaim",
        }
    }

    /// The kind of a stored number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Settle),
            2 => Some(Self::Close),
            3 => Some(Self::Finalize),
            4 => Some(Self::Reclaim),
            _ => None,
        }
    }
}

/// One channel of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The channel.
    pub channel: ChannelId,
    /// The stored voucher's amount when this was planned, if there was one.
    pub voucher: Option<Amount>,
    /// What the audit trail will say of it.
    pub trace: Trace,
}

/// What was known of a channel when a transaction for it was planned. Amounts are base units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The earning node's account.
    pub node: Address,
    /// The chain's watermark.
    pub from: Amount,
    /// What goes back to the agent.
    pub refund: Amount,
    /// The operator's share of a rise, in basis points.
    pub operator_bps: u16,
    /// The protocol's share of a rise, in basis points.
    pub protocol_bps: u16,
    /// The agent's signature on the voucher that the transaction carries, if it carries one.
    pub voucher_signature: Option<[u8; 64]>,
}

impl Trace {
    /// What the chain says of a channel, and of its node if that is known.
    pub fn of(channel: &Channel, node: Option<&Node>) -> Self {
        Self {
            node: Address::from(channel.node),
            from: Amount::new(channel.settled),
            refund: Amount::default(),
            operator_bps: node.map_or(0, |node| node.operator_fee_bps),
            protocol_bps: channel.protocol_fee_bps,
            voucher_signature: None,
        }
    }
}

/// A transaction to be signed.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What it does.
    pub kind: Kind,
    /// The chain's unix second by which it was planned.
    pub at: i64,
    /// To which channels, in the order of the instruction.
    pub items: Vec<Item>,
    /// Why, for each item in order; empty where no voucher is settled.
    pub dues: Vec<Due>,
    /// The one instruction, beside the limits that the submitter adds.
    pub instruction: Instruction,
    /// The entries, so that a batch which the chain refuses can be planned again in halves.
    pub(crate) source: pack::Source,
}

impl Planned {
    /// True if one of its channels runs towards a deadline.
    pub fn is_urgent(&self) -> bool {
        self.source.is_urgent()
    }
}
