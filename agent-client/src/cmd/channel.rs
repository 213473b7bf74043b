//! `aro channel`: open, top up, list, close.

use agent_client::{Agent, ChannelInfo, ChannelPhase, MoneyError, Reclaimed};
use aro_proto::{Amount, ChannelId, NodeId};
use clap::Subcommand;
use serde_json::json;

use crate::Global;
use crate::output::{Failure, Output};

#[derive(Subcommand)]
pub(crate) enum ChannelCommand {
    /// Open a channel to a node
    Open {
        /// The node's id
        node: NodeId,
        /// $ARO to set aside for this node, such as 1.5
        #[arg(long, value_name = "ARO")]
        deposit: Amount,
        /// Seconds that the node has to settle after you ask to close [default: the node's least]
        #[arg(long, value_name = "SECONDS")]
        grace: Option<u32>,
    },
    /// Add to an open channel's deposit
    TopUp {
        /// The channel's id
        channel: ChannelId,
        /// $ARO to add, such as 0.5
        amount: Amount,
    },
    /// List all channels
    List,
    /// Close what nobody uses any more, and take back what closed channels hold: run it now and then
    Sweep {
        /// Days without use after which a channel is closed, counted from the first sweep that sees it unused; 0 closes all
        /// that is not in use now
        #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(..=3_650))]
        idle_days: u32,
        /// Move what comes back to the owner's token account
        #[arg(long)]
        withdraw: bool,
    },
    /// Ask to close a channel; after its grace, run again to take back what is left
    Close {
        /// The channel's id
        channel: ChannelId,
    },
}

impl ChannelCommand {
    pub(crate) async fn run(&self, global: &Global, output: &Output) -> Result<(), Failure> {
        let agent = global.agent(None).await?;
        match self {
            Self::Open { node, deposit, grace } => {
                let opened = agent.open_channel(*node, *deposit, *grace).await?;
                output.result(&opened, || format!("opened {} with {deposit} $ARO", opened.channel))
            }
            Self::TopUp { channel, amount } => {
                let signature = agent.top_up(*channel, *amount).await?;
                let object = json!({
                    "channel": channel.to_string(), "added": amount, "signature": signature.to_string(),
                });
                output.result(&object, || format!("added {amount} $ARO to {channel}"))
            }
            Self::List => {
                let channels = agent.channels().await?;
                output.result(&json!({ "channels": channels }), || table(&channels))
            }
            Self::Sweep { idle_days, withdraw } => sweep(&agent, *idle_days, *withdraw, output).await,
            Self::Close { channel } => close(&agent, *channel, output).await,
        }
    }
}

/// Whatever step towards the end is possible now, and what the next one is.
async fn close(agent: &Agent, channel: ChannelId, output: &Output) -> Result<(), Failure> {
    let reclaimed = match agent.reclaim(channel).await {
        Err(MoneyError::StillOpen(_)) => {
            let _ = agent.request_close(channel).await?;
            // A grace of zero has passed already.
            agent.reclaim(channel).await
        }
        first => first,
    };
    match reclaimed {
        Ok(Reclaimed { refunded, settled, signature, .. }) => {
            let object = json!({
                "channel": channel.to_string(),
                "phase": "reclaimed",
                "refunded": refunded,
                "settled": settled,
                "signature": signature.to_string(),
            });
            let text = || format!("closed: {refunded} $ARO are available again, the node got {settled} $ARO");
            output.result(&object, text)
        }
        Err(MoneyError::InGrace { left_s, .. }) => {
            let next_step = format!("in {left_s} s take back what is left: aro channel close {channel}");
            let object = json!({
                "channel": channel.to_string(), "phase": "closing", "left_s": left_s, "next_step": next_step,
            });
            output.result(&object, || format!("closing: the node may still settle\n  next: {next_step}"))
        }
        Err(error) => Err(error.into()),
    }
}

async fn sweep(agent: &Agent, idle_days: u32, withdraw: bool, output: &Output) -> Result<(), Failure> {
    let report = agent.sweep(idle_days.saturating_mul(24 * 3_600)).await?;
    let refunded = report.refunded();
    if withdraw && !refunded.is_zero() {
        let _ = agent.wallet().withdraw(refunded).await?;
    }
    let ids = |channels: &[ChannelId]| channels.iter().map(ToString::to_string).collect::<Vec<_>>();
    let reclaimed: Vec<ChannelId> = report.reclaimed.iter().map(|done| done.channel).collect();
    let failed: Vec<_> = report
        .failed
        .iter()
        .map(|failed| {
            json!({
                "channel": failed.channel.to_string(), "error": failed.error.report(),
            })
        })
        .collect();
    let object = json!({
        "closing": ids(&report.closing), "reclaimed": ids(&reclaimed), "refunded": refunded, "withdrawn": withdraw,
        "kept": report.kept, "failed": failed,
    });
    output.result(&object, || {
        let mut lines = vec![format!(
            "{} closing, {} taken back with {refunded} $ARO, {} kept",
            report.closing.len(),
            report.reclaimed.len(),
            report.kept,
        )];
        lines.extend(report.failed.iter().map(|failed| format!("failed: {}: {}", failed.channel, failed.error)));
        lines.join("\n")
    })
}

pub(super) fn table(channels: &[ChannelInfo]) -> String {
    if channels.is_empty() {
        return "no channels".into();
    }
    let rows = channels.iter().map(|info| {
        let ChannelInfo { channel, node, signer: _, phase, deposit, signed, settled, deadline } = info;
        let phase = match (phase, deadline) {
            (ChannelPhase::Open, _) => "open".to_owned(),
            (ChannelPhase::Closing, Some(deadline)) => format!("closing until unix second {deadline}"),
            (ChannelPhase::Closing, None) => "closing".to_owned(),
            (ChannelPhase::Closed, _) => "closed".to_owned(),
        };
        format!("{channel} to {node}: {phase}, deposit {deposit}, signed {signed}, settled {settled} $ARO")
    });
    rows.collect::<Vec<_>>().join("\n")
}
