//! `aro-node settle`: every voucher onto the chain now, without any operator.

use std::path::PathBuf;

use aro_proto::Amount;
use clap::Args;
use node_server::{SettleError, settle_stopped};
use serde_json::Value;

use crate::folder::Folder;
use crate::local::{self, Ask, settled_json};
use crate::output::{self, Failure};

/// Settle all vouchers now, without any operator.
///
/// Settling pays to the node's ledger whoever does it, so the key needs SOL for fees and no other right. Channels stay
/// as they are; only the node's owner or operator can close them.
#[derive(Args)]
pub(crate) struct Settle {
    /// Folder of the node, serving or not.
    #[arg(long)]
    dir: PathBuf,
    /// Key file that pays the fees; that of the serving node or of config.json if not given.
    #[arg(long)]
    fee_keypair: Option<PathBuf>,
}

impl Settle {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let folder = Folder::open(&self.dir)?;
        let key = folder.fee_key(self.fee_keypair.as_deref())?;
        // The serving node may have been started in another folder.
        let path = self.fee_keypair.map(std::fs::canonicalize).transpose().map_err(Failure::internal)?;
        let ask = Ask::Settle { fee_keypair: path.or_else(|| folder.settings.fee_keypair.clone()) };
        let answer = match local::ask(&self.dir, ask).await.map_err(Failure::internal)? {
            Some(answer) => answer,
            None => {
                let key = key.ok_or(SettleError::NoFeeKey)?;
                let (config, id) = (folder.node_config()?, folder.key()?.node_id());
                settled_json(&settle_stopped(&config, id, folder.chain()?, key).await?)
            }
        };
        if let Some(message) = answer.get("failed").and_then(Value::as_str) {
            let is_retryable = answer.get("retryable").and_then(Value::as_bool).unwrap_or_default();
            return Err(Failure::settle(message, is_retryable));
        }
        output::result(json, &answer, lines(&answer));
        Ok(())
    }
}

fn lines(answer: &Value) -> Vec<String> {
    let list = |name: &str| answer.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut lines: Vec<_> = list("settled")
        .iter()
        .map(|entry| {
            let cumulative = Amount::new(entry.get("cumulative").and_then(Value::as_u64).unwrap_or_default());
            format!("settled  {} {cumulative} $ARO in {}", text(entry, "channel"), text(entry, "signature"))
        })
        .collect();
    let skipped = list("skipped");
    lines.extend(skipped.iter().map(|entry| format!("skipped  {} {}", text(entry, "channel"), text(entry, "reason"))));
    if lines.is_empty() {
        lines.push("everything is settled".into());
    }
    lines
}
