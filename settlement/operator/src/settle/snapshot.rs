//! Reads what the planner must know: nodes and channels of this operator, and the chain's time.

use std::collections::BTreeSet;
use std::time::Duration;

use aro_proto::ChannelId;
use settlement_chain::reads::{self, ReadError};
use settlement_chain::views::{self, View, Views};
use settlement_chain::{Account, Address, ChainClient, ChainError, Program};
use settlement_interface::accounts::Channel;
use tokio::time::timeout;

use crate::batch::Facts;
use crate::vouchers::StoredVoucher;

/// The channels of these vouchers and their nodes, as the server of the highest slot shows them, at the chain's time.
///
/// # Errors
/// They could not be read: nothing can be settled now.
pub(crate) async fn stored(
    chain: &dyn ChainClient,
    program: &Program,
    vouchers: &[StoredVoucher],
) -> Result<Facts, ReadError> {
    let mut views = by_server(chain, program, vouchers).await?;
    if views.is_empty() { Err(ChainError::Malformed("no accounts".into()).into()) } else { Ok(views.swap_remove(0)) }
}

/// The channels of these vouchers and their nodes, as each server shows them, the highest slot first: what one of them
/// hides another may show. The first is of the chain's time, the others are each of their own; all know between which
/// times the servers are. Read by address: as many questions as there are hundreds of them.
///
/// # Errors
/// They could not be read: nothing can be settled now.
pub(super) async fn by_server(
    chain: &dyn ChainClient,
    program: &Program,
    vouchers: &[StoredVoucher],
) -> Result<Vec<Facts>, ReadError> {
    let nodes: BTreeSet<Address> = vouchers.iter().map(|stored| stored.node).collect();
    let channels = vouchers.iter().map(|stored| Address::new_from_array(stored.channel().to_bytes())).collect();
    let Views { now, clocks, each } = views::read(chain, program, &nodes, &channels).await?;
    let facts = |(number, view): (usize, View)| Facts {
        now: if number == 0 { now } else { view.clock },
        clocks: clocks.clone(),
        nodes: view.nodes.into_iter().collect(),
        channels: view
            .channels
            .into_iter()
            .map(|(id, channel)| (ChannelId::from_bytes(id.to_bytes()), channel))
            .collect(),
        ..Facts::default()
    };
    Ok(each.into_iter().enumerate().map(facts).collect())
}

/// Every channel of the nodes that name this operator: heavy questions, for servers that answer them slowly or not at
/// all.
///
/// # Errors
/// The server does not answer such questions, or not in time.
pub(super) async fn search(chain: &dyn ChainClient, program: &Program, operator: &Address) -> Result<Facts, ReadError> {
    let now = chain.clock().await?;
    let mut facts = Facts { now, clocks: now..=now, ..Facts::default() };
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

/// Reads these channels anew, as the server of the highest slot shows them.
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
    let newest = chain.accounts_by_server(&addresses, 1).await?.into_iter().next().unwrap_or_default();
    for (id, account) in ids.iter().zip(&newest) {
        match ours(program, account, Channel::decode) {
            Some(channel) => facts.channels.insert(*id, channel),
            None => facts.channels.remove(id),
        };
    }
    Ok(())
}

/// An account of the program, if it is one that this version reads.
fn ours<T, E>(program: &Program, account: &Option<Account>, layout: fn(&[u8]) -> Result<T, E>) -> Option<T> {
    let account = account.as_ref().filter(|account| account.owner == program.id)?;
    layout(&account.data).ok()
}

/// How long a search may take.
const SEARCH_PATIENCE: Duration = Duration::from_secs(120);
