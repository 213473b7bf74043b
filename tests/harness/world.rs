//! A whole deployment in this process: the embedded chain with the real program, and real parties on loopback.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use aro_proto::{SecretKey, Tariff};
use node_server::{Node, NodeConfig, OperatorEndpoint, Registration, RunningNode};
use settlement_chain::setup::{self, Setup, SetupOptions};
use settlement_chain::{Address, EmbeddedChain, Keypair, Program, Signer};
use settlement_operator::{Operator, OperatorConfig, RunningOperator};

/// A chain with the program set up, and somebody who pays for everything and mints test $ARO.
#[derive(Clone)]
pub struct World {
    /// The chain.
    pub chain: Arc<EmbeddedChain>,
    /// The settlement program on it.
    pub program: Program,
    /// Pays fees and rents, and is the mint's authority.
    pub payer: Arc<Keypair>,
    /// Mint, config, vault and treasury.
    pub setup: Setup,
}

/// A running operator and its keys.
pub struct OperatorHere {
    /// The operator.
    pub running: RunningOperator,
    /// Whose tokens the fees become.
    pub owner: Keypair,
    /// Its account on chain.
    pub account: Address,
    /// Where its fees are paid to.
    pub payout: Address,
}

/// A running node and its keys.
pub struct NodeHere {
    /// The node.
    pub running: RunningNode,
    /// Its transport key.
    pub key: SecretKey,
    /// Its settings.
    pub config: NodeConfig,
    /// Its cold key.
    pub owner: Keypair,
    /// Its account on chain.
    pub account: Address,
    /// Where its earnings are paid to.
    pub payout: Address,
}

impl World {
    /// A new chain, set up with the default fees.
    ///
    /// # Errors
    /// The program does not load or refuses to be set up.
    pub async fn new() -> Result<Self> {
        let chain = Arc::new(EmbeddedChain::new()?);
        let payer = Keypair::new();
        chain.airdrop(&payer.pubkey(), 1_000 * LAMPORTS_PER_SOL)?;
        let program = Program::local();
        let setup = setup::setup(&*chain, &program, &payer, &payer, &SetupOptions::default()).await?;
        Ok(Self { chain, program, payer: Arc::new(payer), setup })
    }

    /// Gives an address SOL for fees and rents, and `aro` base units of test $ARO. Returns its token account.
    ///
    /// # Errors
    /// The chain refuses.
    pub async fn fund(&self, owner: &Address, aro: u64) -> Result<Address> {
        self.chain.airdrop(owner, 10 * LAMPORTS_PER_SOL)?;
        Ok(setup::mint_to(&*self.chain, &self.setup.mint, &self.payer, owner, aro).await?)
    }

    /// Registers and starts an operator that settles only when asked.
    ///
    /// # Errors
    /// It cannot be registered or started.
    pub async fn operator(&self, dir: &Path, fee_bps: u16) -> Result<OperatorHere> {
        let (owner, authority) = (Keypair::new(), Keypair::new());
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        self.chain.airdrop(&authority.pubkey(), 10 * LAMPORTS_PER_SOL)?;
        let registered = settlement_operator::register(
            &*self.chain,
            &self.program,
            &self.payer,
            &authority,
            fee_bps,
            &owner.pubkey(),
        )
        .await?;
        let config = OperatorConfig {
            dir: dir.to_owned(),
            program: self.program.id,
            settle_interval_ms: 0,
            // Tests and the demo settle right after the chain has changed.
            chain_cache_ms: 0,
            ..OperatorConfig::default()
        };
        let running = Operator::start(config, random_key()?, authority, self.chain.clone()).await?;
        Ok(OperatorHere { running, owner, account: registered.account, payout: registered.payout })
    }

    /// Registers and starts a node that is settled by `operator`.
    ///
    /// # Errors
    /// It cannot be registered or started.
    pub async fn node(&self, dir: &Path, tariff: Tariff, operator: &OperatorHere) -> Result<NodeHere> {
        self.node_with(NodeConfig { tariff, ..NodeConfig::new(dir) }, operator).await
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// It cannot be registered or started.
    pub async fn node_with(&self, config: NodeConfig, operator: &OperatorHere) -> Result<NodeHere> {
        let (owner, key) = (Keypair::new(), random_key()?);
        let registration = Registration {
            payer: &self.payer,
            owner: &owner,
            key: &key,
            operator: Some(operator.account),
            payout: None,
            min_grace_s: 900,
            max_operator_fee_bps: 500,
        };
        let registered = node_server::register(&*self.chain, &self.program, &registration).await?;
        let endpoint =
            OperatorEndpoint { id: operator.running.id(), address: operator.running.local_addr().to_string() };
        let config = NodeConfig { program: self.program.id, operators: vec![endpoint], ..config };
        let running = self.start(config.clone(), key.clone()).await?;
        self.chain.airdrop(&owner.pubkey(), LAMPORTS_PER_SOL)?;
        Ok(NodeHere { running, key, config, owner, account: registered.account, payout: registered.payout })
    }

    /// Stops a node and starts it again, at the same place.
    ///
    /// # Errors
    /// It does not stop or start.
    pub async fn restart(&self, node: NodeHere) -> Result<NodeHere> {
        let NodeHere { running, key, config, owner, account, payout } = node;
        let config = NodeConfig { listen: running.local_addr(), ..config };
        running.shutdown().await?;
        let running = self.start(config.clone(), key.clone()).await?;
        Ok(NodeHere { running, key, config, owner, account, payout })
    }

    async fn start(&self, config: NodeConfig, key: SecretKey) -> Result<RunningNode> {
        Node::start(config, key, self.chain.clone()).await.context("the node does not start")
    }
}

fn random_key() -> Result<SecretKey> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the system gives no random bytes")?;
    Ok(SecretKey::from_bytes(&seed))
}

/// Lamports of one SOL.
pub const LAMPORTS_PER_SOL: u64 = 1_000_000_000;
