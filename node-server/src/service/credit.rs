//! Waiting for credit: a batch goes on when the channel, its owner and the node's view of the chain allow it.

use std::time::Duration;

use aro_proto::ByteCount;
use aro_proto::channel::{Permit, StreamKey};
use tokio::time::{Instant, sleep_until};

use crate::channels::PaidChannel;
use crate::shared::Shared;

/// Why there is no credit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoCredit {
    /// Payment did not come in time, or the channel has closed.
    Unpaid,
    /// The chain was out of sight for too long to lend more.
    Blind,
}

/// Waits until the credit window has room for a batch, which is billed with that. Streams of a channel that wait are
/// served in the order of their waiting. May be dropped at any await: then nothing is billed.
// r[impl channel.window]
pub(super) async fn bill(
    node: &Shared,
    channel: &PaidChannel,
    stream: StreamKey,
    bytes: ByteCount,
) -> Result<(), NoCredit> {
    if channel.queue().is_empty() && is_granted(node, channel, stream, bytes)? {
        return Ok(());
    }
    let place = channel.queue().enter();
    let front = place.front();
    tokio::pin!(front);
    let mut held = None;
    let (mut news, mut falls, mut sight) = (channel.subscribe(), channel.tab().subscribe(), node.freshness.subscribe());
    let patience = Duration::from_millis(node.config.payment_timeout_ms);
    let (mut deadline, mut paid) = (Instant::now() + patience, channel.standing().cumulative);
    loop {
        if held.is_some() && is_granted(node, channel, stream, bytes)? {
            return Ok(());
        }
        tokio::select! {
            guard = &mut front, if held.is_none() => held = Some(guard),
            _ = news.changed(), if held.is_some() => {}
            _ = falls.changed(), if held.is_some() => {}
            _ = sight.changed(), if held.is_some() => {}
            () = sleep_until(deadline) => {}
        }
        // Who pays, if only for other streams so far, is waited for.
        let now_paid = channel.standing().cumulative;
        if now_paid > paid {
            (deadline, paid) = (Instant::now() + patience, now_paid);
        } else if Instant::now() >= deadline {
            let is_blind = node.freshness.is_blind(std::time::Instant::now());
            return Err(if is_blind { NoCredit::Blind } else { NoCredit::Unpaid });
        }
    }
}

/// Bills a batch if both the channel's credit and the node's view of the chain allow it.
fn is_granted(node: &Shared, channel: &PaidChannel, stream: StreamKey, bytes: ByteCount) -> Result<bool, NoCredit> {
    let Some(loan) = node.freshness.lend(bytes, std::time::Instant::now()) else { return Ok(false) };
    match channel.may_send(stream, bytes) {
        Ok(Permit::Granted) => {
            loan.keep();
            Ok(true)
        }
        Ok(Permit::Wait) => Ok(false),
        Err(error) => {
            tracing::info!(channel = %channel.id(), %error, "a stream cannot go on");
            Err(NoCredit::Unpaid)
        }
    }
}
