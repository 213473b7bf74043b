//! A request holds on its own connection and stream, for its own signer, and nowhere else.

use aro_proto::error::close;
use aro_proto::identity::Signed;
use aro_proto::{RefusalCode, SecretKey};

use crate::agent::{Agent, Answer, answer, whole};
use crate::world::{World, bytes, store};

// r[verify request.signature.bound]
#[tokio::test(flavor = "multi_thread")]
async fn a_captured_request_means_nothing_on_another_stream_or_connection() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let id = store(&node, world.dir.path(), &bytes(1000));
    let agent = Agent::bound(&world, &node, &funded).await;
    let (mut send, mut receive) = agent.connection.open_bi().await.unwrap();
    let captured = Signed::new(&whole(id), &funded.signer, &agent.binding(&send)).unwrap().to_frame();
    send.write_all(&captured).await.unwrap();
    assert!(matches!(answer(&mut receive).await, Answer::Head(_)));

    let elsewhere = Agent::bound(&world, &node, &funded).await;
    for connection in [&agent.connection, &elsewhere.connection] {
        // On the second connection this stream has the very number that was signed.
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        send.write_all(&captured).await.unwrap();
        let Answer::Refused(refusal) = answer(&mut receive).await else { panic!("a replay was served") };
        assert_eq!(refusal.code(), RefusalCode::Unauthorised);
    }
    node.shutdown().await.unwrap();
}

// r[verify request.signature.bound]
#[tokio::test(flavor = "multi_thread")]
async fn only_the_channels_signer_may_spend_it() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let id = store(&node, world.dir.path(), &bytes(1000));
    let agent = Agent::bound(&world, &node, &funded).await;
    let refusal = agent.refusal_of(&whole(id), &SecretKey::from_bytes(&[9; 32])).await;
    assert_eq!(refusal.code(), RefusalCode::Unauthorised);
    node.shutdown().await.unwrap();
}

// r[verify request.signature.bound]
#[tokio::test(flavor = "multi_thread")]
async fn many_bad_signatures_end_the_connection() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let id = store(&node, world.dir.path(), &bytes(1000));
    let agent = Agent::bound(&world, &node, &funded).await;
    let mut refused = 0;
    for _ in 0..aro_proto::limits::MAX_BAD_SIGNATURES + 1 {
        let Ok((mut send, mut receive)) = agent.connection.open_bi().await else { break };
        let mut frame = Signed::new(&whole(id), &funded.signer, &agent.binding(&send)).unwrap().to_frame();
        frame[50] ^= 1;
        if send.write_all(&frame).await.is_err() {
            break;
        }
        refused += u32::from(crate::agent::soon(crate::agent::frame(&mut receive)).await.is_some());
    }
    assert_eq!(refused, aro_proto::limits::MAX_BAD_SIGNATURES);
    assert_eq!(agent.closed_with().await, close::ABUSE);
    node.shutdown().await.unwrap();
}
