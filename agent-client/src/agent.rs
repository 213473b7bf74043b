//! The agent: one wallet, one budget, one chain, and a connection to each node that it fetches from.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use aro_proto::merkle::ByteRanges;
use aro_proto::message::{ChainIds, Quote};
use aro_proto::naming::{NameRecord, TargetKind};
use aro_proto::{Address, Amount, ChannelId, ContentId, Name, NameAddress, NodeAddress, NodeId, WhoActs};
use settlement_chain::reads::{self, ReadError};
use settlement_chain::{Address as ChainAddress, ChainClient, ChainError, Program};
use thiserror::Error;
use tokio::sync::Mutex;

use crate::budget::{Approval, Approver, BudgetGuard, NotApproved, Policy, PolicyError};
use crate::config::AgentConfig;
use crate::error::FetchError;
use crate::fetch::{self, FetchBuilder, FetchManyBuilder};
use crate::ledger::Hold;
use crate::names::{self, NameError, PublishNameBuilder};
use crate::publish::{PublishBuilder, PublishSource};
use crate::report::{Subject, exit, exit_code_of, retry_after_ms_of};
use crate::transport::{Endpoints, Session, SessionSetup};
use crate::tree::{FetchTreeBuilder, PublishTreeBuilder};
use crate::wallet::{
    ChannelEvent, ChannelPolicy, ChannelRecord, Listener, Money, MoneyError, Purse, Wallet, WalletError,
};

/// Fetches, pays and keeps the books. Clones share everything.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    chain: Arc<dyn ChainClient>,
    program: Program,
    chain_ids: ChainIds,
    wallet: Wallet,
    budget: BudgetGuard,
    approver: Option<Arc<dyn Approver>>,
    config: AgentConfig,
    endpoints: Endpoints,
    pool: Mutex<HashMap<NodeId, Slot>>,
    policy: ChannelPolicy,
    listener: Option<Listener>,
    purse: Arc<Mutex<()>>,
}

/// One node's connection; the lock lets only one fetch dial while the others wait for its result.
type Slot = Arc<Mutex<Option<Arc<Session>>>>;

/// Puts an [`Agent`] together. Chain and wallet are needed; the rest has defaults.
#[derive(Default)]
#[must_use]
pub struct AgentBuilder {
    chain: Option<Arc<dyn ChainClient>>,
    program: Option<ChainAddress>,
    wallet: Option<Wallet>,
    budget: Option<Amount>,
    policy: Option<Policy>,
    approver: Option<Arc<dyn Approver>>,
    config: AgentConfig,
    channels: ChannelPolicy,
    listener: Option<Listener>,
}

/// Why an agent could not be put together.
#[derive(Debug, Error)]
pub enum BuildError {
    /// Something without a default was not given: the caller's mistake.
    #[error("an agent needs a {0}")]
    Needs(&'static str),
    /// The chain could not be asked which chain it is, or the program is not set up on it.
    #[error(transparent)]
    Chain(#[from] ReadError),
    /// The wallet is not for this chain, or cannot be used.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The budget cannot be held: then nothing is allowed rather than everything.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl From<ChainError> for BuildError {
    fn from(error: ChainError) -> Self {
        Self::Chain(error.into())
    }
}

impl BuildError {
    /// One stable word for what happened, for logs and JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Needs(_) => "Internal",
            Self::Chain(_) => "Chain",
            Self::Policy(_) => "Budget",
            Self::Wallet(error) => error.code(),
        }
    }

    /// Who can change it.
    pub fn who_acts(&self) -> WhoActs {
        match self {
            Self::Chain(error) if error.is_retryable() => WhoActs::RetryHere,
            Self::Wallet(error) => error.who_acts(),
            Self::Policy(_) => WhoActs::Authorise,
            Self::Needs(_) | Self::Chain(_) => WhoActs::GiveUp,
        }
    }

    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        self.who_acts() == WhoActs::RetryHere
    }

    /// What to do next, for people.
    pub fn next_step(&self) -> String {
        match self {
            Self::Needs(what) => format!("give the builder a {what}"),
            Self::Chain(_) => "check --rpc and --program-id, and that the chain runs".into(),
            Self::Policy(_) => PolicyError::NEXT_STEP.into(),
            Self::Wallet(error) => error.next_step(),
        }
    }

    /// The amount that it speaks of, in base units.
    pub fn amount(&self) -> Option<Amount> {
        match self {
            Self::Wallet(error) => error.amount(),
            Self::Needs(_) | Self::Chain(_) | Self::Policy(_) => None,
        }
    }

    /// Milliseconds after which to try the same again, where that helps.
    pub fn retry_after_ms(&self) -> Option<u64> {
        retry_after_ms_of(self.who_acts())
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Wallet(error) => error.subject(),
            Self::Needs(_) | Self::Chain(_) | Self::Policy(_) => Subject::default(),
        }
    }

    /// What a command ends with: see [`ErrorReport`](crate::ErrorReport::exit_code).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Needs(_) => exit::INTERNAL,
            Self::Chain(_) => exit_code_of(self.who_acts()),
            Self::Policy(_) => exit::USAGE,
            Self::Wallet(error) => error.exit_code(),
        }
    }
}

impl AgentBuilder {
    /// The chain that money is on. Needed.
    pub fn chain(mut self, chain: Arc<dyn ChainClient>) -> Self {
        self.chain = Some(chain);
        self
    }

    /// The settlement program; default the one of local chains.
    pub fn program(mut self, program: ChainAddress) -> Self {
        self.program = Some(program);
        self
    }

    /// Keys and record. Needed.
    pub fn wallet(mut self, wallet: Wallet) -> Self {
        self.wallet = Some(wallet);
        self
    }

    /// The most that this agent signs away from now on, and the most that it locks in channels, in base units. Default:
    /// no such cap. What the wallet's `budget.json` and [`policy`](Self::policy) cap is capped all the same.
    pub fn budget(mut self, budget: Amount) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Caps that hold beside those of the wallet's `budget.json`: where both speak, the tighter holds.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Who is asked about amounts above a policy's `ask_above`. Default: nobody, and they are refused.
    pub fn approver(mut self, approver: Arc<dyn Approver>) -> Self {
        self.approver = Some(approver);
        self
    }

    /// Timeouts and queues.
    pub fn config(mut self, config: AgentConfig) -> Self {
        self.config = config;
        self
    }

    /// When channels are opened, topped up and closed unasked. Default [`ChannelPolicy::default`]: within its caps, with
    /// money that was deposited before. [`ChannelPolicy::manual`] does nothing unasked.
    pub fn channels(mut self, policy: ChannelPolicy) -> Self {
        self.channels = policy;
        self
    }

    /// Called with what is done with channels unasked. It must not block.
    pub fn on_channel_event(mut self, listener: impl Fn(&ChannelEvent) + Send + Sync + 'static) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Asks the chain which chain it is, and is ready.
    ///
    /// # Errors
    /// Something needed was not given, the chain gives no answer, or the program is not set up on it.
    pub async fn build(self) -> Result<Agent, BuildError> {
        let chain = self.chain.ok_or(BuildError::Needs("chain"))?;
        let wallet = self.wallet.ok_or(BuildError::Needs("wallet"))?;
        let program = self.program.map_or(Program::local(), Program::new);
        let genesis_hash = chain.genesis_hash().await?;
        let config = reads::config(&*chain, &program).await?;
        let policies: Vec<Policy> = Policy::load(wallet.dir())?.into_iter().chain(self.policy).collect();
        let budget = wallet.guard(policies, self.budget)?;
        let chain_ids = ChainIds { genesis_hash, program: program.id.to_bytes(), mint: config.mint };
        if !wallet.is_owner() {
            wallet.arrive(&chain_ids, chain.clock().await?)?;
        }
        let agent = Agent {
            inner: Arc::new(Inner {
                chain,
                program,
                chain_ids,
                wallet,
                budget,
                approver: self.approver,
                config: self.config,
                endpoints: Endpoints::default(),
                pool: Mutex::default(),
                policy: self.channels,
                listener: self.listener,
                purse: Arc::default(),
            }),
        };
        agent.sweep_in_background();
        Ok(agent)
    }
}

impl Agent {
    /// Begins an agent.
    pub fn builder() -> AgentBuilder {
        AgentBuilder::default()
    }

    /// Begins a fetch.
    pub fn fetch(&self, address: &Address) -> FetchBuilder {
        FetchBuilder::new(self.clone(), address.clone())
    }

    /// Begins to publish a file or a stream at a node.
    pub fn publish(&self, node: &NodeAddress, source: impl Into<PublishSource>) -> PublishBuilder {
        PublishBuilder::new(self.clone(), node.clone(), source.into())
    }

    /// Begins a fetch of many whole contents from the node of an address, whose own content does not count: one
    /// signature and one stream for dozens of them. For small contents; large ones are as fast one by one.
    pub fn fetch_many(&self, node: &Address, contents: Vec<ContentId>) -> FetchManyBuilder {
        FetchManyBuilder::new(self.clone(), node.clone(), contents)
    }

    /// Begins a fetch of a whole tree: the address is its manifest's. Its files come from the same node, and from others
    /// that are named.
    pub fn fetch_tree(&self, manifest: &Address) -> FetchTreeBuilder {
        FetchTreeBuilder::new(self.clone(), manifest.clone())
    }

    /// Begins to publish every file of a folder at a node, and a manifest of them.
    pub fn publish_tree(&self, node: &NodeAddress, folder: impl AsRef<std::path::Path>) -> PublishTreeBuilder {
        PublishTreeBuilder::new(self.clone(), node.clone(), folder.as_ref().to_owned())
    }

    /// What a name means now: the newest record that any of the nodes shows, if it is no older than the newest that this
    /// wallet has ever seen. Free, and needs no channel.
    ///
    /// # Errors
    /// See [`NameError`].
    pub async fn resolve(&self, name: &NameAddress, nodes: &[NodeAddress]) -> Result<NameRecord, NameError> {
        names::resolve(self, name, nodes).await
    }

    /// Begins to give a name of this agent's key a meaning at a node.
    pub fn publish_name(
        &self,
        node: &NodeAddress,
        name: Name,
        target: ContentId,
        kind: TargetKind,
    ) -> PublishNameBuilder {
        PublishNameBuilder::new(self.clone(), node.clone(), name, target, kind)
    }

    /// Begins to withdraw a name of this agent's key at a node: it means nothing any more there, nor to anybody who has
    /// heard of it. It can be given a meaning again later.
    pub fn withdraw_name(&self, node: &NodeAddress, name: Name) -> PublishNameBuilder {
        PublishNameBuilder::withdrawing(self.clone(), node.clone(), name)
    }

    /// What a fetch of these ranges would cost, signed by the node. Free, and needs no channel.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn quote(&self, address: &Address, ranges: ByteRanges) -> Result<Quote, FetchError> {
        fetch::quote(self, address, ranges).await
    }

    /// The money outside channels.
    pub fn wallet(&self) -> Money {
        Money::new(self.clone())
    }

    /// What holds the cap.
    pub fn budget(&self) -> &BudgetGuard {
        &self.inner.budget
    }

    /// Base units that this wallet has signed away on all channels that it knows, by the vouchers themselves.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn signed_in_all(&self) -> Result<Amount, WalletError> {
        self.inner.wallet.signed_in_all()
    }

    /// Says goodbye to every node, once they have everything that was signed; bounded in time.
    pub async fn close(&self) {
        let slots: Vec<Slot> = self.inner.pool.lock().await.drain().map(|(_, slot)| slot).collect();
        for slot in slots {
            let session = slot.lock().await.take();
            if let Some(session) = session {
                session.close().await;
            }
        }
        let idle = self.inner.endpoints.wait_idle();
        let (budget, scribe) = (self.inner.budget.clone(), Arc::clone(self.inner.wallet.scribe()));
        let settle = move || {
            scribe.flush();
            budget.settle()
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(settle).await {
            tracing::debug!(%error, "the budget's lease is given back later");
        }
        if tokio::time::timeout(GOODBYE, idle).await.is_err() {
            tracing::debug!("a node did not say goodbye in time");
        }
    }

    pub(crate) fn chain(&self) -> &dyn ChainClient {
        &*self.inner.chain
    }

    pub(crate) fn program(&self) -> &Program {
        &self.inner.program
    }

    pub(crate) fn chain_ids(&self) -> &ChainIds {
        &self.inner.chain_ids
    }

    pub(crate) fn mint(&self) -> ChainAddress {
        ChainAddress::new_from_array(self.inner.chain_ids.mint)
    }

    pub(crate) fn keys(&self) -> &Wallet {
        &self.inner.wallet
    }

    pub(crate) fn config(&self) -> &AgentConfig {
        &self.inner.config
    }

    pub(crate) fn policy(&self) -> &ChannelPolicy {
        &self.inner.policy
    }

    /// Waits for its turn to lock money in channels.
    pub(crate) async fn purse(&self) -> Result<Purse, MoneyError> {
        Ok(Purse::take(Arc::clone(&self.inner.purse), &self.inner.wallet).await?)
    }

    /// Says what was done with a channel unasked.
    pub(crate) fn tell(&self, event: &ChannelEvent) {
        tracing::info!(?event, "a channel was seen to");
        if let Some(listener) = &self.inner.listener {
            listener(event);
        }
    }

    /// A handle that does not keep the agent alive.
    pub(crate) fn downgrade(&self) -> WeakAgent {
        WeakAgent(Arc::downgrade(&self.inner))
    }

    /// Runs what may sync the disk on a thread of its own.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, WalletError> + Send + 'static,
    ) -> Result<T, WalletError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(panicked) => match panicked.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(WalletError::Ending),
            },
        }
    }

    /// What the open channel to a node still holds, as far as the wallet knows; none if there is no channel.
    pub(crate) fn deposit_left(&self, node: NodeId) -> Result<Option<Amount>, WalletError> {
        let open = self.inner.wallet.open_channel_to(node)?;
        Ok(open.map(|record| record.deposit.saturating_sub(record.signed)))
    }

    /// Asks about an amount above the threshold. Nothing is signed before this returns.
    pub(crate) async fn approve(&self, approval: Approval) -> Result<(), NotApproved> {
        let Approval { amount, threshold, .. } = approval;
        if amount <= threshold {
            return Ok(());
        }
        match &self.inner.approver {
            Some(approver) if approver.approve(&approval).await => Ok(()),
            _ => Err(NotApproved { amount, threshold }),
        }
    }

    /// The connection to an address's node, dialled if there is none.
    pub(crate) async fn session(&self, address: &Address) -> Result<Arc<Session>, FetchError> {
        if !self.keys().is_owner() {
            let (wallet, node) = (self.keys().clone(), address.node());
            self.blocking(move || wallet.may_pay(node)).await?;
        }
        let slot = self.slot(address.node()).await;
        let mut slot = slot.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| session.is_usable()) {
            return Ok(Arc::clone(session));
        }
        let record = self.channel_to(address.node()).await?;
        let hold = match &record {
            Some(record) => Some(self.hold(record.channel).await?),
            None => None,
        };
        let setup = SessionSetup {
            endpoints: &self.inner.endpoints,
            wallet: self.inner.wallet.clone(),
            budget: self.inner.budget.clone(),
            config: self.inner.config,
            chain: self.inner.chain_ids,
            record,
            hold,
        };
        let session = Arc::new(Session::dial(address, setup).await?);
        *slot = Some(Arc::clone(&session));
        Ok(session)
    }

    /// The live connection to a node, if there is one.
    pub(crate) async fn live_session(&self, node: NodeId) -> Option<Arc<Session>> {
        let slot = self.slot(node).await;
        let session = slot.lock().await.clone();
        session.filter(|session| session.is_usable())
    }

    /// The next fetch from this node dials anew; running ones finish on the connection they have.
    pub(crate) async fn forget_session(&self, node: NodeId) {
        let slot = self.slot(node).await;
        slot.lock().await.take();
    }

    /// A channel takes no more requests: the next fetch from the node dials anew, and the chain says what became of it.
    pub(crate) async fn forget_channel(&self, node: NodeId, channel: ChannelId) {
        self.forget_session(node).await;
        if let Err(error) = self.look_up_channel(channel).await {
            tracing::debug!(%error, %channel, "the chain does not say what became of the channel");
        }
    }

    /// Reads one channel from the chain into the wallet's record. A reclaimed one is remembered as closed.
    pub(crate) async fn look_up_channel(&self, channel: ChannelId) -> Result<(), FetchError> {
        let Some(known) = self.inner.wallet.record(channel)? else { return Ok(()) };
        let address = ChainAddress::new_from_array(channel.to_bytes());
        let found = reads::channel(self.chain(), self.program(), &address).await?;
        let record = match found {
            Some(account) => ChannelRecord::from_chain(channel, known.node, &account),
            None => ChannelRecord { status: settlement_interface::accounts::status::CLOSED, ..known },
        };
        self.remember(record).await?;
        Ok(())
    }

    /// Takes what the chain says of a channel into the wallet's record, which may sync the disk and so has a thread of
    /// its own.
    pub(crate) async fn remember(&self, record: ChannelRecord) -> Result<(), WalletError> {
        let wallet = self.inner.wallet.clone();
        self.blocking(move || wallet.remember(record)).await
    }

    /// Takes a channel for this process, and waits a while for another one that has it.
    async fn hold(&self, channel: ChannelId) -> Result<Arc<Hold>, WalletError> {
        let deadline = Instant::now() + Duration::from_millis(self.inner.config.channel_wait_ms);
        loop {
            match self.inner.wallet.hold(channel) {
                Err(WalletError::ChannelInUse(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(HOLD_INTERVAL).await;
                }
                held => return held,
            }
        }
    }

    /// The open channel to a node: from the wallet's record, or from the chain where the record has none.
    pub(crate) async fn channel_to(&self, node: NodeId) -> Result<Option<ChannelRecord>, MoneyError> {
        if let Some(record) = self.inner.wallet.open_channel_to(node)? {
            return Ok(Some(record));
        }
        let node_account = self.program().node(&ChainAddress::new_from_array(node.to_bytes())).0;
        let (agent, _) = self.program().agent(&self.inner.wallet.owner());
        for (address, account) in reads::channels_of_agent(self.chain(), self.program(), &agent).await? {
            let ours = account.signer == *self.inner.wallet.signer().as_bytes();
            if ours && account.node == node_account.to_bytes() {
                let channel = ChannelId::from_bytes(address.to_bytes());
                self.remember(ChannelRecord::from_chain(channel, node, &account)).await?;
            }
        }
        Ok(self.inner.wallet.open_channel_to(node)?)
    }

    async fn slot(&self, node: NodeId) -> Slot {
        Arc::clone(self.inner.pool.lock().await.entry(node).or_default())
    }
}

/// An [`Agent`] while it lives.
pub(crate) struct WeakAgent(Weak<Inner>);

impl WeakAgent {
    pub(crate) fn upgrade(&self) -> Option<Agent> {
        self.0.upgrade().map(|inner| Agent { inner })
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("wallet", &self.inner.wallet).finish_non_exhaustive()
    }
}

/// Time for nodes to acknowledge the end of connections.
const GOODBYE: Duration = Duration::from_secs(2);
/// Between looks at a channel that another process has.
const HOLD_INTERVAL: Duration = Duration::from_millis(20);
