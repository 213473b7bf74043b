//! The agent: one wallet, one budget, one chain, and a connection to each node that it fetches from.

use std::collections::HashMap;
use std::sync::Arc;

use aro_proto::merkle::ByteRanges;
use aro_proto::message::{ChainIds, Quote};
use aro_proto::naming::{NameRecord, TargetKind};
use aro_proto::{Address, Amount, ChannelId, ContentId, Name, NameAddress, NodeAddress, NodeId};
use settlement_chain::reads::{self, ReadError};
use settlement_chain::{Address as ChainAddress, ChainClient, ChainError, Program};
use thiserror::Error;
use tokio::sync::Mutex;

use crate::budget::BudgetGuard;
use crate::config::AgentConfig;
use crate::error::FetchError;
use crate::fetch::{self, FetchBuilder, FetchManyBuilder};
use crate::names::{self, NameError, PublishNameBuilder};
use crate::publish::{PublishBuilder, PublishSource};
use crate::transport::{Endpoints, Session, SessionSetup};
use crate::tree::{FetchTreeBuilder, PublishTreeBuilder};
use crate::wallet::{ChannelRecord, Money, Wallet, WalletError};

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
    config: AgentConfig,
    endpoints: Endpoints,
    pool: Mutex<HashMap<NodeId, Slot>>,
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
    config: AgentConfig,
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
}

impl From<ChainError> for BuildError {
    fn from(error: ChainError) -> Self {
        Self::Chain(error.into())
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

    /// The most that this agent signs away in all, and the most that it locks in channels, in base units. Default:
    /// no cap, so that each fetch's own bounds and the deposits are what holds.
    pub fn budget(mut self, budget: Amount) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Timeouts and queues.
    pub fn config(mut self, config: AgentConfig) -> Self {
        self.config = config;
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
        let chain_ids = ChainIds { genesis_hash, program: program.id.to_bytes(), mint: config.mint };
        Ok(Agent {
            inner: Arc::new(Inner {
                chain,
                program,
                chain_ids,
                wallet,
                budget: self.budget.map_or_else(BudgetGuard::unlimited, BudgetGuard::new),
                config: self.config,
                endpoints: Endpoints::default(),
                pool: Mutex::default(),
            }),
        })
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

    /// Begins a fetch of a whole tree: the address is its manifest's. Its files come from the same node.
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

    pub(crate) fn mint(&self) -> ChainAddress {
        ChainAddress::new_from_array(self.inner.chain_ids.mint)
    }

    pub(crate) fn keys(&self) -> &Wallet {
        &self.inner.wallet
    }

    pub(crate) fn config(&self) -> &AgentConfig {
        &self.inner.config
    }

    /// The connection to an address's node, dialled if there is none.
    pub(crate) async fn session(&self, address: &Address) -> Result<Arc<Session>, FetchError> {
        let slot = self.slot(address.node()).await;
        let mut slot = slot.lock().await;
        if let Some(session) = slot.as_ref().filter(|session| session.is_usable()) {
            return Ok(Arc::clone(session));
        }
        let record = self.channel_to(address.node()).await?;
        let setup = SessionSetup {
            endpoints: &self.inner.endpoints,
            wallet: self.inner.wallet.clone(),
            budget: self.inner.budget.clone(),
            config: self.inner.config,
            chain: self.inner.chain_ids,
            record,
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
        match tokio::task::spawn_blocking(move || wallet.remember(record)).await {
            Ok(remembered) => remembered,
            Err(panicked) => match panicked.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(ending) => Err(WalletError::Store(std::io::Error::other(ending).into())),
            },
        }
    }

    /// The open channel to a node: from the wallet's record, or from the chain where the record has none.
    async fn channel_to(&self, node: NodeId) -> Result<Option<ChannelRecord>, FetchError> {
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

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("wallet", &self.inner.wallet).finish_non_exhaustive()
    }
}

/// Time for nodes to acknowledge the end of connections.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(2);
