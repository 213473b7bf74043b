//! What a hostile node can try, and what it gets: no unproven byte reaches the caller, nothing is paid beyond what was
//! proven, and the error says who did what.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use agent_client::{Agent, AgentConfig, FetchError, Misbehaviour, Spending};
use aro_proto::merkle::{ByteRanges, GroupSize, Step};
use aro_proto::message::{ChainIds, Message, NodeHello, PublishHead, VoucherOnWire};
use aro_proto::wire::encode_frame;
use aro_proto::{Amount, ByteCount, NodeAddress, RefusalCode, SecretKey, Tariff, error::close};
use support::scripted::{Script, ScriptedNode, content, garbage, too_long};
use support::world::World;

const PER_MIB: u64 = 1_000_000;
const KIB: usize = 1024;
/// Longer than all timeouts of a test together.
const HANG: Duration = Duration::from_secs(20);

struct Scene {
    world: World,
    agent: Agent,
    node: ScriptedNode,
}

impl Scene {
    async fn new(len: usize) -> Self {
        let world = World::new().await;
        let key = SecretKey::from_bytes(&[21; 32]);
        let (agent, _) = world.agent_with_channel(&key, 50 * PER_MIB).await;
        let node = ScriptedNode::start(&world, &key, content(len), PER_MIB).await;
        Self { world, agent, node }
    }

    /// A fetch from the beginning into a file that has an old content; after the error that content must stand, and beside
    /// it at most what is proven.
    async fn failing_fetch(&self) -> FetchError {
        let folder = self.world.path("out");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        std::fs::write(&path, b"before").unwrap();
        let error = self.agent.fetch(&self.node.address()).resume(false).to_file(&path).await.unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        let part = std::fs::read(folder.join("file.aro-part")).unwrap_or_default();
        if let FetchError::Proof { proven, .. } = &error {
            assert!(part.len() as u64 <= proven.get() && self.node.content().starts_with(&part));
        }
        error
    }
}

fn price(bytes: u64) -> u64 {
    Tariff { per_mib: PER_MIB }.price(ByteCount::new(bytes)).unwrap().get()
}

// r[verify content.verify.first_error]
// r[verify content.verify.unproven]
// r[verify channel.pay_proven_only]
#[tokio::test(flavor = "multi_thread")]
async fn a_bit_flipped_anywhere_is_found_within_its_group_and_not_paid() {
    let scene = Scene::new(300 * KIB + 7).await;
    let (encoding, steps) = scene.node.encoding(GroupSize::KIB64);
    let mut at = 0;
    let mut proven_in_all = 0;
    let mut before = 0;
    for (index, step) in steps.iter().enumerate() {
        let (len, group) = match step {
            Step::Parent(node) => (64, node.covers(scene.node.content().len() as u64).start / GroupSize::KIB64.bytes()),
            Step::Leaf { offset, len } => (*len as usize, offset / GroupSize::KIB64.bytes()),
        };
        for place in [0, len / 2, len - 1] {
            scene.node.follow(Script::FlipBit { byte: at + place, bit: (index % 8) as u8 });
            let ended = scene.node.seen().ends.len();
            let error = scene.failing_fetch().await;
            let FetchError::Proof { group: Some(named), offset, proven, node, .. } = error else {
                panic!("item {index}, byte {place}: {error}")
            };
            assert_eq!(named.get(), group, "item {index}");
            assert_eq!(offset, group * GroupSize::KIB64.bytes());
            assert_eq!(proven.get(), before, "nothing behind the first error is proven");
            assert_eq!(node, scene.node.address().node());
            proven_in_all += proven.get();
            let seen = scene.node.wait_for(|seen| seen.ends.len() > ended).await;
            assert_eq!(seen.ends.last().unwrap().proven_bytes, proven.get());
            assert_eq!(seen.paid(), price(proven_in_all), "paid for what was proven, to the unit");
        }
        at += len;
        if let Step::Leaf { len, .. } = step {
            before += u64::from(*len);
        }
    }
    assert_eq!(at, encoding.len());

    // The same connection still serves an honest answer.
    scene.node.follow(Script::Honest);
    let (report, bytes) = scene.agent.fetch(&scene.node.address()).to_bytes(1 << 20).await.unwrap();
    assert_eq!(bytes, scene.node.content());
    assert!(report.size_proven && report.acknowledged);
    assert_eq!(scene.node.seen().hellos, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_cut_short_is_refused() {
    let scene = Scene::new(200 * KIB).await;
    let len = scene.node.encoding(GroupSize::KIB64).0.len();
    for (at, proven) in [(0, 0), (63, 0), (64 + 64 + 64 * KIB, 64 * KIB), (len - 1, 192 * KIB)] {
        scene.node.follow(Script::CutAt(at));
        let error = scene.failing_fetch().await;
        let FetchError::Proof { group: Some(group), proven: got, .. } = error else { panic!("cut at {at}: {error}") };
        assert_eq!(got.get(), proven as u64);
        assert_eq!(group.get(), (proven / (64 * KIB)) as u64);
    }
}

// r[verify content.end.harmless]
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_the_end_of_an_answer_reaches_nobody_and_takes_nothing_back() {
    let scene = Scene::new(200 * KIB).await;
    let len = scene.node.encoding(GroupSize::KIB64).0.len();
    let path = scene.world.path("out");
    // One byte more, a batch more, and no end at all.
    for (fetched, script) in
        [Script::Append(1), Script::Append(300 * KIB), Script::StallAt(len)].into_iter().enumerate()
    {
        scene.node.follow(script.clone());
        let report = scene.agent.fetch(&scene.node.address()).to_file(&path).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == scene.node.content(), "{script:?}");
        assert!(report.size_proven && report.acknowledged, "{script:?}");
        assert_eq!(report.verified_bytes, 200 * KIB as u64);
        assert!(report.paid.get() <= price(200 * KIB as u64), "{script:?}");
        assert_eq!(scene.node.seen().paid(), price((fetched as u64 + 1) * 200 * KIB as u64), "{script:?}");
        std::fs::remove_file(&path).unwrap();
    }
    assert_eq!(scene.node.seen().ends, [], "nothing of it was disputed");
    assert_eq!(scene.node.seen().hellos, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_grants_no_streams_is_given_up_and_holds_up_nobody() {
    let world = World::new().await;
    let config = AgentConfig { connect_timeout_ms: 1_000, answer_timeout_ms: 1_000, ..AgentConfig::default() };
    let agent = world.builder(world.wallet("agent", 0).await).config(config).build().await.unwrap();
    for (streams, expected) in [(0, "greeting"), (1, "asking")] {
        let key = SecretKey::from_bytes(&[23 + streams as u8; 32]);
        let node = ScriptedNode::start_granting(streams, &world, &key, content(KIB), 0).await;
        let address = node.address();
        let fetches = async {
            tokio::join!(
                agent.fetch(&address).to_bytes(1 << 20),
                agent.fetch(&address).to_bytes(1 << 20),
                agent.quote(&address, ByteRanges::all()),
            )
        };
        let (one, other, quote) = tokio::time::timeout(HANG, fetches).await.expect("all are given up");
        for error in [one.unwrap_err(), other.unwrap_err(), quote.unwrap_err()] {
            assert!(matches!(error, FetchError::Timeout { doing, .. } if doing == expected), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_acknowledging_an_upload_is_given_up_though_bytes_have_left() {
    let world = World::new().await;
    let config = AgentConfig { stall_timeout_ms: 300, ..AgentConfig::default() };
    let agent = world.builder(world.wallet("agent", 0).await).config(config).build().await.unwrap();
    let node = ScriptedNode::start(&world, &SecretKey::from_bytes(&[25; 32]), content(KIB), 0).await;
    // One that leaves as a whole, and one that the node's window holds up.
    for len in [100 * KIB, 8 << 20] {
        let path = world.path("film");
        std::fs::write(&path, content(len)).unwrap();
        let content_bytes = ByteCount::new(len as u64);
        let head = PublishHead { missing: ByteRanges::all(), content_bytes, price: Amount::ZERO };
        node.follow(Script::RequestBytesAndStall(encode_frame(&head).unwrap()));
        let upload = agent.publish(&NodeAddress::from(&node.address()), &path).run();
        let error = tokio::time::timeout(HANG, upload).await.expect("it does not hang").unwrap_err();
        assert!(matches!(error, FetchError::Timeout { doing: "uploading", waited_ms: 300 }), "{error}");
    }
}

// r[verify request.head.checked]
// r[verify content.size.hint]
#[tokio::test(flavor = "multi_thread")]
async fn lies_in_the_head_cost_nothing() {
    let scene = Scene::new(100 * KIB).await;
    let right = price(100 * KIB as u64);
    for (script, expected) in [
        (Script::ContentBytes(100 * KIB as u64 + 1), "bills"),
        (Script::ContentBytes(0), "bills"),
        (Script::Price(right + 1), "tariff"),
        (Script::Price(right - 1), "tariff"),
        (Script::Price(0), "tariff"),
        (Script::Size(u64::MAX), "claims a content"),
        (Script::Size((1 << 44) + 1), "claims a content"),
    ] {
        scene.node.follow(script.clone());
        let error = scene.failing_fetch().await;
        let FetchError::Misbehaved { what, .. } = &error else { panic!("{script:?}: {error}") };
        assert!(what.to_string().contains(expected), "{what}");
    }
    scene.node.follow(Script::Size(1 << 44));
    let error = scene.failing_fetch().await;
    assert!(matches!(error, FetchError::DepositExhausted { .. }), "{error}");
    assert_eq!(scene.node.seen().vouchers, [], "nothing was proven, so nothing was paid");

    // A size within bounds is a claim that its last group refutes; groups before it hold whatever the size.
    let mut proven_in_all = 0;
    for (size, expected) in [(100 * KIB - 1, 64 * KIB), (100 * KIB + 1, 64 * KIB), (200 * KIB, 0), (1, 0), (0, 0)] {
        scene.node.follow(Script::Size(size as u64));
        let error = scene.failing_fetch().await;
        let FetchError::Proof { proven, .. } = error else { panic!("size {size}: {error}") };
        assert_eq!(proven.get(), expected as u64, "size {size}");
        proven_in_all += proven.get();
    }
    scene.node.wait_for(|seen| seen.paid() == price(proven_in_all)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_size_beyond_the_callers_limit_is_refused_before_anything_is_paid() {
    let scene = Scene::new(100 * KIB).await;
    let fetch = scene.agent.fetch(&scene.node.address());
    let error = fetch.to_bytes(100 * KIB as u64 - 1).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { size: 102_400, limit: 102_399 }), "{error}");
    assert_eq!(scene.node.seen().vouchers, []);
}

// r[verify identity.chain.before_money]
#[tokio::test(flavor = "multi_thread")]
async fn another_genesis_program_or_mint_is_refused_before_money_moves() {
    let ours = World::new().await.chain_ids().await;
    for (what, wrong) in [
        ("genesis hash", ChainIds { genesis_hash: [1; 32], ..ours }),
        ("settlement program", ChainIds { program: [1; 32], ..ours }),
        ("$ARO mint", ChainIds { mint: [1; 32], ..ours }),
    ] {
        let scene = Scene::new(100 * KIB).await;
        // Each world has a mint of its own; only the named part is to differ.
        let ids = scene.world.chain_ids().await;
        let wrong = ChainIds {
            genesis_hash: if what == "genesis hash" { wrong.genesis_hash } else { ids.genesis_hash },
            program: if what == "settlement program" { wrong.program } else { ids.program },
            mint: if what == "$ARO mint" { wrong.mint } else { ids.mint },
        };
        scene.node.follow(Script::Chain(wrong));
        let error = scene.failing_fetch().await;
        let FetchError::WrongChain { what: named, .. } = &error else { panic!("{error}") };
        assert_eq!(*named, what);
        assert!(!error.is_retryable());
        let seen = scene.node.wait_for(|seen| !seen.closes.is_empty()).await;
        assert_eq!(seen.closes, [u64::from(close::WRONG_CHAIN)]);
        assert_eq!(seen.vouchers, []);
    }
}

// r[verify identity.node.pinned]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_key_is_refused_in_the_handshake() {
    let scene = Scene::new(1).await;
    let address = scene.node.address_as(SecretKey::from_bytes(&[22; 32]).node_id());
    let error = scene.agent.fetch(&address).to_bytes(10).await.unwrap_err();
    assert!(matches!(error, FetchError::WrongNodeKey { .. }), "{error}");
    assert_eq!(scene.node.seen().hellos, 0, "the handshake did not complete");
}

// r[verify framing.length]
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_cannot_be_read_close_the_connection() {
    let scene = Scene::new(100 * KIB).await;
    let cut = garbage(NodeHello::KIND)[..20].to_vec();
    for bytes in [too_long(), garbage(NodeHello::KIND), garbage(0x77), vec![0; 5]] {
        scene.node.follow(Script::ControlBytes(bytes));
        let closes = scene.node.seen().closes.len();
        let error = scene.failing_fetch().await;
        assert!(matches!(error, FetchError::Misbehaved { what: Misbehaviour::Frame(_), .. }), "{error}");
        let seen = scene.node.wait_for(|seen| seen.closes.len() > closes).await;
        assert_eq!(seen.closes.last(), Some(&u64::from(close::PROTOCOL)));
    }
    for bytes in [too_long(), garbage(0x23), garbage(0x3f), garbage(0x77), cut, vec![0; 5]] {
        scene.node.follow(Script::RequestBytes(bytes));
        let closes = scene.node.seen().closes.len();
        let error = scene.failing_fetch().await;
        assert!(matches!(error, FetchError::Misbehaved { what: Misbehaviour::Frame(_), .. }), "{error}");
        let seen = scene.node.wait_for(|seen| seen.closes.len() > closes).await;
        assert_eq!(seen.closes.last(), Some(&u64::from(close::PROTOCOL)));
    }
    // An empty answer is no frame at all.
    scene.node.follow(Script::RequestBytes(Vec::new()));
    let error = scene.failing_fetch().await;
    assert!(matches!(error, FetchError::Misbehaved { what: Misbehaviour::Ended(_), .. }), "{error}");
    assert_eq!(scene.node.seen().vouchers, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_given_up_and_paid_only_what_it_proved() {
    let scene = Scene::new(300 * KIB).await;
    let config = AgentConfig { answer_timeout_ms: 300, stall_timeout_ms: 300, ..AgentConfig::default() };
    let wallet = scene.world.wallet("hasty", 50 * PER_MIB).await;
    let hasty = scene.world.builder(wallet).config(config).build().await.unwrap();
    hasty.wallet().deposit(Amount::new(50 * PER_MIB)).await.unwrap();
    let _ = hasty.open_channel(scene.node.address().node(), Amount::new(50 * PER_MIB), None).await.unwrap();

    // Root pair, next pair, next pair, then the first leaf and a half.
    scene.node.follow(Script::StallAt(3 * 64 + 96 * KIB));
    let error = hasty.fetch(&scene.node.address()).to_bytes(1 << 20).await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout { doing: "receiving", .. }), "{error}");
    assert!(error.is_retryable());
    let seen = scene.node.wait_for(|seen| !seen.ends.is_empty()).await;
    assert_eq!(seen.ends[0].proven_bytes, 64 * KIB as u64);
    assert_eq!(seen.paid(), price(64 * KIB as u64));

    hasty.close().await;
    scene.node.follow(Script::NoHello);
    let error = hasty.fetch(&scene.node.address()).to_bytes(1 << 20).await.unwrap_err();
    assert!(matches!(error, FetchError::Timeout { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_resets_for_want_of_payment_is_told_apart_from_one_that_just_resets() {
    let scene = Scene::new(300 * KIB).await;
    scene.node.follow(Script::ResetAt(1000, close::UNPAID));
    let error = scene.failing_fetch().await;
    assert_eq!(error.code(), "Unpaid");
    scene.node.follow(Script::ResetAt(1000, 77));
    let error = scene.failing_fetch().await;
    assert!(matches!(error, FetchError::Misbehaved { what: Misbehaviour::Reset(77), .. }), "{error}");
}

/// As the channels of one owner do that together have used up what a node lends them.
// r[verify channel.pay_proven_only]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_window_others_fill_is_paid_what_is_proven_when_nothing_more_comes() {
    let scene = Scene::new(700 * KIB).await;
    // Less than the half quantum that an agent lets gather.
    scene.node.follow(Script::Lends(400 * KIB as u64));
    let (report, bytes) = scene.agent.fetch(&scene.node.address()).to_bytes(1 << 20).await.unwrap();
    assert!(bytes == scene.node.content());
    let vouchers = scene.node.seen().vouchers;
    assert!((2..=4).contains(&vouchers.len()), "{vouchers:?}");
    assert!(vouchers[0].voucher.cumulative.get() < price(400 * KIB as u64));
    assert_eq!(report.paid.get(), price(700 * KIB as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_acknowledges_gets_the_last_voucher_again_and_no_second_one() {
    let scene = Scene::new(100 * KIB).await;
    let config = AgentConfig { credit_timeout_ms: 200, ..AgentConfig::default() };
    let wallet = scene.world.wallet("hasty", 50 * PER_MIB).await;
    let hasty = scene.world.builder(wallet).config(config).build().await.unwrap();
    hasty.wallet().deposit(Amount::new(50 * PER_MIB)).await.unwrap();
    let _ = hasty.open_channel(scene.node.address().node(), Amount::new(50 * PER_MIB), None).await.unwrap();

    scene.node.follow(Script::NoCredit);
    let (report, bytes) = hasty.fetch(&scene.node.address()).to_bytes(1 << 20).await.unwrap();
    assert_eq!(bytes, scene.node.content());
    assert!(!report.acknowledged);
    hasty.close().await;

    // The node lost it: it shows no watermark, and the very same voucher comes first.
    scene.node.follow(Script::Honest);
    let fetch = hasty.fetch(&scene.node.address()).ranges(ByteRanges::single(0, 1).unwrap());
    let _ = fetch.to_bytes(1).await.unwrap();
    let vouchers = scene.node.wait_for(|seen| seen.vouchers.len() == 3).await.vouchers;
    assert_eq!(vouchers[0], vouchers[1]);
    assert!(vouchers[2].voucher.cumulative > vouchers[1].voucher.cumulative);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_reach_the_caller_as_distinct_errors_with_their_amounts() {
    let scene = Scene::new(100 * KIB).await;
    for (code, amount, expected) in [
        (RefusalCode::NotFound, None, "NotFound"),
        (RefusalCode::PriceTooHigh, Some(u64::MAX), "BudgetExceeded"),
        (RefusalCode::DepositExhausted, Some(5), "DepositExhausted"),
        (RefusalCode::OverCapacity, None, "OverCapacity"),
        (RefusalCode::Unpaid, Some(5), "Unpaid"),
        (RefusalCode::BadRequest, None, "BadRequest"),
        (RefusalCode::Internal, None, "Internal"),
    ] {
        scene.node.follow(Script::Refuse(code, amount));
        let fetch = scene.agent.fetch(&scene.node.address()).budget(Amount::new(7));
        let error = fetch.to_bytes(1 << 20).await.unwrap_err();
        assert_eq!(error.code(), expected, "{error}");
        assert_eq!(error.amount().map(Amount::get), amount);
        assert!(!error.next_step().is_empty());
    }
    assert_eq!(scene.node.seen().vouchers, []);
    assert_eq!(scene.node.seen().hellos, 1, "a refusal costs no connection");
}

// r[verify channel.reconcile]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cooks_its_books_gets_nothing() {
    let bogus = VoucherOnWire { cumulative: Amount::new(5), expires_at: 0, signature: [3; 64] };
    for (script, expected) in [
        (Script::Watermark(bogus), "never signed"),
        (Script::Billed(u128::from(20 * PER_MIB) << 20), "bills"),
        (Script::OtherChannelBound, "another channel"),
    ] {
        let scene = Scene::new(100 * KIB).await;
        scene.node.follow(script.clone());
        let error = scene.failing_fetch().await;
        let FetchError::Misbehaved { what, .. } = &error else { panic!("{script:?}: {error}") };
        assert!(what.to_string().contains(expected), "{what}");
        assert_eq!(scene.node.seen().vouchers, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_of_what_was_never_signed_breaks_the_session() {
    let scene = Scene::new(3 * 1024 * KIB).await;
    scene.node.follow(Script::CreditAbove(1));
    let error = scene.failing_fetch().await;
    assert!(matches!(error, FetchError::Misbehaved { what: Misbehaviour::Credit(_), .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_voucher_or_goodbye_is_told_with_its_reason() {
    let scene = Scene::new(3 * 1024 * KIB).await;
    scene.node.follow(Script::PayRefused(RefusalCode::VoucherBadSignature));
    assert_eq!(scene.failing_fetch().await.code(), "VoucherBadSignature");
    scene.node.follow(Script::GoAway(RefusalCode::ShuttingDown));
    assert_eq!(scene.failing_fetch().await.code(), "ShuttingDown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_that_the_node_could_not_keep_goes_out_again_a_few_times() {
    let scene = Scene::new(100 * KIB).await;
    scene.node.follow(Script::PayRefusedFirst(RefusalCode::Internal, 3));
    let (report, bytes) = scene.agent.fetch(&scene.node.address()).to_bytes(1 << 20).await.unwrap();
    assert_eq!((bytes, report.acknowledged), (scene.node.content(), true));
    let vouchers = scene.node.seen().vouchers;
    assert_eq!(vouchers, [vouchers[0]; 4], "the very same bytes each time");

    let scene = Scene::new(3 * 1024 * KIB).await;
    scene.node.follow(Script::PayRefused(RefusalCode::Internal));
    assert_eq!(scene.failing_fetch().await.code(), "Internal");
    let vouchers = scene.node.seen().vouchers;
    let highest = vouchers.iter().map(|signed| signed.voucher.cumulative).max();
    assert_eq!(vouchers.iter().filter(|signed| Some(signed.voucher.cumulative) == highest).count(), 4);
}

// r[verify channel.pay_proven_only]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_proven_when_the_connection_died_is_signed_and_shown_to_the_node_at_the_next() {
    let scene = Scene::new(700 * KIB).await;
    scene.node.follow(Script::StallAt(450 * KIB));
    let (at, mut reached) = tokio::sync::mpsc::unbounded_channel();
    let (go_on, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let fetch = scene.agent.fetch(&scene.node.address()).progress(move |progress| {
        at.send(progress.proven_bytes).unwrap();
        // Held up here, the request outlives its connection.
        tokio::task::block_in_place(|| gate.lock().unwrap().recv_timeout(HANG).unwrap_or(()));
    });
    let fetch = tokio::spawn(fetch.to_bytes(1 << 20));
    let proven = reached.recv().await.unwrap();
    assert_eq!(scene.node.seen().vouchers, [], "less than a payment step");
    scene.node.hang_up();
    let budget = scene.agent.budget().clone();
    let deadline = Instant::now() + Duration::from_secs(10);
    while budget.spent(Spending::Vouchers).get() != price(proven) || budget.reserved(Spending::Vouchers).get() != 0 {
        let held = (budget.spent(Spending::Vouchers), budget.reserved(Spending::Vouchers));
        assert!(Instant::now() < deadline, "{held:?} for {proven} bytes");
        tokio::task::yield_now().await;
    }

    go_on.send(()).unwrap();
    let error = fetch.await.unwrap().unwrap_err();
    assert!(matches!(error, FetchError::Unreachable { .. }), "{error}");
    scene.agent.close().await;
    let signed = scene.agent.channels().await.unwrap()[0].signed.get();
    let groups = (proven / (64 * KIB as u64)..=7).map(|groups| price(groups * 64 * KIB as u64));
    assert!(groups.into_iter().any(|price| price == signed), "{signed} are whole groups");
    assert_eq!(budget.reserved(Spending::Vouchers), Amount::ZERO);
    assert_eq!(scene.node.seen().vouchers, [], "nothing could be sent");

    scene.node.follow(Script::Honest);
    let fetch = scene.agent.fetch(&scene.node.address()).ranges(ByteRanges::single(0, 1).unwrap());
    let _ = fetch.to_bytes(1).await.unwrap();
    assert_eq!(scene.node.seen().vouchers[0].voucher.cumulative.get(), signed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_the_node_does_not_take_is_named() {
    let scene = Scene::new(100 * KIB).await;
    scene.node.follow(Script::BindRefused(RefusalCode::ChannelUnusable));
    let error = scene.failing_fetch().await;
    let FetchError::ChannelUnusable { channel } = error else { panic!("{error}") };
    assert_eq!(channel, scene.agent.channels().await.unwrap()[0].channel);
    assert!(error.next_step().contains("aro channel close"));
}

// r[verify pricing.quote.checked]
#[tokio::test(flavor = "multi_thread")]
async fn a_quote_counts_only_if_signed_by_the_node_and_right() {
    let scene = Scene::new(100 * KIB).await;
    let quote = scene.agent.quote(&scene.node.address(), ByteRanges::all()).await.unwrap();
    assert_eq!(quote.price.get(), price(100 * KIB as u64));
    for script in [Script::QuoteKey, Script::QuotePrice(1)] {
        scene.node.follow(script);
        let error = scene.agent.quote(&scene.node.address(), ByteRanges::all()).await.unwrap_err();
        assert!(matches!(error, FetchError::Misbehaved { what: Misbehaviour::Quote, .. }), "{error}");
    }
}
