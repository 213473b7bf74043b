//! A node that is paid, and agents that pay it, for benchmarks that fetch.

use std::path::Path;

use agent_client::{Agent, AgentConfig, Wallet};
use anyhow::{Context, Result};
use aro_proto::{Address, Amount, ContentId, SecretKey, Tariff};
use aro_tests::world::World;
use node_server::{Node, NodeConfig, Registration, RunningNode};
use settlement_chain::Keypair;
use tempfile::TempDir;

/// A chain, a node on it, and a folder for their files.
pub(crate) struct Scene {
    pub(crate) home: TempDir,
    pub(crate) world: World,
    pub(crate) node: RunningNode,
}

impl Scene {
    /// Starts a node that charges [`TARIFF`], its settings changed by `adjust`; its files and those of agents lie below
    /// `dir`, or in the system's temporary folder.
    pub(crate) async fn new(dir: Option<&Path>, adjust: impl FnOnce(&mut NodeConfig)) -> Result<Self> {
        let home = match dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        };
        let home = home.context("no folder for the node's files")?;
        let world = World::new().await?;
        let node = start_node(&world, &home.path().join("node"), adjust).await?;
        Ok(Self { home, world, node })
    }

    /// An agent with an open channel that holds [`DEPOSIT`].
    pub(crate) async fn agent(&self, name: &str, config: AgentConfig) -> Result<Agent> {
        let wallet = Wallet::create(&self.home.path().join(name))?;
        let owner = wallet.owner();
        let builder = Agent::builder().chain(self.world.chain.clone()).program(self.world.program.id);
        let agent = builder.wallet(wallet).config(config).build().await?;
        self.world.fund(&owner, DEPOSIT.get()).await?;
        agent.wallet().deposit(DEPOSIT).await?;
        let _ = agent.open_channel(self.node.node_id(), DEPOSIT, None).await?;
        self.node.follow_now().await?;
        Ok(agent)
    }

    /// Puts bytes into the node's store.
    pub(crate) fn add(&self, bytes: &[u8]) -> Result<ContentId> {
        let path = self.home.path().join("to-add");
        std::fs::write(&path, bytes)?;
        Ok(self.node.store().add_file(&path)?.id)
    }

    /// The address of a content at this node.
    pub(crate) fn address(&self, content: ContentId) -> Result<Address> {
        Ok(self.node.address_of(content)?)
    }

    /// The same, reached at another port of the loopback address.
    pub(crate) fn address_at(&self, content: ContentId, port: u16) -> Result<Address> {
        Ok(Address::new(content, self.node.node_id(), "127.0.0.1", port)?)
    }
}

/// A new node that charges [`TARIFF`], with its files in `dir`, its settings changed by `adjust`.
pub(crate) async fn start_node(world: &World, dir: &Path, adjust: impl FnOnce(&mut NodeConfig)) -> Result<RunningNode> {
    let (owner, key) = (Keypair::new(), random_key()?);
    let registration = Registration {
        payer: &world.payer,
        owner: &owner,
        key: &key,
        operator: None,
        payout: None,
        min_grace_s: 900,
        max_operator_fee_bps: 0,
    };
    node_server::register(&*world.chain, &world.program, &registration).await?;
    let mut config = NodeConfig { tariff: TARIFF, program: world.program.id, ..NodeConfig::new(dir) };
    adjust(&mut config);
    Node::start(config, key, world.chain.clone()).await.context("the node does not start")
}

/// A new key.
pub(crate) fn random_key() -> Result<SecretKey> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the system gives no random bytes")?;
    Ok(SecretKey::from_bytes(&seed))
}

/// Bytes that differ at every place and for every seed, and can be made again from any place on.
pub(crate) fn pattern(seed: u64, start: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 16);
    let mut word = start / 8;
    while bytes.len() < len + 8 {
        let mixed = (word ^ seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 29)).to_le_bytes());
        word += 1;
    }
    bytes.drain(..usize::try_from(start % 8).unwrap_or_default());
    bytes.truncate(len);
    bytes
}

/// What the node charges: a base unit for each byte, so that what is paid is what was proven.
pub(crate) const TARIFF: Tariff = Tariff { per_mib: 1 << 20 };
/// What an agent sets aside: enough for a tebibyte.
const DEPOSIT: Amount = Amount::new(1 << 40);

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn a_pattern_can_be_made_from_any_place_on() {
        let whole = pattern(3, 0, 1_000);
        for (start, len) in [(0, 1_000), (1, 8), (7, 100), (8, 9), (993, 7)] {
            assert_eq!(pattern(3, start, len), whole[start as usize..][..len]);
        }
        assert_ne!(pattern(4, 0, 1_000), whole);
    }
}
