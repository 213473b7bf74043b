//! One way into channels at a time: the lock, and the write-ahead of what locks money.
//!
//! A transaction that locks money is durable before it is sent, and forgotten when its end is known. So whoever comes
//! next, also after a crash, first brings the same bytes to their end: nothing is locked twice because nobody knew what
//! became of the first time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aro_proto::{Amount, NodeId};
use settlement_chain::submit::{Outcome, Prepared, Remedy, SubmitError, confirm, outcome, prepare};
use settlement_chain::{Instruction, Signature};
use tokio::sync::OwnedMutexGuard;

use super::money::MoneyError;
use super::{Wallet, WalletError};
use crate::agent::Agent;
use crate::budget::SpendPermit;
use crate::ledger::Hold;

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
        agent.keep_pending(self.node, None).await?;
        Ok(self.signature)
    }
}

impl Agent {
    /// Writes a transaction down that locks money for a node, sends it, and waits for its end. The permit is spent
    /// unless it is certain that nothing happened.
    pub(super) async fn lock(
        &self,
        _: &Purse,
        node: NodeId,
        permit: SpendPermit,
        instruction: Instruction,
    ) -> Result<Sent, MoneyError> {
        let amount: Amount = permit.amount();
        let prepared = prepare(self.chain(), self.keys().owner_key()?, &[], &[instruction]).await?;
        let bytes = prepared.to_bytes().map_err(SubmitError::NotSent)?;
        self.keep_pending(node, Some(bytes)).await?;
        match confirm(self.chain(), &prepared).await {
            Ok(signature) => {
                permit.commit(amount);
                Ok(Sent { node, signature })
            }
            Err(error) if error.remedy() == Remedy::CheckStatus => {
                permit.commit(amount);
                Err(error.into())
            }
            Err(error) => {
                self.keep_pending(node, None).await?;
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
        if let Some(prepared) = Prepared::from_bytes(&bytes) {
            tracing::info!(%node, signature = %prepared.signature, "an earlier transaction is brought to its end");
            match confirm(self.chain(), &prepared).await {
                // Refused now, but it was sent before, and may still land.
                Err(error @ SubmitError::Refused(_)) => {
                    let last = prepared.last_valid_block_height;
                    if outcome(self.chain(), &prepared.signature, last).await? == Outcome::Live {
                        return Err(error.into());
                    }
                }
                Err(error) if error.remedy() == Remedy::CheckStatus => return Err(error.into()),
                Ok(_) | Err(_) => {}
            }
        }
        self.keep_pending(node, None).await
    }

    async fn keep_pending(&self, node: NodeId, bytes: Option<Vec<u8>>) -> Result<(), MoneyError> {
        let wallet = self.keys().clone();
        Ok(self.blocking(move || wallet.keep_pending(node, bytes.as_deref())).await?)
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
