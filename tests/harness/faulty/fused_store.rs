//! A store as a process sees it that dies with the fuse.

use std::sync::Arc;
use std::time::Duration;

use aro_proto::ChannelId;
use async_trait::async_trait;
use settlement_chain::Signature;
use settlement_operator::submit::{Begun, Journal, JournalEntry};
use settlement_operator::vouchers::{
    Binding, Cursor, Deployment, Grant, History, HistoryQuery, HistoryRow, Lease, Leases, Offer, OperatorStore,
    Quarantined, Ruling, StoreError, StoredVoucher, VoucherStore,
};

use super::fuse::Fuse;

/// Every write burns the fuse; after the last, no call returns.
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

    async fn read<T>(&self, call: impl Future<Output = T> + Send) -> T {
        if self.fuse.is_blown() {
            std::future::pending::<()>().await;
        }
        let answer = call.await;
        if self.fuse.is_blown() {
            std::future::pending::<()>().await;
        }
        answer
    }

    async fn write<T>(&self, call: impl Future<Output = T> + Send) -> T {
        let writing = async {
            let answer = call.await;
            self.fuse.burn();
            answer
        };
        self.read(writing).await
    }
}

#[async_trait]
impl VoucherStore for FusedStore {
    async fn commit(&self, offers: Vec<Offer>, now: i64) -> Result<(Vec<Ruling>, bool), StoreError> {
        self.write(self.inner.commit(offers, now)).await
    }

    async fn get(&self, channels: &[ChannelId]) -> Result<Vec<Option<StoredVoucher>>, StoreError> {
        self.read(self.inner.get(channels)).await
    }

    async fn page(&self, after: Option<ChannelId>, limit: usize) -> Result<Vec<StoredVoucher>, StoreError> {
        self.read(self.inner.page(after, limit)).await
    }

    async fn prune(&self, done: &[StoredVoucher]) -> Result<(), StoreError> {
        self.write(self.inner.prune(done)).await
    }

    async fn doubt_wishes(&self) -> Result<u64, StoreError> {
        self.write(self.inner.doubt_wishes()).await
    }

    async fn quarantine(&self, entry: &Quarantined) -> Result<(), StoreError> {
        self.write(self.inner.quarantine(entry)).await
    }

    async fn quarantined(&self) -> Result<Vec<Quarantined>, StoreError> {
        self.read(self.inner.quarantined()).await
    }
}

#[async_trait]
impl Journal for FusedStore {
    async fn begin(&self, entry: &JournalEntry, grant: &Grant, ttl: Duration) -> Result<Begun, StoreError> {
        self.write(self.inner.begin(entry, grant, ttl)).await
    }

    async fn entries(&self) -> Result<Vec<JournalEntry>, StoreError> {
        self.read(self.inner.entries()).await
    }

    async fn resolve(&self, signature: &Signature, trail: &[HistoryRow]) -> Result<bool, StoreError> {
        self.write(self.inner.resolve(signature, trail)).await
    }
}

#[async_trait]
impl History for FusedStore {
    async fn history(&self, query: &HistoryQuery) -> Result<Vec<(Cursor, HistoryRow)>, StoreError> {
        self.read(self.inner.history(query)).await
    }

    async fn forget_history(&self, before: i64) -> Result<u64, StoreError> {
        self.write(self.inner.forget_history(before)).await
    }
}

#[async_trait]
impl Binding for FusedStore {
    async fn bind(&self, deployment: &Deployment) -> Result<Deployment, StoreError> {
        self.write(self.inner.bind(deployment)).await
    }
}

#[async_trait]
impl Leases for FusedStore {
    async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<Lease, StoreError> {
        self.write(self.inner.acquire(name, holder, ttl)).await
    }

    async fn renew(&self, grant: &Grant, ttl: Duration) -> Result<bool, StoreError> {
        self.write(self.inner.renew(grant, ttl)).await
    }

    async fn release(&self, grant: &Grant) -> Result<(), StoreError> {
        self.write(self.inner.release(grant)).await
    }

    async fn wishes(&self) -> Result<u64, StoreError> {
        self.read(self.inner.wishes()).await
    }
}
