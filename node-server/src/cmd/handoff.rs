//! `aro-node handoff`: the serving node's vouchers to its operators, now.

use std::path::PathBuf;

use aro_proto::Amount;
use clap::Args;

use crate::folder::Folder;
use crate::local::{self, Ask};
use crate::output::{self, Failure};

/// Hand all vouchers to the operators now.
#[derive(Args)]
pub(crate) struct Handoff {
    /// Folder of the node, which must be serving.
    #[arg(long)]
    dir: PathBuf,
    /// Also give all channels up: they take no new requests, and the operator closes them.
    #[arg(long)]
    close: bool,
}

impl Handoff {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        Folder::open(&self.dir)?;
        let ask = Ask::Handoff { close: self.close };
        let Some(answer) = local::ask(&self.dir, ask).await.map_err(Failure::internal)? else {
            return Err(Failure::usage("the node does not serve", "start it: aro-node serve"));
        };
        if let Some(message) = answer.get("failed").and_then(|message| message.as_str()) {
            let is_retryable = answer.get("retryable").and_then(|flag| flag.as_bool()).unwrap_or_default();
            return Err(Failure::handoff(message, is_retryable));
        }
        let list = |name: &str| answer.get(name).and_then(|list| list.as_array()).cloned().unwrap_or_default();
        let field = |entry: &serde_json::Value, name: &str| {
            entry.get(name).map(|value| value.as_str().map_or(value.to_string(), str::to_owned)).unwrap_or_default()
        };
        let mut lines: Vec<_> = list("handed")
            .iter()
            .map(|entry| {
                let cumulative = Amount::new(entry["cumulative"].as_u64().unwrap_or_default());
                format!("handed   {} {cumulative} $ARO", field(entry, "channel"))
            })
            .collect();
        let refused = list("refused");
        lines.extend(
            refused.iter().map(|entry| format!("refused  {} {}", field(entry, "channel"), field(entry, "reason"))),
        );
        let failed = list("failed");
        lines.extend(
            failed.iter().map(|entry| format!("failed   {} {}", field(entry, "operator"), field(entry, "reason"))),
        );
        if lines.is_empty() {
            lines.push("nothing to hand over".into());
        }
        output::result(json, &answer, lines);
        Ok(())
    }
}
