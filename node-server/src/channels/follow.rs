//! Following the chain: channels are known before their agents call, so that no chain call lies on the request path.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aro_proto::ChannelId;
use settlement_chain::Address;
use settlement_chain::reads::{self, ReadError};

use super::PaidChannel;
use crate::shared::{Phase, Shared, unix_now};

/// Reads all channels to this node once.
pub(crate) async fn poll(node: &Shared) -> Result<(), ReadError> {
    let found = reads::channels_of_node(&*node.chain, &node.program, &node.account).await?;
    let mut seen = HashSet::with_capacity(found.len());
    for (address, account) in &found {
        let id = channel_id(address);
        seen.insert(id);
        match node.channels.see(id, account) {
            Ok(channel) if channel.is_closing() && channel.unhanded().is_some() => node.hand_off_soon(),
            Ok(_) => {}
            Err(error) => tracing::error!(channel = %id, %error, "a channel on chain cannot be served"),
        }
    }
    for channel in node.channels.all() {
        if !seen.contains(&channel.id()) {
            check_gone(node, &channel).await?;
        }
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

/// Reads one channel that an agent speaks of: `None` if it is not a channel to this node.
pub(crate) async fn look_up(node: &Shared, id: ChannelId) -> Result<Option<Arc<PaidChannel>>, ReadError> {
    let address = Address::from(id.to_bytes());
    let _turn = node.chain_reads.acquire().await.expect("the semaphore is never closed");
    let account = match reads::channel(&*node.chain, &node.program, &address).await {
        Ok(account) => account,
        // An address of something else: as good as none.
        Err(ReadError::WrongOwner { .. } | ReadError::WrongLayout { .. }) => None,
        Err(error) => return Err(error),
    };
    let Some(account) = account.filter(|account| account.node == node.account.to_bytes()) else { return Ok(None) };
    match node.channels.see(id, &account) {
        Ok(channel) => Ok(Some(channel)),
        Err(error) => {
            tracing::error!(channel = %id, %error, "a channel on chain cannot be served");
            Ok(None)
        }
    }
}

/// A channel that the list did not show has been reclaimed, or the server lags behind. When the chain has denied it
/// several times it is served no more. Its voucher is money, so that is pruned only if it cannot settle any more.
async fn check_gone(node: &Shared, channel: &PaidChannel) -> Result<(), ReadError> {
    if channel.is_missing() {
        prune_if_worthless(node, channel);
        return Ok(());
    }
    let address = Address::from(channel.id().to_bytes());
    if let Some(account) = reads::channel(&*node.chain, &node.program, &address).await? {
        if let Err(error) = node.channels.see(channel.id(), &account) {
            tracing::error!(channel = %channel.id(), %error, "a channel on chain cannot be served");
        }
    } else if channel.missed() >= POLLS_UNTIL_GONE {
        tracing::info!(channel = %channel.id(), "the channel is no more on chain: it is not served");
        channel.mark_missing();
        prune_if_worthless(node, channel);
    }
    Ok(())
}

fn prune_if_worthless(node: &Shared, channel: &PaidChannel) {
    if !channel.is_worthless(unix_now()) {
        return;
    }
    if let Err(error) = node.channels.forget(channel.id()) {
        tracing::error!(channel = %channel.id(), %error, "a voucher could not be pruned");
    }
}

fn channel_id(address: &Address) -> ChannelId {
    ChannelId::from_bytes(address.to_bytes())
}

/// Polls in a row after which a channel that the chain denies is gone.
const POLLS_UNTIL_GONE: u32 = 5;
