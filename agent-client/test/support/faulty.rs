//! The embedded chain with faults that a test switches on, and a record of what was sent.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use settlement_chain::{ChainClient, ChainError, EmbeddedChain, Signature, VersionedTransaction, pass_on};
use tokio::sync::Notify;

/// The twin of [`EmbeddedChain`] that fails on demand.
#[derive(Clone)]
pub struct FaultyChain {
    inner: EmbeddedChain,
    fault: Arc<AtomicU8>,
    /// Told when a fault has struck.
    pub struck: Arc<Notify>,
    sent: Arc<Mutex<HashSet<Signature>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    None = 0,
    /// Transactions do not leave; the sender waits for ever.
    HangBeforeSend = 1,
    /// Transactions land; the sender waits for ever.
    HangAfterSend = 2,
}

impl FaultyChain {
    pub fn new(inner: EmbeddedChain) -> Self {
        Self { inner, fault: Arc::default(), struck: Arc::default(), sent: Arc::default() }
    }

    pub fn set(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }

    /// Different transactions that reached the chain.
    pub fn sent(&self) -> usize {
        self.sent.lock().unwrap().len()
    }

    async fn hang_at(&self, fault: Fault) {
        if self.fault.load(Ordering::SeqCst) == fault as u8 {
            self.struck.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl ChainClient for FaultyChain {
    pass_on!(inner: genesis_hash, accounts, program_accounts, latest_blockhash, statuses, simulate, recent_fees, clock);

    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        self.hang_at(Fault::HangBeforeSend).await;
        self.sent.lock().unwrap().insert(transaction.signatures[0]);
        let signature = self.inner.send(transaction).await?;
        self.hang_at(Fault::HangAfterSend).await;
        Ok(signature)
    }
}
