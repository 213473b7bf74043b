//! A store as a process sees it that dies with the fuse.

use std::sync::Arc;

use aro_proto::{Amount, ChannelId};
use settlement_chain::Signature;
use settlement_operator::submit::{Journal, JournalEntry};
use settlement_operator::vouchers::{Accepted, OperatorStore, StoreError, StoredVoucher, VoucherStore};

use super::fuse::Fuse;

/// Every write burns the fuse; after the last, every call fails without effect.
pub struct FusedStore {
    inner: Arc<dyn OperatorStore>,
    fuse: Arc<Fuse>,
}

impl FusedStore {
    /// A store that dies with the fuse.
    #[must_use]
    pub fn new(inner: Arc<dyn OperatorStore>, fuse: Arc<Fuse>) -> Arc<Self> {
        Arc::new(Self { inner, fuse })
    }

    fn read<T>(&self, call: impl FnOnce(&dyn OperatorStore) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.fuse.is_blown() { Err(dead()) } else { call(&*self.inner) }
    }

    fn write<T>(&self, call: impl FnOnce(&dyn OperatorStore) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let answer = self.read(call)?;
        if self.fuse.burn() { Err(dead()) } else { Ok(answer) }
    }
}

impl VoucherStore for FusedStore {
    fn put(&self, batch: &[Accepted]) -> Result<(), StoreError> {
        self.write(|store| store.put(batch))
    }

    fn get(&self, channel: ChannelId) -> Result<Option<StoredVoucher>, StoreError> {
        self.read(|store| store.get(channel))
    }

    fn all(&self) -> Result<Vec<StoredVoucher>, StoreError> {
        self.read(|store| store.all())
    }

    fn prune(&self, done: &[(ChannelId, Amount)]) -> Result<(), StoreError> {
        self.write(|store| store.prune(done))
    }
}

impl Journal for FusedStore {
    fn record(&self, entry: &JournalEntry) -> Result<(), StoreError> {
        self.write(|store| store.record(entry))
    }

    fn entries(&self) -> Result<Vec<JournalEntry>, StoreError> {
        self.read(|store| store.entries())
    }

    fn resolve(&self, signature: &Signature) -> Result<(), StoreError> {
        self.write(|store| store.resolve(signature))
    }
}

fn dead() -> StoreError {
    StoreError::Database("the process is gone".into())
}
