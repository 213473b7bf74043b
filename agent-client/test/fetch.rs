//! Fetching from a node that keeps to the protocol: every size and range, paid to the unit, within every cap.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::sync::{Arc, Mutex};

use agent_client::{Agent, FetchError, Progress, Spending};
use aro_proto::merkle::ByteRanges;
use aro_proto::{Amount, ByteCount, SecretKey, Tariff};
use support::scripted::{ScriptedNode, content};
use support::world::World;

const PER_MIB: u64 = 1_000_003;
const MIB: usize = 1 << 20;

fn key() -> SecretKey {
    SecretKey::from_bytes(&[31; 32])
}

fn price(bytes: u64) -> u64 {
    Tariff { per_mib: PER_MIB }.price(ByteCount::new(bytes)).unwrap().get()
}

async fn scene(len: usize) -> (World, Agent, ScriptedNode) {
    let world = World::new().await;
    let (agent, _) = world.agent_with_channel(&key(), 100 * PER_MIB).await;
    let node = ScriptedNode::start(&world, &key(), content(len), PER_MIB).await;
    (world, agent, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_of_awkward_sizes_arrive_whole_and_paid_to_the_unit() {
    let (world, agent, node) = scene(0).await;
    let mut total = 0;
    for len in [0, 1, 1023, 1024, 1025, 16384, 65535, 65536, 65537, MIB - 1, MIB, MIB + 1] {
        node.store(content(len));
        let path = world.path("out");
        let report = agent.fetch(&node.address()).to_file(&path).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), node.content(), "{len} bytes");
        assert!(report.size_proven && report.acknowledged);
        let len = len as u64;
        assert_eq!((report.size, report.verified_bytes, report.delivered_bytes), (len, len, len));
        assert_eq!(report.paid.get(), price(total + len) - price(total), "rounded once for the channel");
        assert!(report.wire_bytes > len);
        total += len;
        assert_eq!(agent.channels().await.unwrap()[0].signed.get(), price(total), "{len} bytes");
        assert_eq!(node.seen().paid(), price(total));
    }
}

// r[verify channel.window]
#[tokio::test(flavor = "multi_thread")]
async fn a_content_larger_than_the_window_flows_on_many_vouchers() {
    let (world, agent, node) = scene(9 * MIB + 12345).await;
    let reports = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&reports);
    let path = world.path("out");
    let fetch = agent.fetch(&node.address()).progress(move |progress| log.lock().unwrap().push(progress));
    let report = fetch.to_file(&path).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), node.content());
    let seen = node.seen();
    assert_eq!(seen.paid(), price(node.content().len() as u64));
    assert_eq!(report.vouchers, seen.vouchers.len() as u64);
    // Each voucher pays at most the window, which grows from 1 MiB to half of what is paid: 1, 2, 3, 4.5, 6.75, all.
    assert!(report.vouchers >= 6, "{}", report.vouchers);
    assert_eq!(seen.ends, [], "a whole fetch needs no word about its end");

    let reports: Vec<Progress> = reports.lock().unwrap().clone();
    let last = reports.last().unwrap();
    assert_eq!((last.proven_bytes, last.total_bytes), (report.verified_bytes, report.verified_bytes));
    assert_eq!(last.spent, report.paid);
    assert!(reports.is_sorted_by_key(|progress| progress.proven_bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_deliver_exactly_what_was_asked_and_bill_whole_groups() {
    let (_world, agent, node) = scene(500_000).await;
    let all = node.content();
    for (asked, billed, proven) in [
        (&[(0, 1)][..], 16384, false),
        (&[(16383, 16385)], 32768, false),
        (&[(20_000, 20_001), (100_000, 100_010), (499_999, 500_000)], 16384 * 2 + 500_000 % 16384, true),
        (&[(499_000, 500_000)], 500_000 % 16384, true),
        // How much lies behind an open end is not known, so it is fetched in bulk groups.
        (&[(499_000, u64::MAX)], 500_000 % 65536, true),
        (&[(400_000, 10_000_000)], 500_000 - 400_000 / 65536 * 65536, true),
        (&[(600_000, 700_000)], 500_000 % 16384, true),
    ] {
        let before = node.seen().paid();
        let ranges = ByteRanges::new(asked.iter().map(|(start, end)| *start..*end)).unwrap();
        let (report, bytes) = agent.fetch(&node.address()).ranges(ranges).to_bytes(1 << 30).await.unwrap();
        let cut = |at: u64| usize::try_from(at.min(500_000)).unwrap();
        let part = |(start, end): &(u64, u64)| all[cut(*start)..cut(*end)].to_vec();
        assert_eq!(bytes, asked.iter().flat_map(part).collect::<Vec<u8>>(), "{asked:?}");
        assert_eq!(report.verified_bytes, billed as u64, "{asked:?}");
        assert_eq!(report.size_proven, proven);
        assert_eq!(node.seen().paid() - before, report.paid.get(), "{asked:?}");
    }
}

// r[verify request.first_flight]
#[tokio::test(flavor = "multi_thread")]
async fn one_connection_serves_every_fetch_from_a_node() {
    let (_world, agent, node) = scene(70_000).await;
    let fetches = (0..20).map(|_| {
        let (agent, address) = (agent.clone(), node.address());
        tokio::spawn(async move { agent.fetch(&address).to_bytes(100_000).await.unwrap().1 })
    });
    for fetch in fetches.collect::<Vec<_>>() {
        assert_eq!(fetch.await.unwrap(), node.content());
    }
    let seen = node.wait_for(|seen| seen.paid() == price(20 * 70_000)).await;
    assert_eq!((seen.hellos, seen.binds.len(), seen.requests), (1, 1, 20));
    assert_eq!(agent.budget().reserved(Spending::Vouchers), Amount::ZERO);
    assert_eq!(agent.budget().spent(Spending::Vouchers).get(), price(20 * 70_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_parallel_fetches_cannot_exceed_the_budget_by_one_unit() {
    let world = World::new().await;
    world.register_node(&key(), 900).await;
    let node = ScriptedNode::start(&world, &key(), content(MIB), PER_MIB).await;
    // Enough for seven fetches and most of an eighth.
    let budget = 8 * PER_MIB - 1;
    let wallet = world.wallet("agent", 100 * PER_MIB).await;
    let agent = world.builder(wallet).budget(Amount::new(budget)).build().await.unwrap();
    agent.wallet().deposit(Amount::new(100 * PER_MIB)).await.unwrap();
    let too_much = agent.open_channel(key().node_id(), Amount::new(budget + 1), None).await;
    assert!(too_much.is_err(), "deposits go through the same guard");
    let _ = agent.open_channel(key().node_id(), Amount::new(budget), None).await.unwrap();

    let fetches = (0..50).map(|_| {
        let (agent, address) = (agent.clone(), node.address());
        tokio::spawn(async move { agent.fetch(&address).to_bytes(u64::MAX).await })
    });
    let mut done = 0;
    for fetch in fetches.collect::<Vec<_>>() {
        match fetch.await.unwrap() {
            Ok(_) => done += 1,
            Err(FetchError::BudgetExceeded(_)) => {}
            Err(FetchError::DepositExhausted { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(done, 7);
    assert_eq!(agent.budget().spent(Spending::Vouchers).get(), 7 * PER_MIB);
    assert_eq!(agent.budget().reserved(Spending::Vouchers), Amount::ZERO);
    assert_eq!(node.seen().paid(), 7 * PER_MIB);
}

// r[verify request.max_price]
#[tokio::test(flavor = "multi_thread")]
async fn max_price_and_budget_are_held_before_anything_is_sent() {
    let (_world, agent, node) = scene(MIB).await;
    let fetch = agent.fetch(&node.address()).max_price(Amount::new(PER_MIB - 1));
    let error = fetch.to_bytes(u64::MAX).await.unwrap_err();
    let FetchError::PriceTooHigh { price, allowed } = error else { panic!("{error}") };
    assert_eq!((price.get(), allowed.get()), (PER_MIB, PER_MIB - 1));

    let fetch = agent.fetch(&node.address()).budget(Amount::new(PER_MIB - 1));
    let error = fetch.to_bytes(u64::MAX).await.unwrap_err();
    let FetchError::BudgetExceeded(exceeded) = error else { panic!("{error}") };
    assert_eq!((exceeded.needed.get(), exceeded.left.get()), (PER_MIB, PER_MIB - 1));
    assert_eq!(exceeded.sufficient.get(), PER_MIB, "what the fetch is then run with");
    assert_eq!(node.seen().vouchers, []);

    let fetch = agent.fetch(&node.address()).max_price(Amount::new(PER_MIB)).budget(Amount::new(PER_MIB));
    let (report, _) = fetch.to_bytes(u64::MAX).await.unwrap();
    assert_eq!(report.paid.get(), PER_MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_free_node_needs_no_channel_and_a_paid_one_names_the_way_to_get_one() {
    let world = World::new().await;
    let agent = world.agent(1).await;
    let free = ScriptedNode::start(&world, &key(), content(MIB), 0).await;
    let (report, bytes) = agent.fetch(&free.address()).to_bytes(u64::MAX).await.unwrap();
    assert_eq!(bytes, free.content());
    assert_eq!((report.paid, report.vouchers), (Amount::ZERO, 0));

    let other = SecretKey::from_bytes(&[32; 32]);
    let paid = ScriptedNode::start(&world, &other, content(MIB), PER_MIB).await;
    let error = agent.fetch(&paid.address()).to_bytes(u64::MAX).await.unwrap_err();
    assert!(matches!(error, FetchError::NoChannel { .. }), "{error}");
    assert!(error.next_step().contains(&format!("aro channel open {}", other.node_id())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_that_does_not_cover_the_fetch_is_named_with_what_is_missing() {
    let world = World::new().await;
    let (agent, opened) = world.agent_with_channel(&key(), PER_MIB).await;
    let node = ScriptedNode::start(&world, &key(), content(2 * MIB), PER_MIB).await;
    let error = agent.fetch(&node.address()).to_bytes(u64::MAX).await.unwrap_err();
    let FetchError::DepositExhausted { channel, missing } = error else { panic!("{error}") };
    assert_eq!((channel, missing.get()), (Some(opened.channel), PER_MIB));
    assert_eq!(node.seen().vouchers, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topped_up_channel_pays_on_the_same_connection() {
    let world = World::new().await;
    world.register_node(&key(), 900).await;
    let agent = world.agent(3 * PER_MIB).await;
    let opened = agent.open_channel(key().node_id(), Amount::new(PER_MIB), None).await.unwrap();
    let node = ScriptedNode::start(&world, &key(), content(2 * MIB), PER_MIB).await;
    let fetch = || agent.fetch(&node.address()).to_bytes(u64::MAX);
    assert!(matches!(fetch().await.unwrap_err(), FetchError::DepositExhausted { .. }));
    agent.top_up(opened.channel, Amount::new(PER_MIB)).await.unwrap();
    let (report, _) = fetch().await.unwrap();
    assert_eq!(report.paid.get(), 2 * PER_MIB);
    assert_eq!(node.seen().hellos, 1);
}

// r[verify channel.cancel.settle]
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_fetch_pays_what_it_proved_and_keeps_it_beside_the_file() {
    let (world, agent, node) = scene(8 * MIB).await;
    let path = world.path("out");
    let (started, begun) = tokio::sync::oneshot::channel();
    let started = Mutex::new(Some(started));
    let fetch = agent.fetch(&node.address()).progress(move |progress| {
        if progress.proven_bytes > MIB as u64
            && let Some(started) = started.lock().unwrap().take()
        {
            let _ = started.send(());
        }
    });
    tokio::select! {
        done = fetch.to_file(&path) => panic!("it should have been dropped: {done:?}"),
        _ = begun => {}
    }
    let seen = node.wait_for(|seen| !seen.ends.is_empty()).await;
    let proven = seen.ends[0].proven_bytes;
    assert!(proven > MIB as u64 && proven < 8 * MIB as u64);
    node.wait_for(|seen| seen.paid() == price(proven)).await;
    assert!(!path.exists());

    // The same again goes on there: what was paid is neither fetched nor paid once more.
    let report = agent.fetch(&node.address()).to_file(&path).await.unwrap();
    assert_eq!((report.resumed_bytes, report.verified_bytes), (proven, 8 * MIB as u64 - proven));
    assert_eq!(std::fs::read(&path).unwrap(), node.content());
    assert_eq!(node.seen().paid(), price(8 * MIB as u64));
    agent.close().await;
    assert_eq!(agent.budget().reserved(Spending::Vouchers), Amount::ZERO);
}

// r[verify channel.reconcile]
#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_lost_its_record_learns_channel_and_watermark_anew() {
    let (world, agent, node) = scene(MIB).await;
    let _ = agent.fetch(&node.address()).to_bytes(u64::MAX).await.unwrap();
    agent.close().await;
    let channel = agent.channels().await.unwrap()[0].channel;
    drop(agent);
    std::fs::remove_file(world.path("agent").join("wallet.db")).unwrap();

    let wallet = agent_client::Wallet::open(&world.path("agent")).unwrap();
    let agent = world.builder(wallet).build().await.unwrap();
    let (report, _) = agent.fetch(&node.address()).to_bytes(u64::MAX).await.unwrap();
    assert_eq!(report.paid.get(), PER_MIB);
    let seen = node.seen();
    assert_eq!(seen.paid(), 2 * PER_MIB);
    assert!(seen.vouchers.iter().all(|signed| signed.voucher.channel == channel));
    assert!(seen.vouchers.is_sorted_by_key(|signed| signed.voucher.cumulative));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_cannot_be_written_is_found_before_anything_is_asked() {
    let (world, agent, node) = scene(MIB).await;
    let error = agent.fetch(&node.address()).to_file(world.path("missing").join("out")).await.unwrap_err();
    assert!(matches!(error, FetchError::Sink(_)), "{error}");
    assert_eq!(node.seen().hellos, 0);
}
