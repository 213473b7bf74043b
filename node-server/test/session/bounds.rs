//! What a node lends at most: to one owner with many channels, and while it cannot see the chain.

use std::sync::Arc;

use aro_proto::RefusalCode;
use aro_proto::error::close;
use node_server::{NodeConfig, RunningNode};
use quinn::ReadExactError;
use settlement_chain::Keypair;

use crate::agent::{Agent, Answer, soon, until, whole};
use crate::chain::LossyChain;
use crate::world::{MIB, PRICE, World, bytes, store, units};

/// Waits until the node has given so many content bytes to the transport.
async fn until_served(node: &RunningNode, served: usize) {
    until(async || node.status().await.bytes_served >= served as u64).await;
}

/// The code with which a stream is reset.
async fn reset_code(receive: &mut quinn::RecvStream) -> u32 {
    let mut sink = vec![0; 64 << 10];
    soon(async {
        loop {
            match receive.read_exact(&mut sink).await {
                Ok(()) => {}
                Err(ReadExactError::ReadError(quinn::ReadError::Reset(code))) => return u64::from(code) as u32,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

// r[verify channel.owner.bound]
#[tokio::test(flavor = "multi_thread")]
async fn many_channels_of_one_owner_owe_no_more_together_than_the_bound() {
    let world = World::new().await;
    let config =
        NodeConfig { max_owed_bytes_per_owner: MIB as u64 * 3 / 2, payment_timeout_ms: 1_000, ..world.config() };
    let node = world.start(config).await;
    let id = store(&node, world.dir.path(), &bytes(4 * MIB));
    let owner = Arc::new(Keypair::new());
    let first = world.fund_from(Arc::clone(&owner), &world.key, 1_000_000).await;
    let second = world.fund_from(Arc::clone(&owner), &world.key, 1_000_000).await;
    let third = world.fund_from(owner, &world.key, 1_000_000).await;
    let stranger = world.fund(1_000_000).await;

    // The first channel takes its whole window of one MiB, the second what is left of the bound.
    let mut one = Agent::bound(&world, &node, &first).await;
    let two = Agent::bound(&world, &node, &second).await;
    let (_one, mut from_one, _) = one.open(&whole(id), &first.signer).await;
    until_served(&node, MIB).await;
    let (_two, mut from_two, answer) = two.open(&whole(id), &second.signer).await;
    assert!(matches!(answer, Answer::Head(_)));
    until_served(&node, MIB * 3 / 2).await;
    let three = Agent::bound(&world, &node, &third).await;
    let refusal = three.refusal_of(&whole(id), &third.signer).await;
    assert_eq!((refusal.code(), refusal.amount), (RefusalCode::Unpaid, Some(units(PRICE * 3 / 2))));
    assert_eq!(reset_code(&mut from_one).await, close::UNPAID);
    assert_eq!(reset_code(&mut from_two).await, close::UNPAID);
    assert_eq!(node.status().await.bytes_served, MIB as u64 * 3 / 2, "and not a byte more");

    // Others are not held by it, and paying frees it.
    let other = Agent::bound(&world, &node, &stranger).await;
    let (_other, _from_other, answer) = other.open(&whole(id), &stranger.signer).await;
    assert!(matches!(answer, Answer::Head(_)));
    one.pay(&first, PRICE).await.unwrap();
    let (_three, _from_three, answer) = three.open(&whole(id), &third.signer).await;
    assert!(matches!(answer, Answer::Head(_)));
    node.shutdown().await.unwrap();
}

// r[verify channel.view.fresh]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_see_the_chain_lends_a_little_says_so_and_goes_on_when_it_sees_again() {
    let world = World::new().await;
    let chain = LossyChain::new(world.chain.clone(), 1_900_000_000);
    // Blind as soon as a second has passed without a look.
    let config =
        NodeConfig { stale_after_s: 1, max_blind_bytes: MIB as u64, payment_timeout_ms: 500, ..world.config() };
    let node = world.start_on(&chain, config).await;
    let funded = world.fund(1_000_000).await;
    let id = store(&node, world.dir.path(), &bytes(4 * MIB));
    let mut agent = Agent::bound(&world, &node, &funded).await;
    // Prepaid: credit is no reason to stop.
    agent.pay(&funded, 100 * PRICE).await.unwrap();
    chain.set_down(true);
    until(async || node.status().await.is_blind).await;
    assert!(node.follow_now().await.is_err());

    let (_send, mut receive, answer) = agent.open(&whole(id), &funded.signer).await;
    assert!(matches!(answer, Answer::Head(_)));
    assert_eq!(reset_code(&mut receive).await, close::CANCELLED);
    assert_eq!(node.status().await.bytes_served, MIB as u64, "the bound, and not a byte more");
    let refusal = agent.refusal_of(&whole(id), &funded.signer).await;
    assert_eq!(refusal.code(), RefusalCode::OverCapacity);
    assert!(refusal.reason().contains("has not seen the chain"), "{refusal}");
    let status = node.status().await;
    assert!(status.warnings.iter().any(|warning| warning.contains("rpc_url")), "{:?}", status.warnings);

    chain.set_down(false);
    node.follow_now().await.unwrap();
    let (_send, _receive, answer) = agent.open(&whole(id), &funded.signer).await;
    assert!(matches!(answer, Answer::Head(_)));
    node.shutdown().await.unwrap();
}
