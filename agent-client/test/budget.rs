//! The budget at work: caps by class and request, dry runs, approvals, several handles on one wallet, and the account.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agent_client::{
    Agent, AgentConfig, Approval, Approver, By, Cap, Check, Entry, EntryKind, FetchError, LedgerError, MoneyError,
    Policy, Preference, Spending, TreeError, Wallet, WalletError,
};
use aro_proto::manifest::{Entry as MadeOf, SignedManifest};
use aro_proto::merkle::ByteRanges;
use aro_proto::{Amount, ByteCount, ContentId, NodeAddress, SecretKey, Tariff};
use async_trait::async_trait;
use support::scripted::{Script, ScriptedNode, content};
use support::world::World;

const PER_MIB: u64 = 1_000_000;
const MIB: usize = 1 << 20;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32])
}

fn units(value: u64) -> Amount {
    Amount::new(value)
}

/// An agent under a policy with an open channel to a node that has one MiB, which costs [`PER_MIB`].
async fn scene(policy: Policy) -> (World, Agent, ScriptedNode) {
    let world = World::new().await;
    world.register_node(&key(51), 900).await;
    let wallet = world.wallet("agent", 100 * PER_MIB).await;
    policy.save(wallet.dir()).unwrap();
    let agent = world.builder(wallet).build().await.unwrap();
    agent.wallet().deposit(units(100 * PER_MIB)).await.unwrap();
    let _ = agent.open_channel(key(51).node_id(), units(20 * PER_MIB), None).await.unwrap();
    let node = ScriptedNode::start(&world, &key(51), content(MIB), PER_MIB).await;
    (world, agent, node)
}

fn entries(wallet: &Wallet) -> Vec<Entry> {
    let mut all = Vec::new();
    wallet
        .entries(0, |entry| {
            all.push(entry);
            Ok::<(), LedgerError>(())
        })
        .unwrap();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fetch_is_in_the_account_and_a_class_keeps_to_its_cap() {
    let classes = BTreeMap::from([("films".to_owned(), units(2 * PER_MIB))]);
    let (world, agent, node) = scene(Policy { classes, ..Policy::default() }).await;
    let fetch = || agent.fetch(&node.address());
    for _ in 0..2 {
        let _ = fetch().class("films").to_bytes(u64::MAX).await.unwrap();
    }
    let FetchError::BudgetExceeded(refused) = fetch().class("films").to_bytes(u64::MAX).await.unwrap_err() else {
        panic!("the class has a cap")
    };
    assert_eq!((refused.cap, refused.left, refused.sufficient), (Cap::Class, units(0), units(3 * PER_MIB)));
    let part = ByteRanges::single(0, 16_384).unwrap();
    let _ = fetch().ranges(part.clone()).to_bytes(u64::MAX).await.unwrap();
    agent.close().await;

    let other = Wallet::open(&world.path("agent")).unwrap();
    let entries = entries(&other);
    let seen: Vec<_> = entries.iter().map(|entry| (entry.bytes, entry.class.as_str(), entry.kind)).collect();
    let whole = MIB as u64;
    assert_eq!(
        seen,
        [(whole, "films", EntryKind::Fetch), (whole, "films", EntryKind::Fetch), (16_384, "", EntryKind::Fetch)]
    );
    assert_eq!(entries[2].ranges, Some(part));
    let paid = entries.iter().fold(0, |sum, entry| sum + entry.amount.get());
    assert_eq!(paid, agent.budget().spent(Spending::Vouchers).get());
    assert_eq!(paid, node.seen().paid());
    assert!(entries.iter().all(|entry| entry.check() == Check::Unsigned && entry.channel.is_some()));
    let totals = other.totals(0, By::Content).unwrap();
    assert_eq!(totals.iter().map(|totals| totals.amount.get()).sum::<u64>(), paid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_it_would_cost_and_spends_nothing() {
    let policy = Policy { total: Some(units(3 * PER_MIB / 2)), ask_above: Some(units(5)), ..Policy::default() };
    let (_world, agent, node) = scene(Policy { deposits: Some(units(50 * PER_MIB)), ask_above: None, ..policy }).await;
    let tried = agent.fetch(&node.address()).dry_run().await.unwrap();
    assert_eq!((tried.price, tried.content_bytes, tried.allowed), (units(PER_MIB), MIB as u64, true));
    assert_eq!(
        (tried.caps[0].cap, tried.caps[0].left, tried.caps[0].allows),
        (Cap::Total, units(3 * PER_MIB / 2), true)
    );
    assert_eq!(tried.deposit_left, Some(units(20 * PER_MIB)));
    let _ = agent.fetch(&node.address()).to_bytes(u64::MAX).await.unwrap();
    let tried = agent.fetch(&node.address()).budget(units(7)).dry_run().await.unwrap();
    let said: Vec<_> = tried.caps.iter().map(|verdict| (verdict.cap, verdict.left.get(), verdict.allows)).collect();
    assert_eq!(said, [(Cap::Request, 7, false), (Cap::Total, PER_MIB / 2, false)]);
    assert!(!tried.allowed);
    assert_eq!(node.seen().paid(), PER_MIB, "nothing was paid for being asked");
    assert_eq!(agent.budget().reserved(Spending::Vouchers), Amount::ZERO);
}

struct Clerk {
    says_yes: AtomicBool,
    /// To no more than this.
    up_to: AtomicU64,
    asked: AtomicU64,
    times: AtomicU64,
}

impl Default for Clerk {
    fn default() -> Self {
        let (asked, times) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { says_yes: AtomicBool::new(false), up_to: AtomicU64::new(u64::MAX), asked, times }
    }
}

#[async_trait]
impl Approver for Clerk {
    async fn approve(&self, approval: &Approval) -> bool {
        self.asked.fetch_add(approval.amount.get(), Ordering::Relaxed);
        self.times.fetch_add(1, Ordering::Relaxed);
        self.says_yes.load(Ordering::Relaxed) && approval.amount.get() <= self.up_to.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_above_the_threshold_is_asked_about_before_anything_is_signed() {
    let (world, agent, node) = scene(Policy::default()).await;
    let (agent, clerk) = asking(&world, agent, PER_MIB - 1).await;
    let error = agent.fetch(&node.address()).to_bytes(u64::MAX).await.unwrap_err();
    assert!(matches!(error, FetchError::NotApproved(refused) if refused.amount == units(PER_MIB)), "{error}");
    assert_eq!((clerk.asked.load(Ordering::Relaxed), node.seen().paid()), (PER_MIB, 0));
    let error = agent.top_up(agent.channels().await.unwrap()[0].channel, units(PER_MIB)).await.unwrap_err();
    assert!(matches!(error, MoneyError::NotApproved(_)), "{error}");
    assert_eq!(agent.budget().reserved(Spending::Deposits), Amount::ZERO);

    clerk.says_yes.store(true, Ordering::Relaxed);
    let (report, _) = agent.fetch(&node.address()).to_bytes(u64::MAX).await.unwrap();
    assert_eq!(report.paid, units(PER_MIB));
    let asked = clerk.asked.load(Ordering::Relaxed);
    let little = ByteRanges::single(0, 16_384).unwrap();
    let _ = agent.fetch(&node.address()).ranges(little).to_bytes(u64::MAX).await.unwrap();
    assert_eq!(clerk.asked.load(Ordering::Relaxed), asked, "nobody is asked about little");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_contents_are_asked_about_by_what_the_node_wants_for_all_of_them() {
    let (world, agent, node) = scene(Policy::default()).await;
    let (agent, clerk) = asking(&world, agent, PER_MIB / 2).await;
    let contents: Vec<Vec<u8>> = (0..4_u8).map(|i| vec![i; MIB / 4]).collect();
    contents.iter().for_each(|bytes| node.also_has(bytes));
    let ids: Vec<_> = contents.iter().map(|bytes| ContentId::of(bytes)).collect();
    // Two requests, whose prices are known before either is paid.
    let fetch = |ids: &[ContentId]| agent.fetch_many(&node.address(), ids.to_vec()).in_flight(4);
    let error = fetch(&ids).to_bytes(u64::MAX).await.unwrap_err();
    assert!(matches!(error, FetchError::NotApproved(refused) if refused.amount == units(PER_MIB)), "{error}");
    assert_eq!((clerk.asked.load(Ordering::Relaxed), node.seen().paid()), (PER_MIB, 0));
    let error = fetch(&ids).max_price(units(PER_MIB - 1)).to_bytes(u64::MAX).await.unwrap_err();
    assert!(matches!(error, FetchError::PriceTooHigh { price, .. } if price == units(PER_MIB)), "{error}");
    assert_eq!(clerk.asked.load(Ordering::Relaxed), PER_MIB, "nobody is asked about what is not allowed anyway");

    clerk.says_yes.store(true, Ordering::Relaxed);
    let (report, fetched) = fetch(&ids).to_bytes(u64::MAX).await.unwrap();
    assert_eq!((report.fetched, report.paid, report.requests), (4, units(PER_MIB), 2));
    assert!(fetched.iter().zip(&contents).all(|(fetched, bytes)| fetched.as_ref().unwrap() == bytes));
    let asked = clerk.asked.load(Ordering::Relaxed);
    let _ = fetch(&ids[..2]).to_bytes(u64::MAX).await.unwrap();
    assert_eq!(clerk.asked.load(Ordering::Relaxed), asked, "nobody is asked about little");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_nodes_the_dearest_is_approved_and_none_may_raise_its_price_after_that() {
    let (world, agent, node) = scene(Policy::default()).await;
    let (agent, clerk) = asking(&world, agent, 10).await;
    clerk.says_yes.store(true, Ordering::Relaxed);
    let mut others = Vec::new();
    for (seed, per_mib) in [(52, PER_MIB * 3 / 2), (53, 9 * PER_MIB)] {
        world.register_node(&key(seed), 900).await;
        others.push(ScriptedNode::start(&world, &key(seed), content(MIB), per_mib).await);
    }
    let addresses = others.iter().map(|node| NodeAddress::from(&node.address()));
    let fetch = agent.fetch(&node.address()).sources(addresses).prefer(Preference::Fastest);
    let (report, _) = fetch.max_price(units(2 * PER_MIB)).to_bytes(u64::MAX).await.unwrap();
    // The dearest of all is above what the caller allows, and so not what is asked about.
    assert_eq!(clerk.asked.load(Ordering::Relaxed), PER_MIB * 3 / 2);
    assert!(report.paid <= units(PER_MIB * 3 / 2), "{report:?}");
}

/// Files of a tree, all different, and the manifest of them.
fn tree(count: u16, len: usize) -> (Vec<Vec<u8>>, Vec<u8>) {
    let files: Vec<Vec<u8>> = (0..count).map(|number| number.to_le_bytes().repeat(len / 2)).collect();
    let entry = |(number, bytes): (usize, &Vec<u8>)| MadeOf {
        name: format!("{number}").parse().unwrap(),
        content: ContentId::of(bytes),
        size: bytes.len() as u64,
        media_type: None,
        executable: false,
    };
    let manifest = SignedManifest::sign(files.iter().enumerate().map(entry).collect(), &key(90)).unwrap();
    (files, manifest.to_bytes())
}

/// The same agent again, with somebody to ask above a threshold.
async fn asking(world: &World, agent: Agent, above: u64) -> (Agent, Arc<Clerk>) {
    agent.close().await;
    drop(agent);
    let clerk = Arc::new(Clerk::default());
    let policy = Policy { ask_above: Some(units(above)), ..Policy::default() };
    let wallet = Wallet::open(&world.path("agent")).unwrap();
    let builder = world.builder(wallet).policy(policy).approver(Arc::clone(&clerk) as Arc<dyn Approver>);
    (builder.build().await.unwrap(), clerk)
}

fn price(per_mib: u64, bytes: usize) -> u64 {
    Tariff { per_mib }.price(ByteCount::new(bytes as u64)).unwrap().get()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_many_small_files_is_asked_about_once_and_as_a_whole() {
    let (world, agent, node) = scene(Policy::default()).await;
    let (files, manifest) = tree(300, 1_000);
    // Each request for some of them is below it.
    let (agent, clerk) = asking(&world, agent, price(PER_MIB, 200_000)).await;
    files.iter().for_each(|bytes| node.also_has(bytes));
    node.also_has(&manifest);
    let address = NodeAddress::from(&node.address()).with_content(ContentId::of(&manifest));
    let fetch = |target: &str| agent.fetch_tree(&address).to_folder(world.path(target));
    let error = fetch("first").await.unwrap_err();
    let whole = units(price(PER_MIB, 300_000 + manifest.len()));
    let TreeError::Fetch(FetchError::NotApproved(refused)) = error else { panic!("{error}") };
    assert_eq!((refused.amount, clerk.asked.load(Ordering::Relaxed)), (whole, whole.get()));
    let seen = node.wait_for(|seen| seen.paid() > 0).await;
    assert_eq!(seen.paid(), price(PER_MIB, manifest.len()), "the manifest says what the rest costs");

    clerk.says_yes.store(true, Ordering::Relaxed);
    let report = fetch("first").await.unwrap();
    assert!((whole.get() - 1..=whole.get()).contains(&report.paid.get()), "{report:?}");
    assert_eq!(clerk.times.load(Ordering::Relaxed), 2, "and about no part of it");
    let _ = fetch("first").await.unwrap();
    assert_eq!(clerk.times.load(Ordering::Relaxed), 2, "nobody is asked about what is there");
    let little = agent.fetch_tree(&address).max_price(units(1_000)).to_folder(world.path("second")).await;
    assert!(matches!(little, Err(TreeError::PriceTooHigh { .. } | TreeError::Fetch(_))), "{little:?}");
    assert_eq!(clerk.times.load(Ordering::Relaxed), 2, "nobody is asked about what is not allowed anyway");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_becomes_dearer_than_approved_is_asked_about_again() {
    for says_yes_again in [true, false] {
        let (world, agent, node) = scene(Policy::default()).await;
        world.register_node(&key(52), 900).await;
        let dear = ScriptedNode::start(&world, &key(52), content(MIB), 3 * PER_MIB).await;
        let _ = agent.open_channel(key(52).node_id(), units(20 * PER_MIB), None).await.unwrap();
        let (files, manifest) = tree(400, 10_000);
        let (agent, clerk) = asking(&world, agent, PER_MIB).await;
        files.iter().chain([&manifest]).for_each(|bytes| [&node, &dear].iter().for_each(|node| node.also_has(bytes)));
        let address = NodeAddress::from(&node.address()).with_content(ContentId::of(&manifest));
        let first = price(PER_MIB, 4_000_000 + manifest.len());
        // More than twice as dear as the other, it is asked only once that one is gone.
        node.follow(Script::DiesAfter(1_500_000));
        clerk.says_yes.store(true, Ordering::Relaxed);
        clerk.up_to.store(if says_yes_again { u64::MAX } else { first }, Ordering::Relaxed);
        let fetch = agent.fetch_tree(&address).also_from([NodeAddress::from(&dear.address())]);
        let fetched = fetch.to_folder(world.path("target")).await;
        let (in_all, times) = (clerk.asked.load(Ordering::Relaxed), clerk.times.load(Ordering::Relaxed));
        assert!(times >= 2 && in_all > 2 * first, "{in_all} after {first}: {fetched:?}");
        let spent = agent.budget().spent(Spending::Vouchers).get();
        if says_yes_again {
            let report = fetched.unwrap();
            // Each of the two channels is rounded up by itself.
            let approved = in_all - first + 1;
            assert!(report.paid.get() > first && report.paid.get() <= approved, "{report:?} of {approved}");
            assert_eq!(spent, report.paid.get());
        } else {
            assert!(matches!(fetched, Err(TreeError::Fetch(FetchError::NotApproved(_)))), "{fetched:?}");
            assert!(spent <= first + 1, "{spent} of {first}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fetches_at_once_come_or_are_refused_before_the_node_sends_anything() {
    let (total, deposits) = (Some(units(5 * PER_MIB)), Some(units(50 * PER_MIB)));
    let (_world, agent, node) = scene(Policy { total, deposits, ..Policy::default() }).await;
    let mut fetches = tokio::task::JoinSet::new();
    for _ in 0..12 {
        fetches.spawn(agent.fetch(&node.address()).to_bytes(u64::MAX));
    }
    let (mut came, mut refused) = (0, 0);
    while let Some(fetched) = fetches.join_next().await {
        match fetched.unwrap() {
            Ok(_) => came += 1,
            Err(FetchError::BudgetExceeded(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    // To the unit: what the first ones guessed is free again when the last ones need it.
    assert_eq!((came, refused), (5, 7));
    let seen = node.wait_for(|seen| seen.paid() >= 5 * PER_MIB).await;
    assert_eq!((seen.paid(), seen.ends.len()), (5 * PER_MIB, 0), "nothing was cut off");
    assert_eq!(agent.budget().reserved(Spending::Vouchers), Amount::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_on_one_wallet_fetch_from_their_nodes_at_once_and_take_turns_at_one() {
    let (world, first, node) =
        scene(Policy { total: Some(units(5 * PER_MIB)), deposits: Some(units(50 * PER_MIB)), ..Policy::default() })
            .await;
    world.register_node(&key(52), 900).await;
    let other_node = ScriptedNode::start(&world, &key(52), content(MIB), PER_MIB).await;
    let wallet = || Wallet::open(&world.path("agent")).unwrap();
    let second = world.builder(wallet()).build().await.unwrap();
    let _ = second.open_channel(key(52).node_id(), units(20 * PER_MIB), None).await.unwrap();
    let (one, two) = tokio::join!(
        first.fetch(&node.address()).to_bytes(u64::MAX),
        second.fetch(&other_node.address()).to_bytes(u64::MAX)
    );
    assert_eq!((one.unwrap().0.paid, two.unwrap().0.paid), (units(PER_MIB), units(PER_MIB)));

    let config = AgentConfig { channel_wait_ms: 50, ..AgentConfig::default() };
    let hasty = world.builder(wallet()).config(config).build().await.unwrap();
    let error = hasty.fetch(&node.address()).to_bytes(u64::MAX).await.unwrap_err();
    let FetchError::Wallet(why) = &error else { panic!("{error}") };
    assert!(matches!(**why, WalletError::ChannelInUse(_)) && error.is_retryable(), "{error}");
    first.close().await;
    drop(first);
    // As soon as the other lets go, which its last task does.
    let (report, _) = second.fetch(&node.address()).to_bytes(u64::MAX).await.unwrap();
    assert_eq!(report.paid, units(PER_MIB));
    assert_eq!(second.budget().spent(Spending::Vouchers), units(3 * PER_MIB));
    assert_eq!(node.seen().paid(), 2 * PER_MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_is_not_locked_any_more() {
    use settlement_chain::ChainClient;
    let policy = Policy { deposits: Some(units(20 * PER_MIB)), ..Policy::default() };
    let (world, agent, _node) = scene(policy).await;
    let channel = agent.channels().await.unwrap()[0].channel;
    assert!(matches!(agent.top_up(channel, units(1)).await, Err(MoneyError::Budget(_))));
    let _ = agent.request_close(channel).await.unwrap();
    let deadline = agent.channels().await.unwrap()[0].deadline.unwrap();
    world.chain.warp_clock(deadline);
    assert_eq!(world.chain.clock().await.unwrap(), deadline);
    let _ = agent.reclaim(channel).await.unwrap();
    assert_eq!(agent.budget().spent(Spending::Deposits), Amount::ZERO);
    let _ = agent.open_channel(key(51).node_id(), units(20 * PER_MIB), None).await.unwrap();
}
