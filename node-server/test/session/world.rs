//! A chain with the program, a registered node, and agents with channels.

use std::path::Path;
use std::sync::Arc;

use aro_proto::{Amount, ChannelId, ContentId, SecretKey, Tariff};
use node_server::{FeeKey, Node, NodeConfig, Registration, RunningNode, register};
use settlement_chain::instructions::{self, OpenChannel};
use settlement_chain::setup::Setup;
use settlement_chain::submit::submit;
use settlement_chain::{Address, EmbeddedChain, Keypair, Program, Signer, reads};
use tempfile::TempDir;

use crate::chain::LossyChain;

/// Base units per MiB in these tests.
pub(crate) const PRICE: u64 = 1000;
/// One MiB.
pub(crate) const MIB: usize = 1 << 20;

pub(crate) struct World {
    pub(crate) chain: EmbeddedChain,
    pub(crate) setup: Setup,
    pub(crate) admin: Keypair,
    pub(crate) key: SecretKey,
    pub(crate) dir: TempDir,
}

/// An agent's channel and the key that signs for it.
#[derive(Clone)]
pub(crate) struct Funded {
    pub(crate) channel: ChannelId,
    pub(crate) signer: SecretKey,
    pub(crate) owner: Arc<Keypair>,
}

impl World {
    /// A chain and a node that is registered on it, but does not serve yet.
    pub(crate) async fn new() -> Self {
        let chain = EmbeddedChain::new().unwrap();
        let admin = Keypair::new();
        chain.airdrop(&admin.pubkey(), 100_000_000_000).unwrap();
        let setup = chain.set_up(&admin).await.unwrap();
        let key = SecretKey::from_bytes(&Keypair::new().to_bytes()[..32].try_into().unwrap());
        let world = Self { chain, setup, admin, key, dir: tempfile::tempdir().unwrap() };
        world.register(&world.key, None).await;
        world
    }

    /// Registers a node.
    pub(crate) async fn register(&self, key: &SecretKey, operator: Option<Address>) -> Address {
        let registration = Registration {
            payer: &self.admin,
            owner: &self.admin,
            key,
            operator,
            payout: None,
            min_grace_s: 900,
            max_operator_fee_bps: 500,
        };
        register(&self.chain, &Program::local(), &registration).await.unwrap().account
    }

    /// Settings that let tests end quickly.
    pub(crate) fn config(&self) -> NodeConfig {
        NodeConfig {
            tariff: Tariff { per_mib: PRICE },
            follow_interval_ms: 3_600_000,
            handoff_interval_ms: 3_600_000,
            shutdown_grace_ms: 2_000,
            bind_timeout_ms: 300,
            ..NodeConfig::new(self.dir.path())
        }
    }

    /// Serves.
    pub(crate) async fn start(&self, config: NodeConfig) -> RunningNode {
        Node::start(config, self.key.clone(), Arc::new(self.chain.clone())).await.unwrap()
    }

    /// Serves, following a chain of the test's making.
    pub(crate) async fn start_on(&self, chain: &LossyChain, config: NodeConfig) -> RunningNode {
        Node::start(config, self.key.clone(), Arc::new(chain.clone())).await.unwrap()
    }

    /// A key that holds SOL for fees and nothing else.
    pub(crate) fn fee_key(&self) -> FeeKey {
        let key = FeeKey::new(Keypair::new());
        self.chain.airdrop(&key.address(), 1_000_000_000).unwrap();
        key
    }

    /// The agent begins to close its channel; the deadline follows.
    pub(crate) async fn request_close(&self, funded: &Funded) -> i64 {
        let (program, channel) = (Program::local(), Address::from(funded.channel.to_bytes()));
        let close = instructions::request_close(&program, &funded.owner.pubkey(), &channel);
        submit(&self.chain, &funded.owner, &[], &[close]).await.unwrap();
        reads::channel(&self.chain, &program, &channel).await.unwrap().unwrap().deadline
    }

    /// What the chain has settled of a channel.
    pub(crate) async fn settled(&self, funded: &Funded) -> u64 {
        let channel = Address::from(funded.channel.to_bytes());
        reads::channel(&self.chain, &Program::local(), &channel).await.unwrap().unwrap().settled
    }

    /// An agent with an open channel to the node.
    pub(crate) async fn fund(&self, deposit: u64) -> Funded {
        self.fund_to(&self.key, deposit).await
    }

    /// An agent with an open channel to any registered node.
    pub(crate) async fn fund_to(&self, node: &SecretKey, deposit: u64) -> Funded {
        self.fund_from(Arc::new(Keypair::new()), node, deposit).await
    }

    /// Another channel of a certain owner.
    pub(crate) async fn fund_from(&self, owner: Arc<Keypair>, node: &SecretKey, deposit: u64) -> Funded {
        let (program, signer) = (Program::local(), Keypair::new());
        self.chain.airdrop(&owner.pubkey(), 10_000_000_000).unwrap();
        let source = self.chain.mint_to(&self.setup.mint, &self.admin, &owner.pubkey(), deposit * 2).await.unwrap();
        let (node, _) = program.node(&Address::from(node.public()));
        let nonce =
            reads::agent(&self.chain, &program, &owner.pubkey()).await.unwrap().map_or(0, |agent| agent.next_nonce);
        let open = OpenChannel { node, nonce, deposit, grace_s: 900, signer: signer.pubkey() };
        let steps = [
            instructions::deposit(&program, &owner.pubkey(), &owner.pubkey(), &source, deposit * 2),
            instructions::open_batch(&program, &owner.pubkey(), &owner.pubkey(), &[open]),
        ];
        submit(&self.chain, &owner, &[], &steps).await.unwrap();
        let (channel, _) = program.channel(&program.agent(&owner.pubkey()).0, &node, nonce);
        Funded {
            channel: ChannelId::from_bytes(channel.to_bytes()),
            signer: SecretKey::from_bytes(signer.secret_bytes()),
            owner,
        }
    }
}

/// Puts bytes into a node's store.
pub(crate) fn store(node: &RunningNode, dir: &Path, bytes: &[u8]) -> ContentId {
    let path = dir.join("to-add");
    std::fs::write(&path, bytes).unwrap();
    let stored = node.store().add_file(&path).unwrap();
    assert_eq!(stored.size, bytes.len() as u64);
    stored.id
}

/// Bytes that differ everywhere.
pub(crate) fn bytes(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8).collect()
}

/// An amount of base units.
pub(crate) fn units(amount: u64) -> Amount {
    Amount::new(amount)
}
