//! Where a node stands, for people and programs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use aro_proto::channel::ChannelState;
use aro_proto::{Amount, ChannelId, NodeId};
use serde::{Deserialize, Serialize};
use settlement_chain::instructions::SYSTEM_PROGRAM;
use settlement_chain::interface::accounts::Node;
use settlement_chain::reads::{self, ReadError};
use settlement_chain::{ChainClient, Program};

use crate::config::NodeConfig;
use crate::content::ContentStore;
use crate::error::StartError;
use crate::handoff;
use crate::ledger::RedbLedger;
use crate::shared::{Counters, Shared, unix_now};
use crate::watch::LOW_LAMPORTS;

/// Where a node stands. Amounts are in base units of $ARO.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The part of it that is lost if nobody settles before a deadline that runs.
    pub at_risk: Amount,
    /// Channels that the node holds vouchers of or that agents have opened.
    pub channels: Vec<ChannelStatus>,
    /// The operator account that the chain names, which alone may close; none if none, or the chain does not answer.
    pub named_operator: Option<String>,
    /// Token account that earnings go to now; none if the chain does not answer.
    pub payout: Option<String>,
    /// Token account that they go to from [`payout_from`](Self::payout_from) on.
    pub pending_payout: Option<String>,
    /// Unix second of the chain's clock.
    pub payout_from: Option<i64>,
    /// Those who get this node's vouchers.
    pub operators: Vec<OperatorStatus>,
    /// Address of the key with which the node settles by itself; none if it has none.
    pub fee_key: Option<String>,
    /// What that key holds; none if there is none, or the chain does not answer.
    pub fee_lamports: Option<u64>,
    /// Seconds since the chain was seen; none while the node does not serve.
    pub chain_seen_s_ago: Option<u64>,
    /// True if the chain was out of sight for so long that the node lends no more.
    pub is_blind: bool,
    /// What needs doing, for people: each says what and how.
    pub warnings: Vec<String>,
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
    /// Content bytes taken from publishers since the start.
    pub bytes_taken: u64,
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
    /// While closing: the unix second at which vouchers settle no more.
    pub deadline: Option<i64>,
    /// The best voucher.
    pub watermark: Amount,
    /// The most that an operator has acknowledged.
    pub handed: Amount,
}

/// How an operator was found last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorStatus {
    /// `<operator id>@<host>:<port>`.
    pub operator: String,
    /// Its account on chain, by its own word; none before it was first reached.
    pub account: Option<String>,
    /// True if the chain names it, so that it may close channels; the others only settle.
    pub may_close: bool,
    /// Seconds since it last judged vouchers; none if it did not yet.
    pub heard_s_ago: Option<u64>,
    /// Why the last handoff failed, if it did.
    pub trouble: Option<String>,
}

/// The status of a node that does not serve, from its folder and the chain.
///
/// # Errors
/// The folder cannot be read, or its ledger is in use.
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
                deadline: terms.and_then(|terms| deadline(terms.state)),
                watermark: voucher.cumulative,
                handed: handed.get(&voucher.channel).map_or(Amount::ZERO, |handed| handed.cumulative),
            });
        }
    }
    let chain_id = settlement_chain::Address::from(id.to_bytes());
    let operators = config.operators.iter().map(|endpoint| OperatorStatus {
        operator: endpoint.to_string(),
        account: None,
        may_close: false,
        heard_s_ago: None,
        trouble: None,
    });
    let operators = operators.collect();
    let status = NodeStatus {
        node_id: id.to_string(),
        account: program.node(&chain_id).0.to_string(),
        listen: None,
        price_per_mib: Amount::new(config.tariff.per_mib),
        contents,
        operators,
        ..NodeStatus::of_chain(config, id, chain).await
    };
    Ok(status.with_channels(channels).with_warnings(None))
}

pub(crate) async fn of_running(node: &Arc<Shared>, listen: SocketAddr) -> NodeStatus {
    let store = node.store.clone();
    let contents = tokio::task::spawn_blocking(move || store.list().map(|all| all.len())).await;
    let channels = node.channels.all().into_iter().map(|channel| {
        let terms = channel.terms();
        ChannelStatus {
            channel: channel.id().to_string(),
            state: state_name(terms.state).into(),
            deposit: terms.deposit,
            settled: terms.settled,
            deadline: deadline(terms.state),
            watermark: channel.best().map_or(Amount::ZERO, |best| best.cumulative()),
            handed: channel.handed().map_or(Amount::ZERO, |handed| handed.cumulative),
        }
    });
    let operators = node.desks.iter().map(|desk| {
        let standing = desk.standing();
        OperatorStatus {
            operator: desk.endpoint.to_string(),
            account: standing.account.map(|account| account.to_string()),
            may_close: standing.account.is_some_and(|account| handoff::is_named(node, account)),
            heard_s_ago: standing.heard.map(|at| at.elapsed().as_secs()),
            trouble: standing.trouble,
        }
    });
    let now = Instant::now();
    let status = NodeStatus {
        node_id: node.id.to_string(),
        account: node.account.to_string(),
        listen: Some(listen),
        price_per_mib: Amount::new(node.config.tariff.per_mib),
        contents: contents.ok().and_then(Result::ok).unwrap_or_default(),
        operators: operators.collect(),
        chain_seen_s_ago: Some(node.freshness.age(now).as_secs()),
        is_blind: node.freshness.is_blind(now),
        connections: node.places.count(),
        running_requests: *node.running.borrow(),
        answered: Counters::read(&node.counters.answered),
        refused: Counters::read(&node.counters.refused),
        bytes_served: Counters::read(&node.counters.content_bytes),
        bytes_taken: Counters::read(&node.counters.taken_bytes),
        ..NodeStatus::of_chain(&node.config, node.id, &*node.chain).await
    };
    status.with_channels(channels.collect()).with_warnings(handoff::trouble(node))
}

impl NodeStatus {
    /// The standing of one channel.
    pub fn channel(&self, id: ChannelId) -> Option<&ChannelStatus> {
        let id = id.to_string();
        self.channels.iter().find(|channel| channel.channel == id)
    }

    /// What the chain says of the node and its fee key; nothing else.
    async fn of_chain(config: &NodeConfig, id: NodeId, chain: &dyn ChainClient) -> Self {
        let account = account(chain, &Program::new(config.program), id).await.ok();
        let fee_key = config.fee_key.as_ref().map(crate::config::FeeKey::address);
        let fee_lamports = match &fee_key {
            Some(address) => reads::lamports(chain, address).await.ok(),
            None => None,
        };
        let found = account.as_ref().and_then(Option::as_ref);
        let named = found.map(|account| settlement_chain::Address::from(account.operator));
        let earned = found.map_or(Amount::ZERO, |account| Amount::new(account.earned));
        let now = chain.clock().await.unwrap_or_else(|_| unix_now());
        let pending = found.filter(|account| account.payout_from != 0 && !account.is_payout_due(now));
        let address = |key: [u8; 32]| settlement_chain::Address::from(key).to_string();
        Self {
            earned: account.is_some().then_some(earned),
            named_operator: named.filter(|operator| *operator != SYSTEM_PROGRAM).map(|operator| operator.to_string()),
            payout: found.map(|account| address(*account.payout_at(now))),
            pending_payout: pending.map(|account| address(account.pending_payout)),
            payout_from: pending.map(|account| account.payout_from),
            fee_key: fee_key.map(|address| address.to_string()),
            fee_lamports,
            ..Self::default()
        }
    }

    fn with_channels(mut self, channels: Vec<ChannelStatus>) -> Self {
        let sum = |channels: &mut dyn Iterator<Item = &ChannelStatus>| {
            channels.fold(Amount::ZERO, |sum, channel| {
                sum.saturating_add(channel.watermark.saturating_sub(channel.settled))
            })
        };
        self.unsettled = sum(&mut channels.iter());
        self.at_risk = sum(&mut channels.iter().filter(|channel| channel.deadline.is_some()));
        self.channels = channels;
        self
    }

    fn with_warnings(mut self, operators: Option<String>) -> Self {
        let mut warnings = Vec::new();
        if !self.at_risk.is_zero() {
            let at_risk = self.at_risk;
            warnings.push(format!(
                "{at_risk} $ARO are lost if nobody settles before the channels close: see that an operator runs, or \
                 settle by hand: aro-node settle"
            ));
        }
        if self.is_blind {
            warnings.push("the chain cannot be followed, so nothing more is lent: check `rpc_url`".into());
        }
        match (&self.fee_key, self.fee_lamports) {
            (None, _) => warnings.push(
                "no fee key: if the operators fail while an agent closes, what is unsettled is lost; serve with \
                 --fee-keypair and a key that holds a little SOL"
                    .into(),
            ),
            (Some(address), Some(lamports)) if lamports < LOW_LAMPORTS => {
                warnings.push(format!("the fee key {address} holds {lamports} lamports: send it SOL"));
            }
            _ => {}
        }
        warnings.extend(operators);
        let troubled = self.operators.iter();
        warnings.extend(troubled.filter_map(|operator| {
            let trouble = operator.trouble.as_ref()?;
            Some(format!("the operator {} does not take vouchers: {trouble}", operator.operator))
        }));
        self.warnings = warnings;
        self
    }
}

async fn account(chain: &dyn ChainClient, program: &Program, id: NodeId) -> Result<Option<Node>, ReadError> {
    reads::node(chain, program, &settlement_chain::Address::from(id.to_bytes())).await
}

fn state_name(state: ChannelState) -> &'static str {
    match state {
        ChannelState::Open => "open",
        ChannelState::Closing { .. } => "closing",
        ChannelState::Closed => "closed",
    }
}

fn deadline(state: ChannelState) -> Option<i64> {
    match state {
        ChannelState::Closing { deadline } => Some(deadline),
        ChannelState::Open | ChannelState::Closed => None,
    }
}
