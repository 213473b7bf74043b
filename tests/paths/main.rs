//! What a path carries, and what becomes of a paid fetch on it: packets as large as pass, and no larger; a path that
//! narrows while bytes flow.
//!
//! What could break: a fetch that hangs because its packets vanish, a connection that never leaves the smallest packets or
//! never comes back to them, a byte that is paid but did not arrive.

#![allow(clippy::panic, clippy::unwrap_used, reason = "that is how tests fail")]

use std::time::Duration;

use agent_client::{Agent, AgentConfig, FetchReport, Wallet};
use aro_proto::{Address, Amount, ByteCount, ContentId, Tariff};
use aro_tests::relay::{LinkTerms, PathTerms, Relay};
use aro_tests::world::{NodeHere, OperatorHere, World};
use node_server::NodeConfig;
use tempfile::TempDir;

struct Scene {
    _home: TempDir,
    _operator: OperatorHere,
    _node: NodeHere,
    agent: Agent,
    relay: Relay,
    address: Address,
    bytes: Vec<u8>,
}

impl Scene {
    /// A node behind a path that takes a millisecond each way and carries packets of `mtu` bytes, and an agent that
    /// pays ahead for all of the content, so that nothing but the path slows it down.
    async fn new(mtu: usize) -> Self {
        let (world, home) = (World::new().await.unwrap(), tempfile::tempdir().unwrap());
        let operator = world.operator(&home.path().join("operator"), 0).await.unwrap();
        let config = NodeConfig { tariff: TARIFF, ..NodeConfig::new(home.path().join("node")) };
        let node = world.node_with(config, &operator).await.unwrap();
        let bytes: Vec<u8> = (0..CONTENT_BYTES).map(|at| (at / 7 % 251) as u8).collect();
        let file = home.path().join("content");
        std::fs::write(&file, &bytes).unwrap();
        let content = node.running.store().add_file(&file).unwrap().id;

        let wallet = Wallet::create(&home.path().join("agent")).unwrap();
        world.fund(&wallet.owner(), DEPOSIT.get()).await.unwrap();
        let config = AgentConfig { prepay: DEPOSIT, ..AgentConfig::default() };
        let builder = Agent::builder().chain(world.chain.clone()).wallet(wallet).program(world.program.id);
        let agent = builder.config(config).build().await.unwrap();
        agent.wallet().deposit(DEPOSIT).await.unwrap();
        let _ = agent.open_channel(node.running.node_id(), DEPOSIT, None).await.unwrap();
        node.running.follow_now().await.unwrap();

        let link = LinkTerms { mtu, ..LinkTerms::delay(Duration::from_millis(1)) };
        let relay = Relay::to(node.running.local_addr(), &PathTerms { up: link, down: link, seed: 1 }).unwrap();
        let address = Address::new(content, node.running.node_id(), "127.0.0.1", relay.address().port()).unwrap();
        Self { _home: home, _operator: operator, _node: node, agent, relay, address, bytes }
    }

    /// Fetches and pays the content once.
    async fn fetch(&self) -> FetchReport {
        let fetch = self.agent.fetch(&self.address).to_bytes(u64::MAX);
        let (report, bytes) = tokio::time::timeout(PATIENCE, fetch).await.unwrap().unwrap();
        assert!(bytes == self.bytes && ContentId::of(&bytes) == self.address.content());
        assert_eq!(Some(report.paid), TARIFF.price(ByteCount::new(self.bytes.len() as u64)));
        report
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_become_as_large_as_the_path_carries() {
    for (mtu, least, most) in [(1_500, 1_440, 1_472), (9_000, 6_480, 6_500)] {
        let scene = Scene::new(mtu).await;
        // The search takes a round trip for a size that passes and three for one that does not.
        for _ in 0..20 {
            let _ = scene.fetch().await;
            if scene.relay.down().largest >= least {
                break;
            }
        }
        let down = scene.relay.down();
        assert!((least..=most).contains(&down.largest), "{mtu}: {down:?}");
        // Each size that does not pass is tried three times, each way.
        assert!(down.too_large <= 30, "{mtu}: {down:?}");
        scene.agent.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_when_its_path_narrows() {
    let scene = Scene::new(9_000).await;
    for _ in 0..20 {
        let _ = scene.fetch().await;
        if scene.relay.down().largest >= 6_480 {
            break;
        }
    }
    assert!(scene.relay.down().largest >= 6_480, "{:?}", scene.relay.down());
    // From the next fetch's first byte on.
    scene.relay.narrow(1_400);
    let report = scene.fetch().await;
    assert!(report.acknowledged, "{report:?}");
    let down = scene.relay.down();
    assert!(down.too_large > 0 && down.largest <= 1_372, "{down:?}");
    scene.agent.close().await;
}

const TARIFF: Tariff = Tariff { per_mib: 1_000 };
const DEPOSIT: Amount = Amount::new(1_000_000);
const CONTENT_BYTES: usize = 4 << 20;
/// A fetch takes a second or so; on a path that has narrowed, some timeouts more.
const PATIENCE: Duration = Duration::from_secs(120);
