//! `aro-settle doctor`: is everything there that an operator needs, and is anything about to go wrong?

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::json;
use settlement_chain::{ChainClient, Program, RpcChain, Signer};
use settlement_operator::OperatorConfig;
use settlement_operator::control::{Command, ask};
use settlement_operator::doctor::{ChainSubject, Finding, Level, examine_chain, examine_fees, examine_store, worst};
use settlement_operator::submit::{FeeBudget, spent_lately};
use settlement_operator::vouchers::{self, Book, LeaseTerms, Owner, StoreError};

use super::home::{ConfigFile, Home};
use super::once::asked;
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Folder of the operator.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

impl Doctor {
    pub(super) async fn run(self, output: &Output) -> Result<(), Failure> {
        let home = Home::new(self.dir);
        let file = home.read_config()?;
        let config = home.operator_config(&file)?;
        let program = Program::new(config.program);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);

        let mut findings = vec![Finding::ok("config", "config.json is understood")];
        let (transport, authority) = (home.transport_key(), home.authority());
        findings.push(key("transport key", transport.as_ref().map(|key| key.node_id().to_string())));
        findings.push(key("authority key", authority.as_ref().map(|key| key.pubkey().to_string())));
        let servers = servers(&file);
        let named: Vec<(String, &dyn ChainClient)> =
            servers.iter().map(|(name, chain)| (name.clone(), chain as &dyn ChainClient)).collect();
        let mut lamports_per_day = None;
        if let Some((_, chain)) = named.first() {
            let (stored, spent) = store(&config, &home.owner(&config), *chain, &program, now).await;
            findings.extend(stored);
            lamports_per_day = spent;
        }
        if let Ok(authority) = authority {
            let subject = ChainSubject { program, authority: authority.pubkey(), now, lamports_per_day };
            findings.extend(examine_chain(&named, &subject).await);
        }

        let worst = worst(&findings);
        let object = json!({
            "worst": worst.name(),
            "findings": findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
        });
        output.result(&object, &text(&findings));
        if worst == Level::Fail { Err(Failure::told()) } else { Ok(()) }
    }
}

fn key(check: &str, key: Result<String, &Failure>) -> Finding {
    match key {
        Ok(address) => Finding::ok(check, format!("{address}, readable by its owner alone")),
        Err(failure) => Finding::fail(check, failure.message.clone(), &failure.next_step),
    }
}

/// The servers of the configuration. Their addresses may hold a secret: people see the place alone.
fn servers(file: &ConfigFile) -> Vec<(String, RpcChain)> {
    let urls = file.rpc_url.split(',').map(str::trim).filter(|url| !url.is_empty());
    urls.map(RpcChain::new).map(|server| (server.place(), server)).collect()
}

/// What the store can tell, through the running operator if there is one.
async fn store(
    config: &OperatorConfig,
    owner: &Owner,
    chain: &dyn ChainClient,
    program: &Program,
    now: i64,
) -> (Vec<Finding>, Option<u64>) {
    let fail = |message: String, next: &str| (vec![Finding::fail("database", message, next)], None);
    match vouchers::open(&config.store, &config.database(), owner).await {
        Ok(store) => {
            let book = Book::new(store, LeaseTerms::new("doctor"));
            let (mut findings, spent) = examine_store(&book, chain, program, now).await;
            if ask(&config.control_socket(), Command::Status).await.is_err() {
                let fees = FeeBudget::new(config.fees);
                // What stops the store from saying is told with the store.
                fees.recall(0, spent_lately(&book, now).await.unwrap_or_default(), Instant::now());
                findings.extend(examine_fees(&fees, Instant::now()));
                let text = "no operator runs in this folder: nothing is taken, settled or watched";
                findings.push(Finding::warn("operator", text, "start it with `aro-settle run`"));
            }
            (findings, spent)
        }
        Err(StoreError::InUse) => match asked(ask(&config.control_socket(), Command::Doctor).await) {
            Ok(answer) => {
                let findings = answer["findings"].as_array().into_iter().flatten().filter_map(Finding::from_json);
                (findings.collect(), answer["lamports_per_day"].as_u64())
            }
            Err(failure) => fail(failure.message, "the database is in use, and its user does not answer: look at it"),
        },
        Err(error) => fail(error.to_string(), "look at the store in config.json"),
    }
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let (level, check) = (finding.level.name(), &finding.check);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{level:<5} {check:<17} {}", finding.message);
        if !finding.next_step.is_empty() {
            let _ = writeln!(text, "{:<23} next: {}", "", finding.next_step);
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_by_host_without_their_secrets() {
        let file: ConfigFile = serde_json::from_value(json!({
            "rpc_url": "https://user:secret@one.example/key?token=2, http://127.0.0.1:8899",
            "program_id": "11111111111111111111111111111111",
            "listen": "127.0.0.1:1",
            "min_settle": "1",
            "close_when_asked": true,
            "settle_interval_ms": 1,
        }))
        .unwrap();
        let names: Vec<String> = servers(&file).into_iter().map(|(name, _)| name).collect();
        assert!(names[0].contains("one.example") && names[1].contains("127.0.0.1:8899"), "{names:?}");
        assert!(!names[0].contains("secret") && !names[0].contains("token"), "{names:?}");
    }
}
