//! Sending the same bytes until the chain has said what becomes of them.

use std::time::Duration;

use solana_signature::Signature;
use solana_transaction_error::TransactionError;
use tokio::time::Instant;

use super::{
    Prepared, Refusal, SubmitError,
    effects::{Effects, Shown},
};
use crate::{ChainClient, ChainError, Commitment};

/// Sends a prepared transaction, again and again, until it is confirmed, has failed or can no longer land.
///
/// Where servers contradict each other about it, the accounts decide: what it was to do shows there, or it does not
/// although no block can take it any more. The first counts as confirmed, the second as expired.
// r[impl settlement.submit.same_bytes]
// r[impl settlement.servers.contested]
pub async fn confirm(chain: &dyn ChainClient, prepared: &Prepared) -> Result<Signature, SubmitError> {
    confirm_at(&CLUSTER_PACE, chain, prepared).await
}

/// How often [`confirm`] asks and repeats itself, and how long.
pub(super) struct Pace {
    /// Between two questions for the status.
    pub(super) poll: Duration,
    /// Between two sends of the same bytes: leaders drop what they cannot take.
    pub(super) resend: Duration,
    /// A chain that has not said yes or no after this is in trouble.
    pub(super) patience: Duration,
}

/// Asks about once a slot; a blockhash lives about a minute.
const CLUSTER_PACE: Pace =
    Pace { poll: Duration::from_millis(300), resend: Duration::from_secs(2), patience: Duration::from_secs(180) };

pub(super) async fn confirm_at(
    pace: &Pace,
    chain: &dyn ChainClient,
    prepared: &Prepared,
) -> Result<Signature, SubmitError> {
    let started = Instant::now();
    let mut last_sent = None;
    let mut trouble = None;
    let mut unsure = 0_u32;
    loop {
        if last_sent.is_none_or(|at: Instant| at.elapsed() >= pace.resend) {
            let first = last_sent.is_none();
            last_sent = Some(Instant::now());
            match chain.send(&prepared.transaction).await {
                Ok(_) => {}
                // Sent before, so a refusal now may be the effect of its own landing; a stale server may catch up.
                Err(ChainError::Refused(error)) if first && !retryable(&error) => {
                    if let Some(end) = refused(chain, prepared, error.clone()).await {
                        return end;
                    }
                    trouble = Some(ChainError::Refused(error));
                }
                Err(error @ ChainError::TooLarge { .. }) if first => return Err(SubmitError::NotSent(error)),
                // Whatever the server answered, readable or not, it may have passed the bytes on.
                Err(error) => trouble = Some(error),
            }
        }
        match outcome(chain, &prepared.signature, prepared.last_valid_block_height).await {
            Ok(Outcome::Landed { commitment, .. }) if commitment >= Commitment::Confirmed => {
                return Ok(prepared.signature);
            }
            Ok(Outcome::Failed { error, commitment }) if commitment >= Commitment::Confirmed => {
                return Err(SubmitError::Failed { signature: prepared.signature, refusal: refusal(prepared, error) });
            }
            Ok(Outcome::Dead) => return Err(SubmitError::Expired { signature: prepared.signature }),
            // One block's work, or one server's word. A block is soon voted for; a word may stay alone.
            Ok(Outcome::Landed { .. } | Outcome::Failed { .. }) => {
                unsure = unsure.saturating_add(1);
                if unsure >= UNSURE {
                    match contested(chain, prepared).await {
                        Ok(Some(end)) => return end,
                        Ok(None) => {}
                        Err(error) => trouble = Some(error),
                    }
                }
            }
            Ok(Outcome::Live) => unsure = 0,
            Err(error) => trouble = Some(error),
        }
        if started.elapsed() >= pace.patience {
            return Err(SubmitError::Uncertain { signature: prepared.signature, trouble });
        }
        tokio::time::sleep(pace.poll).await;
    }
}

/// What has become of a transaction. An unanswered question is an error: uncertain is never dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in a block, and its effects stand if the commitment says so.
    Landed {
        /// The slot of that block.
        slot: u64,
        /// How sure the chain is.
        commitment: Commitment,
    },
    /// It is in a block, but had no effect besides its fee.
    Failed {
        /// Why.
        error: TransactionError,
        /// How sure the chain is.
        commitment: Commitment,
    },
    /// The chain does not know it yet; it may still land.
    Live,
    /// It did not land and never will: safe to sign another.
    Dead,
}

/// Asks what has become of a transaction.
// r[impl settlement.submit.uncertain_not_dead]
pub async fn outcome(
    chain: &dyn ChainClient,
    signature: &Signature,
    last_valid_block_height: u64,
) -> Result<Outcome, ChainError> {
    let answer = chain.statuses(std::slice::from_ref(signature)).await?;
    match answer.statuses.into_iter().next() {
        Some(Some(status)) => Ok(match status.err {
            None => Outcome::Landed { slot: status.slot, commitment: status.commitment },
            Some(error) => Outcome::Failed { error, commitment: status.commitment },
        }),
        Some(None) if answer.block_height > last_valid_block_height => Ok(Outcome::Dead),
        Some(None) => Ok(Outcome::Live),
        None => Err(ChainError::Malformed("no status for the signature asked for".into())),
    }
}

/// The first send was refused. That ends it, unless these bytes were sent in an earlier life and have landed; `None`
/// if they may have: a fork may still drop them, and then they may land again with another end.
async fn refused(
    chain: &dyn ChainClient,
    prepared: &Prepared,
    error: TransactionError,
) -> Option<Result<Signature, SubmitError>> {
    match outcome(chain, &prepared.signature, prepared.last_valid_block_height).await {
        Ok(Outcome::Landed { commitment, .. }) if commitment >= Commitment::Confirmed => Some(Ok(prepared.signature)),
        Ok(Outcome::Failed { error, commitment }) if commitment >= Commitment::Confirmed => {
            Some(Err(SubmitError::Failed { signature: prepared.signature, refusal: refusal(prepared, error) }))
        }
        Ok(Outcome::Landed { .. } | Outcome::Failed { .. }) => None,
        Ok(Outcome::Live | Outcome::Dead) | Err(_) => Some(Err(SubmitError::Refused(refusal(prepared, error)))),
    }
}

/// What the accounts make of a transaction that is known and not confirmed: its work shows; or no block that could
/// take it is still open to a fork, and nothing of it shows. `None` while neither is so.
async fn contested(
    chain: &dyn ChainClient,
    prepared: &Prepared,
) -> Result<Option<Result<Signature, SubmitError>>, ChainError> {
    let effects = Effects::of(&prepared.transaction.message);
    // Asked before the accounts are read, so that what they show is no older than the transaction's last chance.
    let settled_height = prepared.last_valid_block_height.saturating_add(FORK_DEPTH);
    let is_past = chain.is_past(&prepared.signature, settled_height).await;
    Ok(match (effects.shown(chain).await?, is_past) {
        (Shown::All, _) | (Shown::Some, Ok(true)) => Some(Ok(prepared.signature)),
        // Where nothing could be seen, that nothing is seen means nothing.
        (Shown::Nothing, Ok(true)) if !effects.is_empty() && effects.shown_nowhere(chain).await? => {
            Some(Err(SubmitError::Expired { signature: prepared.signature }))
        }
        (Shown::Some | Shown::Nothing, Ok(_)) => None,
        (Shown::Some | Shown::Nothing, Err(error)) => return Err(error),
    })
}

/// Answers in a row that know a transaction and do not call it confirmed, before the accounts are asked: a block is
/// voted for within a second.
const UNSURE: u32 = 3;

/// Blocks above a transaction's last valid height at which no fork can bring it back: what is so deep is final.
const FORK_DEPTH: u64 = 32;

fn retryable(error: &TransactionError) -> bool {
    ChainError::Refused(error.clone()).is_retryable()
}

fn refusal(prepared: &Prepared, error: TransactionError) -> Refusal {
    Refusal::new(&prepared.transaction.message, error)
}
