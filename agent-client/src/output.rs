//! What the command says: results on stdout, everything else on stderr; with `--json` one object as the last line.

use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use agent_client::{BuildError, FetchError, MoneyError, NameError, TreeError, WalletError};
use aro_proto::{Amount, WhoActs};
use serde::Serialize;
use serde_json::json;
use settlement_chain::reads::ReadError;
use settlement_chain::submit::Remedy;

/// Where results go.
pub(crate) struct Output {
    json: bool,
    aside: bool,
}

/// Why a command failed, in the four answers that every error gives.
pub(crate) struct Failure {
    code: &'static str,
    who_acts: WhoActs,
    message: String,
    next_step: String,
    amount: Option<Amount>,
    exit: u8,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, aside: false }
    }

    /// The same on the error output, where the output carries the content itself.
    pub(crate) fn aside(self, aside: bool) -> Self {
        Self { aside, ..self }
    }

    /// A command's result: the object for programs, or the text for people.
    pub(crate) fn result(&self, object: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json {
            let line = serde_json::to_string(object).map_err(|error| Failure::internal(&error))?;
            self.say(&line);
        } else {
            self.say(&text());
        }
        Ok(())
    }

    fn say(&self, text: &str) {
        if self.aside { warn(text) } else { say(text) }
    }

    /// Ends the command.
    pub(crate) fn fail(&self, failure: &Failure) -> ExitCode {
        let Failure { code, who_acts, message, next_step, amount, exit } = failure;
        if self.json {
            let who_acts = who(*who_acts);
            self.say(
                &json!({"error": {
                    "code": code, "who_acts": who_acts, "message": message, "next_step": next_step, "amount": amount,
                }})
                .to_string(),
            );
        } else {
            warn(&format!("error: {message}\n  next: {next_step}"));
        }
        ExitCode::from(*exit)
    }
}

/// Ends a command whose arguments make no sense; help and version end well.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args().any(|argument| argument == "--json") {
        let text = error.to_string();
        let text = text.trim_end();
        let message = text.strip_prefix("error: ").unwrap_or(text);
        return Output::new(true).fail(&Failure::usage(message, "see aro --help"));
    }
    // A reader that went away needs no answer.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

impl Failure {
    pub(crate) fn usage(message: &str, next_step: &str) -> Self {
        let (message, next_step) = (message.to_owned(), next_step.to_owned());
        Self { code: "Usage", who_acts: WhoActs::GiveUp, message, next_step, amount: None, exit: USAGE }
    }

    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        Self {
            code: "Internal",
            who_acts: WhoActs::GiveUp,
            message: error.to_string(),
            next_step: "report this".into(),
            amount: None,
            exit: 1,
        }
    }

    /// Nobody takes the content any more.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        let is_gone = error.kind() == std::io::ErrorKind::BrokenPipe;
        let code = if is_gone { "BrokenPipe" } else { "Output" };
        let why = if is_gone { "whoever read it went away".to_owned() } else { error.to_string() };
        Self {
            code,
            who_acts: WhoActs::GiveUp,
            message: format!("the output takes no more: {why}; what was proven is paid"),
            next_step: "fetch to a file to be able to go on, or only the rest with --range".into(),
            amount: None,
            exit: 1,
        }
    }

    pub(crate) fn interrupted() -> Self {
        Self {
            code: "Interrupted",
            who_acts: WhoActs::RetryHere,
            message: "interrupted; what was proven is paid, and kept beside the file if there is one".into(),
            next_step: "run the same command again".into(),
            amount: None,
            exit: 1,
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        let exit = match &error {
            FetchError::Proof { .. } => 7,
            FetchError::Sink(_) | FetchError::Source(_) => 1,
            FetchError::Request(_) => USAGE,
            FetchError::Wallet(_) => KEYS,
            FetchError::PriceTooHigh { .. } | FetchError::BudgetExceeded(_) => PAY,
            other => exit_of(other.who_acts()),
        };
        Self {
            code: error.code(),
            who_acts: error.who_acts(),
            message: error.to_string(),
            next_step: error.next_step(),
            amount: error.amount(),
            exit,
        }
    }
}

impl From<TreeError> for Failure {
    fn from(error: TreeError) -> Self {
        let exit = match &error {
            TreeError::Fetch(error) | TreeError::Entry { error, .. } => Self::from(error.clone()).exit,
            TreeError::Manifest { .. } | TreeError::ManifestMismatch { .. } => 7,
            TreeError::PriceTooHigh { .. } => PAY,
            TreeError::Target { .. } | TreeError::Source { .. } => 1,
            TreeError::NotAFile { .. } | TreeError::Name { .. } | TreeError::Unpublishable(_) => USAGE,
            TreeError::TooLarge { .. } => exit_of(error.who_acts()),
        };
        let (code, who_acts, amount) = (error.code(), error.who_acts(), error.amount());
        Self { code, who_acts, message: error.to_string(), next_step: error.next_step(), amount, exit }
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Self {
        let exit = match error {
            NameError::Fetch(error) => return error.into(),
            NameError::TwoRecords { .. } => 7,
            NameError::Memory(_) => 1,
            _ => exit_of(error.who_acts()),
        };
        let (code, who_acts) = (error.code(), error.who_acts());
        Self { code, who_acts, message: error.to_string(), next_step: error.next_step(), amount: None, exit }
    }
}

impl From<WalletError> for Failure {
    fn from(error: WalletError) -> Self {
        let who_acts = if error.is_retryable() { WhoActs::RetryHere } else { WhoActs::Authorise };
        let next_step = error.next_step().to_owned();
        Self { code: "Wallet", who_acts, message: error.to_string(), next_step, amount: None, exit: KEYS }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Chain(error) => error.into(),
            BuildError::Needs(_) => Self::internal(&error),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let who_acts = if error.is_retryable() { WhoActs::RetryHere } else { WhoActs::GiveUp };
        let message = error.to_string();
        let next_step = "check --rpc and --program-id, and that the chain runs".into();
        Self { code: "Chain", who_acts, message, next_step, amount: None, exit: exit_of(who_acts) }
    }
}

impl From<MoneyError> for Failure {
    fn from(error: MoneyError) -> Self {
        let (code, who_acts, next_step, amount): (_, _, String, _) = match &error {
            MoneyError::Read(_) | MoneyError::Wallet(_) => {
                return match error {
                    MoneyError::Read(error) => error.into(),
                    MoneyError::Wallet(error) => error.into(),
                    other => Self::internal(&other),
                };
            }
            MoneyError::Submit(submit) => {
                let (who_acts, next_step) = remedy(submit.remedy());
                ("Transaction", who_acts, next_step.into(), None)
            }
            MoneyError::Budget(error) => {
                let next_step = format!("allow {} $ARO in all, or ask for less", error.sufficient);
                ("BudgetExceeded", WhoActs::Pay, next_step, Some(error.needed))
            }
            MoneyError::NotEnough { needed, .. } => (
                "NotEnough",
                WhoActs::Pay,
                "look at `aro wallet status`; `aro wallet deposit` makes $ARO available".into(),
                Some(*needed),
            ),
            MoneyError::ZeroAmount => ("ZeroAmount", WhoActs::GiveUp, "give an amount above zero".into(), None),
            MoneyError::Grace { min_s, max_s, .. } => {
                ("Grace", WhoActs::GiveUp, format!("give --grace between {min_s} and {max_s}"), None)
            }
            MoneyError::UnknownNode(_) => {
                ("UnknownNode", WhoActs::GiveUp, "check the node id, --rpc and --program-id".into(), None)
            }
            MoneyError::AlreadyOpen(_) => {
                ("AlreadyOpen", WhoActs::GiveUp, "fetch with it, or close it first: aro channel close".into(), None)
            }
            MoneyError::UnknownChannel(_) | MoneyError::NotOurs(_) => {
                ("UnknownChannel", WhoActs::GiveUp, "look at `aro channel list`".into(), None)
            }
            MoneyError::NotOpen(channel) => {
                ("NotOpen", WhoActs::GiveUp, format!("take back what it holds: aro channel close {channel}"), None)
            }
            MoneyError::StillOpen(channel) => {
                ("StillOpen", WhoActs::GiveUp, format!("close it first: aro channel close {channel}"), None)
            }
            MoneyError::InGrace { left_s, .. } => {
                ("InGrace", WhoActs::RetryHere, format!("run the same command again in {left_s} s"), None)
            }
        };
        let exit = match &error {
            MoneyError::ZeroAmount | MoneyError::Grace { .. } => USAGE,
            _ => exit_of(who_acts),
        };
        Self { code, who_acts, message: error.to_string(), next_step, amount, exit }
    }
}

fn remedy(remedy: Remedy) -> (WhoActs, &'static str) {
    match remedy {
        Remedy::Retry => (WhoActs::RetryHere, "run the same command again"),
        Remedy::CheckStatus => (WhoActs::RetryHere, "look at `aro wallet status` before you run it again"),
        Remedy::FundFees => (WhoActs::Pay, "send SOL to the owner's address (aro keys show): fees and rent need it"),
        Remedy::FundTokens => (WhoActs::Pay, "send $ARO to the owner's address, or ask for less"),
        Remedy::Authorise => (WhoActs::Authorise, "use the wallet that owns the account (--home)"),
        Remedy::AskAdmin => (WhoActs::GiveUp, "the program is paused for deposits and opens: wait for its admin"),
        Remedy::Refresh => (WhoActs::RetryHere, "the accounts have changed: run the same command again"),
        Remedy::GiveUp => (WhoActs::GiveUp, "check --rpc and --program-id"),
    }
}

fn exit_of(who_acts: WhoActs) -> u8 {
    match who_acts {
        WhoActs::RetryHere => 6,
        WhoActs::RetryElsewhere | WhoActs::GiveUp => 3,
        WhoActs::Pay => PAY,
        WhoActs::Authorise => KEYS,
    }
}

fn who(who_acts: WhoActs) -> &'static str {
    match who_acts {
        WhoActs::RetryHere => "retry_here",
        WhoActs::RetryElsewhere => "retry_elsewhere",
        WhoActs::Pay => "pay",
        WhoActs::Authorise => "authorise",
        WhoActs::GiveUp => "give_up",
    }
}

fn say(text: &str) {
    // A reader that went away needs no answer.
    let _ = writeln!(stdout(), "{text}");
}

fn warn(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}

const USAGE: u8 = 2;
const PAY: u8 = 4;
const KEYS: u8 = 5;
