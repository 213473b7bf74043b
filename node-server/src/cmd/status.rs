//! `aro-node status`: of the serving node, or from disk.

use std::path::PathBuf;

use clap::Args;
use node_server::{NodeStatus, status_of_stopped};
use serde_json::json;

use crate::folder::Folder;
use crate::local::{self, Ask};
use crate::output::{self, Failure};

/// Show what the node holds, serves and has earned.
#[derive(Args)]
pub(crate) struct Status {
    /// Folder of the node.
    #[arg(long)]
    dir: PathBuf,
}

impl Status {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let folder = Folder::open(&self.dir)?;
        let mut config = folder.node_config()?;
        // A key that cannot be read is no reason to show nothing: it is shown as missing.
        config.fee_key = folder.fee_key(None).ok().flatten();
        let status: NodeStatus = match local::ask(&self.dir, Ask::Status).await.map_err(Failure::internal)? {
            Some(answer) => serde_json::from_value(answer).map_err(Failure::internal)?,
            None => status_of_stopped(&config, folder.key()?.node_id(), &*folder.chain()?).await?,
        };
        output::result(json, &json!(status), lines(&status));
        Ok(())
    }
}

fn lines(status: &NodeStatus) -> Vec<String> {
    let listen = status.listen.map_or("not serving".to_owned(), |listen| listen.to_string());
    let earned =
        status.earned.map_or("unknown, the chain does not answer".to_owned(), |earned| format!("{earned} $ARO"));
    let mut lines = vec![
        format!("node id      {}", status.node_id),
        format!("account      {}", status.account),
        format!("listening    {listen}"),
        format!("price        {} $ARO per MiB", status.price_per_mib),
        format!("contents     {}", status.contents),
        format!("earned       {earned}"),
        format!("unsettled    {} $ARO, {} of it at risk", status.unsettled, status.at_risk),
        format!("connections  {}", status.connections),
        format!(
            "requests     {} running, {} answered, {} refused",
            status.running_requests, status.answered, status.refused
        ),
        format!("served       {} bytes", status.bytes_served),
        format!("taken        {} bytes", status.bytes_taken),
    ];
    if let Some(payout) = &status.payout {
        lines.push(format!("payout       {payout}"));
    }
    if let (Some(payout), Some(from)) = (&status.pending_payout, status.payout_from) {
        lines.push(format!("pending      payout {payout} from unix second {from}"));
    }
    if let Some(key) = &status.fee_key {
        let lamports = status.fee_lamports.map_or("unknown".to_owned(), |lamports| lamports.to_string());
        lines.push(format!("fee key      {key}: {lamports} lamports"));
    }
    if let Some(seconds) = status.chain_seen_s_ago {
        lines.push(format!("chain        seen {seconds} s ago"));
    }
    lines.extend(status.operators.iter().map(|operator| {
        let role = match (&operator.account, operator.may_close) {
            (None, _) => "not reached yet".to_owned(),
            (Some(account), true) => format!("{account}, settles and closes"),
            (Some(account), false) => format!("{account}, settles only"),
        };
        let heard = operator.heard_s_ago.map(|seconds| format!(", heard {seconds} s ago")).unwrap_or_default();
        format!("operator     {}: {role}{heard}", operator.operator)
    }));
    lines.extend(status.channels.iter().map(|channel| {
        let deadline = channel.deadline.map(|second| format!(", until unix second {second}")).unwrap_or_default();
        format!(
            "channel      {} {}{deadline}: {} of {} $ARO paid, {} handed over, {} settled",
            channel.channel, channel.state, channel.watermark, channel.deposit, channel.handed, channel.settled
        )
    }));
    lines.extend(status.warnings.iter().map(|warning| format!("warning      {warning}")));
    lines
}
