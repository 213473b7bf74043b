//! Why a submitted transaction did not do its work, and who must act.

use std::fmt;

use settlement_interface::{errors::SettlementError, instructions::tag};
use solana_address::Address;
use solana_instruction::error::InstructionError;
use solana_message::VersionedMessage;
use solana_signature::Signature;
use solana_transaction_error::TransactionError;

use crate::{ChainError, instructions::SYSTEM_PROGRAM, signer::SigningError, tokens::TOKEN_PROGRAM};

/// Why a submitted transaction did not do its work. The variants tell what can have happened on chain.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// It was never sent: nothing has happened.
    #[error(transparent)]
    NotSent(ChainError),
    /// It could not be signed: nothing has happened.
    #[error("the transaction could not be signed: {0}")]
    Sign(#[from] SigningError),
    /// The instructions need a signature of a key that was not given: nothing has happened.
    #[error("the transaction needs the signature of {0}; give its key file")]
    MissingSigner(Address),
    /// The chain tried it and refused it: nothing has happened, no fee was paid.
    #[error("the chain refused the transaction: {0}")]
    Refused(Refusal),
    /// It landed and failed: nothing has happened, but the fee was paid.
    #[error("the transaction {signature} failed: {refusal}")]
    Failed {
        /// The transaction.
        signature: Signature,
        /// Why.
        refusal: Refusal,
    },
    /// It did not land in time and never will: nothing has happened, and it may be signed anew.
    #[error("the transaction {signature} was not taken into a block in time; it has no effect, try again")]
    Expired {
        /// The transaction.
        signature: Signature,
    },
    /// Nobody can say yet. Ask for its status before doing the same thing again.
    #[error(
        "the fate of transaction {signature} is unknown{}; look at its status before trying again",
        .trouble.as_ref().map(|error| format!(" ({error})")).unwrap_or_default()
    )]
    Uncertain {
        /// The transaction.
        signature: Signature,
        /// The last trouble with the server, if there was any.
        trouble: Option<ChainError>,
    },
}

/// Who must do what after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The caller: the same again, later.
    Retry,
    /// The caller: find out what became of the transaction, then decide.
    CheckStatus,
    /// The fee payer's owner: more SOL.
    FundFees,
    /// The paying wallet's owner: more $ARO, or a smaller amount.
    FundTokens,
    /// The caller: sign with the key that has the right.
    Authorise,
    /// The program's admin: lift the pause.
    AskAdmin,
    /// The caller: read the accounts again, what was assumed is no longer so.
    Refresh,
    /// A developer or the configuration: it can never succeed like this.
    GiveUp,
}

impl SubmitError {
    /// True if the very same instructions may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        self.remedy() == Remedy::Retry
    }

    /// Who must do what.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::NotSent(error) if error.is_retryable() => Remedy::Retry,
            Self::NotSent(_) => Remedy::GiveUp,
            Self::Sign(error) if error.is_retryable() => Remedy::Retry,
            Self::Sign(_) | Self::MissingSigner(_) => Remedy::Authorise,
            Self::Refused(refusal) | Self::Failed { refusal, .. } => refusal.remedy(),
            Self::Expired { .. } => Remedy::Retry,
            Self::Uncertain { .. } => Remedy::CheckStatus,
        }
    }

    /// The settlement program's own error, if that is what it was.
    pub fn program_error(&self) -> Option<SettlementError> {
        match self {
            Self::Refused(refusal) | Self::Failed { refusal, .. } => refusal.program,
            _ => None,
        }
    }
}

/// The chain's reason, with the settlement program's own word for it where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the chain said.
    pub error: TransactionError,
    /// What the settlement program said, if it was the one that refused.
    pub program: Option<SettlementError>,
    /// A payer of rent or tokens has too little: lamports or tokens.
    pub shortage: Option<Shortage>,
}

/// What there was too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// SOL, for fees or rent.
    Lamports,
    /// $ARO in the source token account.
    Tokens,
}

impl Refusal {
    /// Reads the chain's error in the light of the message that caused it.
    pub fn new(message: &VersionedMessage, error: TransactionError) -> Self {
        let mut program = None;
        let mut shortage = None;
        match &error {
            TransactionError::InsufficientFundsForFee
            | TransactionError::AccountNotFound
            | TransactionError::InsufficientFundsForRent { .. } => shortage = Some(Shortage::Lamports),
            TransactionError::InstructionError(_, InstructionError::InsufficientFunds) => {
                shortage = Some(Shortage::Lamports);
            }
            TransactionError::InstructionError(index, InstructionError::Custom(code)) => {
                program = SettlementError::from_code(*code);
                if *code == INSUFFICIENT_FUNDS {
                    shortage = Some(short_of(message, *index));
                }
            }
            _ => {}
        }
        Self { error, program, shortage }
    }

    /// Who must do what.
    pub fn remedy(&self) -> Remedy {
        match self.shortage {
            Some(Shortage::Lamports) => return Remedy::FundFees,
            Some(Shortage::Tokens) => return Remedy::FundTokens,
            None => {}
        }
        if let Some(program) = self.program {
            return remedy_of(program);
        }
        match &self.error {
            error if ChainError::Refused(error.clone()).is_retryable() => Remedy::Retry,
            TransactionError::SignatureFailure
            | TransactionError::InstructionError(_, InstructionError::MissingRequiredSignature) => Remedy::Authorise,
            _ => Remedy::GiveUp,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.program, self.shortage) {
            (Some(program), _) => write!(f, "{} ({program:?}, {})", program.message().trim(), program.code())?,
            (None, Some(Shortage::Lamports)) => f.write_str("the payer has too little SOL for fee and rent")?,
            (None, Some(Shortage::Tokens)) => f.write_str("the source token account holds too little $ARO")?,
            (None, None) => write!(f, "{}", self.error)?,
        }
        f.write_str(match self.remedy() {
            Remedy::Retry => "; try again",
            Remedy::CheckStatus => "; look at its status first",
            Remedy::FundFees => "; send SOL to the payer",
            Remedy::FundTokens => "; send $ARO to the paying wallet or choose a smaller amount",
            Remedy::Authorise => "; sign with the key that has the right",
            Remedy::AskAdmin => "; only the program's admin can lift this",
            Remedy::Refresh => "; read the accounts again and build it anew",
            Remedy::GiveUp => "",
        })
    }
}

fn remedy_of(error: SettlementError) -> Remedy {
    use SettlementError as E;
    match error {
        E::MissingSignature | E::Unauthorised => Remedy::Authorise,
        E::Paused => Remedy::AskAdmin,
        E::BadAmount => Remedy::FundTokens,
        E::NonceUsed | E::WrongStatus | E::AlreadyExists | E::AboveDeposit | E::WrongParty => Remedy::Refresh,
        E::MalformedData
        | E::MissingAccount
        | E::WrongOwner
        | E::WrongLayout
        | E::WrongAddress
        | E::BadMint
        | E::BadTokenAccount
        | E::Overflow
        | E::FeeTooHigh
        | E::DelayTooLong
        | E::BadGrace
        | E::WeakKey
        | E::BadSignature
        | E::BadBatch
        | E::WrongProgram => Remedy::GiveUp,
    }
}

/// Token and system program have the same number for "too little"; which of them spoke follows from what the
/// instruction does.
fn short_of(message: &VersionedMessage, index: u8) -> Shortage {
    let Some(instruction) = message.instructions().get(usize::from(index)) else { return Shortage::Lamports };
    let called = message.static_account_keys().get(usize::from(instruction.program_id_index));
    match called {
        Some(&TOKEN_PROGRAM) => Shortage::Tokens,
        Some(&SYSTEM_PROGRAM) => Shortage::Lamports,
        // Deposits also create the agent's account, but the few lamports for it are the rarer want.
        _ if instruction.data.first() == Some(&tag::DEPOSIT) => Shortage::Tokens,
        _ => Shortage::Lamports,
    }
}

/// Custom error 1 of both the SPL token program (InsufficientFunds) and the system program
/// (ResultWithNegativeLamports).
const INSUFFICIENT_FUNDS: u32 = 1;

#[cfg(test)]
mod tests {
    use solana_message::Message;

    use super::*;
    use crate::{Instruction, Program, instructions, tokens};

    fn message(instruction: Instruction) -> VersionedMessage {
        VersionedMessage::Legacy(Message::new(&[instruction], Some(&Address::new_from_array([1; 32]))))
    }

    fn custom(code: u32) -> TransactionError {
        TransactionError::InstructionError(0, InstructionError::Custom(code))
    }

    #[test]
    fn every_program_error_is_named_with_its_message() {
        let owner = Address::new_from_array([1; 32]);
        let message = message(instructions::top_up(&Program::local(), &owner, &owner, 1));
        for error in SettlementError::ALL {
            let refusal = Refusal::new(&message, custom(error.code()));
            assert_eq!(refusal.program, Some(*error));
            assert!(refusal.to_string().contains(error.message().trim()), "{refusal}");
        }
    }

    #[test]
    fn shortage_names_tokens_for_a_deposit_and_lamports_for_a_transfer() {
        let (owner, source) = (Address::new_from_array([1; 32]), Address::new_from_array([2; 32]));
        let deposit = message(instructions::deposit(&Program::local(), &owner, &owner, &source, 9));
        assert_eq!(Refusal::new(&deposit, custom(1)).remedy(), Remedy::FundTokens);
        let transfer = message(tokens::transfer_lamports(&owner, &source, 9));
        assert_eq!(Refusal::new(&transfer, custom(1)).remedy(), Remedy::FundFees);
        assert_eq!(Refusal::new(&transfer, TransactionError::InsufficientFundsForFee).remedy(), Remedy::FundFees);
    }

    #[test]
    fn only_what_may_heal_by_itself_is_retryable() {
        let signature = Signature::default();
        assert!(SubmitError::Expired { signature }.is_retryable());
        assert!(SubmitError::NotSent(ChainError::Unreachable("gone".into())).is_retryable());
        assert!(!SubmitError::Uncertain { signature, trouble: None }.is_retryable());
        let message = message(tokens::transfer_lamports(&Address::default(), &Address::default(), 1));
        let stale = Refusal::new(&message, TransactionError::BlockhashNotFound);
        assert!(SubmitError::Refused(stale).is_retryable());
        let paused = Refusal::new(&message, custom(SettlementError::Paused.code()));
        assert!(!SubmitError::Refused(paused).is_retryable());
    }
}
