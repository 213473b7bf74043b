//! Money on the real program: in, into channels, back out; and what stops it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use agent_client::{ChannelPhase, MoneyError, Place, Spending};
use aro_proto::{Amount, NodeId, SecretKey};
use settlement_chain::ChainClient;
use support::world::World;

const ARO: u64 = 1_000_000;

fn aro(whole: u64) -> Amount {
    Amount::new(whole * ARO)
}

#[tokio::test]
async fn money_goes_in_through_a_channel_and_all_of_it_comes_back() {
    let world = World::new().await;
    let key = SecretKey::from_bytes(&[41; 32]);
    let node = world.register_node(&key, 900).await;
    let agent = world.builder(world.wallet("agent", 10 * ARO).await).build().await.unwrap();
    let money = agent.wallet();

    money.deposit(aro(8)).await.unwrap();
    let status = money.status().await.unwrap();
    assert_eq!((status.aro, status.available), (aro(2), aro(8)));

    let opened = agent.open_channel(node, aro(5), None).await.unwrap();
    assert_eq!(opened.grace_s, 900);
    agent.top_up(opened.channel, aro(1)).await.unwrap();
    let status = money.status().await.unwrap();
    assert_eq!(status.available, aro(2));
    assert_eq!(status.channels.len(), 1);
    let channel = &status.channels[0];
    assert_eq!((channel.node, channel.deposit, channel.phase), (node, aro(6), ChannelPhase::Open));

    assert!(matches!(agent.reclaim(opened.channel).await, Err(MoneyError::StillOpen(_))));
    agent.request_close(opened.channel).await.unwrap();
    assert!(matches!(agent.request_close(opened.channel).await, Err(MoneyError::NotOpen(_))));
    assert!(matches!(agent.top_up(opened.channel, aro(1)).await, Err(MoneyError::NotOpen(_))));
    let early = agent.reclaim(opened.channel).await.unwrap_err();
    assert!(matches!(early, MoneyError::InGrace { left_s: 1..=900, .. }) && early.is_retryable(), "{early}");
    let deadline = agent.channels().await.unwrap()[0].deadline.unwrap();

    world.chain.warp_clock(deadline);
    assert_eq!(world.chain.clock().await.unwrap(), deadline);
    let reclaimed = agent.reclaim(opened.channel).await.unwrap();
    assert_eq!((reclaimed.refunded, reclaimed.settled), (aro(6), Amount::ZERO));
    assert!(matches!(agent.reclaim(opened.channel).await, Err(MoneyError::UnknownChannel(_))));
    assert_eq!(agent.channels().await.unwrap(), []);

    money.withdraw(aro(8)).await.unwrap();
    let status = money.status().await.unwrap();
    assert_eq!((status.aro, status.available), (aro(10), Amount::ZERO));

    // Another incarnation gets another address.
    money.deposit(aro(1)).await.unwrap();
    let again = agent.open_channel(node, aro(1), Some(1000)).await.unwrap();
    assert_ne!(again.channel, opened.channel);
    assert_eq!(again.grace_s, 1000);
}

#[tokio::test]
async fn what_cannot_work_is_refused_in_words_before_a_transaction_is_sent() {
    let world = World::new().await;
    let key = SecretKey::from_bytes(&[42; 32]);
    let node = world.register_node(&key, 900).await;
    let agent = world.builder(world.wallet("agent", 3 * ARO).await).build().await.unwrap();
    let money = agent.wallet();

    let error = money.deposit(aro(4)).await.unwrap_err();
    assert!(matches!(error, MoneyError::NotEnough { place: Place::TokenAccount, .. }), "{error}");
    assert!(matches!(money.deposit(Amount::ZERO).await, Err(MoneyError::ZeroAmount)));
    let error = money.withdraw(aro(1)).await.unwrap_err();
    assert!(matches!(error, MoneyError::NotEnough { place: Place::Available, .. }), "{error}");

    money.deposit(aro(3)).await.unwrap();
    let unknown = NodeId::from_bytes([7; 32]);
    assert!(matches!(agent.open_channel(unknown, aro(1), None).await, Err(MoneyError::UnknownNode(_))));
    for grace_s in [0, 899, u32::MAX] {
        let error = agent.open_channel(node, aro(1), Some(grace_s)).await.unwrap_err();
        assert!(matches!(error, MoneyError::Grace { min_s: 900, .. }), "{error}");
    }
    assert!(matches!(agent.open_channel(node, Amount::ZERO, None).await, Err(MoneyError::ZeroAmount)));
    assert!(matches!(agent.open_channel(node, aro(4), None).await, Err(MoneyError::NotEnough { .. })));
    let opened = agent.open_channel(node, aro(1), None).await.unwrap();
    let error = agent.open_channel(node, aro(1), None).await.unwrap_err();
    assert!(matches!(error, MoneyError::AlreadyOpen(channel) if channel == opened.channel), "{error}");

    let stranger = world.builder(world.wallet("stranger", ARO).await).build().await.unwrap();
    assert!(matches!(stranger.request_close(opened.channel).await, Err(MoneyError::NotOurs(_))));
    assert!(matches!(stranger.reclaim(opened.channel).await, Err(MoneyError::NotOurs(_))));
}

#[tokio::test]
async fn deposits_stay_within_the_budget_and_a_failed_one_gives_it_back() {
    let world = World::new().await;
    let key = SecretKey::from_bytes(&[43; 32]);
    let node = world.register_node(&key, 900).await;
    let wallet = world.wallet("agent", 10 * ARO).await;
    let agent = world.builder(wallet).budget(aro(5)).build().await.unwrap();
    agent.wallet().deposit(aro(10)).await.unwrap();
    assert!(matches!(agent.open_channel(node, aro(6), None).await, Err(MoneyError::Budget(_))));
    let opened = agent.open_channel(node, aro(3), None).await.unwrap();
    assert!(matches!(agent.top_up(opened.channel, aro(3)).await, Err(MoneyError::Budget(_))));
    agent.top_up(opened.channel, aro(2)).await.unwrap();
    assert_eq!(agent.budget().spent(Spending::Deposits), aro(5));
    assert_eq!(agent.budget().reserved(Spending::Deposits), Amount::ZERO);
}

#[tokio::test]
async fn an_owner_without_sol_is_told_by_the_chain_and_keeps_the_budget() {
    let world = World::new().await;
    let key = SecretKey::from_bytes(&[44; 32]);
    world.register_node(&key, 900).await;
    let wallet = agent_client::Wallet::create(&world.path("poor")).unwrap();
    world.chain.mint_to(&world.setup.mint, &world.admin, &wallet.owner(), ARO).await.unwrap();
    let agent = world.builder(wallet).build().await.unwrap();
    let error = agent.wallet().deposit(aro(1)).await.unwrap_err();
    assert!(matches!(error, MoneyError::Submit(_)), "{error}");
    assert!(!error.is_retryable());
}
