//! Receipts from end to end, in one process: what a real node signs is what a real agent counted and paid.
//!
//! What could break: a receipt before its payment, for more than was delivered, or for nobody's request; a fetch that waits
//! for a signature which never comes; an account that does not come to what was paid.

#![allow(clippy::panic, clippy::unwrap_used, reason = "that is how tests fail")]

use std::time::Duration;

use agent_client::{Agent, AgentConfig, Check, Entry, LedgerError, Spending, Wallet, Word};
use aro_proto::merkle::ByteRanges;
use aro_proto::{Address, Amount, ContentId, Tariff};
use aro_tests::world::{NodeHere, OperatorHere, World};
use node_server::NodeConfig;
use tempfile::TempDir;

const TARIFF: Tariff = Tariff { per_mib: 1 << 20 };
const MIB: usize = 1 << 20;
const DEPOSIT: u64 = 1 << 40;

struct Scene {
    world: World,
    home: TempDir,
    _operator: OperatorHere,
    node: NodeHere,
}

impl Scene {
    async fn new() -> Self {
        let (world, home) = (World::new().await.unwrap(), tempfile::tempdir().unwrap());
        let operator = world.operator(&home.path().join("operator"), 0).await.unwrap();
        let config = NodeConfig { tariff: TARIFF, ..NodeConfig::new(home.path().join("node")) };
        let node = world.node_with(config, &operator).await.unwrap();
        Self { world, home, _operator: operator, node }
    }

    async fn agent(&self, config: AgentConfig) -> Agent {
        let wallet = Wallet::create(&self.home.path().join("agent")).unwrap();
        self.world.fund(&wallet.owner(), DEPOSIT).await.unwrap();
        let builder = Agent::builder().chain(self.world.chain.clone()).wallet(wallet).program(self.world.program.id);
        let agent = builder.config(config).build().await.unwrap();
        agent.wallet().deposit(Amount::new(DEPOSIT)).await.unwrap();
        let _ = agent.open_channel(self.node.running.node_id(), Amount::new(DEPOSIT), None).await.unwrap();
        self.node.running.follow_now().await.unwrap();
        agent
    }

    fn add(&self, seed: usize, len: usize) -> ContentId {
        let path = self.home.path().join("to-add");
        std::fs::write(&path, (0..len).map(|at| (at * 7 + seed) as u8).collect::<Vec<_>>()).unwrap();
        self.node.running.store().add_file(&path).unwrap().id
    }

    fn address(&self, content: ContentId) -> Address {
        self.node.running.address_of(content).unwrap()
    }

    /// The account as another handle on the wallet reads it.
    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let wallet = Wallet::open(&self.home.path().join("agent")).unwrap();
        wallet
            .entries(0, |entry| {
                entries.push(entry);
                Ok::<(), LedgerError>(())
            })
            .unwrap();
        entries
    }

    /// Waits until all entries are signed for.
    async fn all_signed(&self, count: usize) -> Vec<Entry> {
        let signed = async {
            loop {
                let entries = self.entries();
                if entries.len() == count && entries.iter().all(|entry| entry.check() == Check::Valid) {
                    return entries;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), signed).await.unwrap_or_else(|_| panic!("{:#?}", self.entries()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fetch_brings_its_nodes_signature_for_what_was_delivered_and_paid() {
    let scene = Scene::new().await;
    let agent = scene.agent(AgentConfig::default()).await;
    let (large, small) = (scene.add(1, 3 * MIB + 5), scene.add(2, 1_000));
    let (report, _) = agent.fetch(&scene.address(large)).to_bytes(u64::MAX).await.unwrap();
    assert_eq!(report.receipt, Check::Valid);
    let part = ByteRanges::new([10..20_000, 2_000_000..2_000_001]).unwrap();
    let (report, _) = agent.fetch(&scene.address(large)).ranges(part.clone()).to_bytes(u64::MAX).await.unwrap();
    assert_eq!(report.receipt, Check::Valid);
    let contents = vec![small, large, ContentId::of(b"nowhere"), small];
    let (report, _) = agent.fetch_many(&scene.address(small), contents).in_flight(8).to_bytes(u64::MAX).await.unwrap();
    assert_eq!((report.fetched, report.refused), (3, 1));
    agent.close().await;

    let entries = scene.all_signed(3 + usize::try_from(report.requests).unwrap() - 1).await;
    assert_eq!(entries[1].ranges, Some(part));
    let paid: u64 = entries.iter().map(|entry| entry.amount.get()).sum();
    assert_eq!(paid, agent.budget().spent(Spending::Vouchers).get());
    // Each is for the channel that paid, and no receipt claims more than the vouchers.
    for entry in &entries {
        let Some(Word::Delivered(signed)) = &entry.receipt else { panic!("{entry:?}") };
        assert_eq!(Some(signed.receipt.channel), entry.channel);
        assert!(signed.receipt.cumulative.get() <= paid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_at_once_that_nobody_waits_for_are_all_signed_for_in_the_end() {
    let scene = Scene::new().await;
    let agent = scene.agent(AgentConfig { credit_timeout_ms: 0, ..AgentConfig::default() }).await;
    let content = scene.add(3, 20_000);
    let address = scene.address(content);
    let fetches = (0..200).map(|_| {
        let fetch = agent.fetch(&address).to_bytes(u64::MAX);
        tokio::spawn(fetch)
    });
    for fetch in fetches.collect::<Vec<_>>() {
        let _ = fetch.await.unwrap().unwrap();
    }
    let entries = scene.all_signed(200).await;
    assert!(entries.iter().all(|entry| entry.bytes == 20_000));
    // One signature for all that a voucher pays.
    let mut signatures: Vec<_> = entries
        .iter()
        .filter_map(|entry| match &entry.receipt {
            Some(Word::Delivered(signed)) => Some(signed.signature),
            _ => None,
        })
        .collect();
    signatures.sort_unstable();
    signatures.dedup();
    assert!(signatures.len() < 150, "{} signatures for 200 fetches", signatures.len());
    agent.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_is_dropped_is_signed_for_as_far_as_it_came() {
    let scene = Scene::new().await;
    let agent = scene.agent(AgentConfig::default()).await;
    let content = scene.add(4, 12 * MIB);
    let (progress, mut proven) = tokio::sync::watch::channel(0);
    let fetch = agent.fetch(&scene.address(content)).progress(move |at| {
        let _ = progress.send(at.proven_bytes);
    });
    let running = tokio::spawn(fetch.to_bytes(u64::MAX));
    proven.wait_for(|proven| *proven > 2 * MIB as u64).await.unwrap();
    running.abort();
    assert!(running.await.is_err());
    let entries = scene.all_signed(1).await;
    assert!(entries[0].bytes > 2 * MIB as u64);
    agent.close().await;
}
