//! What must survive a crash: the best voucher of each channel, what the operator has acknowledged, and what the node's own
//! settling has offered on top of base fees.
//!
//! A voucher is durable before it widens a credit window, and one sync covers all channels: only the
//! [`Committer`] hands out credit.

mod committer;
mod fees;
mod redb_store;

pub(crate) use committer::{Committer, CommitterHandle};
pub(crate) use fees::OfferedFee;
pub use redb_store::LedgerError;
pub(crate) use redb_store::{Handed, RedbLedger};
