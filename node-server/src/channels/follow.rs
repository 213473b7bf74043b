//! Following the chain: channels are known before their agents call, so that no chain call lies on the request path.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aro_proto::ChannelId;
use aro_proto::channel::{ChannelState, ChannelTerms};
use settlement_chain::interface::accounts::Channel;
use settlement_chain::reads::{self, ReadError};
use settlement_chain::views::{self, NodesChannels};
use settlement_chain::{Account, Address, ChainError, Program};

use super::{PaidChannel, Unsettled};
use crate::shared::{OnChain, Phase, Shared, unix_now};

/// Reads the node's account and all channels to it once. What one of several servers shows otherwise is noted, for it
/// may be the truth: see [`PaidChannel::unsettled_by_any`].
pub(crate) async fn poll(node: &Shared) -> Result<(), ReadError> {
    let asked = Instant::now();
    match follow_account(node).await {
        // Its channels can be seen all the same.
        Err(ReadError::Chain(error @ ChainError::Disagreement(_))) => {
            tracing::warn!(%error, "the node's account is as it was when it was last read");
        }
        followed => followed?,
    }
    let NodesChannels { mut believed, mut otherwise } =
        views::channels_of_node(&*node.chain, &node.program, &node.account).await?;
    let graces_s = believed.values().map(|account| account.grace_s);
    let shortest_grace_s = graces_s.fold(node.registered.borrow().min_grace_s, u32::min);
    for (address, shown) in &otherwise {
        if !believed.contains_key(address) && is_ours(node, channel_id(address)) {
            // Not believed. Its voucher needs no more than that one shows it; nothing is lent on it.
            let mut shown: Vec<_> = shown.iter().map(|one| Channel { deposit: 0, settled: 0, ..one.clone() }).collect();
            shown.sort_by_key(|one| Reverse(one.grace_s));
            // A false signer's is not the voucher's channel.
            let ours = shown.into_iter().find(|one| node.channels.see(channel_id(address), one).is_ok());
            believed.extend(ours.map(|one| (*address, one)));
        }
    }
    let mut seen = HashSet::with_capacity(believed.len());
    let mut is_urgent = false;
    for (address, account) in &believed {
        let id = channel_id(address);
        seen.insert(id);
        match node.channels.see(id, account) {
            Ok(channel) => {
                let others = otherwise.remove(address).unwrap_or_default();
                let terms = others.iter().filter_map(|other| ChannelTerms::from_account(id, other).ok());
                channel.see_otherwise(terms.collect());
                let is_closing = |unsettled: &Unsettled| matches!(unsettled.state, ChannelState::Closing { .. });
                is_urgent |= channel.unsettled_by_any().iter().any(is_closing);
            }
            Err(error) => tracing::error!(channel = %id, %error, "a channel on chain cannot be served"),
        }
    }
    if is_urgent {
        node.bell.ring();
    }
    let missing: Vec<_> = node.channels.all().into_iter().filter(|channel| !seen.contains(&channel.id())).collect();
    if !missing.is_empty() {
        check_gone(node, &missing).await?;
    }
    // As old as the question, not as the answer.
    node.freshness.saw(shortest_grace_s, asked);
    Ok(())
}

/// True if the node knows the channel, or has a voucher of it.
fn is_ours(node: &Shared, id: ChannelId) -> bool {
    node.channels.get(id).is_some()
        || node.channels.holds(id).unwrap_or_else(|error| {
            tracing::error!(channel = %id, %error, "a voucher cannot be read");
            false
        })
}

/// The owner may change operator and shortest grace while the node serves.
// r[impl settlement.handoff.several]
async fn follow_account(node: &Shared) -> Result<(), ReadError> {
    let Some(account) = reads::node_at(&*node.chain, &node.program, &node.account).await? else {
        tracing::error!(account = %node.account, "the chain does not show the node's account");
        return Ok(());
    };
    let now = OnChain { operator: Address::from(account.operator), min_grace_s: account.min_grace_s };
    let before = node.registered.send_replace(now);
    if before.operator != now.operator {
        tracing::info!(before = %before.operator, now = %now.operator, "the node has switched its operator on chain");
        // The new one is to hear of all that is to be closed.
        node.bell.ring();
    }
    Ok(())
}

/// Polls until the node stops.
pub(crate) async fn run(node: Arc<Shared>, interval: Duration) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = node.comes_to(Phase::Draining) => return,
        }
        if let Err(error) = poll(&node).await {
            tracing::warn!(%error, "the chain could not be followed; trying again");
        }
    }
}

/// Reads one channel that an agent speaks of, as may be lent on it: `None` if it is not a channel to this node.
pub(crate) async fn look_up(node: &Shared, id: ChannelId) -> Result<Option<Arc<PaidChannel>>, ChainError> {
    let address = Address::from(id.to_bytes());
    let _turn = node.chain_reads.acquire().await.expect("the semaphore is never closed");
    let account = views::channel(&*node.chain, &node.program, &address).await?;
    let Some(account) = account.filter(|account| account.node == node.account.to_bytes()) else { return Ok(None) };
    match node.channels.see(id, &account) {
        Ok(channel) => Ok(Some(channel)),
        Err(error) => {
            tracing::error!(channel = %id, %error, "a channel on chain cannot be served");
            Ok(None)
        }
    }
}

/// Channels that the list did not show have been reclaimed, or the server lags behind. One that the chain has denied
/// several times is served no more. Its voucher is money: it is pruned only if it cannot settle any more, and the
/// chain's denial is so old that no fork takes it back.
// r[impl settlement.node.keeps]
async fn check_gone(node: &Shared, missing: &[Arc<PaidChannel>]) -> Result<(), ReadError> {
    let height = node.chain.statuses(&[]).await?.block_height;
    for channel in missing {
        if let Some(since) = channel.missing_since() {
            if height >= since.saturating_add(FINAL_AFTER_BLOCKS) {
                prune_if_worthless(node, channel).await;
            }
            continue;
        }
        let address = Address::from(channel.id().to_bytes());
        let shown = match views::channel(&*node.chain, &node.program, &address).await {
            // One server still shows what another denies.
            Err(ChainError::Disagreement(_)) => continue,
            shown => shown?,
        };
        if let Some(account) = shown {
            if let Err(error) = node.channels.see(channel.id(), &account) {
                tracing::error!(channel = %channel.id(), %error, "a channel on chain cannot be served");
            }
        } else if channel.missed() >= POLLS_UNTIL_GONE {
            tracing::info!(channel = %channel.id(), "the channel is no more on chain: it is not served");
            channel.mark_missing(height);
        }
    }
    Ok(())
}

/// Forgetting cannot be taken back: every server that answers, and of several at least two, must deny the channel.
async fn prune_if_worthless(node: &Shared, channel: &PaidChannel) {
    if !channel.is_worthless(unix_now()) {
        return;
    }
    let address = Address::from(channel.id().to_bytes());
    let denied = match node.chain.accounts_by_server(&[address], 2).await {
        Ok(answers) => !answers.is_empty() && answers.iter().all(|accounts| is_gone(accounts, &node.program)),
        Err(_) => false,
    };
    if !denied {
        return;
    }
    if let Err(error) = node.channels.forget(channel.id()) {
        tracing::error!(channel = %channel.id(), %error, "a voucher could not be pruned");
    }
}

/// True if this answer for one address shows nothing of the program.
fn is_gone(accounts: &[Option<Account>], program: &Program) -> bool {
    let is_gone = |account: &Option<Account>| account.as_ref().is_none_or(|account| account.owner != program.id);
    accounts.len() == 1 && accounts.iter().all(is_gone)
}

fn channel_id(address: &Address) -> ChannelId {
    ChannelId::from_bytes(address.to_bytes())
}

/// Blocks after which what was seen as confirmed counts as final: twice what finality takes.
const FINAL_AFTER_BLOCKS: u64 = 64;
/// Polls in a row after which a channel that the chain denies is gone.
const POLLS_UNTIL_GONE: u32 = 5;
