//! The embedded chain behind a server that loses, refuses and hides, and a clock that only sends move.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use settlement_chain::submit::offered_priority_fee;
use settlement_chain::{
    Account, AccountFilter, Address, Blockhash, ChainClient, ChainError, EmbeddedChain, InstructionError, Signature,
    Simulation, Statuses, TransactionError, VersionedTransaction,
};

/// The twin of [`EmbeddedChain`] that fails on demand. Clones are one server.
#[derive(Clone)]
pub(crate) struct LossyChain {
    inner: EmbeddedChain,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Of so many sends one reaches the chain; none if zero.
    one_of: usize,
    /// The chain's time, which every send moves on.
    now: i64,
    seconds_per_send: i64,
    /// Every send, lost or not.
    sends: Vec<Signature>,
    /// Lamports offered with each.
    offered: Vec<u64>,
    /// Transactions that reached the chain.
    landed: HashSet<Signature>,
    /// A transaction that names this account is refused.
    poison: Option<Address>,
    /// Nothing is answered at all.
    is_down: bool,
    account_reads: usize,
}

impl LossyChain {
    /// Loses nothing; its clock stands at `now`.
    pub(crate) fn new(inner: EmbeddedChain, now: i64) -> Self {
        inner.warp_clock(now);
        Self { inner, state: Arc::new(Mutex::new(State { one_of: 1, now, ..State::default() })) }
    }

    /// From now on one of so many sends arrives (none if zero), and each takes so long by the chain's clock.
    pub(crate) fn lose(&self, one_of: usize, seconds_per_send: i64) {
        let mut state = self.state();
        (state.one_of, state.seconds_per_send) = (one_of, seconds_per_send);
    }

    pub(crate) fn warp_clock(&self, now: i64) {
        self.state().now = now;
        self.inner.warp_clock(now);
    }

    pub(crate) fn now(&self) -> i64 {
        self.state().now
    }

    pub(crate) fn refuse(&self, account: Address) {
        self.state().poison = Some(account);
    }

    pub(crate) fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Signatures of all sends, repetitions included.
    pub(crate) fn sends(&self) -> Vec<Signature> {
        self.state().sends.clone()
    }

    /// Lamports that each send offers on top of its base fee.
    pub(crate) fn offered(&self) -> Vec<u64> {
        self.state().offered.clone()
    }

    /// Transactions that reached the chain and cost a fee.
    pub(crate) fn landed(&self) -> usize {
        self.state().landed.len()
    }

    /// Times that accounts were read.
    pub(crate) fn account_reads(&self) -> usize {
        self.state().account_reads
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn up(&self) -> Result<(), ChainError> {
        if self.state().is_down { Err(ChainError::Unreachable("down".into())) } else { Ok(()) }
    }
}

#[async_trait]
impl ChainClient for LossyChain {
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        self.up()?;
        self.inner.genesis_hash().await
    }

    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        self.up()?;
        self.state().account_reads += 1;
        self.inner.accounts(addresses).await
    }

    async fn program_accounts(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<(Address, Account)>, ChainError> {
        self.up()?;
        self.inner.program_accounts(program, filter).await
    }

    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        self.up()?;
        self.inner.latest_blockhash().await
    }

    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        self.up()?;
        let signature = transaction.signatures[0];
        let (arrives, number) = {
            let mut state = self.state();
            state.sends.push(signature);
            state.offered.push(offered_priority_fee(transaction));
            state.now += state.seconds_per_send;
            self.inner.warp_clock(state.now);
            if state.poison.is_some_and(|poison| transaction.message.static_account_keys().contains(&poison)) {
                let error = TransactionError::InstructionError(1, InstructionError::InvalidAccountData);
                return Err(ChainError::Refused(error));
            }
            (state.one_of > 0 && state.sends.len().is_multiple_of(state.one_of), state.sends.len())
        };
        if arrives {
            // Before it lands: whoever sees its effect sees it counted.
            self.state().landed.insert(signature);
            let sent = self.inner.send(transaction).await;
            if sent.is_err() {
                self.state().landed.remove(&signature);
            }
            return sent;
        }
        // A server loses in silence, or says so.
        if number.is_multiple_of(2) { Ok(signature) } else { Err(ChainError::Unreachable("lost".into())) }
    }

    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        self.up()?;
        self.inner.statuses(signatures).await
    }

    async fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulation, ChainError> {
        self.up()?;
        self.inner.simulate(transaction).await
    }

    async fn recent_fees(&self, writable: &[Address]) -> Result<Vec<u64>, ChainError> {
        self.up()?;
        self.inner.recent_fees(writable).await
    }

    async fn clock(&self) -> Result<i64, ChainError> {
        self.up()?;
        self.inner.clock().await
    }
}
