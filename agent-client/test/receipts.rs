//! What a hostile node can try with its receipts, and what it gets: bytes and payments are as they are, only what it signed
//! rightly counts as signed, and a flood ends the connection.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::time::{Duration, Instant};

use agent_client::{Agent, Check, Entry, FetchError, LedgerError, Misbehaviour, Wallet, Word};
use aro_proto::merkle::ByteRanges;
use aro_proto::message::{Delivery, DeliveryReceipt};
use aro_proto::wire::encode_frame;
use aro_proto::{Amount, ByteCount, ChannelId, ContentId, SecretKey, Tariff, error::close};
use support::scripted::{Receipts, Script, ScriptedNode, content};
use support::world::World;

const PER_MIB: u64 = 1_000_000;
const LEN: usize = 100 * 1024;

struct Scene {
    _world: World,
    wallet: Wallet,
    agent: Agent,
    node: ScriptedNode,
    channel: ChannelId,
}

impl Scene {
    async fn new(receipts: Receipts) -> Self {
        let world = World::new().await;
        let key = SecretKey::from_bytes(&[51; 32]);
        world.register_node(&key, 900).await;
        let wallet = world.wallet("agent", 50 * PER_MIB).await;
        let agent = world.builder(wallet.clone()).build().await.unwrap();
        agent.wallet().deposit(Amount::new(50 * PER_MIB)).await.unwrap();
        let _ = agent.open_channel(key.node_id(), Amount::new(50 * PER_MIB), None).await.unwrap();
        let channel = agent.channels().await.unwrap()[0].channel;
        let node = ScriptedNode::start(&world, &key, content(LEN), PER_MIB).await;
        node.follow(Script::Receipts(receipts));
        Self { _world: world, wallet, agent, node, channel }
    }

    /// Fetches the one content, which comes and is paid whatever the node signs.
    async fn fetch(&self) -> Check {
        let (report, bytes) = self.agent.fetch(&self.node.address()).to_bytes(1 << 20).await.unwrap();
        assert!(bytes == self.node.content() && report.acknowledged);
        let seen = self.node.seen();
        assert_eq!(seen.paid(), price(seen.requests * LEN), "the channel is rounded up as a whole");
        report.receipt
    }

    fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let take = |entry| {
            entries.push(entry);
            Ok::<(), LedgerError>(())
        };
        self.wallet.entries(0, take).unwrap();
        entries
    }
}

fn price(bytes: usize) -> u64 {
    Tariff { per_mib: PER_MIB }.price(ByteCount::new(bytes as u64)).unwrap().get()
}

// r[verify receipt.checked]
#[tokio::test(flavor = "multi_thread")]
async fn a_right_receipt_is_kept_with_its_entry() {
    let scene = Scene::new(Receipts::default()).await;
    assert_eq!(scene.fetch().await, Check::Valid);
    let [entry] = scene.entries().try_into().unwrap();
    assert_eq!((entry.check(), entry.refuted), (Check::Valid, false));
    let Some(Word::Delivered(signed)) = entry.receipt else { panic!("{entry:?}") };
    let receipt = signed.verify(&scene.node.address().node()).unwrap();
    assert_eq!((receipt.channel, receipt.cumulative.get()), (scene.channel, price(LEN)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_receipt_is_for_a_request_of_many_contents() {
    let scene = Scene::new(Receipts::default()).await;
    let contents: Vec<Vec<u8>> = (1..=9).map(|at| content(at * 1_000)).collect();
    contents.iter().for_each(|bytes| scene.node.also_has(bytes));
    let ids: Vec<ContentId> = contents.iter().map(|bytes| ContentId::of(bytes)).collect();
    let (report, _) = scene.agent.fetch_many(&scene.node.address(), ids).to_bytes(1 << 20).await.unwrap();
    assert_eq!(report.fetched, 9);
    let deadline = Instant::now() + Duration::from_secs(20);
    while scene.entries().iter().any(|entry| entry.check() != Check::Valid) {
        assert!(Instant::now() < deadline, "{:#?}", scene.entries());
        tokio::task::yield_now().await;
    }
    let entries = scene.entries();
    assert_eq!(entries.iter().map(|entry| entry.bytes).sum::<u64>(), 45_000);
    assert_eq!(entries.iter().map(|entry| entry.contents).sum::<u32>(), 9);
    assert_eq!(entries.len() as u64, report.requests);
}

// r[verify receipt.checked]
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_receipt_is_reported_and_never_counts_as_signed() {
    let wrong: [fn(&mut DeliveryReceipt); 8] = [
        |receipt| receipt.channel = ChannelId::from_bytes([1; 32]),
        |receipt| receipt.cumulative = Amount::new(receipt.cumulative.get() + 1),
        |receipt| receipt.cumulative = Amount::ZERO,
        |receipt| receipt.deliveries[0].content = ContentId::of(b"another"),
        |receipt| receipt.deliveries[0].contents = 2,
        |receipt| receipt.deliveries[0].bytes = ByteCount::new(LEN as u64 + 1),
        |receipt| receipt.deliveries[0].amount = Amount::ZERO,
        |receipt| receipt.deliveries[0].ranges = ByteRanges::single(0, 1).unwrap(),
    ];
    for (case, alter) in wrong.into_iter().enumerate() {
        let scene = Scene::new(Receipts { alter, ..Receipts::default() }).await;
        assert_eq!(scene.fetch().await, Check::Wrong, "case {case}");
        let [entry] = scene.entries().try_into().unwrap();
        assert_eq!((entry.check(), entry.refuted), (Check::Wrong, true), "case {case}");
    }
    let scene = Scene::new(Receipts { key: Some(SecretKey::from_bytes(&[52; 32])), ..Receipts::default() }).await;
    assert_eq!(scene.fetch().await, Check::Wrong, "another's signature");
    assert_eq!(scene.entries()[0].check(), Check::Wrong);
}

// r[verify receipt.checked]
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_receipt_leaves_the_entry_unsigned_and_holds_up_one_fetch_at_most() {
    let scene = Scene::new(Receipts { times: 0, ..Receipts::default() }).await;
    let started = Instant::now();
    for _ in 0..40 {
        assert_eq!(scene.fetch().await, Check::Unsigned);
    }
    assert!(started.elapsed() < Duration::from_secs(15), "each waits: {:?}", started.elapsed());
    assert!(scene.entries().iter().all(|entry| entry.check() == Check::Unsigned && !entry.refuted));
}

// r[verify receipt.checked]
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_receipts_ends_the_connection_and_leaves_what_was_right() {
    let scene = Scene::new(Receipts { times: 100, ..Receipts::default() }).await;
    let (_, bytes) = scene.agent.fetch(&scene.node.address()).to_bytes(1 << 20).await.unwrap();
    assert_eq!(bytes, scene.node.content());
    let seen = scene.node.wait_for(|seen| !seen.closes.is_empty()).await;
    assert_eq!(seen.closes, [u64::from(close::PROTOCOL)]);
    let [entry] = scene.entries().try_into().unwrap();
    assert_eq!(entry.check(), Check::Valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn unasked_deliveries_beside_a_right_one_are_told_and_do_not_spoil_it() {
    fn add(receipt: &mut DeliveryReceipt) {
        let unasked = Delivery { stream: 4_000, ..receipt.deliveries[0].clone() };
        receipt.deliveries.push(unasked);
    }
    let scene = Scene::new(Receipts { alter: add, ..Receipts::default() }).await;
    // The ninth ends the connection.
    for _ in 0..8 {
        assert_eq!(scene.fetch().await, Check::Valid);
    }
    assert_eq!((scene.node.seen().hellos, scene.node.seen().closes), (1, vec![]));
    let (_, bytes) = scene.agent.fetch(&scene.node.address()).to_bytes(1 << 20).await.unwrap();
    assert!(bytes == scene.node.content());
    let seen = scene.node.wait_for(|seen| !seen.closes.is_empty()).await;
    assert_eq!(seen.closes, [u64::from(close::PROTOCOL)]);
    assert!(scene.entries().iter().all(|entry| entry.check() == Check::Valid));
}

// r[verify receipt.bounds]
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_before_any_channel_is_a_protocol_error() {
    let scene = Scene::new(Receipts::default()).await;
    let delivery = Delivery {
        stream: 4,
        content: ContentId::of(b"x"),
        contents: 1,
        ranges: ByteRanges::all(),
        bytes: ByteCount::new(1),
        amount: Amount::new(1),
    };
    let receipt =
        DeliveryReceipt { channel: scene.channel, cumulative: Amount::new(1), at: 1, deliveries: vec![delivery] };
    let signed = receipt.sign(&SecretKey::from_bytes(&[51; 32]));
    scene.node.follow(Script::ControlBytes(encode_frame(&signed).unwrap()));
    let error = scene.agent.fetch(&scene.node.address()).to_bytes(1 << 20).await.unwrap_err();
    assert!(matches!(error, FetchError::Misbehaved { what: Misbehaviour::Frame(_), .. }), "{error}");
    let seen = scene.node.wait_for(|seen| !seen.closes.is_empty()).await;
    assert_eq!(seen.closes, [u64::from(close::PROTOCOL)]);
    assert!(scene.entries().is_empty());
}
