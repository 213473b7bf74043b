//! From channels to transactions: what is worth sending, packed to the byte.

mod due;
mod planner;
mod size;

use aro_proto::{Amount, ChannelId};
use settlement_chain::Instruction;

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
}

/// A transaction to be signed.
#[derive(Clone, Debug)]
pub struct Planned {
    /// What it does.
    pub kind: Kind,
    /// To which channels, in the order of the instruction.
    pub items: Vec<Item>,
    /// Why, for each item in order; empty where no voucher is settled.
    pub dues: Vec<Due>,
    /// The one instruction, beside the compute limit that the submitter adds.
    pub instruction: Instruction,
    /// The entries, so that a batch which the chain refuses can be planned again in halves.
    pub(crate) source: planner::Source,
}
