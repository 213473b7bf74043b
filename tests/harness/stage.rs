//! A deployment for settling: operators, nodes and open channels on chain, whose vouchers the test signs itself, so
//! that no agent and no node need run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aro_proto::channel::Voucher;
use aro_proto::message::{ChainIds, HandoffVoucher};
use aro_proto::{Amount, ChannelId, SecretKey};
use node_server::{NodeChange, Registration};
use settlement_chain::instructions::{self, OpenChannel};
use settlement_chain::reads;
use settlement_chain::{
    Address, ChainClient, EMBEDDED_GENESIS_HASH, EmbeddedChain, Keypair, Program, Signer, submit, tokens,
};
use settlement_interface::accounts::discriminator;
use settlement_operator::batch::Rules;
use settlement_operator::vouchers::{OperatorStore, StoreError};
use settlement_operator::{Operator, OperatorConfig, RunningOperator, StartError};

use crate::books::Books;
use crate::world::World;

/// One agent with money, who opens channels to any node; and the keys of everybody.
pub struct Stage {
    /// The chain and the program on it.
    pub world: World,
    agent: Arc<Keypair>,
    signer: SecretKey,
    next_nonce: AtomicU64,
    wallets: Vec<Address>,
}

/// An operator's keys; its account is registered.
#[derive(Clone)]
pub struct OperatorKeys {
    /// The hot key, which pays for transactions.
    pub authority: Arc<Keypair>,
    /// What nodes dial.
    pub transport: SecretKey,
    /// The account on chain.
    pub account: Address,
}

/// A node's keys; its account is registered.
#[derive(Clone)]
pub struct NodeKeys {
    /// Its transport key, which signs handoffs.
    pub id: SecretKey,
    /// The account on chain.
    pub account: Address,
    /// Its cold key.
    pub owner: Arc<Keypair>,
}

impl Stage {
    /// A fresh chain with one agent who has deposited [`FUNDS`].
    ///
    /// # Errors
    /// The chain refuses to be set up.
    pub async fn new() -> Result<Self> {
        let world = World::new().await?;
        world.chain.warp_clock(NOW);
        let agent = Keypair::new();
        let owner = agent.pubkey();
        let source = world.fund(&owner, FUNDS).await?;
        let deposit = instructions::deposit(&world.program, &owner, &owner, &source, FUNDS);
        submit::submit(&*world.chain, &agent, &[], &[deposit]).await?;
        let wallets = vec![owner, world.payer.pubkey(), source, world.setup.mint, world.setup.vault];
        let signer = SecretKey::from_bytes(&[42; 32]);
        Ok(Self { world, agent: Arc::new(agent), signer, next_nonce: AtomicU64::new(0), wallets })
    }

    /// The same deployment on a chain of its own: what happens there does not happen here.
    #[must_use]
    pub fn branch(&self) -> Self {
        Self {
            world: World { chain: Arc::new(self.world.chain.branch()), ..self.world.clone() },
            agent: Arc::clone(&self.agent),
            signer: self.signer.clone(),
            next_nonce: AtomicU64::new(self.next_nonce.load(Ordering::SeqCst)),
            wallets: self.wallets.clone(),
        }
    }

    /// The chain.
    #[must_use]
    pub fn chain(&self) -> &EmbeddedChain {
        &self.world.chain
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.world.program
    }

    /// Registers an operator that takes [`OPERATOR_FEE_BPS`].
    ///
    /// # Errors
    /// The chain refuses.
    pub async fn operator(&mut self) -> Result<OperatorKeys> {
        let authority = Arc::new(Keypair::new());
        let address = authority.pubkey();
        self.chain().airdrop(&address, 10_000_000_000)?;
        let world = &self.world;
        let registered = settlement_operator::register(
            &*world.chain,
            &world.program,
            &world.payer,
            &authority,
            OPERATOR_FEE_BPS,
            &address,
        )
        .await?;
        self.wallets.extend([address, registered.payout]);
        let transport = SecretKey::from_bytes(Keypair::new().secret_bytes());
        Ok(OperatorKeys { authority, transport, account: registered.account })
    }

    /// Registers a node that `operator` settles for.
    ///
    /// # Errors
    /// The chain refuses.
    pub async fn node(&mut self, operator: Address) -> Result<NodeKeys> {
        let world = &self.world;
        let (owner, id) = (Keypair::new(), SecretKey::from_bytes(Keypair::new().secret_bytes()));
        let registration = Registration {
            payer: &world.payer,
            owner: &owner,
            key: &id,
            operator: Some(operator),
            payout: None,
            min_grace_s: 60,
            max_operator_fee_bps: OPERATOR_FEE_BPS,
        };
        let registered = node_server::register(&*world.chain, &world.program, &registration).await?;
        self.wallets.push(registered.payout);
        Ok(NodeKeys { id, account: registered.account, owner: Arc::new(owner) })
    }

    /// Opens channels to a node, several in one transaction.
    ///
    /// # Errors
    /// The chain refuses.
    pub async fn open(&self, node: &NodeKeys, count: usize, deposit: u64) -> Result<Vec<ChannelId>> {
        let signer = Address::new_from_array(self.signer.public());
        let opens: Vec<OpenChannel> = (0..count)
            .map(|_| {
                let nonce = self.next_nonce.fetch_add(1, Ordering::SeqCst);
                OpenChannel { node: node.account, nonce, deposit, grace_s: GRACE_S, signer }
            })
            .collect();
        let owner = self.agent.pubkey();
        for part in opens.chunks(OPENS_AT_ONCE) {
            let step = instructions::open_batch(self.program(), &owner, &owner, part);
            submit::submit(self.chain(), &self.agent, &[], &[step]).await?;
        }
        let agent = self.agent_account();
        let id = |open: &OpenChannel| self.program().channel(&agent, &node.account, open.nonce).0;
        Ok(opens.iter().map(|open| ChannelId::from_bytes(id(open).to_bytes())).collect())
    }

    /// The node's owner names another operator account, or none.
    ///
    /// # Errors
    /// The chain refuses.
    pub async fn switch_operator(&self, node: &NodeKeys, operator: Option<Address>) -> Result<()> {
        let (world, change) = (
            &self.world,
            NodeChange {
                operator: Some(operator),
                max_operator_fee_bps: Some(OPERATOR_FEE_BPS),
                ..NodeChange::default()
            },
        );
        let id = node.id.node_id();
        node_server::update(&*world.chain, &world.program, &world.payer, &node.owner, id, &change).await?;
        Ok(())
    }

    /// The agent asks for its money back; the grace begins.
    ///
    /// # Errors
    /// The chain refuses.
    pub async fn request_close(&self, channel: ChannelId) -> Result<()> {
        let address = Address::new_from_array(channel.to_bytes());
        let step = instructions::request_close(self.program(), &self.agent.pubkey(), &address);
        submit::submit(self.chain(), &self.agent, &[], &[step]).await?;
        Ok(())
    }

    /// The agent's voucher without an expiry, as a node hands it over to be settled.
    #[must_use]
    pub fn voucher(&self, channel: ChannelId, cumulative: u64) -> HandoffVoucher {
        let voucher = Voucher { channel, cumulative: Amount::new(cumulative), expires_at: 0 };
        let signature = voucher.sign(&self.signer).signature;
        HandoffVoucher { channel, cumulative: voucher.cumulative, expires_at: 0, signature, close: false }
    }

    /// The same, with the wish to close.
    #[must_use]
    pub fn closing(&self, channel: ChannelId, cumulative: u64) -> HandoffVoucher {
        HandoffVoucher { close: true, ..self.voucher(channel, cumulative) }
    }

    /// A configuration that settles only when asked, and every base unit.
    #[must_use]
    pub fn config(&self, dir: &Path) -> OperatorConfig {
        OperatorConfig {
            dir: dir.to_owned(),
            program: self.program().id,
            settle_interval_ms: 0,
            rules: Rules { min_settle: Amount::new(1), ..Rules::default() },
            chain_cache_ms: 0,
            ..OperatorConfig::default()
        }
    }

    /// Starts an operator on a chain as it sees it, with the store of its folder. Where an earlier one was cut off,
    /// its file is free a moment later.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(
        &self,
        keys: &OperatorKeys,
        config: &OperatorConfig,
        chain: Arc<dyn ChainClient>,
    ) -> Result<RunningOperator> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let authority = keys.authority.insecure_clone();
            match Operator::start(config.clone(), keys.transport.clone(), authority, Arc::clone(&chain)).await {
                Err(StartError::Store(StoreError::InUse)) if Instant::now() < deadline => {
                    tokio::task::yield_now().await;
                }
                started => return started.context("the operator does not start"),
            }
        }
    }

    /// The same with another store.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start_with_store(
        &self,
        keys: &OperatorKeys,
        config: &OperatorConfig,
        chain: Arc<dyn ChainClient>,
        store: Arc<dyn OperatorStore>,
    ) -> Result<RunningOperator, StartError> {
        let authority = keys.authority.insecure_clone();
        Operator::start_with_store(config.clone(), keys.transport.clone(), authority, chain, store).await
    }

    /// What names this chain in a hello.
    #[must_use]
    pub fn chain_ids(&self) -> ChainIds {
        ChainIds {
            genesis_hash: EMBEDDED_GENESIS_HASH,
            program: self.program().id.to_bytes(),
            mint: self.world.setup.mint.to_bytes(),
        }
    }

    /// The agent's account on chain.
    #[must_use]
    pub fn agent_account(&self) -> Address {
        self.program().agent(&self.agent.pubkey()).0
    }

    /// The agent's wallet.
    #[must_use]
    pub fn agent(&self) -> &Keypair {
        &self.agent
    }

    /// Signs the agent's vouchers.
    #[must_use]
    pub fn signer(&self) -> &SecretKey {
        &self.signer
    }

    /// Every balance of the program.
    ///
    /// # Errors
    /// The chain cannot be read.
    pub async fn books(&self) -> Result<Books> {
        Ok(Books::read(self.chain(), self.program()).await?)
    }

    /// The tokens of everybody: what the vault holds and what lies in wallets. Minting aside, it never changes.
    ///
    /// # Errors
    /// The chain cannot be read.
    pub async fn tokens(&self) -> Result<u64> {
        let mut sum = 0;
        for address in &self.wallets {
            let account = self.chain().accounts(std::slice::from_ref(address)).await?.pop().flatten();
            if account
                .is_some_and(|account| account.owner == tokens::TOKEN_PROGRAM && account.data.len() == TOKEN_ACCOUNT)
            {
                sum += reads::token_balance(self.chain(), address).await?;
            }
        }
        Ok(sum)
    }

    /// The lamports of everybody: wallets, token accounts and the program's accounts. It falls by the fees that are
    /// burnt, and by nothing else.
    ///
    /// # Errors
    /// The chain cannot be read.
    pub async fn lamports(&self) -> Result<u64> {
        let accounts = self.chain().accounts(&self.wallets).await?;
        let mut sum: u64 = accounts.iter().flatten().map(|account| account.lamports).sum();
        for (discriminator, data_len) in PROGRAM_ACCOUNTS {
            let filter = settlement_chain::AccountFilter { discriminator, data_len, key: None };
            let found = self.chain().program_accounts(&self.program().id, &filter).await?;
            sum += found.iter().map(|(_, account)| account.lamports).sum::<u64>();
        }
        Ok(sum)
    }
}

/// Base units that the agent deposits.
pub const FUNDS: u64 = 1_000_000_000_000;
/// The chain's time at first, in unix seconds.
pub const NOW: i64 = 1_800_000_000;
/// Grace of every channel.
pub const GRACE_S: u32 = 900;
/// What operators take.
pub const OPERATOR_FEE_BPS: u16 = 150;

/// Channels that one legacy transaction opens.
const OPENS_AT_ONCE: usize = 5;
/// Bytes of a classic token account.
const TOKEN_ACCOUNT: usize = 165;
/// What the program owns.
const PROGRAM_ACCOUNTS: [(u8, usize); 5] = {
    use settlement_interface::accounts::{Agent, Channel, Config, Node, Operator};
    [
        (discriminator::CONFIG, Config::LEN),
        (discriminator::AGENT, Agent::LEN),
        (discriminator::NODE, Node::LEN),
        (discriminator::OPERATOR, Operator::LEN),
        (discriminator::CHANNEL, Channel::LEN),
    ]
};
/// How long a crashed operator's file may stay locked.
const PATIENCE: Duration = Duration::from_secs(30);
