//! The operator as one thing: started, asked, stopped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aro_proto::message::{ChainIds, Handoff, HandoffAck};
use aro_proto::{AgentId, NodeId, Refusal, SecretKey};
use settlement_chain::{Address, ChainClient, Hash, Program, TransactionSigner, reads};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::batch::Planner;
use crate::config::OperatorConfig;
use crate::doctor::{Finding, examine_fees, examine_servers, examine_store};
use crate::error::StartError;
use crate::intake::{Answer, Bounds, ChannelCache, Fairness, Intake, Listener, bind};
use crate::metrics::{Lane, MeteredChain, Metrics, MetricsServer};
use crate::settle::{SettleError, SettleReport, Settler};
use crate::stop::Stop;
use crate::submit::{FeeBudget, Submitter};
use crate::vouchers::{
    self, Book, Cursor, Deployment, HistoryQuery, HistoryRow, Lease, LeaseTerms, OperatorStore, StoreError,
    StoredVoucher,
};
use crate::watch::{Alarms, Watch};

/// Starts operators.
pub struct Operator;

impl Operator {
    /// Starts an operator: it takes vouchers at once, and settles in rounds if the configuration says so. What an
    /// earlier life left open is resolved before anything else is sent.
    ///
    /// `transport_key` is what nodes dial; `authority` is the hot key of the operator account and pays for
    /// transactions.
    ///
    /// # Errors
    /// [`StartError`] says what is missing and who must act.
    pub async fn start(
        config: OperatorConfig,
        transport_key: SecretKey,
        authority: impl TransactionSigner + 'static,
        chain: Arc<dyn ChainClient>,
    ) -> Result<RunningOperator, StartError> {
        let ground = Ground::find(&config, &authority.address(), &*chain).await?;
        let store = ground.open(&config).await?;
        Self::start_with_store(config, transport_key, authority, chain, store).await
    }

    /// The same on a chain whose servers are counted in `metrics` already.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_metered(
        config: OperatorConfig,
        transport_key: SecretKey,
        authority: impl TransactionSigner + 'static,
        chain: Arc<dyn ChainClient>,
        metrics: Arc<Metrics>,
    ) -> Result<RunningOperator, StartError> {
        let ground = Ground::find(&config, &authority.address(), &*chain).await?;
        let store = ground.open(&config).await?;
        let core = Core::open(&config, Arc::new(authority), chain, store, metrics).await?;
        Self::launch(config, transport_key, core).await
    }

    /// The same with another store than the configured file: for tests, and for stores of other kinds.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with_store(
        config: OperatorConfig,
        transport_key: SecretKey,
        authority: impl TransactionSigner + 'static,
        chain: Arc<dyn ChainClient>,
        store: Arc<dyn OperatorStore>,
    ) -> Result<RunningOperator, StartError> {
        let metrics = Arc::new(Metrics::new());
        let chain = Arc::new(MeteredChain::new(chain, 0, Arc::clone(&metrics)));
        let core = Core::open(&config, Arc::new(authority), chain, store, metrics).await?;
        Self::launch(config, transport_key, core).await
    }

    async fn launch(
        config: OperatorConfig,
        transport_key: SecretKey,
        core: Core,
    ) -> Result<RunningOperator, StartError> {
        let (stop, stopped) = Stop::new();
        let mut tasks = Vec::new();
        let mut metrics_addr = None;
        if let Some(listen) = config.metrics_listen {
            let refused = |source| StartError::Listen { listen, source };
            let server = MetricsServer::bind(listen, Arc::clone(&core.metrics)).await.map_err(refused)?;
            metrics_addr = Some(server.local_addr().map_err(refused)?);
            tasks.push(tokio::spawn(server.run(stopped.clone())));
        }
        let endpoint = bind(config.listen, &transport_key)
            .map_err(|source| StartError::Listen { listen: config.listen, source })?;
        let local_addr =
            endpoint.local_addr().map_err(|source| StartError::Listen { listen: config.listen, source })?;
        // Only now: a start that fails for want of its address must put nothing in doubt.
        // r[impl settlement.close.said_anew]
        match core.intake.book.doubt_wishes().await? {
            0 => {}
            wishes => tracing::info!(wishes, "stored wishes to close wait until their nodes say them anew"),
        }
        core.reconcile().await;
        if config.settle_interval_ms == 0 {
            // Another that settles by itself must not have to wait for this one, which does when asked.
            core.step_down().await;
        }
        let listener = Listener {
            endpoint,
            intake: Arc::clone(&core.intake),
            bounds: Bounds {
                max_connections: config.max_connections,
                max_connections_per_ip: config.max_connections_per_ip,
                hello_timeout: Duration::from_millis(config.hello_timeout_ms),
                max_age: Duration::from_millis(config.max_connection_age_ms),
            },
            stop: stopped.clone(),
        };
        tasks.push(tokio::spawn(listener.run()));
        tracing::info!(%local_addr, "intake is open");
        if config.settle_interval_ms > 0 {
            let lanes = Lanes { settler: Arc::clone(&core.settler), metrics: Arc::clone(&core.metrics) };
            let watch = Watch {
                settler: Arc::clone(&core.settler),
                alarms: Arc::clone(&core.intake.alarms),
                metrics: Arc::clone(&core.metrics),
                stop: stopped.clone(),
            };
            tasks.push(tokio::spawn(watch.run()));
            let every = Duration::from_millis(config.settle_interval_ms);
            tasks.push(tokio::spawn(lanes.clone().rounds(Arc::clone(&core.intake), every, stopped.clone())));
            let (intake, settler) = (Arc::clone(&core.intake), Arc::clone(&core.settler));
            tasks.push(tokio::spawn(hear_wishes(intake, settler, stopped.clone())));
            let every = Duration::from_millis(config.sweep_interval_ms.max(MIN_SWEEP_MS));
            tasks.push(tokio::spawn(lanes.sweeps(every, stopped.clone())));
            tracing::info!("watchtower, rounds and sweeps are running");
        } else {
            tracing::warn!("nothing is settled or watched unless asked: settle_interval_ms is 0");
        }
        if config.history_days > 0 {
            let task = trim_history(Arc::clone(&core.intake.book), config.history_days, stopped.clone());
            tasks.push(tokio::spawn(task));
        }
        let settles = config.settle_interval_ms > 0;
        let (intake, metrics) = (Arc::clone(&core.intake), Arc::clone(&core.metrics));
        tasks.push(tokio::spawn(keep_lease(intake, metrics, settles, stopped)));
        Ok(RunningOperator { id: transport_key.node_id(), local_addr, metrics_addr, core, stop, tasks })
    }

    /// One settling round without intake, on the configured file. Nothing is closed because of a stored wish: who
    /// hears no node cannot know whether it still stands as it was stored.
    ///
    /// # Errors
    /// [`OnceError::Start`] with [`StoreError::InUse`] if a running operator has the file: ask that one.
    pub async fn once(
        config: &OperatorConfig,
        authority: impl TransactionSigner + 'static,
        chain: Arc<dyn ChainClient>,
    ) -> Result<SettleReport, OnceError> {
        let ground = Ground::find(config, &authority.address(), &*chain).await?;
        let store = ground.open(config).await.map_err(StartError::from)?;
        let config = OperatorConfig { close_when_asked: false, ..config.clone() };
        let core = Core::open(&config, Arc::new(authority), chain, store, Arc::default()).await?;
        core.reconcile().await;
        let report = core.settler.once().await;
        core.intake.book.step_down().await.map_err(SettleError::from)?;
        Ok(report?)
    }
}

/// Why a single round was not made.
#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    /// It could not begin.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It could not be carried out.
    #[error(transparent)]
    Settle(#[from] SettleError),
}

/// An operator at work. Dropping it stops it as a crash would: nothing acknowledged is lost.
pub struct RunningOperator {
    id: NodeId,
    local_addr: SocketAddr,
    metrics_addr: Option<SocketAddr>,
    core: Core,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl RunningOperator {
    /// Where it takes vouchers.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where its metrics page is, if it has one.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Its transport key: what nodes dial.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Its account on chain: what nodes name when they register.
    pub fn operator_account(&self) -> Address {
        self.core.intake.operator
    }

    /// Settles now and reports what the chain shows afterwards.
    ///
    /// # Errors
    /// [`SettleError`]; nothing is lost, the next round starts from what the chain says.
    pub async fn settle_once(&self) -> Result<SettleReport, SettleError> {
        self.core.settler.once().await
    }

    /// Every voucher that is stored.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn vouchers(&self) -> Result<Vec<StoredVoucher>, StoreError> {
        self.core.intake.book.vouchers().await
    }

    /// What its store can tell an examiner; and the lamports that it spends in a day.
    pub async fn examine(&self) -> (Vec<Finding>, Option<u64>) {
        let intake = &self.core.intake;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let (mut findings, spent) = examine_store(&intake.book, &*intake.chain, &intake.program, now).await;
        findings.push(if intake.book.leads() {
            Finding::ok("lease", "this process settles")
        } else {
            Finding::ok("lease", "this process takes vouchers; another settles, or none has settled yet")
        });
        findings.push(examine_servers(&intake.chain.health()));
        findings.extend(examine_fees(&self.core.fees, std::time::Instant::now()));
        (findings, spent)
    }

    /// A page of what became final; the last row's cursor leads to the next.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn history(&self, query: &HistoryQuery) -> Result<Vec<(Cursor, HistoryRow)>, StoreError> {
        self.core.intake.book.history(query).await
    }

    /// Judges a handoff that reached this process by another way than the network, as if `signer` had sent it.
    ///
    /// # Errors
    /// Nothing was looked at: the refusal says why.
    pub async fn take(&self, signer: AgentId, handoff: &Handoff) -> Result<HandoffAck, Refusal> {
        match self.core.intake.take(signer, handoff).await {
            Answer::Ack { ack, .. } => Ok(ack),
            Answer::Refused(refusal) => Err(refusal),
        }
    }

    /// Says goodbye to nodes, finishes what is begun, and stops. A settling round that takes longer than ten seconds
    /// is cut off as a crash would; the journal knows where it was.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        let ended = async {
            for task in &mut self.tasks {
                if let Err(error) = task.await {
                    tracing::error!(%error, "a task ended badly");
                }
            }
        };
        if timeout(SHUTDOWN_PATIENCE, ended).await.is_err() {
            tracing::warn!("stopped in the middle of a settling round; the next start resumes it");
        }
        self.core.step_down().await;
    }
}

impl Drop for RunningOperator {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What an operator stands on: looked up before its database is opened, which belongs to it alone.
struct Ground {
    program: Program,
    mint: [u8; 32],
    deployment: Deployment,
}

impl Ground {
    async fn find(config: &OperatorConfig, authority: &Address, chain: &dyn ChainClient) -> Result<Self, StartError> {
        let program = Program::new(config.program);
        let genesis_hash = chain.genesis_hash().await?;
        let on_chain = reads::config(chain, &program).await?;
        if reads::operator(chain, &program, authority).await?.is_none() {
            return Err(StartError::NotRegistered { authority: *authority });
        }
        let (operator, _) = program.operator(authority);
        let deployment = Deployment { genesis_hash, program: program.id, operator };
        Ok(Self { program, mint: on_chain.mint, deployment })
    }

    async fn open(&self, config: &OperatorConfig) -> Result<Arc<dyn OperatorStore>, StoreError> {
        vouchers::open(&config.store, &config.database(), &self.deployment.into()).await
    }
}

/// What intake and settling share.
struct Core {
    intake: Arc<Intake>,
    settler: Arc<Settler>,
    metrics: Arc<Metrics>,
    fees: Arc<FeeBudget>,
}

impl Core {
    async fn open(
        config: &OperatorConfig,
        authority: Arc<dyn TransactionSigner>,
        chain: Arc<dyn ChainClient>,
        store: Arc<dyn OperatorStore>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let authority_address = authority.address();
        let Ground { program, mint, deployment } = Ground::find(config, &authority_address, &*chain).await?;
        let Deployment { genesis_hash, operator, .. } = deployment;
        tracing::info!(genesis = %Hash::new_from_array(genesis_hash), program = %program.id, "the chain answers");
        tracing::info!(%operator, authority = %authority_address, "the operator account is there");
        // r[impl settlement.database.bound]
        store.bind(&deployment).await?.check(&deployment.into())?;
        let book = Arc::new(Book::new(
            store,
            LeaseTerms { ttl: Duration::from_millis(config.lease_ttl_ms), ..LeaseTerms::new(operator.to_string()) },
        ));
        let cache = Arc::new(ChannelCache::new(Duration::from_millis(config.chain_cache_ms)));
        let planner = Planner {
            program,
            authority: authority_address,
            operator,
            format: config.format.decide(&*chain, &authority_address).await,
            rules: config.rules,
            close_when_asked: config.close_when_asked,
        };
        let intake = Arc::new(Intake {
            chain: Arc::clone(&chain),
            program,
            chain_ids: ChainIds { genesis_hash, program: config.program.to_bytes(), mint },
            operator,
            min_settle: config.rules.min_settle,
            watch_for: config.watch_for.clone(),
            book: Arc::clone(&book),
            cache: Arc::clone(&cache),
            metrics: Arc::clone(&metrics),
            alarms: Arc::new(Alarms::default()),
            fairness: Fairness::new(config.max_handoffs_at_once),
            close_wanted: tokio::sync::Notify::new(),
        });
        let fees = Arc::new(FeeBudget::new(config.fees));
        metrics.watch_servers(&chain);
        let (own_fees, own_metrics) = (Arc::clone(&fees), Arc::clone(&metrics));
        let failures = Arc::default();
        let submitter = Submitter { chain, authority, book, planner, fees: own_fees, metrics: own_metrics, failures };
        let old_wishes_from = Instant::now().checked_add(Duration::from_secs(config.wish_wait_s));
        let above = config.withdraw_fees_above;
        let settler = Settler::new(submitter, operator, cache, Arc::clone(&metrics), above, old_wishes_from);
        Ok(Self { intake, settler: Arc::new(settler), metrics, fees })
    }

    /// Gives the lease back.
    async fn step_down(&self) {
        if let Err(error) = self.intake.book.step_down().await {
            tracing::warn!(%error, "the lease could not be given back; it lapses by itself");
        }
    }

    /// Holds what an earlier life left behind against the chain, before anything else happens.
    async fn reconcile(&self) {
        match self.settler.reconcile().await {
            Ok(found) => tracing::info!(
                landed = found.landed,
                void = found.void,
                open = found.open,
                vouchers = found.standing.stored,
                unsettled = found.standing.unsettled,
                closing = found.standing.closing,
                at_risk = found.standing.closing_at_risk,
                "journal and vouchers are reconciled with the chain"
            ),
            Err(error) => {
                tracing::warn!(%error, "the chain could not be asked about the journal; what is open stays open")
            }
        }
    }
}

/// The lanes that run at intervals.
#[derive(Clone)]
struct Lanes {
    settler: Arc<Settler>,
    metrics: Arc<Metrics>,
}

impl Lanes {
    /// Settles at intervals, and when a node wants a channel closed, until it is told to stop. A begun round is
    /// finished.
    async fn rounds(self, intake: Arc<Intake>, every: Duration, mut stop: Stop) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = intake.close_wanted.notified() => {}
                () = stop.told() => return,
            }
            let began = Instant::now();
            let ended = self.settler.round().await;
            self.log(Lane::Settle, began, ended);
            // However often nodes ask, rounds leave the chain's server time to breathe; wishes meanwhile are one wish.
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = stop.told() => return,
            }
        }
    }

    /// Sweeps at intervals until it is told to stop. A begun sweep is finished.
    async fn sweeps(self, every: Duration, mut stop: Stop) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.told() => return,
            }
            let began = Instant::now();
            let ended = self.settler.sweep().await;
            self.log(Lane::Sweep, began, ended);
        }
    }

    fn log(&self, lane: Lane, began: Instant, ended: Result<SettleReport, SettleError>) {
        self.metrics.round(lane, ended.is_ok(), began.elapsed());
        let lane = lane.name();
        match ended {
            Ok(report) if report.is_empty() || report.elsewhere.is_some() => {}
            Ok(report) => tracing::info!(lane, report = %report.to_json(), "settled"),
            Err(error) => tracing::warn!(lane, %error, "a round failed; the next one tries again"),
        }
    }
}

/// Wakes the rounds when another process of the same database was asked to close a channel.
// r[impl settlement.lease.wishes]
async fn hear_wishes(intake: Arc<Intake>, settler: Arc<Settler>, mut stop: Stop) {
    let mut ticks = interval(WISHES_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.told() => return,
        }
        match settler.is_wanted().await {
            Ok(true) => intake.close_wanted.notify_one(),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "wishes that other processes took could not be asked for"),
        }
    }
}

/// Prolongs the lease between rounds, so that it does not wander while its holder lives; and takes it over soon after
/// another has died.
async fn keep_lease(intake: Arc<Intake>, metrics: Arc<Metrics>, settles: bool, mut stop: Stop) {
    let book = &intake.book;
    let mut ticks = interval(book.lease_terms().ttl / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.told() => return,
        }
        let led = book.leads();
        let leads = match book.renew().await {
            Ok(true) => Ok(true),
            Ok(false) if settles => book.lead().await.map(|lease| matches!(lease, Lease::Held(_))),
            other => other,
        };
        match leads {
            Ok(true) if !led => {
                tracing::info!("this operator settles from now on");
                intake.close_wanted.notify_one();
            }
            Ok(false) if led => tracing::warn!("another operator of this database settles now"),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the lease could not be prolonged"),
        }
        metrics.lease_held(book.leads());
    }
}

/// Forgets what is older than the operator wants to keep.
async fn trim_history(book: Arc<Book>, days: u32, mut stop: Stop) {
    let mut ticks = interval(TRIM_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.told() => return,
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let before = i64::try_from(now).unwrap_or(i64::MAX).saturating_sub(i64::from(days).saturating_mul(DAY_S));
        match book.forget_history(before).await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, days, "history was trimmed"),
            Err(error) => tracing::warn!(%error, "history could not be trimmed"),
        }
    }
}

/// How soon the one who settles hears of a wish that another took.
const WISHES_EVERY: Duration = Duration::from_secs(1);
/// Between two trims of the history.
const TRIM_EVERY: Duration = Duration::from_secs(3_600);
/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// The least time between two sweeps, in milliseconds: their questions are heavy.
const MIN_SWEEP_MS: u64 = 1_000;

/// The least time between two rounds.
const PAUSE: Duration = Duration::from_secs(1);

/// What a shutdown waits for open handoffs and a begun round.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);
