//! Many contents under one signature: every one proven by itself, paid to the unit, in order; and what a node gains by
//! breaking an answer of many, which is nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use agent_client::{Agent, AgentConfig, FetchError, Spending};
use aro_proto::merkle::{ByteRanges, Encoder, GroupSize, Outboard, PreOrderOutboard, Step};
use aro_proto::message::{FetchHead, Refused};
use aro_proto::wire::encode_frame;
use aro_proto::{Amount, ByteCount, ContentId, Refusal, RefusalCode, SecretKey, Tariff};
use support::scripted::{Script, ScriptedNode, content};
use support::world::World;

const PER_MIB: u64 = 1_000_000;

struct Scene {
    _world: World,
    agent: Agent,
    node: ScriptedNode,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let key = SecretKey::from_bytes(&[41; 32]);
        let (agent, _) = world.agent_with_channel(&key, 50 * PER_MIB).await;
        let node = ScriptedNode::start(&world, &key, content(10), PER_MIB).await;
        Self { _world: world, agent, node }
    }

    /// Answers the next requests with these bytes, whatever they ask.
    async fn fetch(&self, answer: Vec<u8>, ids: &[ContentId]) -> Result<Vec<agent_client::Fetched>, FetchError> {
        self.node.follow(Script::RequestBytes(answer));
        let (report, fetched) = self.agent.fetch_many(&self.node.address(), ids.to_vec()).to_bytes(1 << 20).await?;
        assert_eq!(report.fetched + report.refused, ids.len() as u64);
        Ok(fetched)
    }

    /// Nothing is held back for what will never come, and the node has been paid for so many bytes and no more.
    async fn assert_paid(&self, bytes: usize) {
        let due = price(bytes);
        let seen = self.node.wait_for(|seen| seen.paid() >= due).await;
        assert_eq!(seen.paid(), due, "{bytes} bytes");
        assert_eq!(self.agent.budget().spent(Spending::Vouchers).get(), due);
        assert_eq!(self.agent.budget().reserved(Spending::Vouchers), Amount::ZERO);
    }
}

fn price(bytes: usize) -> u64 {
    Tariff { per_mib: PER_MIB }.price(ByteCount::new(bytes as u64)).unwrap().get()
}

/// A head and the encoding of a whole content.
fn item(bytes: &[u8]) -> Vec<u8> {
    let outboard = PreOrderOutboard::build(bytes);
    let answered = ByteRanges::all().answered(bytes.len() as u64, GroupSize::KIB64);
    let head = FetchHead {
        size: ByteCount::new(bytes.len() as u64),
        content_bytes: ByteCount::new(bytes.len() as u64),
        price: Amount::new(price(bytes.len())),
    };
    let mut wire = encode_frame(&head).unwrap();
    for step in Encoder::new(answered) {
        match step {
            Step::Parent(node) => wire.extend(outboard.parent(node).unwrap()),
            Step::Leaf { offset, len } => wire.extend_from_slice(&bytes[offset as usize..][..len as usize]),
        }
    }
    wire
}

fn refusal(code: RefusalCode) -> Vec<u8> {
    encode_frame(&Refused { refusal: Refusal::new(code, "scripted") }).unwrap()
}

fn three() -> [Vec<u8>; 3] {
    [content(1_000), content(70_000), content(16_384)]
}

// r[verify channel.pay_proven_only]
#[tokio::test(flavor = "multi_thread")]
async fn contents_come_in_order_and_what_the_node_lacks_is_an_error_in_its_place() {
    let scene = Scene::new().await;
    let [a, b, c] = three();
    let missing = ContentId::of(b"nobody has this");
    let ids = [ContentId::of(&a), missing, ContentId::of(&b), ContentId::of(&c), ContentId::of(b"")];
    let answer = [item(&a), refusal(RefusalCode::NotFound), item(&b), item(&c), item(b"")].concat();
    let fetched = scene.fetch(answer, &ids).await.unwrap();
    assert!(matches!(&fetched[1], Err(FetchError::NotFound { content }) if *content == missing));
    for (place, bytes) in [(0, &a), (2, &b), (3, &c), (4, &Vec::new())] {
        assert_eq!(fetched[place].as_ref().unwrap(), bytes, "{place}");
    }
    scene.assert_paid(a.len() + b.len() + c.len()).await;
    let seen = scene.node.seen();
    assert_eq!((seen.requests, seen.ends.len()), (1, 0), "one signature, and nothing to say about its end");
}

// r[verify content.verify.unproven]
// r[verify content.verify.first_error]
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_ends_the_fetch_and_only_what_came_before_is_paid() {
    let [a, b, c] = three();
    let ids = [ContentId::of(&a), ContentId::of(&b), ContentId::of(&c)];
    let head = item(&b).len() - b.len() - 64;
    // In a parent, in the first group, in the last.
    for place in [head + 5, head + 64 + 100, head + 64 + 69_000] {
        let scene = Scene::new().await;
        let mut broken = item(&b);
        broken[place] ^= 1;
        let error = scene.fetch([item(&a), broken, item(&c)].concat(), &ids).await.unwrap_err();
        let FetchError::Proof { proven, .. } = error else { panic!("{error}") };
        let before = a.len() + if place > head + 64 + 65_536 { 65_536 } else { 0 };
        assert_eq!(proven.get(), before as u64);
        scene.assert_paid(before).await;
        let seen = scene.node.wait_for(|seen| !seen.ends.is_empty()).await;
        assert_eq!(seen.ends[0].proven_bytes, before as u64, "the node learns what was proven");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_pays_for_what_it_brought() {
    let [a, b, c] = three();
    let ids = [ContentId::of(&a), ContentId::of(&b), ContentId::of(&c)];
    let whole = [item(&a), item(&b), item(&c)].concat();
    let first = item(&a).len();
    for (cut, paid) in [(0, 0), (3, 0), (first - 1, 0), (first, a.len()), (first + 2, a.len())] {
        let scene = Scene::new().await;
        let error = scene.fetch(whole[..cut].to_vec(), &ids).await.unwrap_err();
        assert!(matches!(error, FetchError::Proof { .. } | FetchError::Misbehaved { .. }), "{cut}: {error}");
        if paid > 0 {
            scene.assert_paid(paid).await;
        }
        assert_eq!(scene.agent.budget().spent(Spending::Vouchers).get(), price(paid));
    }
}

// r[verify request.head.checked]
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_lies_and_a_size_beyond_the_limit_are_refused_unpaid() {
    let [a, b, _] = three();
    let ids = [ContentId::of(&a), ContentId::of(&b)];
    let head = |size: u64, bytes: u64, price: u64| {
        let head =
            FetchHead { size: ByteCount::new(size), content_bytes: ByteCount::new(bytes), price: Amount::new(price) };
        encode_frame(&head).unwrap()
    };
    for (lie, too_large) in [
        (head(70_000, 70_000, price(70_000) + 1), false),
        (head(70_000, 69_999, price(70_000)), false),
        (head(2 << 20, 2 << 20, price(2 << 20)), true),
        (head(u64::MAX, u64::MAX, u64::MAX), false),
    ] {
        let scene = Scene::new().await;
        let error = scene.fetch([item(&a), lie].concat(), &ids).await.unwrap_err();
        match error {
            FetchError::TooLarge { size, limit } => assert!(too_large && size > limit && limit == 1 << 20),
            FetchError::Misbehaved { .. } => assert!(!too_large),
            other => panic!("{other}"),
        }
        scene.assert_paid(a.len()).await;
    }
}

// r[verify request.max_price]
#[tokio::test(flavor = "multi_thread")]
async fn the_most_that_all_may_cost_holds_over_all_requests() {
    let scene = Scene::new().await;
    let a = content(16_384);
    let ids = vec![ContentId::of(&a); 8];
    // One content a request, each with an honest head: the caps of single requests would let all eight pass.
    scene.node.follow(Script::RequestBytes(item(&a)));
    let fetch = scene.agent.fetch_many(&scene.node.address(), ids).in_flight(1);
    let error = fetch.max_price(Amount::new(3 * price(16_384))).to_bytes(1 << 20).await.unwrap_err();
    assert!(matches!(error, FetchError::PriceTooHigh { .. } | FetchError::Misbehaved { .. }), "{error}");
    scene.assert_paid(3 * 16_384).await;
}

// r[verify request.max_price]
#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_unit_that_small_contents_cost_are_added_up_before_they_are_rounded() {
    let scene = Scene::new().await;
    let a = content(1_024);
    let (ids, all) = (vec![ContentId::of(&a); 3], 3 * a.len());
    assert!(price(all) < 3 * price(a.len()), "each alone is rounded up");
    scene.node.follow(Script::RequestBytes(item(&a).repeat(3)));
    let fetch = scene.agent.fetch_many(&scene.node.address(), ids).max_price(Amount::new(price(all)));
    let (report, _) = fetch.to_bytes(1 << 20).await.unwrap();
    assert_eq!((report.fetched, report.paid.get()), (3, price(all)));
    scene.assert_paid(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_everything_is_the_fetchs_own_error() {
    let scene = Scene::new().await;
    let ids = vec![ContentId::of(b"a"), ContentId::of(b"b")];
    scene.node.follow(Script::Refuse(RefusalCode::OverCapacity, None));
    let error = scene.agent.fetch_many(&scene.node.address(), ids.clone()).to_bytes(100).await.unwrap_err();
    assert!(matches!(error, FetchError::Refused(_)), "{error}");
    scene.node.follow(Script::Refuse(RefusalCode::NotFound, None));
    let one = vec![ids[0]];
    let (report, fetched) = scene.agent.fetch_many(&scene.node.address(), one).to_bytes(100).await.unwrap();
    assert_eq!((report.refused, report.paid), (1, Amount::ZERO));
    assert!(matches!(fetched[0], Err(FetchError::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_channel_nothing_is_asked_of_a_node_that_wants_money() {
    let world = World::new().await;
    let key = SecretKey::from_bytes(&[42; 32]);
    world.register_node(&key, 900).await;
    let node = ScriptedNode::start(&world, &key, content(10), PER_MIB).await;
    let agent = world.agent(PER_MIB).await;
    let error = agent.fetch_many(&node.address(), vec![node.content_id()]).to_bytes(100).await.unwrap_err();
    assert!(matches!(error, FetchError::NoChannel { .. }), "{error}");
    assert_eq!(node.seen().requests, 0);
}

// r[verify channel.cancel.settle]
#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_is_dropped_pays_for_what_it_proved_and_says_so() {
    let scene = Scene::new().await;
    let (small, large) = (content(1_000), content(900_000));
    let ids = [ContentId::of(&small), ContentId::of(&large)];
    // More than the agent lets gather before it pays, and less than all.
    let mut answer = [item(&small), item(&large)].concat();
    answer.truncate(800_000);
    scene.node.follow(Script::RequestBytesAndStall(answer));
    tokio::select! {
        _ = scene.agent.fetch_many(&scene.node.address(), ids.to_vec()).to_bytes(1 << 20) => panic!("it came to an end"),
        _ = scene.node.wait_for(|seen| seen.paid() > 0) => {}
    }
    let seen = scene.node.wait_for(|seen| !seen.ends.is_empty()).await;
    let proven = seen.ends[0].proven_bytes;
    assert!((512 << 10..800_000).contains(&proven), "{proven}");
    scene.assert_paid(proven as usize).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_that_nobody_waits_for_share_vouchers_and_pay_to_the_unit() {
    let world = World::new().await;
    let key = SecretKey::from_bytes(&[42; 32]);
    world.register_node(&key, 900).await;
    let deposit = Amount::new(50 * PER_MIB);
    let wallet = world.wallet("agent", deposit.get()).await;
    let config = AgentConfig { credit_timeout_ms: 0, ..AgentConfig::default() };
    let agent = world.builder(wallet).config(config).build().await.unwrap();
    agent.wallet().deposit(deposit).await.unwrap();
    let _ = agent.open_channel(key.node_id(), deposit, None).await.unwrap();
    let node = ScriptedNode::start(&world, &key, content(20_000), PER_MIB).await;

    let mut fetches = tokio::task::JoinSet::new();
    for _ in 0..FETCHES {
        let fetch = agent.fetch(&node.address());
        fetches.spawn(fetch.to_bytes(1 << 20));
    }
    let mut reported = 0;
    while let Some(fetched) = fetches.join_next().await {
        let (report, bytes) = fetched.unwrap().unwrap();
        assert_eq!(bytes, content(20_000));
        reported += report.paid.get();
    }
    let due = price(FETCHES * 20_000);
    let seen = node.wait_for(|seen| seen.paid() >= due).await;
    assert_eq!((seen.paid(), reported), (due, due));
    assert!(seen.vouchers.len() < FETCHES, "{} vouchers", seen.vouchers.len());
    assert!(seen.vouchers.is_sorted_by(|a, b| a.voucher.cumulative < b.voucher.cumulative));
    assert_eq!(agent.budget().reserved(Spending::Vouchers), Amount::ZERO);
}

const FETCHES: usize = 40;
