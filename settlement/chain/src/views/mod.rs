//! Accounts as each server shows them: for what one of several must not decide alone.
//!
//! One that lies can hide that a channel is closing, or name a slot that nobody has reached, and so be the newest. Who
//! would lose a voucher by believing it looks at every view by itself, each by its own clock, and does what any one of
//! them shows to be needed. [`Tries`] bounds what that may cost. Who would lend on what is shown believes only what two show.

mod tries;
mod vouched;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use settlement_interface::accounts::{Channel, LayoutError, Node, discriminator};
use solana_address::Address;

pub use self::tries::Tries;
use self::vouched::vouched;
use crate::{Account, AccountFilter, CLOCK, ChainClient, ChainError, Program, clock_of, reads, servers};

/// Nodes and channels as one server shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Its own clock in unix seconds; where it shows none, that of all.
    pub clock: i64,
    /// The nodes that it shows.
    pub nodes: BTreeMap<Address, Node>,
    /// The channels that it shows.
    pub channels: BTreeMap<Address, Channel>,
}

/// The views of all servers that answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Views {
    /// The chain's time, by what [`ChainClient::clock`] believes.
    pub now: i64,
    /// Between which times the servers are.
    pub clocks: RangeInclusive<i64>,
    /// That of the highest slot first; at least one.
    pub each: Vec<View>,
}

/// Reads nodes and channels by address, as each server shows them: as many questions as there are hundreds of them.
/// What is not an account of the program, or not one that this version reads, is as good as not there.
///
/// # Errors
/// No server answers.
// r[impl settlement.servers.each]
pub async fn read(
    chain: &dyn ChainClient,
    program: &Program,
    nodes: &BTreeSet<Address>,
    channels: &BTreeSet<Address>,
) -> Result<Views, ChainError> {
    let now = chain.clock().await?;
    let addresses: Vec<Address> = nodes.iter().chain(channels).copied().chain([CLOCK]).collect();
    let answers = chain.accounts_by_server(&addresses, 1).await?;
    let view = |accounts: Vec<Option<Account>>| {
        let (of_nodes, of_channels) = accounts.split_at(nodes.len().min(accounts.len()));
        View {
            clock: clock_of(accounts.last().and_then(Option::as_ref)).unwrap_or(now),
            nodes: decoded(program, nodes, of_nodes, Node::decode),
            channels: decoded(program, channels, of_channels, Channel::decode),
        }
    };
    let each: Vec<View> = answers.into_iter().map(view).collect();
    if each.is_empty() {
        return Err(ChainError::Malformed("no accounts".into()));
    }
    let told = || each.iter().map(|view| view.clock).chain([now]);
    let clocks = told().min().unwrap_or(now)..=told().max().unwrap_or(now);
    Ok(Views { now, clocks, each })
}

/// The chain's time by each server that tells it, in unix seconds.
///
/// # Errors
/// No server answers.
pub async fn clocks(chain: &dyn ChainClient) -> Result<Vec<i64>, ChainError> {
    let answers = chain.accounts_by_server(&[CLOCK], 1).await?;
    let told = answers.iter().filter_map(|accounts| clock_of(accounts.first().and_then(Option::as_ref)).ok());
    Ok(told.collect())
}

/// All channels to a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodesChannels {
    /// As may be lent on them: where servers differ, no more than two of those that answer show.
    pub believed: BTreeMap<Address, Channel>,
    /// What any server shows otherwise, of these channels or of others.
    pub otherwise: BTreeMap<Address, Vec<Channel>>,
}

/// Reads a channel as may be lent on it: where servers differ, no more than two of those that answer show. `None` if nobody
/// shows one at this address.
///
/// # Errors
/// No server answers, or one shows it and another does not, or shows another.
// r[impl settlement.servers.vouched]
pub async fn channel(
    chain: &dyn ChainClient,
    program: &Program,
    address: &Address,
) -> Result<Option<Channel>, ChainError> {
    let answers = chain.accounts_by_server(std::slice::from_ref(address), 1).await?;
    let heard = answers.len();
    let ours = answers.into_iter().filter_map(|accounts| accounts.into_iter().next().flatten());
    let ours = ours.filter(|account| account.owner == program.id);
    let shown: Vec<Channel> = ours.filter_map(|account| Channel::decode(&account.data).ok()).collect();
    match vouched(heard, None, &shown) {
        None if !shown.is_empty() => {
            Err(ChainError::Disagreement(format!("not every server shows the same channel at {address}")))
        }
        vouched => Ok(vouched),
    }
}

/// Reads all channels to a node account.
///
/// # Errors
/// No server answers such a question.
// r[impl settlement.servers.vouched]
pub async fn channels_of_node(
    chain: &dyn ChainClient,
    program: &Program,
    node: &Address,
) -> Result<NodesChannels, ChainError> {
    let key = Some((reads::NODE_IN_CHANNEL, *node));
    let filter = AccountFilter { discriminator: discriminator::CHANNEL, data_len: Channel::LEN, key };
    let answers = chain.program_accounts_by_server(&program.id, &filter).await?;
    let (agreed, doubtful) = servers::agreed(answers.clone());
    let mut found = NodesChannels::default();
    // Undecodable is what a later program has written.
    let channel = |account: &Account| Channel::decode(&account.data).ok();
    found.believed.extend(agreed.into_iter().filter_map(|(address, account)| Some((address, channel(&account)?))));
    let newest = if doubtful.is_empty() { Ok(Vec::new()) } else { chain.accounts(&doubtful).await };
    let newest: Vec<Option<Account>> = match newest {
        Ok(newest) => newest,
        // No word is better than another.
        Err(ChainError::Disagreement(_)) => vec![None; doubtful.len()],
        Err(error) => return Err(error),
    };
    let mut shown: BTreeMap<Address, Vec<Channel>> = doubtful.iter().map(|address| (*address, Vec::new())).collect();
    for (address, account) in answers.iter().flatten() {
        if let Some(of_address) = shown.get_mut(address) {
            of_address.extend(channel(account));
        }
    }
    let is_one = |account: &&Account| account.owner == program.id && filter.matches(&account.data);
    for (address, account) in doubtful.iter().zip(&newest) {
        let newest = account.as_ref().filter(is_one).and_then(channel);
        let shown = shown.remove(address).unwrap_or_default();
        let believed = vouched(answers.len(), newest.as_ref(), &shown);
        for other in shown.into_iter().filter(|other| believed.as_ref() != Some(other)) {
            let others = found.otherwise.entry(*address).or_default();
            if !others.contains(&other) {
                others.push(other);
            }
        }
        found.believed.extend(believed.map(|channel| (*address, channel)));
    }
    Ok(found)
}

fn decoded<T>(
    program: &Program,
    addresses: &BTreeSet<Address>,
    accounts: &[Option<Account>],
    layout: fn(&[u8]) -> Result<T, LayoutError>,
) -> BTreeMap<Address, T> {
    let ours = |account: &Account| (account.owner == program.id).then(|| layout(&account.data).ok()).flatten();
    let shown = addresses.iter().zip(accounts).filter_map(|(address, account)| Some((*address, account.as_ref()?)));
    shown.filter_map(|(address, account)| Some((address, ours(account)?))).collect()
}
