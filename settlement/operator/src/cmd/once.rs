//! `aro-settle once`: one settling round, by the running operator or by this process.

use std::fmt::Write;
use std::io;
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use settlement_chain::connect;
use settlement_operator::Operator;
use settlement_operator::control::{Command, ask};

use super::home::Home;
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `once`.
#[derive(Debug, Args)]
pub(crate) struct Once {
    /// Folder of the operator.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

impl Once {
    pub(super) async fn run(self, output: &Output) -> Result<(), Failure> {
        let home = Home::new(self.dir);
        let file = home.read_config()?;
        let config = home.operator_config(&file)?;
        let report = match ask(&config.control_socket(), Command::Settle).await {
            // Who runs hears nodes, and may close what they have asked for.
            Ok(answer) => asked(Ok(answer))?,
            Err(_) => Operator::once(&config, home.authority()?, connect(&file.rpc_url)?).await?.to_json(),
        };
        output.result(&report, &text(&report));
        match report["trouble"].as_array().map(Vec::as_slice) {
            Some([first, ..]) => {
                let message = first["message"].as_str().unwrap_or_default();
                Err(match first["remedy"].as_str() {
                    Some("FundFees") => Failure::hot_key_empty(message),
                    _ => Failure::retry(message),
                })
            }
            _ => Ok(()),
        }
    }
}

/// A running operator's answer, with its own error as ours.
pub(super) fn asked(answer: io::Result<Value>) -> Result<Value, Failure> {
    let answer = answer.map_err(|error| Failure::retry(format!("the running operator does not answer: {error}")))?;
    match answer["error"].as_str() {
        None => Ok(answer),
        Some(error) if answer["retryable"] == Value::Bool(true) => Err(Failure::retry(error)),
        Some(error) => Err(Failure::internal(error)),
    }
}

fn text(report: &Value) -> String {
    let count = |what: &str| report[what].as_array().map_or(0, Vec::len);
    let mut text = format!(
        "{} closed, {} settled, {} finalized, {} refunded, {} skipped, in {} transactions",
        count("closed"),
        count("settled"),
        count("finalized"),
        count("reclaimed"),
        count("skipped"),
        count("signatures"),
    );
    if let Some(holder) = report["elsewhere"].as_str() {
        // Writing to a string cannot fail.
        let _ = write!(text, "\nnothing was done here: {holder} settles for this database");
    }
    for skipped in report["skipped"].as_array().into_iter().flatten() {
        let (channel, reason) = (skipped["channel"].as_str(), skipped["reason"].as_str());
        let _ = write!(text, "\nskipped {}: {}", channel.unwrap_or_default(), reason.unwrap_or_default());
    }
    text
}
