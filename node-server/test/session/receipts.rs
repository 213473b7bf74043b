//! Receipts: for what has ended and is paid, never before, and only to agents that know of them.

use aro_proto::limits::{MAX_RECEIPT_DELIVERIES, RECEIPTS_SINCE};
use aro_proto::merkle::ByteRanges;
use aro_proto::message::{Delivery, Fetch, FetchItem, Receipt, list_id};
use aro_proto::{ByteCount, ContentId, Tariff};

use crate::agent::{Agent, Answer, Proving, hear, soon, whole};
use crate::world::{Funded, MIB, PRICE, World, bytes, store};

/// Takes in all of a content, and the end of the stream; pays nothing.
async fn take(agent: &Agent, content: ContentId, funded: &Funded) -> u64 {
    let (send, mut receive, answer) = agent.open(&whole(content), &funded.signer).await;
    let Answer::Head(head) = answer else { panic!("{answer:?}") };
    let mut reader = Proving::new(content, head.size.get());
    while reader.next(&mut receive).await {}
    assert_eq!(soon(receive.read(&mut [0; 1])).await.unwrap(), None);
    u64::from(quinn::VarInt::from(send.id()))
}

fn price(len: usize) -> u64 {
    Tariff { per_mib: PRICE }.price(ByteCount::new(len as u64)).unwrap().get()
}

fn delivery(stream: u64, content: ContentId, len: usize) -> Delivery {
    let bytes = ByteCount::new(len as u64);
    let amount = Tariff { per_mib: PRICE }.price(bytes).unwrap();
    Delivery { stream, content, contents: 1, ranges: ByteRanges::all(), bytes, amount }
}

// r[verify receipt.after_payment]
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_comes_once_the_voucher_is_credited_and_not_before() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let id = store(&node, world.dir.path(), &bytes(MIB));
    let mut agent = Agent::greet_as(RECEIPTS_SINCE, &world, &node).await;
    agent.bind(&funded).await.unwrap();
    let stream = take(&agent, id, &funded).await;
    // Each is answered with a credit alone: `pay` takes nothing else.
    for part in [1, PRICE / 2, PRICE - 1] {
        agent.pay(&funded, part).await.unwrap();
    }
    agent.pay(&funded, PRICE).await.unwrap();
    let signed: Receipt = hear(&mut agent.control.1).await;
    let receipt = signed.verify(&node.node_id()).unwrap();
    assert_eq!((receipt.channel, receipt.cumulative.get()), (funded.channel, PRICE));
    assert_eq!(receipt.deliveries, [delivery(stream, id, MIB)]);
    assert!(receipt.at > 1_600_000_000);
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_receipt_is_for_all_that_a_voucher_pays_and_for_all_contents_of_a_request() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let contents = [bytes(10_000), bytes(70_000)];
    let ids = contents.each_ref().map(|content| store(&node, world.dir.path(), content));
    let mut agent = Agent::greet_as(RECEIPTS_SINCE, &world, &node).await;
    agent.bind(&funded).await.unwrap();
    let mut due = Vec::new();
    for _ in 0..5 {
        due.push(delivery(take(&agent, ids[0], &funded).await, ids[0], 10_000));
    }
    let asked = [ids[0], ContentId::of(b"not here"), ids[1]];
    let fetch = Fetch {
        items: asked.map(|content| FetchItem { content, ranges: ByteRanges::all() }).to_vec(),
        ..whole(ids[0])
    };
    let (send, mut receive, first) = agent.open(&fetch, &funded.signer).await;
    assert!(matches!(first, Answer::Head(_)), "{first:?}");
    let rest = soon(receive.read_to_end(MIB)).await.unwrap();
    assert!(rest.len() > 80_000);
    let stream = u64::from(quinn::VarInt::from(send.id()));
    due.push(Delivery { contents: 3, ..delivery(stream, list_id(asked), 80_000) });

    agent.pay(&funded, price(130_000)).await.unwrap();
    // The node may learn of the last end after the voucher: what is signed for together is what was there.
    let mut signed_for = Vec::new();
    while signed_for.len() < due.len() {
        let signed: Receipt = hear(&mut agent.control.1).await;
        let receipt = signed.verify(&node.node_id()).unwrap();
        assert_eq!(receipt.cumulative.get(), price(130_000));
        signed_for.extend_from_slice(&receipt.deliveries);
    }
    signed_for.sort_by_key(|delivery| delivery.stream);
    assert_eq!(signed_for, due);
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_that_one_voucher_pays_are_signed_for_in_few_receipts() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let id = store(&node, world.dir.path(), &bytes(1_000));
    let mut agent = Agent::greet_as(RECEIPTS_SINCE, &world, &node).await;
    agent.bind(&funded).await.unwrap();
    let count = MAX_RECEIPT_DELIVERIES + 10;
    for _ in 0..count {
        take(&agent, id, &funded).await;
    }
    agent.pay(&funded, price(count * 1_000)).await.unwrap();
    let (mut receipts, mut streams) = (0, Vec::new());
    while streams.len() < count {
        let signed: Receipt = hear(&mut agent.control.1).await;
        assert!((1..=MAX_RECEIPT_DELIVERIES).contains(&signed.receipt.deliveries.len()));
        receipts += 1;
        streams.extend(signed.receipt.deliveries.iter().map(|delivery| delivery.stream));
    }
    assert!(receipts <= count / 4, "{receipts} receipts for {count} requests");
    streams.dedup();
    assert_eq!(streams.len(), count, "each once");
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_know_of_receipts_is_sent_none() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let id = store(&node, world.dir.path(), &bytes(MIB));
    let mut agent = Agent::bound(&world, &node, &funded).await;
    for fetched in 1..=3 {
        take(&agent, id, &funded).await;
        // All is paid, and then the same again: between the two credits there would be room for a receipt.
        for _ in 0..2 {
            agent.pay(&funded, fetched * PRICE).await.unwrap();
        }
    }
    node.shutdown().await.unwrap();
}
