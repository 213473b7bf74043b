//! A node that follows the chain: channels that close under it, and channels that nobody uses.

use aro_proto::RefusalCode;
use node_server::NodeConfig;
use settlement_chain::submit::submit;
use settlement_chain::{Address, Program, Signer, instructions};

use crate::agent::{Agent, soon, whole};
use crate::handing_over::Scripted;
use crate::world::{World, bytes, store, units};

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_its_agent_closes_is_handed_over_at_once_and_serves_no_more() {
    let world = World::new().await;
    let operator = Scripted::start(&world);
    let node = world.start(NodeConfig { operators: vec![operator.endpoint.clone()], ..world.config() }).await;
    let funded = world.fund(1_000_000).await;
    let id = store(&node, world.dir.path(), &bytes(100));
    let mut agent = Agent::bound(&world, &node, &funded).await;
    agent.pay(&funded, 900).await.unwrap();

    let channel = Address::from(funded.channel.to_bytes());
    let close = instructions::request_close(&Program::local(), &funded.owner.pubkey(), &channel);
    submit(&world.chain, &funded.owner, &[], &[close]).await.unwrap();
    node.follow_now().await.unwrap();
    let voucher = soon(async {
        loop {
            if let Some(voucher) = operator.got().first() {
                break *voucher;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((voucher.channel, voucher.cumulative, voucher.close), (funded.channel, units(900), true));
    assert_eq!(agent.refusal_of(&whole(id), &funded.signer).await.code(), RefusalCode::ChannelUnusable);
    // Until the deadline a voucher still counts, for it still settles.
    assert_eq!(agent.pay(&funded, 950).await.unwrap().cumulative, units(950));
    node.shutdown().await.unwrap();
    assert_eq!(operator.got().last().unwrap().cumulative, units(950));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_nobody_uses_is_handed_over_to_be_closed() {
    let world = World::new().await;
    let operator = Scripted::start(&world);
    let config = NodeConfig {
        operators: vec![operator.endpoint.clone()],
        handoff_interval_ms: 100,
        close_idle_after_s: 0,
        ..world.config()
    };
    let node = world.start(config).await;
    let funded = world.fund(1_000_000).await;
    Agent::bound(&world, &node, &funded).await.pay(&funded, 900).await.unwrap();
    soon(async {
        while !operator.got().iter().any(|voucher| voucher.close) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_that_were_open_before_the_start_need_no_look_at_the_chain() {
    let world = World::new().await;
    let funded = world.fund(1_000_000).await;
    let node = world.start(world.config()).await;
    assert_eq!(node.status().await.channel(funded.channel).unwrap().state, "open");
    let later = world.fund(1_000_000).await;
    assert!(node.status().await.channel(later.channel).is_none());
    node.follow_now().await.unwrap();
    assert_eq!(node.status().await.channel(later.channel).unwrap().deposit, units(1_000_000));
    node.shutdown().await.unwrap();
}
