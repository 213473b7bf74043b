//! A chain that weighs every transaction on its way: bytes, compute units, lamports.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use settlement_chain::{
    Address, ChainClient, ChainError, EmbeddedChain, Signature, VersionedTransaction, check_size, pass_on,
};
use settlement_interface::instructions::tag;

/// The embedded chain, and what every transaction on it took.
#[derive(Clone)]
pub(super) struct Meter {
    inner: EmbeddedChain,
    /// One at a time, or the fee of another that lands meanwhile would count as well.
    scales: Arc<tokio::sync::Mutex<()>>,
    weighed: Arc<Mutex<Vec<Weight>>>,
}

/// What one landed transaction with one instruction of the program took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight {
    /// The instruction.
    pub(super) tag: u8,
    /// Channels in it.
    pub(super) entries: u64,
    /// On the wire.
    pub(super) bytes: u64,
    /// Compute units of the whole transaction.
    pub(super) units: u64,
    /// Lamports that it burnt.
    pub(super) fee: u64,
}

impl Weight {
    /// Compute units per channel, rounded up.
    pub(super) const fn units_per_entry(&self) -> u64 {
        self.units.div_ceil(self.entries)
    }

    /// Lamports per channel, rounded up.
    pub(super) const fn fee_per_entry(&self) -> u64 {
        self.fee.div_ceil(self.entries)
    }
}

impl Meter {
    pub(super) fn new(inner: EmbeddedChain) -> Self {
        Self { inner, scales: Arc::default(), weighed: Arc::default() }
    }

    /// The transaction of this instruction with the most channels.
    pub(super) fn fullest(&self, tag: u8) -> Option<Weight> {
        let weighed = self.weighed.lock().unwrap_or_else(PoisonError::into_inner);
        weighed.iter().filter(|weight| weight.tag == tag).max_by_key(|weight| weight.entries).copied()
    }

    /// Sends a transaction and weighs it, if it lands with one instruction of the program in it.
    async fn weigh(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        let bytes = check_size(transaction)?;
        let _alone = self.scales.lock().await;
        let simulation = self.inner.simulate(transaction).await?;
        let parties = transaction.message.static_account_keys();
        let before = self.lamports(parties).await?;
        let signature = self.inner.send(transaction).await?;
        let fee = before.saturating_sub(self.lamports(parties).await?);
        if simulation.err.is_none()
            && let Some((tag, entries)) = batch(transaction)
        {
            let [bytes, entries] = [bytes, entries].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
            let weight = Weight { tag, entries, bytes, units: simulation.units, fee };
            self.weighed.lock().unwrap_or_else(PoisonError::into_inner).push(weight);
        }
        Ok(signature)
    }

    /// Of all these accounts together: rents move among them, only fees leave them.
    async fn lamports(&self, addresses: &[Address]) -> Result<u64, ChainError> {
        let accounts = self.inner.accounts(addresses).await?;
        Ok(accounts.iter().flatten().map(|account| account.lamports).sum())
    }
}

/// The batch instruction of a transaction and its number of channels.
fn batch(transaction: &VersionedTransaction) -> Option<(u8, usize)> {
    let instruction = transaction.message.instructions().last()?;
    let tag = *instruction.data.first()?;
    let accounts = instruction.accounts.len();
    let entries = match tag {
        tag::CLOSE_BATCH => accounts.checked_sub(3)?,
        tag::SETTLE_BATCH | tag::RECLAIM_BATCH => accounts.checked_sub(2)?,
        tag::OPEN_BATCH => accounts.checked_sub(5)? / 2,
        _ => return None,
    };
    Some((tag, entries))
}

#[async_trait]
impl ChainClient for Meter {
    pass_on!(inner: genesis_hash, accounts, program_accounts, latest_blockhash, statuses, simulate, recent_fees);

    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        self.weigh(transaction).await
    }
}
