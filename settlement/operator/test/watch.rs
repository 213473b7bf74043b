//! What could break: a close that slips by while the operator searches, waits or is not heard, and takes the node's
//! money with it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod fixture;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aro_proto::channel::Voucher;
use aro_proto::{Amount, ChannelId};
use fixture::{GRACE_S, TimedChain, World, address};
use settlement_operator::vouchers::{Accepted, Claim, MemoryStore, VoucherStore};
use settlement_operator::{Operator, OperatorConfig, RunningOperator};
use tokio::time::sleep;

/// A world whose operator works by itself, in virtual time, with these vouchers stored.
async fn at_work(world: &World, chain: &TimedChain, vouchers: &[(ChannelId, u64)]) -> RunningOperator {
    let store = Arc::new(MemoryStore::default());
    let offers = vouchers.iter().map(|(channel, cumulative)| {
        let voucher = Voucher { channel: *channel, cumulative: Amount::new(*cumulative), expires_at: 0 };
        let voucher = voucher.sign(&world.signer).verify(&world.signer.agent_id()).unwrap();
        (*channel, Ok(Claim::Rise(Accepted { voucher, node: world.node_account(), close: false })))
    });
    store.commit(offers.collect(), chain.now()).await.unwrap();
    // Rounds and sweeps come so seldom that only the watchtower can be in time.
    let config = OperatorConfig {
        settle_interval_ms: 3_600_000,
        sweep_interval_ms: 3_600_000,
        ..world.config(std::path::Path::new("."))
    };
    let (key, authority) = (world.operator_key.clone(), world.authority.insecure_clone());
    Operator::start_with_store(config, key, authority, Arc::new(chain.clone()), store).await.unwrap()
}

/// Waits until the chain has settled so much of a channel: the chain's time then.
async fn settled_at(world: &World, chain: &TimedChain, channel: ChannelId, amount: u64) -> i64 {
    for _ in 0..GRACE_S {
        if world.channel(channel).await.unwrap().settled >= amount {
            return chain.now();
        }
        sleep(Duration::from_secs(1)).await;
    }
    panic!("the deadline came first");
}

// r[verify settlement.urgent]
#[tokio::test(start_paused = true)]
async fn closing_channel_lands_within_a_quarter_of_its_grace_though_nine_of_ten_sends_are_lost() {
    let world = World::new().await;
    let chain = TimedChain::new(world.chain.clone());
    let channels = world.open(3, 1_000_000).await;
    let stored: Vec<(ChannelId, u64)> = channels.iter().map(|id| (*id, 10)).collect();
    let operator = at_work(&world, &chain, &stored).await;
    // Whenever in its rhythm the watchtower is asked to see it.
    for (number, channel) in channels.iter().enumerate() {
        sleep(Duration::from_secs(131 * u64::try_from(number + 1).unwrap())).await;
        assert_eq!(world.channel(*channel).await.unwrap().settled, 0, "not worth it while it is open");
        chain.one_in.store(10, Ordering::SeqCst);
        let closing = chain.now();
        world.request_close(*channel).await;
        let landed = settled_at(&world, &chain, *channel, 10).await;
        let within = landed - closing;
        assert!(within <= i64::from(GRACE_S / 4), "{within} s of {GRACE_S}");
    }
    assert!(chain.sends() >= 30, "each took ten sends: {}", chain.sends());
    operator.shutdown().await;
}

// r[verify settlement.urgent]
#[tokio::test(start_paused = true)]
async fn closing_channel_waits_for_no_search_and_no_slow_batch() {
    let world = World::new().await;
    let chain = TimedChain::new(world.chain.clone());
    let [stuck, closing] = world.open(2, 1_000_000).await[..] else { panic!("two channels") };
    chain.deaf.store(true, Ordering::SeqCst);
    chain.lost.lock().unwrap().push(address(stuck));
    // Worth settling, in the first round, with the first transaction that never arrives.
    let operator = at_work(&world, &chain, &[(stuck, 5_000), (closing, 10)]).await;
    while chain.sends() == 0 {
        sleep(Duration::from_millis(100)).await;
    }
    let asked = chain.now();
    world.request_close(closing).await;
    let landed = settled_at(&world, &chain, closing, 10).await;
    assert!(landed - asked <= i64::from(GRACE_S / 4), "{} s", landed - asked);
    assert_eq!(world.channel(stuck).await.unwrap().settled, 0);
    drop(operator);
}

#[tokio::test(start_paused = true)]
async fn voucher_that_counts_up_by_units_costs_no_transaction_for_each() {
    let world = World::new().await;
    let chain = TimedChain::new(world.chain.clone());
    let channel = world.open(1, 1_000_000).await[0];
    let store = Arc::new(MemoryStore::default());
    let config = OperatorConfig { settle_interval_ms: 3_600_000, ..world.config(std::path::Path::new(".")) };
    let (key, authority) = (world.operator_key.clone(), world.authority.insecure_clone());
    let shared: Arc<MemoryStore> = Arc::clone(&store);
    let operator = Operator::start_with_store(config, key, authority, Arc::new(chain.clone()), store).await.unwrap();
    world.request_close(channel).await;
    let asked = chain.now();
    let mut cumulative = 0;
    while chain.now() < asked + i64::from(GRACE_S) - 120 {
        cumulative += 1;
        let voucher = Voucher { channel, cumulative: Amount::new(cumulative), expires_at: 0 };
        let voucher = voucher.sign(&world.signer).verify(&world.signer.agent_id()).unwrap();
        let claim = Claim::Rise(Accepted { voucher, node: world.node_account(), close: false });
        shared.commit(vec![(channel, Ok(claim))], chain.now()).await.unwrap();
        sleep(Duration::from_millis(500)).await;
    }
    settled_at(&world, &chain, channel, cumulative).await;
    assert!(chain.sends() <= 20, "{} transactions for {cumulative} vouchers", chain.sends());
    operator.shutdown().await;
}

// r[verify settlement.close.said_anew]
#[tokio::test(start_paused = true)]
async fn wish_of_a_node_that_is_gone_counts_after_the_stated_wait() {
    let world = World::new().await;
    let chain = TimedChain::new(world.chain.clone());
    let channel = world.open(1, 1_000_000).await[0];
    let store = Arc::new(MemoryStore::default());
    let voucher = Voucher { channel, cumulative: Amount::new(500), expires_at: 0 };
    let voucher = voucher.sign(&world.signer).verify(&world.signer.agent_id()).unwrap();
    let claim = Claim::Rise(Accepted { voucher, node: world.node_account(), close: true });
    store.commit(vec![(channel, Ok(claim))], chain.now()).await.unwrap();
    let config =
        OperatorConfig { settle_interval_ms: 10_000, wish_wait_s: 600, ..world.config(std::path::Path::new(".")) };
    let (key, authority) = (world.operator_key.clone(), world.authority.insecure_clone());
    let operator = Operator::start_with_store(config, key, authority, Arc::new(chain.clone()), store).await.unwrap();
    sleep(Duration::from_secs(580)).await;
    assert_eq!(chain.sends(), 0, "the node may still come and say that it has a better voucher");
    let closed = async {
        while world.channel(channel).await.is_some() {
            sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), closed).await.expect("closed and refunded soon after the wait");
    operator.shutdown().await;
}
