//! What could break where machines share a database: two that settle against each other, a voucher acknowledged by
//! one and lost with it, a connection that breaks while nobody knows whether the commit went through.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod fixture;
#[path = "fixture/postgres.rs"]
mod postgres_server;
#[path = "fixture/proxy.rs"]
mod proxy;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aro_proto::{Amount, RefusalCode, SecretKey};
use fixture::{FUNDS, Fault, TestChain, World};
use postgres_server::Database;
use proxy::{Cut, Proxy};
use settlement_operator::vouchers::StoreUrl;
use settlement_operator::{OperatorConfig, RunningOperator, SettleReport};

fn config(world: &World, dir: &Path, url: &str) -> OperatorConfig {
    OperatorConfig { store: StoreUrl::Postgres(url.to_owned()), lease_ttl_ms: 600, ..world.config(dir) }
}

/// An operator of the world's account, with a key and a view of the chain of its own.
async fn machine(world: &World, number: u8, config: OperatorConfig) -> (RunningOperator, TestChain) {
    let chain = TestChain::new(world.chain.clone());
    let key = SecretKey::from_bytes(&[number; 32]);
    (world.start_another(config, key, Arc::new(chain.clone())).await, chain)
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("in time")
}

/// Rounds until this operator is the one that settles.
async fn settle_as_holder(operator: &RunningOperator) -> SettleReport {
    in_time(async {
        loop {
            let report = operator.settle_once().await.unwrap();
            if report.elsewhere.is_none() {
                return report;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

// r[verify settlement.lease]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_take_vouchers_and_one_settles_them_all() {
    let Some(database) = Database::create().await else { return };
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let (one, one_chain) = machine(&world, 1, config(&world, dir.path(), &database.url)).await;
    let (two, two_chain) = machine(&world, 2, config(&world, dir.path(), &database.url)).await;
    let channels = world.open(4, 100_000).await;
    for (index, channel) in channels.iter().enumerate() {
        let client = world.client(if index % 2 == 0 { &one } else { &two }).await;
        client.hand(&[world.closing(*channel, 5_000)]).await.ack();
    }
    let lower = world.client(&two).await.refused_with(world.voucher(channels[0], 4_000)).await;
    assert_eq!(lower, RefusalCode::VoucherNotRising, "what one has taken, the other knows");

    let (first, second) = tokio::join!(one.settle_once(), two.settle_once());
    let (first, second) = (first.unwrap(), second.unwrap());
    let closed = first.closed.len() + second.closed.len();
    assert_eq!((closed, first.elsewhere.is_some() != second.elsewhere.is_some()), (4, true), "{first:?} {second:?}");
    let (idle, idle_chain) = if first.elsewhere.is_some() { (&one, &one_chain) } else { (&two, &two_chain) };
    assert!(idle_chain.sent().is_empty());
    assert_eq!(world.available().await, FUNDS - 20_000);
    assert!(idle.vouchers().await.unwrap().is_empty(), "what is final is pruned for both");
}

// r[verify settlement.lease]
// r[verify settlement.write_ahead]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn successor_of_a_dead_holder_goes_on_with_its_transaction_and_loses_nothing() {
    let Some(database) = Database::create().await else { return };
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    // Its close is signed and not sent, or has landed.
    for (fault, too_late) in
        [(Fault::HangBeforeSend, RefusalCode::OverCapacity), (Fault::HangAfterSend, RefusalCode::ChannelUnusable)]
    {
        let [recorded, late] = world.open(2, 100_000).await[..] else { panic!("two channels") };
        let before = world.available().await;
        let (one, one_chain) = machine(&world, 1, config(&world, dir.path(), &database.url)).await;
        let (two, two_chain) = machine(&world, 2, config(&world, dir.path(), &database.url)).await;
        let client = world.client(&one).await;
        client.hand(&[world.closing(recorded, 5_000)]).await.ack();
        one_chain.set(fault);
        let died = in_time(async {
            tokio::select! {
                report = settle_as_holder(&one) => panic!("the fault did not strike: {report:?}"),
                () = one_chain.struck.notified() => {}
            }
            // Acknowledged by the holder in its last moment.
            client.hand(&[world.closing(late, 7_000)]).await.ack();
        });
        died.await;
        drop(one);

        let higher = world.client(&two).await.refused_with(world.closing(recorded, 6_000)).await;
        assert_eq!(higher, too_late, "a close at less is signed already, by the other");
        let report = settle_as_holder(&two).await;
        let mut closed: Vec<_> = report.closed.iter().map(|closed| (closed.channel, closed.cumulative)).collect();
        closed.sort_unstable();
        let mut expected = vec![(recorded, Amount::new(5_000)), (late, Amount::new(7_000))];
        expected.sort_unstable();
        assert_eq!(closed, expected, "{report:?}");
        assert_eq!(world.available().await, before + 200_000 - 12_000);
        let both = [one_chain.sent(), two_chain.sent()].concat();
        let mut signatures: Vec<_> = both.iter().map(|transaction| transaction.signatures[0]).collect();
        signatures.sort_unstable();
        signatures.dedup();
        assert_eq!(signatures.len(), 3, "the dead one's close, the late close, the refunds: no other close was sent");
        two.shutdown().await;
    }
}

// r[verify settlement.lease]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standby_takes_over_by_itself_when_the_holder_is_gone() {
    let Some(database) = Database::create().await else { return };
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let config = || OperatorConfig { settle_interval_ms: 3_600_000, ..config(&world, dir.path(), &database.url) };
    let (one, _) = machine(&world, 1, config()).await;
    let first = world.open(1, 100_000).await[0];
    world.client(&one).await.hand(&[world.closing(first, 5_000)]).await.ack();
    let gone = async |channel| {
        in_time(async {
            while world.channel(channel).await.is_some() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    gone(first).await;
    let (two, _) = machine(&world, 2, config()).await;
    let second = world.open(1, 100_000).await[0];
    world.client(&two).await.hand(&[world.closing(second, 5_000)]).await.ack();
    drop(one);
    gone(second).await;
    two.shutdown().await;
}

// r[verify settlement.lease.wishes]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holder_closes_what_a_standby_was_asked_to_close_long_before_its_next_round() {
    let Some(database) = Database::create().await else { return };
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let config = || OperatorConfig {
        settle_interval_ms: 3_600_000,
        lease_ttl_ms: 3_600_000,
        ..config(&world, dir.path(), &database.url)
    };
    let (holder, holder_chain) = machine(&world, 1, config()).await;
    assert!(settle_as_holder(&holder).await.is_empty());
    let (standby, standby_chain) = machine(&world, 2, config()).await;
    let channel = world.open(1, 100_000).await[0];
    world.client(&standby).await.hand(&[world.closing(channel, 5_000)]).await.ack();
    in_time(async {
        while world.channel(channel).await.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(standby_chain.sent().is_empty() && !holder_chain.sent().is_empty());
    holder.shutdown().await;
    standby.shutdown().await;
}

// r[verify settlement.close.said_anew]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wish_that_is_said_anew_to_a_standby_counts_for_the_holder() {
    let Some(database) = Database::create().await else { return };
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let config = || config(&world, dir.path(), &database.url);
    let channel = world.open(1, 100_000).await[0];
    let (before, _) = machine(&world, 1, config()).await;
    world.client(&before).await.hand(&[world.closing(channel, 5_000)]).await.ack();
    before.shutdown().await;
    let (holder, _) = machine(&world, 1, config()).await;
    let (standby, _) = machine(&world, 2, config()).await;
    assert!(settle_as_holder(&holder).await.closed.is_empty());
    world.client(&standby).await.hand(&[world.closing(channel, 5_000)]).await.ack();
    assert_eq!(settle_as_holder(&holder).await.closed.len(), 1);
}

// r[verify settlement.handoff.durable]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commit_with_an_unknown_end_acknowledges_nothing_and_can_be_repeated() {
    let Some(database) = Database::create().await else { return };
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&database.options).await;
    let (operator, _) = machine(&world, 1, config(&world, dir.path(), &proxy.url(&database.options))).await;
    let client = world.client(&operator).await;
    for (cut, amount) in [(Cut::BeforeCommit, 5_000), (Cut::AfterCommit, 6_000), (Cut::Everything, 7_000)] {
        let channel = world.open(1, 100_000).await[0];
        proxy.set(Some(cut));
        let refusal = client.hand(&[world.voucher(channel, amount)]).await.refused();
        assert_eq!(refusal.code(), RefusalCode::OverCapacity, "{cut:?}: come back later");
        proxy.set(None);
        let verdict = in_time(async {
            loop {
                // Connections that the cut has killed may still lie in the pool.
                if let fixture::Reply::Ack(mut ack) = client.hand(&[world.voucher(channel, amount)]).await {
                    return ack.verdicts.remove(0);
                }
            }
        });
        let verdict = verdict.await;
        assert_eq!((verdict.watermark, verdict.refusal), (Some(Amount::new(amount)), None), "{cut:?}");
    }
    assert_eq!(operator.vouchers().await.unwrap().len(), 3);
    assert_eq!(settle_as_holder(&operator).await.settled.len(), 3);
}
