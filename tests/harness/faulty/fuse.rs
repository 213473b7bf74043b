//! Death at a chosen step: one fuse for an operator's chain and store, which burns with every persist and every send.
//!
//! What the step did is done; what comes after it never happens: calls to the chain never return, calls to the store
//! fail without effect. That is what the next life finds after a power cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use settlement_chain::{
    Account, AccountFilter, Address, Blockhash, ChainClient, ChainError, Signature, Simulation, Statuses,
    VersionedTransaction,
};
use tokio::sync::watch;

/// Counts steps and blows after a chosen one.
#[derive(Debug)]
pub struct Fuse {
    burnt: AtomicU64,
    length: u64,
    blown: watch::Sender<bool>,
}

impl Fuse {
    /// Blows after this many steps, counted from one.
    #[must_use]
    pub fn of(length: u64) -> Arc<Self> {
        Arc::new(Self { burnt: AtomicU64::new(0), length, blown: watch::Sender::new(false) })
    }

    /// Never blows; counts.
    #[must_use]
    pub fn endless() -> Arc<Self> {
        Self::of(u64::MAX)
    }

    /// Steps so far.
    #[must_use]
    pub fn burnt(&self) -> u64 {
        self.burnt.load(Ordering::SeqCst).min(self.length)
    }

    /// True from the moment of death.
    #[must_use]
    pub fn is_blown(&self) -> bool {
        *self.blown.borrow()
    }

    /// Waits for the moment of death.
    pub async fn blows(&self) {
        // The sender lives as long as `self`.
        let _ = self.blown.subscribe().wait_for(|blown| *blown).await;
    }

    /// One step is done. True if it was the last.
    pub(super) fn burn(&self) -> bool {
        let is_last = self.burnt.fetch_add(1, Ordering::SeqCst) + 1 >= self.length;
        if is_last {
            self.blown.send_replace(true);
        }
        is_last
    }
}

/// A chain as a process sees it that dies with the fuse.
#[derive(Clone)]
pub struct FusedChain {
    inner: Arc<dyn ChainClient>,
    fuse: Arc<Fuse>,
}

impl FusedChain {
    /// Every send burns the fuse.
    #[must_use]
    pub fn new(inner: Arc<dyn ChainClient>, fuse: Arc<Fuse>) -> Arc<Self> {
        Arc::new(Self { inner, fuse })
    }

    async fn alive<T>(&self, call: impl Future<Output = Result<T, ChainError>> + Send) -> Result<T, ChainError> {
        if self.fuse.is_blown() {
            std::future::pending::<()>().await;
        }
        let answer = call.await;
        if self.fuse.is_blown() {
            std::future::pending::<()>().await;
        }
        answer
    }
}

#[async_trait]
impl ChainClient for FusedChain {
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        self.alive(self.inner.genesis_hash()).await
    }

    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        self.alive(self.inner.accounts(addresses)).await
    }

    async fn program_accounts(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<(Address, Account)>, ChainError> {
        self.alive(self.inner.program_accounts(program, filter)).await
    }

    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        self.alive(self.inner.latest_blockhash()).await
    }

    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        let sending = async {
            let answer = self.inner.send(transaction).await;
            self.fuse.burn();
            answer
        };
        self.alive(sending).await
    }

    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        self.alive(self.inner.statuses(signatures)).await
    }

    async fn is_past(&self, signature: &Signature, block_height: u64) -> Result<bool, ChainError> {
        self.alive(self.inner.is_past(signature, block_height)).await
    }

    async fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulation, ChainError> {
        self.alive(self.inner.simulate(transaction)).await
    }

    async fn recent_fees(&self, writable: &[Address]) -> Result<Vec<u64>, ChainError> {
        self.alive(self.inner.recent_fees(writable)).await
    }

    async fn accounts_at(&self, addresses: &[Address]) -> Result<(u64, Vec<Option<Account>>), ChainError> {
        self.alive(self.inner.accounts_at(addresses)).await
    }

    async fn accounts_by_server(
        &self,
        addresses: &[Address],
        least: usize,
    ) -> Result<Vec<Vec<Option<Account>>>, ChainError> {
        self.alive(self.inner.accounts_by_server(addresses, least)).await
    }

    async fn clock(&self) -> Result<i64, ChainError> {
        self.alive(self.inner.clock()).await
    }
}
