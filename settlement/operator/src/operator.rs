//! The operator as one thing: started, asked, stopped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aro_proto::message::ChainIds;
use aro_proto::{NodeId, SecretKey};
use settlement_chain::submit::offered_priority_fee;
use settlement_chain::{Address, ChainClient, Program, TransactionSigner, reads};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::batch::Planner;
use crate::config::OperatorConfig;
use crate::error::StartError;
use crate::intake::{Bounds, ChannelCache, Intake, Listener, Turns, bind};
use crate::settle::{SettleError, SettleReport, Settler};
use crate::stop::Stop;
use crate::submit::{FeeBudget, Submitter};
use crate::vouchers::{self, Book, LeaseTerms, OperatorStore, StoreError, StoredVoucher};

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
        let store = vouchers::open(&config.store, &config.database()).await?;
        Self::start_with_store(config, transport_key, authority, chain, store).await
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
        let core = Core::open(&config, Arc::new(authority), chain, store).await?;
        let endpoint = bind(config.listen, &transport_key)
            .map_err(|source| StartError::Listen { listen: config.listen, source })?;
        let local_addr =
            endpoint.local_addr().map_err(|source| StartError::Listen { listen: config.listen, source })?;
        let (stop, stopped) = Stop::new();
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
        let mut tasks = vec![tokio::spawn(listener.run())];
        if config.settle_interval_ms > 0 {
            let every = Duration::from_millis(config.settle_interval_ms);
            tasks.push(tokio::spawn(rounds(
                Arc::clone(&core.settler),
                Arc::clone(&core.intake),
                every,
                stopped.clone(),
            )));
        }
        tasks.push(tokio::spawn(keep_lease(Arc::clone(&core.intake.book), stopped)));
        Ok(RunningOperator { id: transport_key.node_id(), local_addr, core, stop, tasks })
    }

    /// One settling round without intake, on the configured file.
    ///
    /// # Errors
    /// [`OnceError::Start`] with [`StoreError::InUse`] if a running operator has the file: ask that one.
    pub async fn once(
        config: &OperatorConfig,
        authority: impl TransactionSigner + 'static,
        chain: Arc<dyn ChainClient>,
    ) -> Result<SettleReport, OnceError> {
        let store = vouchers::open(&config.store, &config.database()).await.map_err(StartError::from)?;
        let core = Core::open(config, Arc::new(authority), chain, store).await?;
        let report = core.settler.round().await;
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
    core: Core,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl RunningOperator {
    /// Where it takes vouchers.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
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
        self.core.settler.round().await
    }

    /// Every voucher that is stored.
    ///
    /// # Errors
    /// The database could not be read.
    pub async fn vouchers(&self) -> Result<Vec<StoredVoucher>, StoreError> {
        self.core.intake.book.vouchers().await
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
        if let Err(error) = self.core.intake.book.step_down().await {
            tracing::warn!(%error, "the lease could not be given back; it lapses by itself");
        }
    }
}

impl Drop for RunningOperator {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What intake and settling share.
struct Core {
    intake: Arc<Intake>,
    settler: Arc<Settler>,
}

impl Core {
    async fn open(
        config: &OperatorConfig,
        authority: Arc<dyn TransactionSigner>,
        chain: Arc<dyn ChainClient>,
        store: Arc<dyn OperatorStore>,
    ) -> Result<Self, StartError> {
        let program = Program::new(config.program);
        let genesis_hash = chain.genesis_hash().await?;
        let on_chain = reads::config(&*chain, &program).await?;
        let authority_address = authority.address();
        if reads::operator(&*chain, &program, &authority_address).await?.is_none() {
            return Err(StartError::NotRegistered { authority: authority_address });
        }
        let (operator, _) = program.operator(&authority_address);
        let book = Arc::new(Book::new(store, LeaseTerms::new(operator.to_string())));
        let cache = Arc::new(ChannelCache::new(Duration::from_millis(config.chain_cache_ms)));
        let planner = Planner {
            program,
            authority: authority_address,
            operator,
            format: config.format.decide(&*chain, &authority_address).await,
            min_settle: config.min_settle,
            close_when_asked: config.close_when_asked,
        };
        let intake = Arc::new(Intake {
            chain: Arc::clone(&chain),
            program,
            chain_ids: ChainIds { genesis_hash, program: config.program.to_bytes(), mint: on_chain.mint },
            operator,
            min_settle: config.min_settle,
            book: Arc::clone(&book),
            cache: Arc::clone(&cache),
            work: Semaphore::new(config.max_handoffs_at_once),
            turns: Turns::default(),
            close_wanted: tokio::sync::Notify::new(),
        });
        // What an earlier life has in flight counts against this hour.
        let in_flight = book.pending().await?;
        let already = in_flight.iter().map(|entry| offered_priority_fee(&entry.prepared.transaction)).sum();
        let fees = Arc::new(FeeBudget::new(config.fees, already, std::time::Instant::now()));
        let submitter = Submitter { chain, authority, book, planner, fees };
        Ok(Self { intake, settler: Arc::new(Settler::new(submitter, operator, cache)) })
    }
}

/// Settles at intervals, and when a node wants a channel closed, until it is told to stop. A begun round is finished.
async fn rounds(settler: Arc<Settler>, intake: Arc<Intake>, every: Duration, mut stop: Stop) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = intake.close_wanted.notified() => {}
            () = stop.told() => return,
        }
        match settler.round().await {
            Ok(report) if report.is_empty() => {}
            Ok(report) => tracing::info!(report = %report.to_json(), "settled"),
            Err(error) => tracing::warn!(%error, "a settling round failed; the next one tries again"),
        }
        // However often nodes ask, rounds leave the chain's server time to breathe; wishes meanwhile are one wish.
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = stop.told() => return,
        }
    }
}

/// Prolongs the lease between rounds, so that it does not wander while its holder lives.
async fn keep_lease(book: Arc<Book>, mut stop: Stop) {
    let mut ticks = interval(book.lease_terms().ttl / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.told() => return,
        }
        let led = book.leads();
        match book.renew().await {
            Ok(false) if led => tracing::warn!("another operator of this database settles now"),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the lease could not be prolonged"),
        }
    }
}

/// The least time between two rounds.
const PAUSE: Duration = Duration::from_secs(1);

/// What a shutdown waits for open handoffs and a begun round.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);
