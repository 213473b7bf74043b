//! `aro channel`: open, list, close.

use agent_client::{Agent, ChannelInfo, ChannelPhase, MoneyError};
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
    /// List all channels
    List,
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
            Self::List => {
                let channels = agent.channels().await?;
                output.result(&json!({ "channels": channels }), || table(&channels))
            }
            Self::Close { channel } => close(&agent, *channel, output).await,
        }
    }
}

/// Whatever step towards the end is possible now, and what the next one is.
async fn close(agent: &Agent, channel: ChannelId, output: &Output) -> Result<(), Failure> {
    let left_s = match agent.reclaim(channel).await {
        Ok(reclaimed) => {
            let object = json!({
                "channel": channel.to_string(),
                "phase": "reclaimed",
                "refunded": reclaimed.refunded,
                "settled": reclaimed.settled,
                "signature": reclaimed.signature.to_string(),
            });
            return output.result(&object, || {
                format!(
                    "closed: {} $ARO are available again, the node got {} $ARO",
                    reclaimed.refunded, reclaimed.settled
                )
            });
        }
        Err(MoneyError::StillOpen(_)) => {
            let _ = agent.request_close(channel).await?;
            match agent.reclaim(channel).await {
                Err(MoneyError::InGrace { left_s, .. }) => left_s,
                // A grace of zero passes at once; the next run takes the money back.
                _ => 0,
            }
        }
        Err(MoneyError::InGrace { left_s, .. }) => left_s,
        Err(error) => return Err(error.into()),
    };
    let next_step = format!("in {left_s} s take back what is left: aro channel close {channel}");
    let object = json!({"channel": channel.to_string(), "phase": "closing", "left_s": left_s, "next_step": next_step});
    output.result(&object, || format!("closing: the node may still settle\n  next: {next_step}"))
}

pub(super) fn table(channels: &[ChannelInfo]) -> String {
    if channels.is_empty() {
        return "no channels".into();
    }
    let rows = channels.iter().map(|info| {
        let ChannelInfo { channel, node, phase, deposit, signed, settled, deadline } = info;
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
