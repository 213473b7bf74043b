//! A node from its start to its clean end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use aro_proto::error::close;
use aro_proto::message::ChainIds;
use aro_proto::places::Places;
use aro_proto::{Address, AddressError, ByteCount, ContentId, NodeId, SecretKey};
use quinn::{Endpoint, VarInt};
use settlement_chain::{ChainClient, Program, reads};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::channels::{Channels, Freshness, PaidChannel, follow};
use crate::config::{FeeKey, NodeConfig};
use crate::content::{ContentStore, Shelf};
use crate::error::{HandoffError, ShutdownError, StartError};
use crate::handoff::{self, Desk, HandoffReport};
use crate::ledger::{Committer, RedbLedger};
use crate::names::Names;
use crate::service;
use crate::shared::{Bell, Counters, OnChain, Phase, Shared, unix_now};
use crate::status::{self, NodeStatus};
use crate::transport::{ServerConfigs, run_accepting, server_endpoints};
use crate::watch::{self as tower, Fees, SettleError, SettleReport};

/// Starts nodes.
#[derive(Debug)]
pub struct Node;

/// A node that serves. Dropping it is a crash: connections are cut, and what is durable stays; see
/// [`shutdown`](Self::shutdown) for the clean end.
pub struct RunningNode {
    shared: Arc<Shared>,
    endpoints: ClosingEndpoints,
    local_addr: SocketAddr,
    tasks: JoinSet<()>,
    committer: Committer,
    gone: mpsc::Receiver<std::convert::Infallible>,
}

/// Endpoints that are closed when dropped.
struct ClosingEndpoints(Vec<Endpoint>);

impl ClosingEndpoints {
    fn close(&self) {
        for endpoint in &self.0 {
            endpoint.close(VarInt::from_u32(close::SHUTDOWN), b"the node is stopping");
        }
    }

    async fn wait_idle(&self) {
        for endpoint in &self.0 {
            endpoint.wait_idle().await;
        }
    }
}

impl Drop for ClosingEndpoints {
    fn drop(&mut self) {
        self.close();
    }
}

impl Node {
    /// Opens contents and ledger, reads the node's account and its channels from the chain, and serves. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// The node is not registered, the chain cannot be read, the folder is in use, or the address is.
    pub async fn start(
        config: NodeConfig,
        key: SecretKey,
        chain: Arc<dyn ChainClient>,
    ) -> Result<RunningNode, StartError> {
        if let Some(host) = &config.public_host {
            let probe = Address::new(ContentId::from_bytes([0; 32]), key.node_id(), host, 1);
            probe.map_err(|_| StartError::PublicHost { host: host.clone() })?;
        }
        let store = ContentStore::open_with(&config.dir, config.hot_bytes)?;
        let store = store.with_small_contents(config.small_contents_bytes);
        let ledger = Arc::new(RedbLedger::open(&config.dir)?);
        // Only now: the ledger is locked, so no other node is at the uploads.
        let shelf = Shelf::open(&config.dir, &store, config.publish.clone())?;
        let names = Names::open(&config.dir, &config.publish)?;
        let program = Program::new(config.program);
        let genesis_hash = chain.genesis_hash().await?;
        let mint = reads::config(&*chain, &program).await?.mint;
        let id = key.node_id();
        let chain_address = settlement_chain::Address::from(id.to_bytes());
        let account = reads::node(&*chain, &program, &chain_address).await?;
        let account = account.ok_or(StartError::NotRegistered { id, program: program.id })?;
        let operator = settlement_chain::Address::from(account.operator);
        let on_chain = OnChain { operator, min_grace_s: account.min_grace_s };

        let bell = Bell::default();
        let (committer, handle) = Committer::start(Arc::clone(&ledger), bell.clone()).map_err(StartError::Thread)?;
        let (owner_bytes, blind) =
            (ByteCount::new(config.max_owed_bytes_per_owner), ByteCount::new(config.max_blind_bytes));
        let (alive, gone) = mpsc::channel(1);
        let fees = Fees::recall(config.max_priority_lamports, Arc::clone(&ledger), unix_now())?.of_node(alive.clone());
        let shared = Arc::new(Shared {
            id,
            chain_ids: ChainIds { genesis_hash, program: program.id.to_bytes(), mint },
            account: program.node(&chain_address).0,
            registered: watch::Sender::new(on_chain),
            freshness: Freshness::new(Duration::from_secs(config.stale_after_s), blind, Clock::now()),
            desks: config.operators.iter().cloned().map(Desk::new).collect(),
            channels: Channels::new(config.tariff, config.publish.tariff, owner_bytes, Arc::clone(&ledger))?,
            places: Places::new(config.max_connections, config.max_connections_per_ip),
            requests: Semaphore::new(config.max_requests),
            committer: handle,
            counters: Counters::default(),
            bell,
            chain_reads: Semaphore::new(CHAIN_READS_AT_ONCE),
            phase: watch::Sender::new(Phase::Serving),
            running: watch::Sender::new(0),
            key,
            chain,
            program,
            store,
            shelf,
            names,
            ledger,
            fees,
            config,
            _alive: alive.clone(),
        });
        follow::poll(&shared).await?;

        let listen = |source| StartError::Listen { address: shared.config.listen, source };
        let NodeConfig { listen: address, transport, endpoints, .. } = shared.config;
        let configs = ServerConfigs::new(&shared.key, transport);
        let endpoints = server_endpoints(address, &configs, endpoints, alive).map_err(listen)?;
        let endpoints = ClosingEndpoints(endpoints);
        let mut tasks = JoinSet::new();
        let mut local_addr = address;
        for endpoint in &endpoints.0 {
            local_addr = endpoint.local_addr().map_err(listen)?;
            tasks.spawn(run_accepting(Arc::clone(&shared), endpoint.clone(), configs.clone()));
        }
        tasks.spawn(handoff::run(Arc::clone(&shared)));
        let interval = Duration::from_millis(shared.config.follow_interval_ms);
        tasks.spawn(follow::run(Arc::clone(&shared), interval));
        tasks.spawn(tower::run(Arc::clone(&shared)));
        tasks.spawn(service::sweep_uploads(Arc::clone(&shared)));
        tracing::info!(node = %id, %local_addr, "serving");
        Ok(RunningNode { shared, endpoints, local_addr, tasks, committer, gone })
    }
}

impl RunningNode {
    /// The UDP address that is served on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The node's id, its transport key.
    pub fn node_id(&self) -> NodeId {
        self.shared.id
    }

    /// The address of a content at this node.
    ///
    /// # Errors
    /// The address that is listened on cannot stand in one.
    pub fn address_of(&self, content: ContentId) -> Result<Address, AddressError> {
        let listen = self.local_addr.ip().to_string();
        let host = self.shared.config.public_host.as_ref().unwrap_or(&listen);
        Address::new(content, self.node_id(), host, self.local_addr.port())
    }

    /// The contents. What is added is served at once.
    pub fn store(&self) -> &ContentStore {
        &self.shared.store
    }

    /// Where the node stands. Asks the chain for the earnings.
    pub async fn status(&self) -> NodeStatus {
        status::of_running(&self.shared, self.local_addr).await
    }

    /// Reads all channels from the chain now, without waiting for the next interval.
    ///
    /// # Errors
    /// The chain cannot be read.
    pub async fn follow_now(&self) -> Result<(), reads::ReadError> {
        follow::poll(&self.shared).await
    }

    /// Hands every operator what it does not have, now.
    ///
    /// # Errors
    /// There is no operator, or none of them can be spoken to. What any did acknowledge is noted.
    pub async fn hand_off(&self) -> Result<HandoffReport, HandoffError> {
        self.shared.committer.flush().await;
        handoff::hand_off(&self.shared).await
    }

    /// Gives up all channels: they take no new requests, and are handed over to be closed as soon as the requests
    /// that run have ended. Those that have not within five seconds follow with a later handoff.
    ///
    /// # Errors
    /// As [`hand_off`](Self::hand_off).
    pub async fn hand_off_to_close(&self) -> Result<HandoffReport, HandoffError> {
        if self.shared.desks.is_empty() {
            return Err(HandoffError::NoOperator);
        }
        let channels = self.shared.channels.all();
        for channel in &channels {
            let _ = channel.retire();
        }
        wait_until(Instant::now() + QUIET_PATIENCE, &channels, |channel| !channel.is_busy()).await;
        self.hand_off().await
    }

    /// Settles every voucher that the chain has not taken yet, now, without any operator. `payer` pays the fees; the
    /// configured fee key if not given.
    ///
    /// # Errors
    /// There is no key, it cannot pay, or the chain does not answer.
    pub async fn settle(&self, payer: Option<FeeKey>) -> Result<SettleReport, SettleError> {
        self.shared.committer.flush().await;
        let payer = payer.or_else(|| self.shared.config.fee_key.clone()).ok_or(SettleError::NoFeeKey)?;
        let channels = self.shared.channels.all();
        let vouchers = channels.iter().filter_map(|channel| Some(channel.unsettled()?.voucher)).collect();
        let report = tower::settle_all(&tower::settler_of(&self.shared, payer), vouchers).await?;
        // What was settled is no more at risk.
        self.follow_now().await?;
        Ok(report)
    }

    /// Stops: tells all agents, lets running requests finish within the grace, takes the last vouchers, makes them
    /// durable, hands them to the operator, and closes. Nothing that was credited is lost, whatever happens.
    ///
    /// # Errors
    /// The operator did not take the last vouchers; they stay in the ledger for the next start.
    pub async fn shutdown(mut self) -> Result<(), ShutdownError> {
        let shared = Arc::clone(&self.shared);
        let deadline = Instant::now() + Duration::from_millis(shared.config.shutdown_grace_ms);
        shared.phase.send_replace(Phase::Draining);
        for endpoint in &self.endpoints.0 {
            endpoint.set_server_config(None);
        }
        let mut running = shared.running.subscribe();
        let all_done = timeout_at(deadline, running.wait_for(|count| *count == 0)).await.is_ok();
        if !all_done {
            tracing::warn!("requests are cut off: they did not finish within the grace");
        }
        if shared.places.count() > 0 {
            let patience = deadline.min(Instant::now() + LAST_VOUCHER_PATIENCE);
            wait_until(patience, &shared.channels.all(), |channel| !channel.is_owed()).await;
        }
        shared.committer.flush().await;
        // Only now: what has just become credit should be heard of before the connection ends.
        shared.phase.send_replace(Phase::Closing);
        let _ = timeout(LAST_CREDIT_PATIENCE, self.endpoints.wait_idle()).await;
        self.endpoints.close();
        let _ = timeout(CLOSE_PATIENCE, self.endpoints.wait_idle()).await;
        // A voucher may have come in until the close.
        shared.committer.flush().await;

        let handed = match handoff::hand_off(&shared).await {
            Ok(_) | Err(HandoffError::NoOperator) => Ok(()),
            Err(error) => Err(ShutdownError::HandOff(error)),
        };
        self.tasks.shutdown().await;
        drop((shared, self.shared, self.endpoints));
        // Every task drops its share when its connection is closed; then ledger and address are free for the next start.
        if timeout(CLOSE_PATIENCE, self.gone.recv()).await.is_ok() {
            let joined = tokio::task::spawn_blocking(|| self.committer.join()).await;
            if joined.is_err() {
                tracing::error!("the commit thread could not be awaited");
            }
        }
        handed
    }
}

/// Waits until `is_so` holds for every channel, or the deadline.
async fn wait_until(deadline: Instant, channels: &[Arc<PaidChannel>], is_so: impl Fn(&PaidChannel) -> bool) {
    for channel in channels {
        let mut news = channel.subscribe();
        while !is_so(channel) {
            if timeout_at(deadline, news.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// Looks at the chain at once that agents may cause, over all connections: the chain's server is shared.
const CHAIN_READS_AT_ONCE: usize = 8;
/// How long channels that are given up have to become quiet.
const QUIET_PATIENCE: Duration = Duration::from_secs(5);
/// How long agents have to pay what they got last, when the node stops.
const LAST_VOUCHER_PATIENCE: Duration = Duration::from_secs(2);
/// How long connections have to end by themselves, with their last credit told.
const LAST_CREDIT_PATIENCE: Duration = Duration::from_secs(2);
/// How long connections have to end once they are closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);
