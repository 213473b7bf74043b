//! The best voucher of each channel, kept until the chain has taken it for good.
//!
//! [`VoucherStore`] and [`Journal`](crate::submit::Journal) together are an operator's whole memory. [`Book`] is the
//! only way to write to them: it holds the rules that need both at once.

mod book;
mod memory;
mod redb_store;

use aro_proto::channel::{SignedVoucher, VerifiedVoucher};
use aro_proto::{Amount, ChannelId};
use settlement_chain::Address;

pub use book::{Begun, Book, Claim, Committed, Ruling};
pub use memory::MemoryStore;
pub use redb_store::RedbStore;

use crate::submit::Journal;

/// Where an operator keeps vouchers. Blocking: call it off the async threads.
pub trait VoucherStore: Send + Sync + 'static {
    /// Makes the batch durable, whole or not at all. Of two vouchers of a channel the higher stays; a wish to close
    /// stays once it is there.
    fn put(&self, batch: &[Accepted]) -> Result<(), StoreError>;

    /// The best voucher of a channel.
    fn get(&self, channel: ChannelId) -> Result<Option<StoredVoucher>, StoreError>;

    /// Every voucher, by channel.
    fn all(&self) -> Result<Vec<StoredVoucher>, StoreError>;

    /// Forgets vouchers that pay no more than the given amount; higher ones stay.
    fn prune(&self, done: &[(ChannelId, Amount)]) -> Result<(), StoreError>;
}

/// Everything that an operator remembers, behind one handle.
pub trait OperatorStore: VoucherStore + Journal {}

impl<S: VoucherStore + Journal> OperatorStore for S {}

/// A voucher that may be stored: its signature has been verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The voucher.
    pub voucher: VerifiedVoucher,
    /// The earning node's account.
    pub node: Address,
    /// True if the node wants the channel closed.
    pub close: bool,
}

/// A voucher as it lies in the store; it was verified when it entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredVoucher {
    /// The voucher with its signature.
    pub signed: SignedVoucher,
    /// The earning node's account.
    pub node: Address,
    /// True if the node wants the channel closed.
    pub close: bool,
}

impl StoredVoucher {
    /// The channel that it pays on.
    pub fn channel(&self) -> ChannelId {
        self.signed.voucher.channel
    }

    /// Everything paid on the channel, in base units.
    pub fn cumulative(&self) -> Amount {
        self.signed.voucher.cumulative
    }

    /// The voucher as one JSON object; the amount is in base units.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "channel": self.channel().to_string(),
            "node": self.node.to_string(),
            "cumulative": self.cumulative().get(),
            "expires_at": self.signed.voucher.expires_at,
            "close": self.close,
        })
    }

    /// What is stored after `accepted` arrives on top of this.
    fn merged(self, accepted: &Accepted) -> Self {
        let higher = self.cumulative() < accepted.voucher.cumulative();
        let signed = if higher { *accepted.voucher.signed() } else { self.signed };
        Self { signed, node: accepted.node, close: self.close || accepted.close }
    }
}

impl From<&Accepted> for StoredVoucher {
    fn from(accepted: &Accepted) -> Self {
        Self { signed: *accepted.voucher.signed(), node: accepted.node, close: accepted.close }
    }
}

/// Why the operator's file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file open.
    #[error("the operator's database is in use by another process; ask that one, or stop it first")]
    InUse,
    /// The database or the file system said no.
    #[error("the operator's database: {0}")]
    Database(String),
    /// A record is not what this version writes.
    #[error("the operator's database holds a damaged {0}; restore it from a backup")]
    Damaged(&'static str),
}

impl StoreError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::InUse)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use aro_proto::SecretKey;
    use aro_proto::channel::Voucher;

    use super::*;

    pub(crate) fn accepted(channel: u8, cumulative: u64, close: bool) -> Accepted {
        let key = SecretKey::from_bytes(&[7; 32]);
        let voucher = Voucher {
            channel: ChannelId::from_bytes([channel; 32]),
            cumulative: Amount::new(cumulative),
            expires_at: 0,
        };
        let voucher = voucher.sign(&key).verify(&key.agent_id()).unwrap();
        Accepted { voucher, node: Address::new_from_array([1; 32]), close }
    }

    /// What every store must do; run on each of them.
    fn contract(store: &dyn VoucherStore) {
        let channel = ChannelId::from_bytes([2; 32]);
        assert_eq!(store.get(channel).unwrap(), None);
        store.put(&[accepted(2, 5, false), accepted(3, 1, false)]).unwrap();
        store.put(&[accepted(2, 9, true)]).unwrap();
        store.put(&[accepted(2, 7, false)]).unwrap();
        let best = store.get(channel).unwrap().unwrap();
        assert_eq!(best, StoredVoucher::from(&accepted(2, 9, true)));
        assert_eq!(store.all().unwrap().len(), 2);

        store.prune(&[(channel, Amount::new(8))]).unwrap();
        assert_eq!(store.get(channel).unwrap(), Some(best), "a higher voucher outlives the pruning of a lower one");
        store.prune(&[(channel, Amount::new(9)), (ChannelId::from_bytes([9; 32]), Amount::new(9))]).unwrap();
        assert_eq!(store.get(channel).unwrap(), None);
        assert_eq!(store.all().unwrap(), [StoredVoucher::from(&accepted(3, 1, false))]);
    }

    #[test]
    fn memory_keeps_the_best_voucher() {
        contract(&MemoryStore::default());
    }

    #[test]
    fn redb_keeps_the_best_voucher() {
        let dir = tempfile::tempdir().unwrap();
        contract(&RedbStore::open(&dir.path().join("operator.redb")).unwrap());
    }
}
