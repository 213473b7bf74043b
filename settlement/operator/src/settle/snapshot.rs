//! Reads what the planner must know: nodes and channels of this operator, and the chain's time.

use std::collections::BTreeSet;
use std::time::Duration;

use aro_proto::ChannelId;
use settlement_chain::reads::{self, ReadError};
use settlement_chain::{Address, ChainClient, ChainError, Program};
use settlement_interface::accounts::Node;
use tokio::time::timeout;

use crate::batch::Facts;
use crate::vouchers::StoredVoucher;

/// Reads the channels of these vouchers and their nodes, by address: as many questions as there are hundreds of them.
///
/// # Errors
/// They could not be read: nothing can be settled now.
pub(crate) async fn stored(
    chain: &dyn ChainClient,
    program: &Program,
    vouchers: &[StoredVoucher],
) -> Result<Facts, ReadError> {
    let mut facts = Facts { now: chain.clock().await?, ..Facts::default() };
    let nodes: BTreeSet<Address> = vouchers.iter().map(|stored| stored.node).collect();
    let nodes: Vec<Address> = nodes.into_iter().collect();
    if !nodes.is_empty() {
        for (address, account) in nodes.iter().zip(chain.accounts(&nodes).await?) {
            let node = account.filter(|account| account.owner == program.id);
            if let Some(node) = node.and_then(|account| Node::decode(&account.data).ok()) {
                facts.nodes.insert(*address, node);
            }
        }
    }
    let ids: Vec<ChannelId> = vouchers.iter().map(StoredVoucher::channel).collect();
    refresh(chain, program, &ids, &mut facts).await?;
    Ok(facts)
}

/// Every channel of the nodes that name this operator: heavy questions, for servers that answer them slowly or not at
/// all.
///
/// # Errors
/// The server does not answer such questions, or not in time.
pub(super) async fn search(chain: &dyn ChainClient, program: &Program, operator: &Address) -> Result<Facts, ReadError> {
    let mut facts = Facts { now: chain.clock().await?, ..Facts::default() };
    let all = async {
        for (address, node) in reads::nodes_of_operator(chain, program, operator).await? {
            facts.nodes.insert(address, node);
            for (channel, account) in reads::channels_of_node(chain, program, &address).await? {
                facts.channels.insert(ChannelId::from_bytes(channel.to_bytes()), account);
            }
        }
        Ok(())
    };
    match timeout(SEARCH_PATIENCE, all).await {
        Ok(found) => found.map(|()| facts),
        Err(_) => Err(ChainError::Unreachable("a search for channels takes too long".into()).into()),
    }
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

/// How long a search may take.
const SEARCH_PATIENCE: Duration = Duration::from_secs(120);
