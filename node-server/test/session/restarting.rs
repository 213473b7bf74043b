//! Stops and crashes: what gave credit is never lost.

use std::sync::Arc;

use aro_proto::RefusalCode;
use aro_proto::message::Goaway;
use node_server::{Node, NodeConfig, StartError};

use crate::agent::{Agent, Answer, Proving, frame, soon, whole};
use crate::world::{MIB, PRICE, World, bytes, store, units};

// r[verify channel.persist_before_credit]
#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_that_gave_credit_survives_stop_and_crash() {
    let world = World::new().await;
    let funded = world.fund(1_000_000).await;
    for (round, crash) in [(1_u64, false), (2, true), (3, false)] {
        let node = start_again(&world).await;
        let mut agent = Agent::greet(&world, &node).await;
        let bound = agent.bind(&funded).await.unwrap();
        assert_eq!(bound.watermark.map(|voucher| voucher.cumulative.get()), (round > 1).then_some(100 * (round - 1)));
        assert_eq!(agent.pay(&funded, 100 * round).await.unwrap().cumulative, units(100 * round));
        if crash {
            drop(node);
        } else {
            node.shutdown().await.unwrap();
        }
    }
    let node = start_again(&world).await;
    assert_eq!(node.status().await.unsettled, units(300));
    node.shutdown().await.unwrap();
}

/// The crashed node's tasks let go of the folder when they notice, not at once.
async fn start_again(world: &World) -> node_server::RunningNode {
    soon(async {
        loop {
            match Node::start(world.config(), world.key.clone(), Arc::new(world.chain.clone())).await {
                Ok(node) => return node,
                Err(StartError::Ledger(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_says_goaway_and_lets_running_requests_finish_and_pay() {
    let world = World::new().await;
    let node = world.start(NodeConfig { shutdown_grace_ms: 20_000, ..world.config() }).await;
    let funded = world.fund(1_000_000).await;
    let content = bytes(3 * MIB);
    let id = store(&node, world.dir.path(), &content);
    let mut agent = Agent::bound(&world, &node, &funded).await;
    let (_send, mut receive, first) = agent.open(&whole(id), &funded.signer).await;
    assert!(matches!(first, Answer::Head(_)));
    let stopping = tokio::spawn(node.shutdown());

    let (kind, body) = soon(frame(&mut agent.control.1)).await.unwrap();
    let goaway: Goaway = aro_proto::wire::decode_body(kind, &body).unwrap();
    assert_eq!(goaway.refusal.code(), RefusalCode::ShuttingDown);
    assert_eq!(agent.refusal_of(&whole(id), &funded.signer).await.code(), RefusalCode::ShuttingDown);

    let mut reader = Proving::new(id, content.len() as u64);
    let mut paid = 0;
    while reader.next(&mut receive).await {
        if reader.proven.len() >= paid + MIB / 2 {
            paid = reader.proven.len();
            agent.pay(&funded, paid as u64 * PRICE / MIB as u64).await.unwrap();
        }
    }
    assert_eq!(reader.proven, content);
    soon(stopping).await.unwrap().unwrap();
    assert_eq!(agent.closed_with().await, aro_proto::error::close::SHUTDOWN);

    let node = world.start(world.config()).await;
    assert_eq!(node.status().await.unsettled, units(3 * PRICE));
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_not_registered_does_not_start_and_says_what_to_do() {
    let world = World::new().await;
    let stranger = aro_proto::SecretKey::from_bytes(&[9; 32]);
    let refused = Node::start(world.config(), stranger, Arc::new(world.chain.clone())).await;
    let Err(error @ StartError::NotRegistered { .. }) = refused else { panic!("it started") };
    assert!(error.to_string().contains("aro-node init"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_cannot_serve_from_one_folder() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let second = Node::start(world.config(), world.key.clone(), Arc::new(world.chain.clone())).await;
    assert!(matches!(second, Err(StartError::Ledger(node_server::LedgerError::InUse { .. }))));
    node.shutdown().await.unwrap();
}
