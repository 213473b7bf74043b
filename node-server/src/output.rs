//! What the command says: results on stdout, logs and errors on stderr, exit codes by who must act.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the one place where this command prints")]

use std::fmt::Display;
use std::io::IsTerminal;
use std::process::ExitCode;

use aro_proto::Amount;
use node_server::{AccountError, SettleError, StartError, StoreError};
use serde_json::{Value, json};
use settlement_chain::ChainError;
use settlement_chain::keyfile::KeyfileError;
use settlement_chain::reads::ReadError;
use settlement_chain::submit::{Remedy, SubmitError};

/// Why a command failed, and who must act.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: u8,
    code: &'static str,
    who_acts: &'static str,
    message: String,
    next_step: String,
    amount: Option<Amount>,
}

impl Failure {
    /// Something that the user cannot know or change.
    pub(crate) fn internal(error: impl Display) -> Self {
        Self::new(1, "Internal", "developer", error, "look at the message; report it if it makes no sense")
    }

    /// The command was called wrongly.
    pub(crate) fn usage(error: impl Display, next_step: &str) -> Self {
        Self::new(2, "Usage", "caller", error, next_step)
    }

    fn new(exit: u8, code: &'static str, who_acts: &'static str, error: impl Display, next_step: &str) -> Self {
        let (message, next_step) = (error.to_string(), next_step.to_owned());
        Self { exit, code, who_acts, message, next_step, amount: None }
    }

    /// The operator did not take the vouchers.
    pub(crate) fn handoff(error: impl Display, is_retryable: bool) -> Self {
        if is_retryable {
            Self::unreachable(error)
        } else {
            Self::new(3, "Handoff", "operator", error, "check the operator in config.json, and its chain")
        }
    }

    /// The serving node could not settle.
    pub(crate) fn settle(error: impl Display, is_retryable: bool) -> Self {
        if is_retryable {
            Self::unreachable(error)
        } else {
            Self::new(3, "Settle", "owner", error, "give a key with SOL: --fee-keypair FILE; then read the message")
        }
    }

    fn unreachable(error: impl Display) -> Self {
        Self::new(6, "Unreachable", "retry", error, "check the address and that the other side runs, then try again")
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::NotRegistered { .. } => {
                Self::new(5, "NotRegistered", "owner", error, "register the node: aro-node init")
            }
            StartError::Read(error) => error.into(),
            StartError::Chain(error) => error.into(),
            StartError::Store(error) => error.into(),
            StartError::Ledger(_) => {
                Self::new(1, "Ledger", "owner", error, "stop the other process, or check the disk")
            }
            StartError::Names(_) => Self::new(1, "Names", "owner", error, "stop the other process, or check the disk"),
            StartError::Listen { .. } => Self::usage(error, "free the address, or change `listen` in config.json"),
            StartError::PublicHost { .. } => Self::usage(error, "correct `public_host` in config.json"),
            StartError::Thread(_) => Self::internal(error),
        }
    }
}

impl From<SettleError> for Failure {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::NoFeeKey => {
                Self::new(5, "NoFeeKey", "owner", error, "give a key that holds SOL: --fee-keypair FILE")
            }
            SettleError::Read(error) => error.into(),
            SettleError::Chain(error) => error.into(),
            SettleError::Submit(error) => error.into(),
            SettleError::Ledger(_) => {
                Self::new(1, "Ledger", "owner", error, "stop the other process, or check the disk")
            }
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotAFile { .. } | StoreError::TooLarge { .. } => Self::usage(error, "give a regular file"),
            StoreError::Io { .. } | StoreError::Changed { .. } | StoreError::Damaged { .. } => {
                Self::new(1, "Store", "owner", error, "check the file and the disk, then try again")
            }
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Chain(error) => error.into(),
            ReadError::NotSetUp(_) => {
                Self::new(3, "NotSetUp", "operator", error, "set the program up: aro-settle setup")
            }
            other => Self::new(3, "WrongAccount", "caller", other, "check the program id and the RPC address"),
        }
    }
}

impl From<ChainError> for Failure {
    fn from(error: ChainError) -> Self {
        if error.is_retryable() {
            Self::unreachable(error)
        } else {
            Self::new(3, "Chain", "caller", error, "check the RPC address")
        }
    }
}

impl From<KeyfileError> for Failure {
    fn from(error: KeyfileError) -> Self {
        Self::new(5, "Key", "owner", error, "give a readable key file of mode 600")
    }
}

impl From<AccountError> for Failure {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::Read(error) => error.into(),
            AccountError::Chain(error) => error.into(),
            AccountError::Submit(error) => error.into(),
            AccountError::OtherOwner { .. } => Self::new(
                5,
                "OtherOwner",
                "owner",
                error,
                "give the owner's key: --owner, or --owner-keypair of update",
            ),
            AccountError::NotRegistered(_) => {
                Self::new(5, "NotRegistered", "owner", error, "register the node: aro-node init")
            }
            AccountError::TooMuch { earned, .. } => {
                let failure = Self::new(4, "TooMuch", "caller", error, "ask for less, or leave --amount out for all");
                Self { amount: Some(earned), ..failure }
            }
        }
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        match error.remedy() {
            Remedy::Retry => Self::unreachable(error),
            Remedy::FundFees => Self::new(4, "Fees", "payer", error, "send SOL to the paying key"),
            Remedy::FundTokens => Self::new(4, "Tokens", "payer", error, "send $ARO to the paying wallet"),
            Remedy::Authorise => Self::new(5, "Unauthorised", "owner", error, "sign with the key that has the right"),
            Remedy::CheckStatus => {
                Self::new(6, "Uncertain", "caller", error, "look the transaction up before trying again")
            }
            Remedy::AskAdmin | Remedy::Refresh | Remedy::GiveUp => {
                Self::new(3, "Refused", "caller", error, "read the message; the chain will not take this as it is")
            }
        }
    }
}

/// Prints a result: the object with `--json`, else the lines.
pub(crate) fn result(json: bool, object: &Value, lines: impl IntoIterator<Item = String>) {
    if json {
        println!("{object}");
    } else {
        for line in lines {
            println!("{line}");
        }
    }
}

/// Prints a line as it is, at once.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Prints a failure and gives its exit code.
pub(crate) fn fail(json: bool, failure: &Failure) -> ExitCode {
    let Failure { exit, code, who_acts, message, next_step, amount } = failure;
    if json {
        let error = json!({
            "code": code, "who_acts": who_acts, "message": message, "next_step": next_step, "amount": amount,
        });
        println!("{}", json!({ "error": error }));
    } else {
        eprintln!("aro-node: {message}");
        eprintln!("next: {next_step}");
    }
    ExitCode::from(*exit)
}

/// Logs to stderr; `RUST_LOG` chooses what.
pub(crate) fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
}
