//! Confirming against a chain that misbehaves: lost sends, stale servers, forks, silence.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use async_trait::async_trait;
use settlement_interface::errors::SettlementError;
use solana_address::Address;
use solana_instruction::error::InstructionError;
use solana_signature::Signature;
use solana_transaction::versioned::VersionedTransaction;
use solana_transaction_error::TransactionError;

use super::{
    Outcome, Prepared, SubmitError,
    confirm::{Pace, confirm_at},
    outcome,
    tests::prepared,
};
use crate::{Account, AccountFilter, Blockhash, ChainClient, ChainError, Commitment, Simulation, Status, Statuses};

/// What the chain says to each send and to each question, in turn; the last answer repeats.
struct Scripted {
    sends: Mutex<VecDeque<Send>>,
    answers: Mutex<VecDeque<Answer>>,
    sent: Mutex<Vec<VersionedTransaction>>,
}

#[derive(Clone)]
enum Send {
    Taken,
    Lost,
    /// It arrives, but the server's answer makes no sense.
    Malformed,
    TooLarge,
    Refused(TransactionError),
}

#[derive(Clone)]
enum Answer {
    Silence,
    Unknown { block_height: u64 },
    Known(Commitment, Option<TransactionError>),
}

impl Scripted {
    fn new(sends: &[Send], answers: &[Answer]) -> Self {
        Self {
            sends: Mutex::new(sends.iter().cloned().collect()),
            answers: Mutex::new(answers.iter().cloned().collect()),
            sent: Mutex::default(),
        }
    }

    fn sent(&self) -> Vec<VersionedTransaction> {
        self.sent.lock().unwrap().clone()
    }
}

fn next<T: Clone>(script: &Mutex<VecDeque<T>>) -> T {
    let mut script = script.lock().unwrap();
    if script.len() > 1 { script.pop_front().unwrap() } else { script[0].clone() }
}

fn silence() -> ChainError {
    ChainError::Unreachable("scripted silence".into())
}

#[async_trait]
impl ChainClient for Scripted {
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        Err(silence())
    }
    async fn accounts(&self, _: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        Err(silence())
    }
    async fn program_accounts(&self, _: &Address, _: &AccountFilter) -> Result<Vec<(Address, Account)>, ChainError> {
        Err(silence())
    }
    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        Err(silence())
    }
    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        self.sent.lock().unwrap().push(transaction.clone());
        match next(&self.sends) {
            Send::Taken => Ok(transaction.signatures[0]),
            Send::Lost => Err(silence()),
            Send::Malformed => Err(ChainError::Malformed("scripted nonsense".into())),
            Send::TooLarge => Err(ChainError::TooLarge { bytes: 1233, limit: 1232 }),
            Send::Refused(error) => Err(ChainError::Refused(error)),
        }
    }
    async fn statuses(&self, _: &[Signature]) -> Result<Statuses, ChainError> {
        match next(&self.answers) {
            Answer::Silence => Err(silence()),
            Answer::Unknown { block_height } => Ok(Statuses { block_height, statuses: vec![None] }),
            Answer::Known(commitment, err) => {
                Ok(Statuses { block_height: 1, statuses: vec![Some(Status { slot: 1, commitment, err })] })
            }
        }
    }
    async fn simulate(&self, _: &VersionedTransaction) -> Result<Simulation, ChainError> {
        Err(silence())
    }
    async fn recent_fees(&self, _: &[Address]) -> Result<Vec<u64>, ChainError> {
        Err(silence())
    }
}

/// The order of sends and questions is the same at any pace.
const FAST: Pace =
    Pace { poll: Duration::from_millis(1), resend: Duration::from_millis(4), patience: Duration::from_millis(1500) };

const UNKNOWN: Answer = Answer::Unknown { block_height: 1 };
const CONFIRMED: Answer = Answer::Known(Commitment::Confirmed, None);

fn program_error(error: SettlementError) -> TransactionError {
    TransactionError::InstructionError(0, InstructionError::Custom(error.code()))
}

/// Confirms a fresh transaction against the script.
async fn run(sends: &[Send], answers: &[Answer]) -> (Prepared, Scripted, Result<Signature, SubmitError>) {
    let (prepared, chain) = (prepared(), Scripted::new(sends, answers));
    let result = confirm_at(&FAST, &chain, &prepared).await;
    (prepared, chain, result)
}

// r[verify settlement.submit.same_bytes]
#[tokio::test]
async fn lost_sends_are_repeated_with_the_same_bytes() {
    let mut answers = vec![UNKNOWN; 20];
    answers.push(CONFIRMED);
    let (prepared, chain, result) = run(&[Send::Lost, Send::Lost, Send::Taken], &answers).await;
    assert_eq!(result.unwrap(), prepared.signature);
    let sent = chain.sent();
    assert!(sent.len() >= 3, "sent {} times", sent.len());
    assert!(sent.iter().all(|transaction| *transaction == prepared.transaction));
}

#[tokio::test]
async fn refusal_of_a_repeated_send_does_not_hide_that_the_first_landed() {
    let own_effect = Send::Refused(program_error(SettlementError::NonceUsed));
    let mut answers = vec![UNKNOWN; 10];
    answers.push(CONFIRMED);
    let (prepared, _, result) = run(&[Send::Taken, own_effect.clone()], &answers).await;
    assert_eq!(result.unwrap(), prepared.signature);

    // Sent in an earlier life: even the first refusal of this one is not the whole truth.
    let (prepared, _, result) = run(&[own_effect], &[CONFIRMED]).await;
    assert_eq!(result.unwrap(), prepared.signature);
}

// r[verify settlement.submit.same_bytes]
#[tokio::test]
async fn malformed_answer_to_the_first_send_does_not_mean_that_it_was_not_sent() {
    let (prepared, _, result) = run(&[Send::Malformed], &[UNKNOWN, CONFIRMED]).await;
    assert_eq!(result.unwrap(), prepared.signature);
    let (_, _, result) = run(&[Send::Malformed], &[UNKNOWN, Answer::Unknown { block_height: 78 }]).await;
    assert!(matches!(result, Err(SubmitError::Expired { .. })), "{result:?}");
    let (_, _, result) = run(&[Send::Malformed], &[UNKNOWN]).await;
    assert!(matches!(result, Err(SubmitError::Uncertain { trouble: Some(_), .. })), "{result:?}");

    // What is too large has not left.
    let (_, _, result) = run(&[Send::TooLarge], &[UNKNOWN]).await;
    assert!(matches!(result, Err(SubmitError::NotSent(ChainError::TooLarge { .. }))), "{result:?}");
}

// r[verify settlement.submit.uncertain_not_dead]
#[tokio::test]
async fn refused_send_ends_nothing_while_a_fork_may_still_drop_what_landed_before() {
    let own_effect = Send::Refused(program_error(SettlementError::NonceUsed));
    let failed = Some(program_error(SettlementError::AboveDeposit));
    for error in [None, failed.clone()] {
        let (_, _, result) =
            run(std::slice::from_ref(&own_effect), &[Answer::Known(Commitment::Processed, error)]).await;
        assert!(matches!(result, Err(SubmitError::Uncertain { .. })), "{result:?}");
    }
    let (_, _, result) = run(&[own_effect], &[Answer::Known(Commitment::Confirmed, failed)]).await;
    assert!(matches!(result, Err(SubmitError::Failed { .. })), "{result:?}");
}

#[tokio::test]
async fn first_refusal_ends_it_at_once() {
    let refused = Send::Refused(program_error(SettlementError::Paused));
    let (_, chain, result) = run(&[refused], &[UNKNOWN]).await;
    let error = result.unwrap_err();
    assert!(matches!(error, SubmitError::Refused(_)), "{error}");
    assert_eq!(error.program_error(), Some(SettlementError::Paused));
    assert_eq!(chain.sent().len(), 1);
}

#[tokio::test]
async fn server_that_does_not_know_the_blockhash_yet_is_asked_again() {
    let stale = Send::Refused(TransactionError::BlockhashNotFound);
    let mut answers = vec![UNKNOWN; 10];
    answers.push(CONFIRMED);
    let (prepared, chain, result) = run(&[stale, Send::Taken], &answers).await;
    assert_eq!(result.unwrap(), prepared.signature);
    assert!(chain.sent().len() >= 2);
}

#[tokio::test]
async fn processed_is_not_confirmed() {
    let processed = Answer::Known(Commitment::Processed, None);
    // A fork drops it, and it never comes back.
    let (_, _, result) = run(&[Send::Taken], &[processed, UNKNOWN, Answer::Unknown { block_height: 78 }]).await;
    assert!(matches!(result, Err(SubmitError::Expired { .. })));
}

#[tokio::test]
async fn landed_failure_names_the_transaction_and_the_reason() {
    let failed = Answer::Known(Commitment::Confirmed, Some(program_error(SettlementError::AboveDeposit)));
    let (prepared, _, result) = run(&[Send::Taken], &[UNKNOWN, failed]).await;
    let error = result.unwrap_err();
    assert!(matches!(&error, SubmitError::Failed { signature, .. } if *signature == prepared.signature));
    assert_eq!(error.program_error(), Some(SettlementError::AboveDeposit));
    assert!(!error.is_retryable());
}

// r[verify settlement.submit.uncertain_not_dead]
#[tokio::test]
async fn silence_is_uncertain_and_never_dead() {
    let (_, _, result) = run(&[Send::Taken], &[UNKNOWN, Answer::Silence]).await;
    let error = result.unwrap_err();
    assert!(matches!(error, SubmitError::Uncertain { trouble: Some(_), .. }), "{error}");
    assert!(!error.is_retryable());

    // At the last valid height it may still land; one above it cannot.
    let prepared = prepared();
    let at = |block_height| Scripted::new(&[Send::Taken], &[Answer::Unknown { block_height }]);
    let height = prepared.last_valid_block_height;
    assert_eq!(outcome(&at(height), &prepared.signature, height).await.unwrap(), Outcome::Live);
    assert_eq!(outcome(&at(height + 1), &prepared.signature, height).await.unwrap(), Outcome::Dead);
}
