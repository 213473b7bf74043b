//! One content from several nodes of which some lie, stall, die, dawdle or raise their price: it arrives whole, nobody
//! is paid for what he did not prove, and the report says who did what.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_client::{
    Agent, AgentBuilder, AgentConfig, ChannelPolicy, FetchError, FetchReport, Preference, Purpose, SourceReport,
    Spending,
};
use aro_proto::merkle::ByteRanges;
use aro_proto::{Address, Amount, ByteCount, NodeAddress, RefusalCode, SecretKey, Tariff};
use support::scripted::{Script, ScriptedNode, content};
use support::world::World;

const PER_MIB: u64 = 1_000_003;
const MIB: u64 = 1 << 20;
const GROUP: u64 = 64 << 10;
/// Bytes a second of a node that keeps a rate.
const RATE: u64 = 8 * MIB;

struct Scene {
    world: World,
    agent: Agent,
    nodes: Vec<ScriptedNode>,
}

impl Scene {
    /// As many nodes as prices, with the same content, and a channel to each.
    async fn new(len: u64, prices: &[u64]) -> Self {
        Self::with(len, prices, |builder| builder).await
    }

    async fn with(len: u64, prices: &[u64], adjust: impl FnOnce(AgentBuilder) -> AgentBuilder) -> Self {
        let world = World::new().await;
        let keys: Vec<SecretKey> = (0..prices.len()).map(|i| SecretKey::from_bytes(&[51 + i as u8; 32])).collect();
        let config = AgentConfig {
            connect_timeout_ms: 2_000,
            answer_timeout_ms: 5_000,
            stall_timeout_ms: 30_000,
            credit_timeout_ms: 10_000,
            ..AgentConfig::default()
        };
        let agent = world.agent_with_channels(&keys, 100 * PER_MIB, |builder| adjust(builder.config(config))).await;
        let mut nodes = Vec::new();
        for (key, per_mib) in keys.iter().zip(prices) {
            let node = ScriptedNode::start(&world, key, content(usize::try_from(len).unwrap()), *per_mib).await;
            node.follow(Script::Slow(RATE));
            nodes.push(node);
        }
        Self { world, agent, nodes }
    }

    fn address(&self) -> Address {
        self.nodes[0].address()
    }

    fn others(&self) -> Vec<NodeAddress> {
        self.nodes[1..].iter().map(|node| NodeAddress::from(&node.address())).collect()
    }

    /// Fetches from all nodes; the bytes must be the content, and the sums must hold.
    async fn fetch(&self) -> FetchReport {
        let fetch = self.agent.fetch(&self.address()).sources(self.others()).prefer(Preference::Fastest);
        let (report, bytes) = fetch.to_bytes(u64::MAX).await.unwrap();
        assert!(bytes == self.nodes[0].content(), "other bytes came");
        report
    }

    async fn fetch_and_check(&self) -> FetchReport {
        let report = self.fetch().await;
        self.check(&report).await;
        report
    }

    /// Money is conserved: what the report says is what was signed, and for proven bytes only.
    async fn check(&self, report: &FetchReport) {
        let sum = |of: fn(&SourceReport) -> u64| report.sources.iter().map(of).sum::<u64>();
        assert_eq!(sum(|source| source.paid.get()), report.paid.get());
        assert_eq!(sum(|source| source.verified_bytes), report.verified_bytes);
        self.nothing_is_reserved().await;
        assert_eq!(self.agent.budget().spent(Spending::Vouchers), report.paid, "what was signed");
        let channels = self.agent.channels().await.unwrap();
        for source in &report.sources {
            let signed = channels.iter().find(|channel| channel.node == source.node).map(|channel| channel.signed);
            assert_eq!(signed.unwrap_or_default(), source.paid, "{source:?}");
        }
    }

    /// Waits until what was set aside is signed or given back.
    async fn nothing_is_reserved(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.agent.budget().reserved(Spending::Vouchers).is_zero() {
            assert!(Instant::now() < deadline, "the budget is held for nobody");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn report_of<'a>(&self, report: &'a FetchReport, node: usize) -> &'a SourceReport {
        let id = self.nodes[node].address().node();
        report.sources.iter().find(|source| source.node == id).unwrap()
    }
}

fn price(bytes: u64) -> u64 {
    Tariff { per_mib: PER_MIB }.price(ByteCount::new(bytes)).unwrap().get()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_bring_one_content_and_each_is_paid_for_what_it_proved() {
    let scene = Scene::new(24 * MIB + 12_345, &[PER_MIB; 3]).await;
    let report = scene.fetch_and_check().await;
    assert!(report.size_proven);
    assert_eq!(report.verified_bytes, 24 * MIB + 12_345, "every byte once");
    for (node, source) in scene.nodes.iter().zip(&report.sources) {
        assert!(source.verified_bytes > 3 * MIB, "{report:?}");
        assert_eq!(source.paid.get(), price(source.verified_bytes));
        // The fetch waits a second for their word; a busy machine may take longer.
        node.wait_for(|seen| seen.paid() == source.paid.get()).await;
        assert_eq!(source.left_out, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stalls_for_ever_holds_up_nobody() {
    for stalled in [0, 1] {
        let scene = Scene::new(20 * MIB, &[PER_MIB; 2]).await;
        scene.nodes[stalled].follow(Script::StallAfter(3 * MIB));
        let started = Instant::now();
        let report = scene.fetch_and_check().await;
        assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
        assert_eq!(report.verified_bytes, 20 * MIB);
        let source = scene.report_of(&report, stalled);
        assert!(source.verified_bytes <= 3 * MIB, "{source:?}");
        assert_eq!(source.paid.get(), price(source.verified_bytes), "nothing that it did not prove is paid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_answers_is_done_without() {
    let scene = Scene::new(6 * MIB, &[PER_MIB; 2]).await;
    scene.nodes[0].follow(Script::NoHello);
    let report = scene.fetch_and_check().await;
    assert_eq!(scene.report_of(&report, 1).verified_bytes, 6 * MIB);
    assert_eq!(scene.report_of(&report, 0).paid, Amount::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_at_the_last_group_is_blamed_with_its_place_and_costs_nothing() {
    let len = 12 * MIB + 100;
    let scene = Arc::new(Scene::new(len, &[PER_MIB; 3]).await);
    // Two of three send garbage at the end of the content, and the third has its hands full until they have.
    for liar in [0, 2] {
        scene.nodes[liar].follow(Script::FlipContent(len - 1));
    }
    scene.nodes[1].follow(Script::Slow(64 << 10));
    let fetch = tokio::spawn({
        let scene = Arc::clone(&scene);
        async move { scene.fetch_and_check().await }
    });
    for liar in [0, 2] {
        scene.nodes[liar].wait_for(|seen| !seen.ends.is_empty()).await;
    }
    scene.nodes[1].follow(Script::Slow(RATE));
    let report = fetch.await.unwrap();
    assert_eq!(report.verified_bytes, len);
    for liar in [0, 2] {
        let source = scene.report_of(&report, liar);
        let left_out = source.left_out.as_ref().expect("a liar");
        let blame = left_out.blame.as_ref().expect("evidence");
        assert_eq!((left_out.code, blame.group, blame.offset), ("Proof", Some(len / GROUP), Some(len / GROUP * GROUP)));
        assert_eq!(blame.node, source.node);
        assert_eq!(source.paid.get(), price(source.verified_bytes), "what it proved before stays, and is paid");
    }
    assert_eq!(scene.report_of(&report, 1).left_out, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_the_size_is_found_out_by_proof_and_blamed() {
    let len = 9 * MIB + 700;
    for liar in [0, 1] {
        for claim in [len + 1, len - 1, len + 30 * MIB, 5 * MIB, 1, 0, 1 << 45] {
            let scene = Scene::new(len, &[PER_MIB; 2]).await;
            scene.nodes[liar].follow(Script::Claims(claim));
            let report = scene.fetch_and_check().await;
            assert_eq!((report.size, report.size_proven), (len, true));
            let source = scene.report_of(&report, liar);
            assert!(source.left_out.as_ref().is_some_and(|left_out| left_out.blame.is_some()), "{claim}: {source:?}");
            assert_eq!(source.paid.get(), price(source.verified_bytes));
            assert_eq!(scene.report_of(&report, 1 - liar).left_out, None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_promises_something_else_than_its_quote_is_blamed() {
    let len = 6 * MIB;
    for (script, is_harmless) in [
        (Script::Size(len + 1), false),
        (Script::ContentBytes(GROUP), false),
        (Script::Price(1), false),
        // More than it promised, behind the end.
        (Script::Append(50_000), true),
    ] {
        let scene = Scene::new(len, &[PER_MIB; 2]).await;
        scene.nodes[0].follow(script.clone());
        let report = scene.fetch_and_check().await;
        let left_out = scene.report_of(&report, 0).left_out.clone();
        assert_eq!(left_out.is_none(), is_harmless, "{script:?}: {left_out:?}");
        assert!(left_out.is_none_or(|left_out| left_out.code == "Misbehaved" && left_out.blame.is_some()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_raised_on_the_way_buys_nothing_beyond_what_was_allowed() {
    let scene = Scene::new(16 * MIB, &[PER_MIB; 2]).await;
    scene.nodes[0].follow(Script::RaisesAfter(2 * MIB, 50 * PER_MIB));
    let most = price(16 * MIB) + 2;
    let fetch = scene.agent.fetch(&scene.address()).sources(scene.others()).max_price(Amount::new(most));
    let (report, bytes) = fetch.to_bytes(u64::MAX).await.unwrap();
    assert!(bytes == scene.nodes[0].content());
    scene.check(&report).await;
    assert!(report.paid.get() <= most, "{report:?}");
    let raised = scene.report_of(&report, 0);
    assert_eq!(raised.paid.get(), price(raised.verified_bytes), "all of it at the price that was agreed");
    assert_eq!(raised.left_out.as_ref().map(|left_out| left_out.code), Some("PriceTooHigh"));

    // Alone it is not bought from at all any more.
    scene.nodes[1].die();
    let again = scene.agent.fetch(&scene.address()).sources(scene.others()).max_price(Amount::new(most));
    let error = again.to_bytes(u64::MAX).await.unwrap_err();
    assert!(matches!(&error, FetchError::NoSource { causes } if causes.len() == 2), "{error}");
    assert_eq!(scene.agent.budget().spent(Spending::Vouchers), report.paid);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_that_dies_is_done_without_and_one_that_only_hangs_up_comes_back() {
    for dies in [true, false] {
        let scene = Arc::new(Scene::new(60 * MIB, &[PER_MIB; 3]).await);
        let fetch = tokio::spawn({
            let scene = Arc::clone(&scene);
            async move { scene.fetch().await }
        });
        scene.nodes[1].wait_for(|seen| seen.vouchers.len() >= 2).await;
        if dies {
            scene.nodes[1].die()
        } else {
            scene.nodes[1].hang_up()
        }
        let report = fetch.await.unwrap();
        assert_eq!(report.verified_bytes, 60 * MIB);
        let source = scene.report_of(&report, 1);
        assert_eq!(source.left_out.is_some(), dies, "{source:?}");
        assert_eq!(scene.nodes[1].seen().hellos > 1, !dies);
        if dies {
            scene.check(&report).await;
        } else {
            // What was on its way when the connection broke is conceded, within the allowance.
            scene.nothing_is_reserved().await;
            let conceded = scene.agent.budget().spent(Spending::Vouchers).get() - report.paid.get();
            assert!(conceded <= price(MIB) + source.paid.get() / 16, "{conceded} for bytes in flight");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_node_loses_its_tail() {
    let scene = Scene::new(24 * MIB, &[PER_MIB; 3]).await;
    scene.nodes[2].follow(Script::Slow(MIB / 2));
    let started = Instant::now();
    let report = scene.fetch_and_check().await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(7), "its first segment alone would take it 8 s: {took:?}");
    let slow = scene.report_of(&report, 2);
    assert!(slow.verified_bytes < 4 * MIB && slow.left_out.is_none(), "{slow:?}");
    let ends = scene.nodes[2].seen().ends;
    assert!(!ends.is_empty() && ends.len() <= 3, "it was told where it was cut, seldom: {ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_fail_one_error_carries_each_cause() {
    let scene = Scene::new(3 * MIB, &[PER_MIB; 4]).await;
    scene.nodes[0].follow(Script::FlipContent(70_000));
    scene.nodes[1].follow(Script::Refuse(RefusalCode::NotFound, None));
    scene.nodes[2].follow(Script::Price(1));
    scene.nodes[3].die();
    let fetch = scene.agent.fetch(&scene.address()).sources(scene.others()).prefer(Preference::Fastest);
    let error = fetch.to_bytes(u64::MAX).await.unwrap_err();
    let FetchError::NoSource { causes } = &error else { panic!("{error}") };
    let codes: Vec<&str> = causes.iter().map(|cause| cause.error.code()).collect();
    assert_eq!(codes[..3], ["Proof", "NotFound", "Misbehaved"]);
    assert!(["Unreachable", "Timeout"].contains(&codes[3]), "{}", causes[3].error);
    for (node, cause) in scene.nodes.iter().zip(causes.iter()) {
        assert_eq!(cause.node, node.address().node());
        assert!(error.to_string().contains(&cause.node.to_string()), "{error}");
    }
    assert!(error.is_retryable() && error.next_step().contains("--from"));
    // What was proven is paid, and nothing else.
    scene.nothing_is_reserved().await;
    let proven = scene.agent.budget().spent(Spending::Vouchers).get();
    assert!(proven < price(3 * MIB), "{proven}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_paid_holds_over_all_sources_together() {
    let scene = Scene::new(8 * MIB, &[PER_MIB; 3]).await;
    let whole = price(8 * MIB);
    let fetch = || scene.agent.fetch(&scene.address()).sources(scene.others()).prefer(Preference::Fastest);
    let error = fetch().max_price(Amount::new(whole - 1)).to_bytes(u64::MAX).await.unwrap_err();
    assert!(matches!(error, FetchError::PriceTooHigh { price, .. } if price.get() == whole), "{error}");
    let error = fetch().budget(Amount::new(whole - 1)).to_bytes(u64::MAX).await.unwrap_err();
    assert!(matches!(error, FetchError::BudgetExceeded(exceeded) if exceeded.needed.get() == whole), "{error}");
    let error = fetch().to_bytes(8 * MIB - 1).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { .. }), "{error}");
    assert_eq!(scene.agent.budget().spent(Spending::Vouchers), Amount::ZERO, "nothing is begun that cannot be ended");

    // Each channel is rounded up by itself.
    let (report, _) = fetch().max_price(Amount::new(whole + 2)).to_bytes(u64::MAX).await.unwrap();
    assert!(report.paid.get() <= whole + 2);
    scene.check(&report).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_own_cap_holds_over_all_sources() {
    let cap = price(20 * MIB);
    let scene = Scene::with(8 * MIB, &[PER_MIB; 3], |builder| builder.budget(Amount::new(300 * PER_MIB))).await;
    let elsewhere = Purpose::vouchers(SecretKey::from_bytes(&[90; 32]).node_id());
    let other = scene.agent.budget().reserve(&elsewhere, Amount::new(300 * PER_MIB - cap)).unwrap();
    let fetches = (0..4).map(|_| {
        let fetch = scene.agent.fetch(&scene.address()).sources(scene.others()).prefer(Preference::Fastest);
        tokio::spawn(async move { fetch.to_bytes(u64::MAX).await })
    });
    let mut done = 0;
    for fetch in fetches.collect::<Vec<_>>() {
        done += u64::from(fetch.await.unwrap().is_ok());
    }
    assert!(done <= 2, "20 MiB are not three times 8");
    assert!(scene.agent.budget().spent(Spending::Vouchers).get() <= cap);
    drop(other);
    scene.nothing_is_reserved().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cheapest_node_brings_everything_where_the_price_counts() {
    let scene = Scene::new(6 * MIB, &[3 * PER_MIB, PER_MIB, 3 * PER_MIB]).await;
    for prefer in [Preference::Cheapest, Preference::Balanced] {
        let fetch = scene.agent.fetch(&scene.address()).sources(scene.others()).prefer(prefer);
        let (report, _) = fetch.to_bytes(u64::MAX).await.unwrap();
        assert_eq!(scene.report_of(&report, 1).verified_bytes, 6 * MIB, "{report:?}");
    }
    // It is gone: the dear ones do it.
    scene.nodes[1].die();
    let fetch = scene.agent.fetch(&scene.address()).sources(scene.others()).prefer(Preference::Cheapest);
    let (report, _) = fetch.to_bytes(u64::MAX).await.unwrap();
    assert_eq!(scene.report_of(&report, 1).verified_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_channel_only_a_free_node_is_used() {
    let scene = Scene::new(6 * MIB, &[PER_MIB]).await;
    let other = |seed| SecretKey::from_bytes(&[seed; 32]);
    let paid = ScriptedNode::start(&scene.world, &other(91), scene.nodes[0].content(), PER_MIB).await;
    let free = ScriptedNode::start(&scene.world, &other(92), scene.nodes[0].content(), 0).await;
    free.follow(Script::Slow(RATE));
    let others = [&paid, &free].map(|node| NodeAddress::from(&node.address()));
    let fetch = scene.agent.fetch(&scene.address()).sources(others).prefer(Preference::Fastest);
    let (report, bytes) = fetch.to_bytes(u64::MAX).await.unwrap();
    assert!(bytes == scene.nodes[0].content());
    let [first, second, third] = &report.sources[..] else { panic!("{report:?}") };
    assert!(first.verified_bytes > 0 && third.verified_bytes > 0, "{report:?}");
    assert_eq!(third.paid, Amount::ZERO);
    assert_eq!(second.left_out.as_ref().map(|left_out| left_out.code), Some("NoChannel"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_named_twice_is_one_source_on_one_connection() {
    let scene = Scene::new(4 * MIB, &[PER_MIB; 2]).await;
    let again = NodeAddress::from(&scene.address());
    let fetch = scene.agent.fetch(&scene.address()).also_from(again).sources(scene.others()).sources(scene.others());
    let (report, _) = fetch.to_bytes(u64::MAX).await.unwrap();
    assert_eq!(report.sources.len(), 2);
    assert!(scene.nodes.iter().all(|node| node.seen().hellos == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_fetch_is_paid_for_what_was_proven_and_holds_no_budget() {
    let scene = Scene::new(30 * MIB, &[PER_MIB; 2]).await;
    let (told, mut hears) = tokio::sync::watch::channel(0);
    let fetch = scene.agent.fetch(&scene.address()).sources(scene.others()).progress(move |progress| {
        told.send_replace(progress.proven_bytes);
    });
    let running = tokio::spawn(async move { fetch.to_bytes(u64::MAX).await.map(|_| ()) });
    hears.wait_for(|proven| *proven > 6 * MIB).await.unwrap();
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    for node in &scene.nodes {
        node.wait_for(|seen| !seen.ends.is_empty()).await;
    }
    scene.nothing_is_reserved().await;
    let spent = scene.agent.budget().spent(Spending::Vouchers).get();
    assert!(spent > price(5 * MIB) && spent < price(30 * MIB), "{spent}");
    let signed: u64 = scene.agent.channels().await.unwrap().iter().map(|channel| channel.signed.get()).sum();
    assert_eq!(signed, spent);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_ranges_and_readers_get_the_same_bytes_in_order() {
    let scene = Scene::new(10 * MIB + 5, &[PER_MIB; 3]).await;
    let all = scene.nodes[0].content();
    let fetch = || scene.agent.fetch(&scene.address()).sources(scene.others()).prefer(Preference::Fastest);
    let path = scene.world.path("out");
    let report = fetch().to_file(&path).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == all);
    assert_eq!((report.verified_bytes, report.delivered_bytes), (10 * MIB + 5, 10 * MIB + 5));

    let ranges = ByteRanges::new([100..3 * MIB, 5 * MIB + 1..5 * MIB + 2, 9 * MIB..u64::MAX]).unwrap();
    let cut = |range: std::ops::Range<u64>| {
        let end = usize::try_from(range.end.min(10 * MIB + 5)).unwrap();
        all[usize::try_from(range.start).unwrap()..end].to_vec()
    };
    let wanted: Vec<u8> = ranges.iter().flat_map(cut).collect();
    let (report, bytes) = fetch().ranges(ranges).to_bytes(u64::MAX).await.unwrap();
    assert!(bytes == wanted);
    assert_eq!(report.verified_bytes, 3 * MIB + GROUP + MIB + 5, "whole groups, each once");

    let next = Arc::new(Mutex::new(0));
    let seen = Arc::clone(&next);
    let take = move |offset: u64, bytes: bytes::Bytes| {
        let mut next = seen.lock().unwrap();
        assert_eq!(offset, *next, "in order");
        *next += bytes.len() as u64;
    };
    let _ = fetch().to_each(take).await.unwrap();
    assert_eq!(*next.lock().unwrap(), 10 * MIB + 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_end_is_asked_for_twice_only_where_that_is_allowed() {
    for hedge in [None, Some(price(4 * MIB))] {
        let scene = Scene::new(6 * MIB, &[PER_MIB; 2]).await;
        // It stalls for ever in its last groups.
        scene.nodes[1].follow(Script::StallAfter(2 * MIB));
        let mut fetch = scene.agent.fetch(&scene.address()).sources(scene.others()).prefer(Preference::Fastest);
        if let Some(most) = hedge {
            fetch = fetch.hedge(Amount::new(most));
        }
        let (report, bytes) = fetch.to_bytes(u64::MAX).await.unwrap();
        assert!(bytes == scene.nodes[0].content());
        scene.check(&report).await;
        let twice = report.verified_bytes - 6 * MIB;
        assert!(price(twice) <= hedge.unwrap_or_default(), "{twice} bytes came twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_end_that_costs_more_than_the_hedge_may_is_left_to_the_slow_node() {
    for most in [price(8 * MIB), price(GROUP) - 1] {
        let scene = Scene::new(8 * MIB, &[PER_MIB; 2]).await;
        // Slow, and not silent: it is given time, and its end is worth a second request only if that may be paid.
        scene.nodes[1].follow(Script::Slow(100 << 10));
        let fetch = scene.agent.fetch(&scene.address()).sources(scene.others()).prefer(Preference::Fastest);
        let (report, bytes) = fetch.hedge(Amount::new(most)).to_bytes(u64::MAX).await.unwrap();
        assert!(bytes == scene.nodes[0].content());
        scene.check(&report).await;
        let twice = report.verified_bytes - 8 * MIB;
        assert!(price(twice) <= most, "{twice} bytes came twice, for {most} units");
        // Beyond the cap not even one group is asked for twice, however late the slow one is with it.
        assert!(most >= price(GROUP) || twice == 0, "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_price_decides_only_the_node_that_brings_something_gets_a_channel() {
    let world = World::new().await;
    let wallet = world.wallet("agent", 100 * PER_MIB).await;
    let channels = ChannelPolicy { idle_close_s: None, ..ChannelPolicy::default() };
    let agent = world.builder(wallet).channels(channels).build().await.unwrap();
    agent.wallet().deposit(Amount::new(100 * PER_MIB)).await.unwrap();
    let mut nodes = Vec::new();
    for (seed, per_mib) in [(71, 3), (72, 1), (73, 2)].map(|(seed, price)| (seed, price * PER_MIB)) {
        let key = SecretKey::from_bytes(&[seed; 32]);
        world.register_node(&key, 900).await;
        nodes.push(ScriptedNode::start(&world, &key, content(3 * MIB as usize), per_mib).await);
    }
    let others = nodes[1..].iter().map(|node| NodeAddress::from(&node.address()));
    let fetch = agent.fetch(&nodes[0].address()).sources(others).prefer(Preference::Cheapest);
    let (report, bytes) = fetch.to_bytes(u64::MAX).await.unwrap();
    assert!(bytes == nodes[0].content());
    let opened: Vec<_> = agent.channels().await.unwrap().iter().map(|channel| channel.node).collect();
    assert_eq!(opened, [nodes[1].address().node()], "{report:?}");
    assert_eq!(report.paid.get(), price(3 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_content_and_a_tiny_one_come_from_whoever_has_them() {
    for len in [0, 1, GROUP + 1] {
        let scene = Scene::new(len, &[PER_MIB; 2]).await;
        let report = scene.fetch_and_check().await;
        assert_eq!((report.size, report.size_proven, report.verified_bytes), (len, true, len));
    }
}
