//! The real settlement program on the embedded chain, with agents and nodes registered on it.

use std::path::PathBuf;
use std::sync::Arc;

use agent_client::{Agent, AgentBuilder, AgentConfig, ChannelPolicy, OpenedChannel, Wallet};
use aro_proto::message::ChainIds;
use aro_proto::{Amount, NodeId, SecretKey};
use settlement_chain::setup::Setup;
use settlement_chain::{ChainClient, EmbeddedChain, Keypair, Program, Signer, instructions, submit::submit, tokens};
use tempfile::TempDir;

pub struct World {
    pub chain: EmbeddedChain,
    pub admin: Keypair,
    pub setup: Setup,
    pub dir: TempDir,
}

impl World {
    pub async fn new() -> Self {
        let chain = EmbeddedChain::new().unwrap();
        let admin = Keypair::new();
        chain.airdrop(&admin.pubkey(), 100 * SOL).unwrap();
        let setup = chain.set_up(&admin).await.unwrap();
        Self { chain, admin, setup, dir: tempfile::tempdir().unwrap() }
    }

    pub async fn chain_ids(&self) -> ChainIds {
        ChainIds {
            genesis_hash: self.chain.genesis_hash().await.unwrap(),
            program: Program::local().id.to_bytes(),
            mint: self.setup.mint.to_bytes(),
        }
    }

    /// A new wallet with SOL and `aro` base units in its token account.
    pub async fn wallet(&self, name: &str, aro: u64) -> Wallet {
        let wallet = Wallet::create(&self.path(name)).unwrap();
        self.chain.airdrop(&wallet.owner(), 10 * SOL).unwrap();
        if aro > 0 {
            self.chain.mint_to(&self.setup.mint, &self.admin, &wallet.owner(), aro).await.unwrap();
        }
        wallet
    }

    pub fn builder(&self, wallet: Wallet) -> AgentBuilder {
        let config = AgentConfig {
            connect_timeout_ms: 30_000,
            answer_timeout_ms: 30_000,
            stall_timeout_ms: 30_000,
            credit_timeout_ms: 30_000,
            ..AgentConfig::default()
        };
        let builder = Agent::builder().chain(Arc::new(self.chain.clone())).wallet(wallet).config(config);
        // What these tests look at is what happens where nothing is opened unasked.
        builder.channels(ChannelPolicy::manual())
    }

    /// An agent with `aro` base units available in the program.
    pub async fn agent(&self, aro: u64) -> Agent {
        let agent = self.builder(self.wallet("agent", aro).await).build().await.unwrap();
        agent.wallet().deposit(Amount::new(aro)).await.unwrap();
        agent
    }

    pub async fn register_node(&self, key: &SecretKey, min_grace_s: u32) -> NodeId {
        let owner = Keypair::new();
        self.chain.airdrop(&owner.pubkey(), SOL).unwrap();
        let id = Keypair::new_from_array(*key.to_bytes());
        let payout = tokens::associated_token_address(&owner.pubkey(), &self.setup.mint);
        let node = instructions::RegisterNode {
            payer: owner.pubkey(),
            owner: owner.pubkey(),
            id: id.pubkey(),
            payout,
            operator: None,
            min_grace_s,
            max_operator_fee_bps: 0,
        };
        let steps = [
            tokens::create_associated_idempotent(&owner.pubkey(), &owner.pubkey(), &self.setup.mint),
            instructions::register_node(&Program::local(), &node),
        ];
        submit(&self.chain, &owner, &[&id], &steps).await.unwrap();
        key.node_id()
    }

    /// An agent with an open channel of `deposit` base units to a registered node.
    pub async fn agent_with_channel(&self, key: &SecretKey, deposit: u64) -> (Agent, OpenedChannel) {
        self.register_node(key, 900).await;
        let agent = self.agent(deposit).await;
        let opened = agent.open_channel(key.node_id(), Amount::new(deposit), None).await.unwrap();
        (agent, opened)
    }

    /// An agent with an open channel of `deposit` base units to each of these nodes.
    pub async fn agent_with_channels(
        &self,
        keys: &[SecretKey],
        deposit: u64,
        adjust: impl FnOnce(AgentBuilder) -> AgentBuilder,
    ) -> Agent {
        let aro = deposit * keys.len() as u64;
        let agent = adjust(self.builder(self.wallet("agent", aro).await)).build().await.unwrap();
        agent.wallet().deposit(Amount::new(aro)).await.unwrap();
        for key in keys {
            self.register_node(key, 900).await;
            let _ = agent.open_channel(key.node_id(), Amount::new(deposit), None).await.unwrap();
        }
        agent
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

pub const SOL: u64 = 1_000_000_000;
