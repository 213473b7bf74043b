//! Where a node stands, for people and programs.

use std::net::SocketAddr;
use std::sync::Arc;

use aro_proto::channel::ChannelState;
use aro_proto::{Amount, ChannelId, NodeId};
use serde::{Deserialize, Serialize};
use settlement_chain::reads::{self, ReadError};
use settlement_chain::{ChainClient, Program};

use crate::config::NodeConfig;
use crate::content::ContentStore;
use crate::error::StartError;
use crate::ledger::RedbLedger;
use crate::shared::{Counters, Shared};

/// Where a node stands. Amounts are in base units of $ARO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's id.
    pub node_id: String,
    /// The node's account on chain.
    pub account: String,
    /// UDP address that is served on; none while the node does not serve.
    pub listen: Option<SocketAddr>,
    /// Price of a MiB.
    pub price_per_mib: Amount,
    /// Contents on disk.
    pub contents: usize,
    /// Earned on chain and not withdrawn; none if the chain could not be asked.
    pub earned: Option<Amount>,
    /// In vouchers and not settled on chain, over all channels.
    pub unsettled: Amount,
    /// Channels that the node holds vouchers of or that agents have opened.
    pub channels: Vec<ChannelStatus>,
    /// Open connections.
    pub connections: usize,
    /// Requests being served.
    pub running_requests: usize,
    /// Requests answered since the start.
    pub answered: u64,
    /// Requests refused since the start.
    pub refused: u64,
    /// Content bytes served since the start.
    pub bytes_served: u64,
}

/// Where a channel stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// The channel.
    pub channel: String,
    /// `open`, `closing`, `closed`, or `gone` if it is not on chain.
    pub state: String,
    /// Deposit on chain.
    pub deposit: Amount,
    /// Settled on chain.
    pub settled: Amount,
    /// The best voucher.
    pub watermark: Amount,
    /// What the operator has acknowledged.
    pub handed: Amount,
}

/// The status of a node that does not serve, from its folder and the chain.
///
/// # Errors
/// The ledger or the contents cannot be read, or another process has the ledger open.
pub async fn of_stopped(config: &NodeConfig, id: NodeId, chain: &dyn ChainClient) -> Result<NodeStatus, StartError> {
    let program = Program::new(config.program);
    let contents = ContentStore::open(&config.dir)?.list()?.len();
    let mut channels = Vec::new();
    if RedbLedger::exists(&config.dir) {
        let ledger = RedbLedger::open(&config.dir)?;
        let handed: std::collections::HashMap<_, _> = ledger.handed()?.into_iter().collect();
        for entry in ledger.vouchers()? {
            let voucher = entry.signed.voucher;
            let address = settlement_chain::Address::from(voucher.channel.to_bytes());
            let account = reads::channel(chain, &program, &address).await.ok().flatten();
            let terms = account
                .and_then(|account| aro_proto::channel::ChannelTerms::from_account(voucher.channel, &account).ok());
            channels.push(ChannelStatus {
                channel: voucher.channel.to_string(),
                state: terms.map_or("gone", |terms| state_name(terms.state)).into(),
                deposit: terms.map_or(Amount::ZERO, |terms| terms.deposit),
                settled: terms.map_or(Amount::ZERO, |terms| terms.settled),
                watermark: voucher.cumulative,
                handed: handed.get(&voucher.channel).map_or(Amount::ZERO, |handed| handed.cumulative),
            });
        }
    }
    let chain_id = settlement_chain::Address::from(id.to_bytes());
    Ok(NodeStatus {
        node_id: id.to_string(),
        account: program.node(&chain_id).0.to_string(),
        listen: None,
        price_per_mib: Amount::new(config.tariff.per_mib),
        contents,
        earned: earned(chain, &program, id).await.ok(),
        unsettled: unsettled(&channels),
        channels,
        connections: 0,
        running_requests: 0,
        answered: 0,
        refused: 0,
        bytes_served: 0,
    })
}

pub(crate) async fn of_running(node: &Arc<Shared>, listen: SocketAddr) -> NodeStatus {
    let store = node.store.clone();
    let contents = tokio::task::spawn_blocking(move || store.list().map(|all| all.len())).await;
    let channels: Vec<_> = node
        .channels
        .all()
        .iter()
        .map(|channel| {
            let terms = channel.terms();
            ChannelStatus {
                channel: channel.id().to_string(),
                state: state_name(terms.state).into(),
                deposit: terms.deposit,
                settled: terms.settled,
                watermark: channel.best().map_or(Amount::ZERO, |best| best.cumulative()),
                handed: channel.handed().map_or(Amount::ZERO, |handed| handed.cumulative),
            }
        })
        .collect();
    NodeStatus {
        node_id: node.id.to_string(),
        account: node.account.to_string(),
        listen: Some(listen),
        price_per_mib: Amount::new(node.config.tariff.per_mib),
        contents: contents.ok().and_then(Result::ok).unwrap_or_default(),
        earned: earned(&*node.chain, &node.program, node.id).await.ok(),
        unsettled: unsettled(&channels),
        channels,
        connections: node.slots.count(),
        running_requests: *node.running.borrow(),
        answered: Counters::read(&node.counters.answered),
        refused: Counters::read(&node.counters.refused),
        bytes_served: Counters::read(&node.counters.content_bytes),
    }
}

impl NodeStatus {
    /// The standing of one channel.
    pub fn channel(&self, id: ChannelId) -> Option<&ChannelStatus> {
        let id = id.to_string();
        self.channels.iter().find(|channel| channel.channel == id)
    }
}

async fn earned(chain: &dyn ChainClient, program: &Program, id: NodeId) -> Result<Amount, ReadError> {
    let account = reads::node(chain, program, &settlement_chain::Address::from(id.to_bytes())).await?;
    Ok(account.map_or(Amount::ZERO, |account| Amount::new(account.earned)))
}

fn unsettled(channels: &[ChannelStatus]) -> Amount {
    channels
        .iter()
        .fold(Amount::ZERO, |sum, channel| sum.saturating_add(channel.watermark.saturating_sub(channel.settled)))
}

fn state_name(state: ChannelState) -> &'static str {
    match state {
        ChannelState::Open => "open",
        ChannelState::Closing { .. } => "closing",
        ChannelState::Closed => "closed",
    }
}
