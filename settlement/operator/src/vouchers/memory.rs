//! The reference store: in memory, what the other stores are compared with.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aro_proto::{Amount, ChannelId};
use settlement_chain::Signature;

use super::{Accepted, StoreError, StoredVoucher, VoucherStore};
use crate::submit::{Journal, JournalEntry};

/// Durable as long as the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    vouchers: BTreeMap<ChannelId, StoredVoucher>,
    journal: Vec<JournalEntry>,
}

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VoucherStore for MemoryStore {
    fn put(&self, batch: &[Accepted]) -> Result<(), StoreError> {
        let mut state = self.lock();
        for accepted in batch {
            let kept = state.vouchers.entry(accepted.voucher.channel()).or_insert_with(|| accepted.into());
            *kept = kept.merged(accepted);
        }
        Ok(())
    }

    fn get(&self, channel: ChannelId) -> Result<Option<StoredVoucher>, StoreError> {
        Ok(self.lock().vouchers.get(&channel).copied())
    }

    fn all(&self) -> Result<Vec<StoredVoucher>, StoreError> {
        Ok(self.lock().vouchers.values().copied().collect())
    }

    fn prune(&self, done: &[(ChannelId, Amount)]) -> Result<(), StoreError> {
        let mut state = self.lock();
        for (channel, amount) in done {
            if state.vouchers.get(channel).is_some_and(|kept| kept.cumulative() <= *amount) {
                state.vouchers.remove(channel);
            }
        }
        Ok(())
    }
}

impl Journal for MemoryStore {
    fn record(&self, entry: &JournalEntry) -> Result<(), StoreError> {
        self.lock().journal.push(entry.clone());
        Ok(())
    }

    fn entries(&self) -> Result<Vec<JournalEntry>, StoreError> {
        Ok(self.lock().journal.clone())
    }

    fn resolve(&self, signature: &Signature) -> Result<(), StoreError> {
        self.lock().journal.retain(|entry| entry.prepared.signature != *signature);
        Ok(())
    }
}
