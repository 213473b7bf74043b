//! Streams that end before their content: only what was proven is owed.

use aro_proto::message::StreamEnd;
use aro_proto::{ByteCount, Charge, Tariff};
use quinn::VarInt;

use crate::agent::{Agent, Answer, Proving, say, soon, whole};
use crate::world::{MIB, PRICE, World, bytes, store};

// r[verify channel.cancel.settle]
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_stream_is_billed_by_what_the_agent_proved() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let id = store(&node, world.dir.path(), &bytes(3 * MIB));
    let mut agent = Agent::bound(&world, &node, &funded).await;
    let (send, mut receive, first) = agent.open(&whole(id), &funded.signer).await;
    let Answer::Head(head) = first else { panic!("{first:?}") };
    let mut reader = Proving::new(id, head.size.get());
    while reader.proven.len() < 5 * 65_536 {
        reader.next(&mut receive).await;
    }
    let stream = u64::from(VarInt::from(send.id()));
    receive.stop(VarInt::from_u32(aro_proto::error::close::CANCELLED)).unwrap();
    let proven_bytes = reader.proven.len() as u64;
    say(&mut agent.control.0, &StreamEnd { stream, proven_bytes }).await;

    // A second bind shows the node's count, once it has settled.
    let proven = Tariff { per_mib: PRICE }.charge(ByteCount::new(proven_bytes));
    soon(async { while Charge::from_parts(agent.bind(&funded).await.unwrap().billed) != proven {} }).await;
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_vanishes_frees_what_it_reserved() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    // Enough for one such fetch and what the node lends at first, not for two.
    let funded = world.fund(3 * PRICE).await;
    let id = store(&node, world.dir.path(), &bytes(2 * MIB));
    let agent = Agent::bound(&world, &node, &funded).await;
    let (_send, _receive, first) = agent.open(&whole(id), &funded.signer).await;
    assert!(matches!(first, Answer::Head(_)));
    let mut next = Agent::bound(&world, &node, &funded).await;
    let refusal = next.refusal_of(&whole(id), &funded.signer).await;
    assert_eq!(refusal.code(), aro_proto::RefusalCode::DepositExhausted);
    agent.connection.close(0_u32.into(), b"");
    let (_send, mut receive, head) = soon(async {
        loop {
            if let (send, receive, Answer::Head(head)) = next.open(&whole(id), &funded.signer).await {
                break (send, receive, head);
            }
        }
    })
    .await;
    // What it had acknowledged arrived, so the channel owes for it: no more than the node lends.
    next.pay(&funded, PRICE).await.unwrap();
    assert_eq!(next.take(&mut receive, id, &head, &funded, PRICE).await, bytes(2 * MIB));
    node.shutdown().await.unwrap();
}
