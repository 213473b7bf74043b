//! Reads what the planner must know: the nodes and channels of this operator, and the chain's time.

use std::collections::BTreeSet;

use aro_proto::ChannelId;
use settlement_chain::reads::{self, ReadError};
use settlement_chain::{Address, ChainClient, Program};

use crate::batch::Facts;
use crate::vouchers::StoredVoucher;

/// Facts, and what could not be read of the wider picture.
pub(super) struct Snapshot {
    pub(super) facts: Facts,
    /// Set if the search for channels without stored vouchers failed; settling goes on without it.
    pub(super) trouble: Option<String>,
}

/// Reads the channels of the stored vouchers, their nodes, and every other channel of this operator's nodes.
///
/// # Errors
/// The stored vouchers' channels could not be read: nothing can be settled now.
pub(super) async fn take(
    chain: &dyn ChainClient,
    program: &Program,
    operator: &Address,
    vouchers: &[StoredVoucher],
) -> Result<Snapshot, ReadError> {
    let mut facts = Facts { now: chain.clock().await?, ..Facts::default() };
    // The search first: what is read by address afterwards is newer and wins.
    let trouble = search(chain, program, operator, &mut facts)
        .await
        .err()
        .map(|error| format!("channels without stored vouchers could not be searched for: {error}"));
    let nodes: BTreeSet<Address> = vouchers.iter().map(|stored| stored.node).collect();
    for node in nodes {
        if !facts.nodes.contains_key(&node)
            && let Some(account) = reads::node_at(chain, program, &node).await?
        {
            facts.nodes.insert(node, account);
        }
    }
    let ids: Vec<ChannelId> = vouchers.iter().map(StoredVoucher::channel).collect();
    refresh(chain, program, &ids, &mut facts).await?;
    Ok(Snapshot { facts, trouble })
}

/// Reads these channels anew.
///
/// # Errors
/// They could not be read.
pub(super) async fn refresh(
    chain: &dyn ChainClient,
    program: &Program,
    ids: &[ChannelId],
    facts: &mut Facts,
) -> Result<(), ReadError> {
    if ids.is_empty() {
        return Ok(());
    }
    let addresses: Vec<Address> = ids.iter().map(|id| Address::new_from_array(id.to_bytes())).collect();
    for (id, channel) in ids.iter().zip(reads::channels(chain, program, &addresses).await?) {
        match channel {
            Some(channel) => facts.channels.insert(*id, channel),
            None => facts.channels.remove(id),
        };
    }
    Ok(())
}

async fn search(
    chain: &dyn ChainClient,
    program: &Program,
    operator: &Address,
    facts: &mut Facts,
) -> Result<(), ReadError> {
    for (address, node) in reads::nodes_of_operator(chain, program, operator).await? {
        facts.nodes.insert(address, node);
        for (channel, account) in reads::channels_of_node(chain, program, &address).await? {
            facts.channels.insert(ChannelId::from_bytes(channel.to_bytes()), account);
        }
    }
    Ok(())
}
