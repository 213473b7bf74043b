//! The wallet against a real node and operator, in one process: what opens by itself pays by itself, and every unit is
//! accounted for on both sides.
//!
//! What could break: a node that has not seen yet what was opened or topped up, an upload that needs a channel, a session
//! key that a node does not take, a lost record that is not found again.

#![allow(clippy::panic, clippy::unwrap_used, reason = "that is how tests fail")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use agent_client::{Agent, ChannelEvent, ChannelPolicy, DelegateRequest, FetchError, PublishSource, Wallet};
use aro_proto::{Address, Amount, ByteCount, ContentId, NodeAddress, Tariff};
use aro_tests::world::{NodeHere, OperatorHere, World};
use node_server::{NodeConfig, PublishConfig, Publishers};
use tempfile::TempDir;

const FETCH: Tariff = Tariff { per_mib: 100_000 };
const PUBLISH: Tariff = Tariff { per_mib: 200_000 };
const MIB: usize = 1 << 20;
const FUNDS: u64 = 20_000_000;

type Events = Arc<Mutex<Vec<ChannelEvent>>>;

struct Scene {
    world: World,
    home: TempDir,
    _operator: OperatorHere,
    node: NodeHere,
    events: Events,
}

impl Scene {
    async fn new() -> Self {
        let (world, home) = (World::new().await.unwrap(), tempfile::tempdir().unwrap());
        let operator = world.operator(&home.path().join("operator"), 0).await.unwrap();
        let publish = PublishConfig { publishers: Publishers::WhoPays, tariff: PUBLISH, ..PublishConfig::default() };
        let config = NodeConfig { tariff: FETCH, publish, ..NodeConfig::new(home.path().join("node")) };
        let node = world.node_with(config, &operator).await.unwrap();
        Self { world, home, _operator: operator, node, events: Events::default() }
    }

    async fn agent_on(&self, wallet: Wallet) -> Agent {
        let events = Arc::clone(&self.events);
        let builder = Agent::builder().chain(self.world.chain.clone()).wallet(wallet).program(self.world.program.id);
        let builder = builder.channels(ChannelPolicy { idle_close_s: None, ..ChannelPolicy::default() });
        builder.on_channel_event(move |event| events.lock().unwrap().push(event.clone())).build().await.unwrap()
    }

    /// An agent with money in the program, and no channel.
    async fn agent(&self) -> Agent {
        let wallet = Wallet::create(&self.wallet()).unwrap();
        self.world.fund(&wallet.owner(), FUNDS).await.unwrap();
        let agent = self.agent_on(wallet).await;
        agent.wallet().deposit(Amount::new(FUNDS)).await.unwrap();
        agent
    }

    fn wallet(&self) -> std::path::PathBuf {
        self.home.path().join("agent")
    }

    fn node_address(&self) -> NodeAddress {
        NodeAddress::from(&self.node.running.address_of(ContentId::of(b"")).unwrap())
    }

    fn opened(&self) -> (usize, usize) {
        let events = self.events.lock().unwrap();
        let count = |of: fn(&ChannelEvent) -> bool| events.iter().filter(|event| of(event)).count();
        (count(|e| matches!(e, ChannelEvent::Opened { .. })), count(|e| matches!(e, ChannelEvent::ToppedUp { .. })))
    }

    /// What the node holds in vouchers of the only channel that `signer` signs for.
    async fn watermark(&self, agent: &Agent) -> u64 {
        let signer = agent.wallet().status().await.unwrap().signer;
        let channels = agent.channels().await.unwrap();
        let channel = channels.iter().find(|channel| channel.signer == signer).unwrap();
        self.node.running.status().await.channel(channel.channel).unwrap().watermark.get()
    }
}

fn content(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|index| ((index ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn price(tariff: Tariff, bytes: usize) -> u64 {
    tariff.price(ByteCount::new(bytes as u64)).unwrap().get()
}

/// Publishes, which opens the channel that the rest of a test pays from.
async fn published(agent: &Agent, scene: &Scene, len: usize) -> (Address, Vec<u8>) {
    let bytes = content(len, 7);
    let path = scene.home.path().join("content");
    std::fs::write(&path, &bytes).unwrap();
    let report = agent.publish(&scene.node_address(), &path).run().await.unwrap();
    (report.address, bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_and_fetches_open_and_top_up_one_channel_at_a_real_node() {
    let scene = Scene::new().await;
    let agent = scene.agent().await;
    let (address, bytes) = published(&agent, &scene, 2 * MIB).await;
    assert_eq!(scene.opened(), (1, 0));
    let mut paid = price(PUBLISH, 2 * MIB);
    for _ in 0..12 {
        let (report, got) = agent.fetch(&address).to_bytes(u64::MAX).await.unwrap();
        assert!(got == bytes);
        paid += report.paid.get();
    }
    assert_eq!(paid, price(PUBLISH, 2 * MIB) + 12 * price(FETCH, 2 * MIB));
    assert_eq!(scene.watermark(&agent).await, paid);
    let (opened, topped_up) = scene.opened();
    assert!(opened == 1 && (1..=3).contains(&topped_up), "{topped_up}");
    let status = agent.wallet().status().await.unwrap();
    assert_eq!(status.available.get() + status.channels[0].deposit.get(), FUNDS);

    // What comes through a pipe is read once: all that it needs is provided before.
    let piped = PublishSource::stream(std::io::Cursor::new(content(3 * MIB, 8)));
    let piped = agent.publish(&scene.node_address(), piped).max_bytes(4 * MIB as u64).run().await.unwrap();
    assert_eq!(piped.content, ContentId::of(&content(3 * MIB, 8)));
    assert_eq!(scene.watermark(&agent).await, paid + price(PUBLISH, 3 * MIB));
    agent.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_at_once_from_a_real_node_share_one_channel() {
    let scene = Scene::new().await;
    let publisher = scene.agent().await;
    let (address, bytes) = published(&publisher, &scene, MIB).await;
    publisher.close().await;
    let wallet = Wallet::create(&scene.home.path().join("reader")).unwrap();
    scene.world.fund(&wallet.owner(), FUNDS).await.unwrap();
    let reader = scene.agent_on(wallet).await;
    reader.wallet().deposit(Amount::new(FUNDS)).await.unwrap();
    let fetches = (0..16).map(|_| {
        let (reader, address) = (reader.clone(), address.clone());
        tokio::spawn(async move { reader.fetch(&address).to_bytes(u64::MAX).await })
    });
    for fetch in fetches.collect::<Vec<_>>() {
        assert!(fetch.await.unwrap().unwrap().1 == bytes);
    }
    assert_eq!(reader.channels().await.unwrap().len(), 1);
    assert_eq!(scene.watermark(&reader).await, 16 * price(FETCH, MIB));
    reader.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_node_takes_a_session_key_and_gives_a_lost_record_back() {
    let scene = Scene::new().await;
    let owner = scene.agent().await;
    let (address, bytes) = published(&owner, &scene, MIB).await;
    let dir = scene.home.path().join("session");
    let cap = 3 * price(FETCH, MIB);
    let request = DelegateRequest {
        dir: dir.clone(),
        nodes: vec![scene.node.running.node_id()],
        cap: Amount::new(cap),
        lifetime_s: 3_600,
        grace_s: None,
    };
    owner.delegate(request).await.unwrap();
    for lost in [false, true] {
        if lost {
            lose_record(&dir);
        }
        let session = scene.agent_on(Wallet::open(&dir).unwrap()).await;
        assert!(session.fetch(&address).to_bytes(u64::MAX).await.unwrap().1 == bytes);
        session.close().await;
    }
    let session = scene.agent_on(Wallet::open(&dir).unwrap()).await;
    assert_eq!(scene.watermark(&session).await, 2 * price(FETCH, MIB));
    let _ = session.fetch(&address).to_bytes(u64::MAX).await.unwrap();
    let exhausted = session.fetch(&address).to_bytes(u64::MAX).await.unwrap_err();
    assert!(matches!(exhausted, FetchError::DepositExhausted { .. }), "{exhausted}");
    assert_eq!(scene.watermark(&session).await, cap);
    session.close().await;
}

fn lose_record(home: &Path) {
    for name in ["wallet.db", "wallet.db-wal", "wallet.db-shm"] {
        let _ = std::fs::remove_file(home.join(name));
    }
}
