//! Each refusal is its own, says who must act, and leaves the connection alive.

use aro_proto::error::close;
use aro_proto::message::{ChainIds, Fetch, Goaway, Hello};
use aro_proto::{ContentId, RefusalCode, SecretKey, WhoActs};

use crate::agent::{Agent, Answer, chain_ids, close_code, dial, hear, say, soon, whole};
use crate::world::{MIB, PRICE, World, bytes, store, units};

// r[verify request.refusal.finish]
// r[verify request.refusal.finish]
#[tokio::test(flavor = "multi_thread")]
async fn unknown_content_low_price_no_channel_and_empty_deposit_are_four_refusals() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let poor = world.fund(100).await;
    let id = store(&node, world.dir.path(), &bytes(MIB));
    let mut agent = Agent::greet(&world, &node).await;

    let refusal = agent.refusal_of(&whole(ContentId::of(b"elsewhere")), &poor.signer).await;
    assert_eq!((refusal.code(), refusal.code().who_acts()), (RefusalCode::NotFound, WhoActs::RetryElsewhere));

    let refusal = agent.refusal_of(&Fetch { max_price: units(PRICE - 1), ..whole(id) }, &poor.signer).await;
    assert_eq!((refusal.code(), refusal.amount), (RefusalCode::PriceTooHigh, Some(units(PRICE))));

    let refusal = agent.refusal_of(&whole(id), &poor.signer).await;
    assert_eq!((refusal.code(), refusal.amount), (RefusalCode::NoChannel, Some(units(PRICE))));

    agent.bind(&poor).await.unwrap();
    let refusal = agent.refusal_of(&whole(id), &poor.signer).await;
    assert_eq!((refusal.code(), refusal.amount), (RefusalCode::DepositExhausted, Some(units(PRICE - 100))));

    let refusal = agent.refusal_of(&Fetch { group_log2: 9, ..whole(id) }, &poor.signer).await;
    assert_eq!(refusal.code(), RefusalCode::BadRequest);
    node.shutdown().await.unwrap();
}

// r[verify identity.chain]
#[tokio::test(flavor = "multi_thread")]
async fn another_genesis_program_or_mint_ends_before_money_moves() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let right = chain_ids(&world);
    for chain in [
        ChainIds { genesis_hash: [1; 32], ..right },
        ChainIds { program: [1; 32], ..right },
        ChainIds { mint: [1; 32], ..right },
    ] {
        let (_endpoint, connection) = dial(&node).await;
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        say(&mut send, &Hello { minor_version: 0, chain }).await;
        let goaway: Goaway = hear(&mut receive).await;
        assert_eq!(goaway.refusal.code(), RefusalCode::WrongChain);
        assert_eq!(close_code(&connection).await, close::WRONG_CHAIN);
    }
    node.shutdown().await.unwrap();
}

// r[verify request.signature.bound]
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_binds_only_for_its_signer_and_to_its_node() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let mut agent = Agent::greet(&world, &node).await;

    // Opened after the node started: found by one look at the chain.
    let funded = world.fund(1_000_000).await;
    let stranger = SecretKey::from_bytes(&[9; 32]);
    let refusal = agent.bind_as(&funded, &stranger).await.unwrap_err();
    assert_eq!(refusal.code(), RefusalCode::Unauthorised);

    let other_node = SecretKey::from_bytes(&[10; 32]);
    world.register(&other_node, None).await;
    let elsewhere = world.fund_to(&other_node, 1000).await;
    assert_eq!(agent.bind(&elsewhere).await.unwrap_err().code(), RefusalCode::ChannelUnusable);

    let nowhere = crate::world::Funded { channel: aro_proto::ChannelId::from_bytes([5; 32]), ..funded.clone() };
    assert_eq!(agent.bind(&nowhere).await.unwrap_err().code(), RefusalCode::ChannelUnusable);

    let bound = agent.bind(&funded).await.unwrap();
    assert_eq!((bound.channel, bound.deposit, bound.watermark), (funded.channel, units(1_000_000), None));

    // For the connection's whole life.
    let second = world.fund(1_000_000).await;
    assert_eq!(agent.bind(&second).await.unwrap_err().code(), RefusalCode::BadRequest);
    let id = store(&node, world.dir.path(), &bytes(1000));
    assert_eq!(agent.fetch(id, &funded, 0).await, bytes(1000));
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_channels_cost_the_chain_only_a_few_calls() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let mut agent = Agent::greet(&world, &node).await;
    let funded = world.fund(1000).await;
    let mut codes = Vec::new();
    for number in 0..12 {
        let channel = aro_proto::ChannelId::from_bytes([number; 32]);
        codes.push(agent.bind(&crate::world::Funded { channel, ..funded.clone() }).await.unwrap_err().code());
    }
    assert_eq!(codes[0], RefusalCode::ChannelUnusable);
    assert_eq!(codes[11], RefusalCode::OverCapacity);
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_bound_are_refused_and_places_come_back() {
    let world = World::new().await;
    let node = world.start(node_server::NodeConfig { max_connections_per_ip: 2, ..world.config() }).await;
    let first = Agent::greet(&world, &node).await;
    let _second = Agent::greet(&world, &node).await;
    assert!(crate::agent::dial_as(&node, node.node_id()).await.is_err());
    first.connection.close(0_u32.into(), b"");
    // The place is free once the node has seen the close.
    soon(async { while crate::agent::dial_as(&node, node.node_id()).await.is_err() {} }).await;
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_reads_nothing_takes_a_place_only_for_a_while() {
    let world = World::new().await;
    let config = node_server::NodeConfig {
        tariff: aro_proto::Tariff { per_mib: 0 },
        max_requests: 1,
        stall_timeout_ms: 1_000,
        ..world.config()
    };
    let node = world.start(config).await;
    // More than a stream's receive window.
    let id = store(&node, world.dir.path(), &bytes(8 * MIB));
    let small = store(&node, world.dir.path(), &bytes(10));
    let agent = Agent::greet(&world, &node).await;
    let (_send, mut stalled, first) = agent.open(&whole(id), &world.key).await;
    assert!(matches!(first, Answer::Head(_)));
    assert_eq!(agent.refusal_of(&whole(small), &world.key).await.code(), RefusalCode::OverCapacity);
    assert_eq!(soon(stalled.received_reset()).await.unwrap(), Some(close::CANCELLED.into()));
    soon(async { while matches!(agent.open(&whole(small), &world.key).await.2, Answer::Refused(_)) {} }).await;
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_room_for_the_first_frame_takes_a_place_only_for_a_while() {
    let world = World::new().await;
    let config = node_server::NodeConfig {
        tariff: aro_proto::Tariff { per_mib: 0 },
        max_requests: 1,
        stall_timeout_ms: 500,
        ..world.config()
    };
    let node = world.start(config).await;
    let id = store(&node, world.dir.path(), &bytes(MIB));
    // Not even a frame's head fits; the control stream is read, the requests are not.
    let narrow = Agent::greet_with_window(&world, &node, 4).await;
    let (_send, mut fetched) = narrow.ask(&whole(id), &world.key).await;
    assert_eq!(soon(fetched.received_reset()).await.unwrap(), Some(close::CANCELLED.into()));
    let (_send, mut described) = narrow.ask(&aro_proto::message::Describe::whole(id), &world.key).await;
    assert_eq!(soon(described.received_reset()).await.unwrap(), Some(close::CANCELLED.into()));
    let unknown = whole(ContentId::of(b"unknown"));
    let (_send, mut refused) = narrow.ask(&unknown, &world.key).await;
    assert_eq!(soon(refused.received_reset()).await.unwrap(), Some(close::CANCELLED.into()));
    let other = Agent::greet(&world, &node).await;
    soon(async { while matches!(other.open(&whole(id), &world.key).await.2, Answer::Refused(_)) {} }).await;
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_no_channel_and_no_request_is_closed_after_a_while() {
    let world = World::new().await;
    let node = world.start(node_server::NodeConfig { idle_unbound_ms: 1_500, ..world.config() }).await;
    let funded = world.fund(1_000_000).await;
    let bound = Agent::bound(&world, &node, &funded).await;
    let idle = Agent::greet(&world, &node).await;
    assert_eq!(idle.closed_with().await, close::DONE);
    assert!(bound.connection.close_reason().is_none());
    node.shutdown().await.unwrap();
}
