//! What must survive a crash: the best voucher of each channel, and what the operator has acknowledged.
//!
//! A voucher is durable before it widens a credit window, and one sync covers all channels: only the
//! [`Committer`] hands out credit.

mod committer;
mod redb_store;

pub(crate) use committer::{Committer, CommitterHandle};
pub use redb_store::LedgerError;
pub(crate) use redb_store::{Handed, RedbLedger};
