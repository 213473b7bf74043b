//! One way into channels at a time: the lock, and the write-ahead of what locks money.
//!
//! A transaction that locks money is durable before it is sent, and forgotten when its end is known. So whoever comes
//! next, also after a crash, first brings the same bytes to their end: nothing is locked twice because nobody knew what
//! became of the first time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aro_proto::{Amount, ChannelId, NodeId};
use settlement_chain::submit::{Outcome, Prepared, Remedy, SubmitError, confirm, outcome, prepare};
use settlement_chain::{ChainError, Instruction, Signature};
use tokio::sync::OwnedMutexGuard;

use super::money::MoneyError;
use super::state::keep;
use super::{Wallet, WalletError, pending_key};
use crate::agent::Agent;
use crate::budget::{SpendPermit, Spending, lock_deposit, release_deposit};
use crate::ledger::{Durability, Hold};

/// The right to lock money in channels: one task of one process at a time has it.
pub(crate) struct Purse {
    _hold: Arc<Hold>,
    // Last, so that the file is free before the next task looks at it.
    _guard: OwnedMutexGuard<()>,
}

impl Purse {
    /// Waits for its turn among the tasks of this process, and a while for other processes.
    pub(crate) async fn take(lock: Arc<tokio::sync::Mutex<()>>, wallet: &Wallet) -> Result<Self, WalletError> {
        let guard = lock.lock_owned().await;
        let started = Instant::now();
        loop {
            match wallet.hold_purse()? {
                Some(hold) => return Ok(Self { _hold: hold, _guard: guard }),
                None if started.elapsed() < PATIENCE => tokio::time::sleep(INTERVAL).await,
                None => return Err(WalletError::PurseInUse),
            }
        }
    }
}

/// A transaction that has landed, and is still written down as on its way.
#[must_use = "it stays written down until it is done"]
pub(super) struct Sent {
    node: NodeId,
    signature: Signature,
}

impl Sent {
    /// What it did is recorded: it need not be looked for any more.
    pub(super) async fn done(self, agent: &Agent) -> Result<Signature, MoneyError> {
        agent.end_pending(self.node, None).await?;
        Ok(self.signature)
    }
}

/// What is written down of a transaction on its way.
struct Pending {
    /// The channel that it opens or tops up.
    channel: ChannelId,
    /// Base units that it locks.
    amount: Amount,
    prepared: Prepared,
}

impl Pending {
    fn to_bytes(&self) -> Result<Vec<u8>, ChainError> {
        Ok([&self.channel.as_bytes()[..], &self.amount.get().to_le_bytes(), &self.prepared.to_bytes()?].concat())
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (channel, rest) = bytes.split_first_chunk::<32>()?;
        let (amount, prepared) = rest.split_first_chunk::<8>()?;
        let (channel, amount) = (ChannelId::from_bytes(*channel), Amount::new(u64::from_le_bytes(*amount)));
        Some(Self { channel, amount, prepared: Prepared::from_bytes(prepared)? })
    }
}

impl Agent {
    /// Sends a transaction that locks money for a node, and waits for its end. Before that, in one step, the permit is
    /// spent and the transaction written down: whatever ends this process, no deposit is forgotten. It is given back if it
    /// is certain that nothing happened.
    pub(super) async fn lock(
        &self,
        _: &Purse,
        channel: ChannelId,
        node: NodeId,
        permit: SpendPermit,
        instruction: Instruction,
    ) -> Result<Sent, MoneyError> {
        let amount = permit.amount();
        let prepared = prepare(self.chain(), self.keys().owner_key()?, &[], &[instruction]).await?;
        let pending = Pending { channel, amount, prepared };
        let (guard, bytes) = (self.budget().clone(), pending.to_bytes().map_err(SubmitError::NotSent)?);
        self.blocking(move || {
            guard.commit(permit, amount, |tx| {
                lock_deposit(tx, channel, node, amount)?;
                Ok(keep(tx, &pending_key(node), Some(&bytes))?)
            })
        })
        .await?;
        match confirm(self.chain(), &pending.prepared).await {
            Ok(signature) => Ok(Sent { node, signature }),
            Err(error) if error.remedy() == Remedy::CheckStatus => Err(error.into()),
            Err(error) => {
                self.end_pending(node, Some(&pending)).await?;
                self.budget().forget(Spending::Deposits, amount);
                Err(error.into())
            }
        }
    }

    /// Brings to its end what an earlier call or an earlier life sent for this node. Whatever became of it, the chain
    /// shows from then on.
    ///
    /// # Errors
    /// Nobody can say yet.
    pub(super) async fn finish_pending(&self, _: &Purse, node: NodeId) -> Result<(), MoneyError> {
        let Some(bytes) = self.keys().pending(node)? else { return Ok(()) };
        let Some(pending) = Pending::from_bytes(&bytes) else { return self.end_pending(node, None).await };
        let prepared = &pending.prepared;
        tracing::info!(%node, signature = %prepared.signature, "an earlier transaction is brought to its end");
        match confirm(self.chain(), prepared).await {
            Ok(_) => self.end_pending(node, None).await,
            // Refused now, but it was sent before, and may still land.
            Err(error @ SubmitError::Refused(_)) => {
                let last = prepared.last_valid_block_height;
                match outcome(self.chain(), &prepared.signature, last).await? {
                    Outcome::Dead => self.end_pending(node, Some(&pending)).await,
                    Outcome::Landed { .. } | Outcome::Failed { .. } | Outcome::Live => Err(error.into()),
                }
            }
            Err(error) if error.remedy() == Remedy::CheckStatus => Err(error.into()),
            Err(_) => self.end_pending(node, Some(&pending)).await,
        }
    }

    /// A transaction is no more on its way; if it came to nothing, what it was to lock is free again.
    async fn end_pending(&self, node: NodeId, nothing_of: Option<&Pending>) -> Result<(), MoneyError> {
        let ledger = self.keys().ledger().clone();
        let nothing_of = nothing_of.map(|pending| (pending.channel, pending.amount));
        let end = move || {
            ledger.write(Durability::Synced, |tx| {
                if let Some((channel, amount)) = nothing_of {
                    release_deposit(tx, channel, amount)?;
                }
                Ok(keep(tx, &pending_key(node), None)?)
            })
        };
        Ok(self.blocking(end).await?)
    }
}

/// Runs to the end even if nobody waits for it any more: money that is on its way is not left alone.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, MoneyError>> + Send + 'static,
) -> Result<T, MoneyError> {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(panicked) => match panicked.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(MoneyError::Ending),
        },
    }
}

/// For another process to open a channel: a few blocks' time, and more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between looks at what another process has.
const INTERVAL: Duration = Duration::from_millis(20);
