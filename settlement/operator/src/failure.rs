//! Why a command ends without its result: exit code, who must act, what to try next.

use std::io;

use settlement_chain::admin::AdminError;
use settlement_chain::keyfile::KeyfileError;
use settlement_chain::reads::ReadError;
use settlement_chain::setup::SetupError;
use settlement_chain::submit::{Remedy, SubmitError};
use settlement_chain::{ChainError, ConnectError};
use settlement_operator::vouchers::StoreError;
use settlement_operator::{AccountError, OnceError, SettleError, StartError};

/// A command's failure.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    pub(crate) code: &'static str,
    pub(crate) who_acts: &'static str,
    pub(crate) message: String,
    pub(crate) next_step: String,
    /// True if the result has said it all.
    pub(crate) told: bool,
}

impl Failure {
    fn of(kind: Kind, message: impl ToString, next_step: impl Into<String>) -> Self {
        let (exit, code, who_acts) = match kind {
            Kind::Internal => (1, "Internal", "developer"),
            Kind::Usage => (2, "Usage", "caller"),
            Kind::Refused => (3, "Refused", "give_up"),
            Kind::Money => (4, "Money", "payer"),
            Kind::Keys => (5, "Keys", "authorise"),
            Kind::Unreachable => (6, "Unreachable", "retry"),
        };
        Self { exit, code, who_acts, message: message.to_string(), next_step: next_step.into(), told: false }
    }

    /// The result itself says what is wrong.
    pub(crate) fn told() -> Self {
        Self { told: true, ..Self::of(Kind::Refused, "see the result", "see the result") }
    }

    /// The command cannot be meant like this.
    pub(crate) fn usage(message: impl ToString, next_step: impl Into<String>) -> Self {
        Self::of(Kind::Usage, message, next_step)
    }

    /// Something else must happen first, by itself or by a repetition.
    pub(crate) fn retry(message: impl ToString) -> Self {
        Self::of(Kind::Unreachable, message, "try again in a moment")
    }

    /// The operator cannot pay for transactions.
    pub(crate) fn hot_key_empty(message: impl ToString) -> Self {
        Self::of(Kind::Money, message, "send SOL to the authority that `aro-settle status` shows")
    }

    /// Nobody foresaw this.
    pub(crate) fn internal(message: impl ToString) -> Self {
        Self::of(Kind::Internal, message, "run again with ARO_LOG=debug and look at the log")
    }

    fn by_remedy(remedy: Remedy, message: impl ToString) -> Self {
        match remedy {
            Remedy::Retry => Self::retry(message),
            Remedy::CheckStatus => Self::of(Kind::Unreachable, message, "look at the transaction, then run this again"),
            Remedy::FundFees => Self::of(Kind::Money, message, "send SOL to the paying wallet"),
            Remedy::FundTokens => Self::of(Kind::Money, message, "send $ARO to the paying wallet"),
            Remedy::Authorise => Self::of(Kind::Keys, message, "give the key that has the right"),
            Remedy::AskAdmin => Self::of(Kind::Refused, message, "ask the program's admin"),
            Remedy::Refresh => {
                Self::of(Kind::Refused, message, "look at the status, then run this again if it still applies")
            }
            Remedy::GiveUp => Self::of(Kind::Refused, message, "check the arguments; the same again cannot succeed"),
        }
    }
}

enum Kind {
    Internal,
    Usage,
    Refused,
    Money,
    Keys,
    Unreachable,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::of(Kind::Internal, error, "check paths and permissions")
    }
}

impl From<KeyfileError> for Failure {
    fn from(error: KeyfileError) -> Self {
        Self::of(Kind::Keys, error, "give a key file as `solana-keygen` writes it, readable by you alone")
    }
}

impl From<ChainError> for Failure {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::Unreachable(_)
            | ChainError::Rpc { .. }
            | ChainError::Malformed(_)
            | ChainError::Disagreement(_) => {
                Self::of(Kind::Unreachable, error, "check --rpc and that the server runs, then try again")
            }
            ChainError::Refused(_) | ChainError::TooLarge { .. } | ChainError::TooManyAccounts { .. } => {
                Self::of(Kind::Refused, error, "check the arguments; the same again cannot succeed")
            }
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::usage(error, "correct --rpc, or `rpc_url` in config.json")
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Chain(error) => error.into(),
            ReadError::NotSetUp(_) => {
                Self::usage(error, "run `aro-settle setup` once, or check --program-id and --rpc")
            }
            other => Self::usage(other, "check --program-id, --mint and --rpc"),
        }
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::NotSent(error) => error.into(),
            other => Self::by_remedy(other.remedy(), other),
        }
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Self {
        match error {
            SetupError::Read(error) => error.into(),
            SetupError::Submit(error) => error.into(),
            SetupError::NotDeployed(_) => Self::usage(error, "deploy the program first, or check --program-id"),
            SetupError::OtherMint { .. } => Self::usage(error, "leave --mint out to keep the mint that is set up"),
        }
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Read(error) => error.into(),
            AdminError::Submit(error) => error.into(),
            AdminError::NotAdmin { .. } => Self::of(Kind::Keys, error, "give --admin the key file of that admin"),
            AdminError::NotProposed { .. } => {
                Self::of(Kind::Keys, error, "let the admin run `aro-settle config propose-admin` with this address")
            }
        }
    }
}

impl From<AccountError> for Failure {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::Read(error) => error.into(),
            AccountError::Submit(error) => error.into(),
            AccountError::OtherFee { .. } => {
                Self::usage(error, "give the same --fee-bps, or a new --dir with new keys")
            }
            AccountError::NoAccount(_) => Self::usage(error, "check the id, --program-id and --rpc"),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::InUse => Self::retry(error),
            StoreError::Unavailable(_) => Self::of(
                Kind::Unreachable,
                error,
                "check `store` in config.json and that the database runs, then retry",
            ),
            StoreError::Full(_) => Self::of(Kind::Unreachable, error, "free disk space; nothing acknowledged is lost"),
            StoreError::Address(_) => Self::usage(error, "correct `store` in config.json, or --store"),
            StoreError::Newer { .. } => Self::usage(error, "start the version that wrote it, or a later one"),
            StoreError::Other(_) => {
                Self::usage(error, "correct `program_id` or `store` in config.json, or give a new --dir")
            }
            StoreError::Database(_) => Self::internal(error),
            StoreError::Damaged(_) => {
                Self::of(Kind::Internal, error, "restore the backup; what the chain has taken is safe")
            }
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Chain(error) => error.into(),
            StartError::Read(error) => error.into(),
            StartError::Store(error) => error.into(),
            StartError::NotRegistered { .. } => Self::usage(error, "run `aro-settle init` on this chain"),
            StartError::OtherDeployment(_) => {
                Self::usage(error, "correct `rpc_url`, `program_id` or `store` in config.json, or give a new --dir")
            }
            StartError::Listen { .. } => Self::usage(error, "choose a free address in config.json"),
        }
    }
}

impl From<SettleError> for Failure {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::Read(error) => error.into(),
            SettleError::Chain(error) => error.into(),
            SettleError::Store(error) => error.into(),
        }
    }
}

impl From<OnceError> for Failure {
    fn from(error: OnceError) -> Self {
        match error {
            OnceError::Start(error) => error.into(),
            OnceError::Settle(error) => error.into(),
        }
    }
}
