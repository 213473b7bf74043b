//! What the command says: results on stdout, everything else on stderr; with `--json` one object as the last line.

use std::io::{Write, stdout};
use std::process::ExitCode;

use agent_client::{
    BuildError, ErrorReport, FetchError, LedgerError, MoneyError, NameError, PolicyError, Subject, TreeError,
    WalletError,
};
use anstyle::{AnsiColor, Style};
use aro_proto::WhoActs;
use serde::Serialize;
use serde_json::json;

/// Where results go.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    aside: bool,
}

/// Why a command failed, as every error reports it.
pub(crate) struct Failure {
    report: Box<ErrorReport>,
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
        let report = &failure.report;
        if self.json {
            self.say(&json!({ "error": report }).to_string());
        } else {
            warn(&format!("{ERROR}error:{ERROR:#} {}\n  next: {}", report.message, report.next_step));
        }
        ExitCode::from(report.exit_code)
    }

    /// Something that happened on the way, for people; programs read the result.
    pub(crate) fn note(&self, text: &str) {
        warn(text);
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
        Self::plain("Usage", WhoActs::GiveUp, message, next_step, USAGE)
    }

    pub(crate) fn internal(error: &dyn std::error::Error) -> Self {
        Self::plain("Internal", WhoActs::GiveUp, &error.to_string(), "report this", INTERNAL)
    }

    /// Nobody takes the content any more.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        let is_gone = error.kind() == std::io::ErrorKind::BrokenPipe;
        let code = if is_gone { "BrokenPipe" } else { "Output" };
        let why = if is_gone { "whoever read it went away".to_owned() } else { error.to_string() };
        let message = format!("the output takes no more: {why}; what was proven is paid");
        let next_step = "fetch to a file to be able to go on, or only the rest with --range";
        Self::plain(code, WhoActs::GiveUp, &message, next_step, INTERNAL)
    }

    pub(crate) fn interrupted() -> Self {
        let message = "interrupted; what was proven is paid, and kept beside the file if there is one";
        Self::plain("Interrupted", WhoActs::RetryHere, message, "run the same command again", INTERNAL)
    }

    fn plain(code: &'static str, who_acts: WhoActs, message: &str, next_step: &str, exit_code: u8) -> Self {
        let retryable = who_acts == WhoActs::RetryHere;
        let report = ErrorReport {
            code,
            who_acts,
            message: message.to_owned(),
            next_step: next_step.to_owned(),
            amount: None,
            retryable,
            retry_after_ms: retryable.then_some(0),
            subject: Subject::default(),
            exit_code,
        };
        Self { report: Box::new(report) }
    }
}

macro_rules! failures {
    ($($error:ty),*) => { $(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self { report: Box::new(error.report()) }
            }
        }
    )* };
}
failures!(FetchError, MoneyError, WalletError, BuildError, TreeError, NameError);

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        WalletError::from(error).into()
    }
}

impl From<PolicyError> for Failure {
    fn from(error: PolicyError) -> Self {
        BuildError::from(error).into()
    }
}

fn say(text: &str) {
    // A reader that went away needs no answer.
    let _ = writeln!(stdout(), "{text}");
}

/// To the error output, without its colours where no terminal shows them.
pub(crate) fn warn(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

const ERROR: Style = AnsiColor::Red.on_default().bold();

const INTERNAL: u8 = 1;
const USAGE: u8 = 2;
