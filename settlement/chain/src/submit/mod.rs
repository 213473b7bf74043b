//! From instructions to a confirmed transaction.
//!
//! [`submit`] does it all. Who must survive a crash in between (the settlement operator) takes the three steps
//! apart: [`prepare`] signs, the caller makes [`Prepared::to_bytes`] durable, [`confirm`] sends the same bytes
//! again and again until the chain has confirmed them or never will; [`outcome`] asks what became of them later.

mod compute;
mod error;
#[cfg(test)]
mod scripted;

use std::time::{Duration, Instant};

use solana_address::Address;
use solana_instruction::Instruction;
use solana_keypair::Keypair;
use solana_message::{Message, VersionedMessage};
use solana_signature::Signature;
use solana_signer::{Signer, SignerError};
use solana_transaction::versioned::VersionedTransaction;
use solana_transaction_error::TransactionError;

pub use compute::compute_units;
pub use error::{Refusal, Remedy, Shortage, SubmitError};

use crate::{
    ChainClient, ChainError, Commitment,
    client::{check_size, wire_bytes},
};

/// Signs, sends and confirms `instructions` in one transaction, paid by `payer`. `signers` are the other keys that
/// the instructions name as signers; a key that is not needed is ignored.
///
/// # Errors
/// Each error of [`SubmitError`] says whether anything can have happened on chain and who must act.
pub async fn submit(
    chain: &dyn ChainClient,
    payer: &Keypair,
    signers: &[&Keypair],
    instructions: &[Instruction],
) -> Result<Signature, SubmitError> {
    let prepared = prepare(chain, payer, signers, instructions).await?;
    confirm(chain, &prepared).await
}

/// A signed transaction that has not been sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// Sent as it is, as often as needed: the chain takes it at most once.
    pub transaction: VersionedTransaction,
    /// The transaction's id.
    pub signature: Signature,
    /// Above this block height it can no longer land.
    pub last_valid_block_height: u64,
}

impl Prepared {
    /// For durable storage before the first send: last valid block height (u64 LE), then the wire bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ChainError> {
        let mut bytes = self.last_valid_block_height.to_le_bytes().to_vec();
        bytes.extend(wire_bytes(&self.transaction)?);
        Ok(bytes)
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` if the bytes are anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (height, wire) = bytes.split_first_chunk::<8>()?;
        let transaction: VersionedTransaction = wincode::deserialize_exact(wire).ok()?;
        let signature = *transaction.signatures.first()?;
        Some(Self { transaction, signature, last_valid_block_height: u64::from_le_bytes(*height) })
    }
}

/// Bytes that the transaction of `instructions` has on the wire, signatures and compute limit included: for
/// planners, who must know before anything is signed. Compare with
/// [`MAX_LEGACY_TRANSACTION`](crate::MAX_LEGACY_TRANSACTION).
pub fn wire_size(payer: &Address, instructions: &[Instruction]) -> Result<usize, ChainError> {
    let message = Message::new(&with_limit(instructions), Some(payer));
    let signatures = vec![Signature::default(); usize::from(message.header.num_required_signatures)];
    let transaction = VersionedTransaction { signatures, message: VersionedMessage::Legacy(message) };
    Ok(wire_bytes(&transaction)?.len())
}

/// Signs `instructions` over a fresh blockhash, with a compute limit that fits them, and checks the size.
pub async fn prepare(
    chain: &dyn ChainClient,
    payer: &Keypair,
    signers: &[&Keypair],
    instructions: &[Instruction],
) -> Result<Prepared, SubmitError> {
    let blockhash = chain.latest_blockhash().await.map_err(SubmitError::NotSent)?;
    let payer_address = payer.pubkey();
    let message = Message::new_with_blockhash(&with_limit(instructions), Some(&payer_address), &blockhash.hash);
    let keys = keys_for(&message, payer, signers)?;
    let transaction = VersionedTransaction::try_new(VersionedMessage::Legacy(message), keys.as_slice())?;
    check_size(&transaction).map_err(SubmitError::NotSent)?;
    let signature = *transaction.signatures.first().ok_or(SignerError::NotEnoughSigners)?;
    Ok(Prepared { transaction, signature, last_valid_block_height: blockhash.last_valid_block_height })
}

/// Sends a prepared transaction, again and again, until it is confirmed, has failed or can no longer land.
// r[impl settlement.submit.same_bytes]
pub async fn confirm(chain: &dyn ChainClient, prepared: &Prepared) -> Result<Signature, SubmitError> {
    confirm_at(&CLUSTER_PACE, chain, prepared).await
}

/// How often [`confirm`] asks and repeats itself, and how long.
struct Pace {
    /// Between two questions for the status.
    poll: Duration,
    /// Between two sends of the same bytes: leaders drop what they cannot take.
    resend: Duration,
    /// A chain that has not said yes or no after this is in trouble.
    patience: Duration,
}

/// Asks about once a slot; a blockhash lives about a minute.
const CLUSTER_PACE: Pace =
    Pace { poll: Duration::from_millis(300), resend: Duration::from_secs(2), patience: Duration::from_secs(180) };

async fn confirm_at(pace: &Pace, chain: &dyn ChainClient, prepared: &Prepared) -> Result<Signature, SubmitError> {
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

fn with_limit(instructions: &[Instruction]) -> Vec<Instruction> {
    std::iter::once(compute::limit(instructions)).chain(instructions.iter().cloned()).collect()
}

/// The given keys that the message needs, the payer's first. A missing one is found by the signing itself.
fn keys_for<'a>(
    message: &Message,
    payer: &'a Keypair,
    signers: &[&'a Keypair],
) -> Result<Vec<&'a Keypair>, SubmitError> {
    let needed: &[Address] = message
        .account_keys
        .get(..usize::from(message.header.num_required_signatures))
        .ok_or_else(|| SignerError::InvalidInput("more signers than accounts".into()))?;
    let mut keys: Vec<&Keypair> = Vec::with_capacity(needed.len());
    for address in needed {
        let key = std::iter::once(&payer)
            .chain(signers)
            .find(|key| key.pubkey() == *address)
            .ok_or(SubmitError::MissingSigner(*address))?;
        keys.push(key);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens;

    pub(super) fn prepared() -> Prepared {
        let payer = Keypair::new();
        let to = Address::new_from_array([1; 32]);
        let instruction = tokens::transfer_lamports(&payer.pubkey(), &to, 5);
        let message = Message::new(&[instruction], Some(&payer.pubkey()));
        let transaction = VersionedTransaction::try_new(VersionedMessage::Legacy(message), &[&payer]).unwrap();
        Prepared { signature: transaction.signatures[0], transaction, last_valid_block_height: 77 }
    }

    #[test]
    fn prepared_survives_storage_and_refuses_truncation() {
        let prepared = prepared();
        let bytes = prepared.to_bytes().unwrap();
        assert_eq!(Prepared::from_bytes(&bytes), Some(prepared));
        for len in [0, 7, 8, bytes.len() - 1] {
            assert_eq!(Prepared::from_bytes(&bytes[..len]), None, "{len} bytes");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(Prepared::from_bytes(&longer), None);
    }

    #[test]
    fn planned_size_is_the_size_that_is_sent() {
        let payer = Keypair::new();
        let instructions = [tokens::transfer_lamports(&payer.pubkey(), &Address::new_from_array([1; 32]), 5)];
        let message = Message::new(&with_limit(&instructions), Some(&payer.pubkey()));
        let signed = VersionedTransaction::try_new(VersionedMessage::Legacy(message), &[&payer]).unwrap();
        assert_eq!(wire_size(&payer.pubkey(), &instructions).unwrap(), check_size(&signed).unwrap());
    }

    #[test]
    fn unneeded_keys_are_ignored_and_missing_ones_named() {
        let (payer, other) = (Keypair::new(), Keypair::new());
        let transfer = tokens::transfer_lamports(&other.pubkey(), &payer.pubkey(), 5);
        let message = Message::new(&[transfer], Some(&payer.pubkey()));
        let unneeded = Keypair::new();
        assert_eq!(keys_for(&message, &payer, &[&unneeded, &other]).unwrap().len(), 2);
        let missing = keys_for(&message, &payer, &[&unneeded]).unwrap_err();
        assert!(matches!(missing, SubmitError::MissingSigner(address) if address == other.pubkey()));
    }
}
