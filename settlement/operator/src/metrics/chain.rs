//! A chain client that counts: how often a server was asked, and how often it had no answer.

use std::sync::Arc;

use async_trait::async_trait;
use settlement_chain::{
    Account, AccountFilter, Address, Blockhash, ChainClient, ChainError, ServerHealth, Signature, Simulation, Statuses,
    VersionedTransaction,
};

use super::Metrics;

/// Counts what goes through it. The server's index in the configuration is its label: its address may hold a secret.
pub struct MeteredChain {
    inner: Arc<dyn ChainClient>,
    server: usize,
    metrics: Arc<Metrics>,
}

impl MeteredChain {
    /// Counts for the server of this index.
    pub fn new(inner: Arc<dyn ChainClient>, server: usize, metrics: Arc<Metrics>) -> Self {
        Self { inner, server, metrics }
    }

    fn counted<T>(&self, answer: Result<T, ChainError>) -> Result<T, ChainError> {
        // A refused transaction is an answer.
        let is_answer = matches!(answer, Ok(_) | Err(ChainError::Refused(_) | ChainError::TooLarge { .. }));
        self.metrics.rpc(self.server, is_answer);
        answer
    }
}

#[async_trait]
impl ChainClient for MeteredChain {
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        self.counted(self.inner.genesis_hash().await)
    }

    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        self.counted(self.inner.accounts(addresses).await)
    }

    async fn program_accounts(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<(Address, Account)>, ChainError> {
        self.counted(self.inner.program_accounts(program, filter).await)
    }

    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        self.counted(self.inner.latest_blockhash().await)
    }

    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        self.counted(self.inner.send(transaction).await)
    }

    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        self.counted(self.inner.statuses(signatures).await)
    }

    async fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulation, ChainError> {
        self.counted(self.inner.simulate(transaction).await)
    }

    async fn recent_fees(&self, writable: &[Address]) -> Result<Vec<u64>, ChainError> {
        self.counted(self.inner.recent_fees(writable).await)
    }

    async fn accounts_at(&self, addresses: &[Address]) -> Result<(u64, Vec<Option<Account>>), ChainError> {
        self.counted(self.inner.accounts_at(addresses).await)
    }

    async fn clock(&self) -> Result<i64, ChainError> {
        self.counted(self.inner.clock().await)
    }

    fn health(&self) -> Vec<ServerHealth> {
        self.inner.health()
    }
}
