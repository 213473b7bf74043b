//! Sending the same bytes until the chain has said what becomes of them.

use std::time::Duration;

use solana_signature::Signature;
use solana_transaction_error::TransactionError;
use tokio::time::Instant;

use super::{Prepared, Refusal, SubmitError};
use crate::{ChainClient, ChainError, Commitment};

/// Sends a prepared transaction, again and again, until it is confirmed, has failed or can no longer land.
// r[impl settlement.submit.same_bytes]
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
    loop {
        if last_sent.is_none_or(|at: Instant| at.elapsed() >= pace.resend) {
            let first = last_sent.is_none();
            last_sent = Some(Instant::now());
            match chain.send(&prepared.transaction).await {
                Ok(_) => {}
                // Sent before, so a refusal now may be the effect of its own landing; a stale server may catch up.
                Err(ChainError::Refused(error)) if first && !retryable(&error) => {
                    return refused(chain, prepared, error).await;
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
            Ok(_) => {}
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

/// The first send was refused. That ends it, unless these bytes were sent in an earlier life and have landed.
async fn refused(
    chain: &dyn ChainClient,
    prepared: &Prepared,
    error: TransactionError,
) -> Result<Signature, SubmitError> {
    match outcome(chain, &prepared.signature, prepared.last_valid_block_height).await {
        Ok(Outcome::Landed { commitment, .. }) if commitment >= Commitment::Confirmed => Ok(prepared.signature),
        Ok(Outcome::Failed { error, commitment }) if commitment >= Commitment::Confirmed => {
            Err(SubmitError::Failed { signature: prepared.signature, refusal: refusal(prepared, error) })
        }
        // A fork may still drop it, and then it may land again with another end.
        Ok(Outcome::Landed { .. } | Outcome::Failed { .. }) => {
            Err(SubmitError::Uncertain { signature: prepared.signature, trouble: Some(ChainError::Refused(error)) })
        }
        Ok(Outcome::Live | Outcome::Dead) | Err(_) => Err(SubmitError::Refused(refusal(prepared, error))),
    }
}

fn retryable(error: &TransactionError) -> bool {
    ChainError::Refused(error.clone()).is_retryable()
}

fn refusal(prepared: &Prepared, error: TransactionError) -> Refusal {
    Refusal::new(&prepared.transaction.message, error)
}
