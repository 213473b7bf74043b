//! Channels without the caller's help: opened when a fetch needs one, topped up, used again, replaced and closed; never two
//! for one need, never beyond a cap, and nothing lost wherever the process dies.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_client::{
    Agent, AgentBuilder, ChannelCap, ChannelEvent, ChannelInfo, ChannelPhase, ChannelPolicy, FetchError, MoneyError,
    Spending, Wallet, WalletError,
};
use aro_proto::{Amount, ByteCount, NodeId, RefusalCode, SecretKey, Tariff};
use settlement_chain::{ChainClient, Program, reads};
use support::faulty::{Fault, FaultyChain};
use support::scripted::{Script, ScriptedNode, content};
use support::world::World;

const PER_MIB: u64 = 100_000;
const MIB: usize = 1 << 20;
const FUNDS: u64 = 20_000_000;

fn key() -> SecretKey {
    SecretKey::from_bytes(&[51; 32])
}

fn price(bytes: u64) -> u64 {
    Tariff { per_mib: PER_MIB }.price(ByteCount::new(bytes)).unwrap().get()
}

fn policy() -> ChannelPolicy {
    ChannelPolicy { idle_close_s: None, ..ChannelPolicy::default() }
}

type Events = Arc<Mutex<Vec<ChannelEvent>>>;

struct Scene {
    world: World,
    node: ScriptedNode,
    events: Events,
}

impl Scene {
    async fn new(len: usize) -> Self {
        let world = World::new().await;
        world.register_node(&key(), 900).await;
        let node = ScriptedNode::start(&world, &key(), content(len), PER_MIB).await;
        Self { world, node, events: Events::default() }
    }

    fn builder(&self, wallet: Wallet) -> AgentBuilder {
        let events = Arc::clone(&self.events);
        let builder = self.world.builder(wallet).channels(policy());
        builder.on_channel_event(move |event| events.lock().unwrap().push(event.clone()))
    }

    async fn agent(&self) -> Agent {
        let agent = self.builder(self.world.wallet("agent", FUNDS).await).build().await.unwrap();
        agent.wallet().deposit(Amount::new(FUNDS)).await.unwrap();
        agent
    }

    async fn reopened(&self) -> Agent {
        self.builder(reopen(&self.world.path("agent")).await).build().await.unwrap()
    }

    fn node_id(&self) -> NodeId {
        key().node_id()
    }

    fn events(&self) -> Vec<ChannelEvent> {
        self.events.lock().unwrap().clone()
    }
}

/// Opens a wallet once whoever had it is gone.
async fn reopen(path: &Path) -> Wallet {
    let started = Instant::now();
    loop {
        match Wallet::open(path) {
            Err(error) if error.is_retryable() && started.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            opened => return opened.unwrap(),
        }
    }
}

async fn fetch(agent: &Agent, node: &ScriptedNode) -> Result<Amount, FetchError> {
    agent.fetch(&node.address()).to_bytes(u64::MAX).await.map(|(report, bytes)| {
        assert_eq!(bytes, node.content());
        report.paid
    })
}

/// All channels, after seeing that not a unit is lost: what lies in channels and what is available make up the funds.
async fn channels(agent: &Agent) -> Vec<ChannelInfo> {
    let status = agent.wallet().status().await.unwrap();
    let locked: u64 = status.channels.iter().map(|channel| channel.deposit.get() - channel.settled.get()).sum();
    let settled: u64 = status.channels.iter().map(|channel| channel.settled.get()).sum();
    assert_eq!(status.available.get() + locked + settled, FUNDS);
    status.channels
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_opens_a_channel_and_tops_it_up_when_it_runs_low() {
    let scene = Scene::new(MIB).await;
    let agent = scene.agent().await;
    assert_eq!(fetch(&agent, &scene.node).await.unwrap().get(), PER_MIB);
    let opened = channels(&agent).await.remove(0);
    assert_eq!((opened.node, opened.deposit.get()), (scene.node_id(), 4 * PER_MIB), "four times the price");
    for _ in 0..9 {
        assert_eq!(fetch(&agent, &scene.node).await.unwrap().get(), PER_MIB);
    }
    let used = channels(&agent).await;
    assert_eq!(used.len(), 1);
    assert_eq!((used[0].channel, used[0].signed.get()), (opened.channel, 10 * PER_MIB));
    let (channel, node, added) = (opened.channel, scene.node_id(), Amount::new(4 * PER_MIB));
    let topped_up = ChannelEvent::ToppedUp { channel, node, added };
    assert_eq!(scene.events(), [ChannelEvent::Opened { channel, node, deposit: added }, topped_up.clone(), topped_up]);
    assert_eq!(scene.node.seen().hellos, 2, "one to learn that it costs, one that pays");
    assert_eq!(agent.budget().spent(Spending::Deposits).get(), 12 * PER_MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_not_seen_the_deposit_yet_gets_time_and_no_more_money() {
    let scene = Scene::new(MIB).await;
    let agent = scene.agent().await;
    fetch(&agent, &scene.node).await.unwrap();
    scene.node.follow(Script::RefuseFetch(RefusalCode::DepositExhausted, Some(PER_MIB)));
    let before = scene.node.seen().requests;
    let node = scene.node.clone();
    let fetching = tokio::spawn(async move { fetch(&agent, &node).await.map(|paid| (agent, paid)) });
    // Each refusal is followed by a quote.
    scene.node.wait_for(|seen| seen.requests >= before + 5).await;
    scene.node.follow(Script::Honest);
    let (agent, paid) = fetching.await.unwrap().unwrap();
    assert_eq!(paid.get(), PER_MIB);
    let channels = channels(&agent).await;
    assert_eq!((channels.len(), channels[0].deposit.get()), (1, 4 * PER_MIB));
    assert_eq!(scene.events().len(), 1, "the opening");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_fetches_at_once_open_one_channel_and_lose_nothing() {
    let scene = Scene::new(MIB / 4).await;
    let agent = scene.agent().await;
    let fetches = (0..24).map(|_| {
        let (agent, node) = (agent.clone(), scene.node.clone());
        tokio::spawn(async move { fetch(&agent, &node).await })
    });
    let mut paid = 0;
    for fetch in fetches.collect::<Vec<_>>() {
        paid += fetch.await.unwrap().unwrap().get();
    }
    assert_eq!(paid, price(24 * MIB as u64 / 4));
    let channels = channels(&agent).await;
    assert_eq!(channels.len(), 1);
    assert_eq!(channels[0].signed.get(), paid);
    let account = reads::agent(&scene.world.chain, &Program::local(), &agent_owner(&scene)).await.unwrap().unwrap();
    assert_eq!(account.next_nonce, 1, "no second one was ever opened");
    let opened = scene.events().iter().filter(|event| matches!(event, ChannelEvent::Opened { .. })).count();
    assert_eq!(opened, 1);
    assert!(channels[0].unspent() <= policy().node_cap);
}

fn agent_owner(scene: &Scene) -> settlement_chain::Address {
    Wallet::addresses(&scene.world.path("agent")).unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn many_contents_of_one_request_get_the_deposit_that_they_need() {
    let scene = Scene::new(MIB).await;
    let agent = scene.agent().await;
    // 0.1 $ARO to begin with: one of twelve.
    let contents = vec![scene.node.content_id(); 12];
    let builder = agent.fetch_many(&scene.node.address(), contents).in_flight(1);
    let (report, fetched) = builder.to_bytes(u64::MAX).await.unwrap();
    assert!(fetched.iter().all(|fetched| fetched.as_ref().is_ok_and(|bytes| *bytes == scene.node.content())));
    assert_eq!(report.paid.get(), 12 * PER_MIB);
    let channels = channels(&agent).await;
    assert_eq!((channels.len(), channels[0].signed.get()), (1, 12 * PER_MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_used_again_after_a_restart_and_after_the_record_is_lost() {
    let scene = Scene::new(MIB / 4).await;
    let agent = scene.agent().await;
    fetch(&agent, &scene.node).await.unwrap();
    agent.close().await;
    drop(agent);
    for lost in [false, true] {
        if lost {
            forget_record(&scene.world.path("agent")).await;
        }
        let agent = scene.reopened().await;
        fetch(&agent, &scene.node).await.unwrap();
        assert_eq!(channels(&agent).await.len(), 1, "record lost: {lost}");
        agent.close().await;
    }
    assert_eq!(scene.events().len(), 1);
    assert_eq!(scene.node.seen().paid(), price(3 * MIB as u64 / 4));
}

/// Deletes all that the wallet keeps beside its keys, once nobody has it open.
async fn forget_record(wallet: &Path) {
    drop(reopen(wallet).await);
    for entry in wallet.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.extension().is_none_or(|extension| extension != "json") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_locked_for_what_cannot_be_had_or_is_too_dear() {
    let scene = Scene::new(MIB).await;
    let agent = scene.agent().await;
    scene.node.follow(Script::Refuse(RefusalCode::NotFound, None));
    assert!(matches!(fetch(&agent, &scene.node).await, Err(FetchError::NotFound { .. })));
    scene.node.follow(Script::QuoteKey);
    assert!(matches!(fetch(&agent, &scene.node).await, Err(FetchError::Misbehaved { .. })));
    scene.node.follow(Script::Honest);
    let dear = agent.fetch(&scene.node.address()).max_price(Amount::new(PER_MIB - 1)).to_bytes(u64::MAX).await;
    let Err(FetchError::PriceTooHigh { price, allowed }) = dear else { panic!("{dear:?}") };
    assert_eq!((price.get(), allowed.get()), (PER_MIB, PER_MIB - 1));
    assert_eq!((channels(&agent).await, scene.events()), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bound_on_deposits_holds_and_says_which_it_is() {
    let scene = Scene::new(MIB).await;
    let agent = scene.agent().await;
    agent.close().await;
    drop(agent);
    let units = Amount::new;
    let money = |error: FetchError| match error {
        FetchError::Money(error) => error,
        other => panic!("{other}"),
    };
    let try_with = async |policy: ChannelPolicy, budget: Option<u64>| {
        let builder = scene.builder(reopen(&scene.world.path("agent")).await).channels(policy);
        let builder = match budget {
            Some(budget) => builder.budget(units(budget)),
            None => builder,
        };
        let agent = builder.build().await.unwrap();
        let error = fetch(&agent, &scene.node).await.unwrap_err();
        assert_eq!(channels(&agent).await, []);
        agent.close().await;
        error
    };
    assert!(matches!(try_with(ChannelPolicy::manual(), None).await, FetchError::NoChannel { .. }));
    for (narrow, cap) in [
        (ChannelPolicy { node_cap: units(PER_MIB - 1), ..policy() }, ChannelCap::Node),
        (ChannelPolicy { total_cap: units(PER_MIB - 1), ..policy() }, ChannelCap::Total),
    ] {
        let error = money(try_with(narrow, None).await);
        let MoneyError::Cap { cap: named, needed, left } = &*error else { panic!("{error}") };
        assert_eq!((*named, needed.get(), left.get()), (cap, PER_MIB, PER_MIB - 1));
        assert!(!error.is_retryable() && error.exit_code() == 4);
    }
    let error = money(try_with(ChannelPolicy { max_grace_s: 899, ..policy() }, None).await);
    assert!(matches!(&*error, MoneyError::Grace { min_s: 900, .. }), "{error}");
    // The price is above the cap on vouchers too, and that is found first.
    assert!(matches!(try_with(policy(), Some(PER_MIB - 1)).await, FetchError::BudgetExceeded(_)));

    // All that is available goes back first; then it is too little.
    let agent = scene.reopened().await;
    agent.wallet().withdraw(units(FUNDS - PER_MIB + 1)).await.unwrap();
    let error = money(fetch(&agent, &scene.node).await.unwrap_err());
    let MoneyError::NotEnough { needed, there, .. } = &*error else { panic!("{error}") };
    assert_eq!((needed.get(), there.get()), (PER_MIB, PER_MIB - 1));
    assert_eq!(error.amount(), Some(units(PER_MIB)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tight_budget_is_locked_as_far_as_needed_and_is_enough() {
    let scene = Scene::new(MIB).await;
    let wallet = scene.world.wallet("agent", FUNDS).await;
    let agent = scene.builder(wallet).budget(Amount::new(3 * PER_MIB)).build().await.unwrap();
    agent.wallet().deposit(Amount::new(FUNDS)).await.unwrap();
    for _ in 0..3 {
        fetch(&agent, &scene.node).await.unwrap();
    }
    assert!(matches!(fetch(&agent, &scene.node).await, Err(FetchError::BudgetExceeded(_))));
    assert_eq!(channels(&agent).await[0].deposit.get(), 3 * PER_MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_was_closed_on_chain_is_replaced() {
    let scene = Scene::new(MIB / 4).await;
    let agent = scene.agent().await;
    fetch(&agent, &scene.node).await.unwrap();
    let first = channels(&agent).await.remove(0);
    agent.close().await;
    // Another process closes it; this one's record still says that it is open.
    let record = std::fs::read_dir(scene.world.path("agent")).unwrap().count();
    assert!(record > 2);
    close_behind_its_back(&scene, &first).await;
    fetch(&agent, &scene.node).await.unwrap();
    let open: Vec<ChannelInfo> =
        channels(&agent).await.into_iter().filter(|channel| channel.phase == ChannelPhase::Open).collect();
    assert_eq!(open.len(), 1);
    assert_ne!(open[0].channel, first.channel);
}

async fn close_behind_its_back(scene: &Scene, channel: &ChannelInfo) {
    let owner = settlement_chain::keyfile::read(&scene.world.path("agent").join("owner.json")).unwrap();
    let address = settlement_chain::Address::new_from_array(channel.channel.to_bytes());
    let close = settlement_chain::instructions::request_close(&Program::local(), &agent_owner(scene), &address);
    settlement_chain::submit::submit(&scene.world.chain, &owner, &[], &[close]).await.unwrap();
}

/// Runs `work` in a runtime of its own until the chain hangs, and ends that runtime there, as a kill would.
async fn killed_at<F: Future + Send + 'static>(chain: &FaultyChain, fault: Fault, work: F)
where
    F::Output: Send,
{
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    chain.set(fault);
    doomed.spawn(work);
    tokio::time::timeout(Duration::from_secs(30), chain.struck.notified()).await.expect("it is reached");
    doomed.shutdown_background();
    chain.set(Fault::None);
}

#[tokio::test(flavor = "multi_thread")]
async fn wherever_the_process_dies_one_channel_is_opened_and_one_top_up_is_made() {
    for fault in [Fault::HangBeforeSend, Fault::HangAfterSend] {
        let scene = Scene::new(MIB).await;
        drop(scene.agent().await);
        let chain = FaultyChain::new(scene.world.chain.clone());
        let address = scene.node.address();
        let doomed = |wallet: Wallet| {
            let (builder, chain, address) = (scene.builder(wallet), chain.clone(), address.clone());
            async move {
                let agent = builder.chain(Arc::new(chain)).build().await.unwrap();
                for _ in 0..5 {
                    let _ = agent.fetch(&address).to_bytes(u64::MAX).await.unwrap();
                }
            }
        };
        // In the opening.
        killed_at(&chain, fault, doomed(reopen(&scene.world.path("agent")).await)).await;
        let agent = scene.builder(reopen(&scene.world.path("agent")).await).chain(Arc::new(chain.clone()));
        let agent = agent.build().await.unwrap();
        fetch(&agent, &scene.node).await.unwrap();
        assert_eq!(chain.sent(), 1, "{fault:?}: the same bytes, or none again");
        let opened = channels(&agent).await;
        assert_eq!((opened.len(), opened[0].deposit.get()), (1, 4 * PER_MIB), "{fault:?}");
        agent.close().await;
        drop(agent);

        // In the top-up, which the fourth fetch from here needs.
        killed_at(&chain, fault, doomed(reopen(&scene.world.path("agent")).await)).await;
        // No word of the killed process comes any more, such as how much of its last answer it had proven.
        scene.node.hang_up();
        let agent = scene.builder(reopen(&scene.world.path("agent")).await).chain(Arc::new(chain.clone()));
        let agent = agent.build().await.unwrap();
        // As if no more had been sent by then, whatever was on its way.
        scene.node.bill(4 * PER_MIB);
        fetch(&agent, &scene.node).await.unwrap();
        let topped_up = channels(&agent).await;
        assert_eq!(chain.sent(), 2, "{fault:?}: the same bytes, or none again: {topped_up:?}");
        assert_eq!((topped_up.len(), topped_up[0].deposit.get()), (1, 8 * PER_MIB), "{fault:?}");
        assert_eq!(topped_up[0].signed.get(), 5 * PER_MIB, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_before_the_record_was_lost_is_not_sent_twice() {
    let scene = Scene::new(MIB).await;
    drop(scene.agent().await);
    let chain = FaultyChain::new(scene.world.chain.clone());
    let builder = scene.builder(reopen(&scene.world.path("agent")).await).chain(Arc::new(chain.clone()));
    let address = scene.node.address();
    let doomed = async move {
        let agent = builder.build().await.unwrap();
        let _ = agent.fetch(&address).to_bytes(u64::MAX).await;
    };
    killed_at(&chain, Fault::HangAfterSend, doomed).await;
    forget_record(&scene.world.path("agent")).await;
    let agent = scene.reopened().await;
    fetch(&agent, &scene.node).await.unwrap();
    assert_eq!(channels(&agent).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_nobody_waits_for_leaves_no_money_on_its_way() {
    let scene = Scene::new(MIB).await;
    let agent = scene.agent().await;
    let opening = {
        let (agent, node) = (agent.clone(), scene.node.clone());
        tokio::spawn(async move { fetch(&agent, &node).await })
    };
    // As soon as it has asked for the price, it opens.
    scene.node.wait_for(|seen| seen.requests >= 2).await;
    opening.abort();
    let _ = opening.await;
    fetch(&agent, &scene.node).await.unwrap();
    assert_eq!(channels(&agent).await.len(), 1);
    assert_eq!(agent.budget().spent(Spending::Deposits).get(), 4 * PER_MIB);
    assert_eq!(agent.budget().reserved(Spending::Deposits), Amount::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_channel_is_closed_and_taken_back_by_the_chains_time_alone() {
    let scene = Scene::new(MIB / 4).await;
    let agent = scene.agent().await;
    fetch(&agent, &scene.node).await.unwrap();
    let start = scene.world.chain.clock().await.unwrap();
    let at = |seconds: i64| scene.world.chain.warp_clock(start + seconds);
    let phases = async || channels(&agent).await.iter().map(|channel| channel.phase).collect::<Vec<_>>();

    // Seen for the first time, it counts as used now, however long ago that was.
    at(100_000);
    assert_eq!(agent.sweep(1_000).await.unwrap().kept, 1);
    at(100_999);
    assert_eq!(agent.sweep(1_000).await.unwrap().kept, 1);
    // A server that shows an earlier time makes nothing idle, and a fetch begins the time anew.
    at(-5_000);
    assert_eq!(agent.sweep(1_000).await.unwrap().kept, 1);
    fetch(&agent, &scene.node).await.unwrap();
    at(101_500);
    assert_eq!(agent.sweep(1_000).await.unwrap().kept, 1);
    at(102_499);
    assert_eq!(agent.sweep(1_000).await.unwrap().kept, 1);
    assert_eq!(phases().await, [ChannelPhase::Open]);

    at(102_500);
    assert_eq!(agent.sweep(1_000).await.unwrap().closing.len(), 1);
    at(103_399);
    assert_eq!(agent.sweep(1_000).await.unwrap().kept, 1, "it is in its grace");
    assert_eq!(phases().await, [ChannelPhase::Closing]);
    at(103_400);
    let report = agent.sweep(1_000).await.unwrap();
    assert_eq!((report.reclaimed.len(), report.refunded().get()), (1, PER_MIB));
    assert_eq!(phases().await, []);

    // What is needed again is opened again.
    fetch(&agent, &scene.node).await.unwrap();
    assert_eq!(phases().await, [ChannelPhase::Open]);
    assert_eq!(agent.sweep(0).await.unwrap().closing.len(), 1, "0 closes whatever is not in use");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_agent_sweeps_by_itself() {
    let scene = Scene::new(1_000).await;
    let idle = ChannelPolicy { idle_close_s: Some(1), ..policy() };
    let wallet = scene.world.wallet("agent", FUNDS).await;
    let agent = scene.builder(wallet).channels(idle).build().await.unwrap();
    agent.wallet().deposit(Amount::new(FUNDS)).await.unwrap();
    fetch(&agent, &scene.node).await.unwrap();
    let started = Instant::now();
    while !scene.events().iter().any(|event| matches!(event, ChannelEvent::Closing { .. })) {
        assert!(started.elapsed() < Duration::from_secs(30), "it is never closed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(channels(&agent).await[0].phase, ChannelPhase::Closing);
}

#[test]
fn a_wallet_error_that_passes_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Wallet::open(dir.path()).unwrap_err();
    assert!(matches!(missing, WalletError::Missing(_)) && !missing.is_retryable());
}
