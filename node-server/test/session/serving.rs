//! The good case: right bytes, proven, paid to the last unit.

use aro_proto::limits::QUANTUM_BYTES;
use aro_proto::merkle::{ByteRanges, Decoder, GroupSize};
use aro_proto::message::{Describe, Description, Fetch, FetchItem};
use aro_proto::{ByteCount, ContentId, RefusalCode, Tariff};

use crate::agent::{Agent, Answer, answer, dial_as, hear, soon, whole};
use crate::world::{MIB, PRICE, World, bytes, store, units};

#[tokio::test(flavor = "multi_thread")]
async fn contents_of_nasty_sizes_are_served_and_paid_exactly() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let mut agent = Agent::bound(&world, &node, &funded).await;
    let mut total = 0_u64;
    for size in [0, 1, 1023, 1024, 1025, 65_536, 65_537, MIB, 5 * MIB + 123] {
        let content = bytes(size);
        let id = store(&node, world.dir.path(), &content);
        // Paid on top of what was paid before: each fetch rounds up by itself here, so take the node's own count.
        let paid = Tariff { per_mib: PRICE }.price(ByteCount::new(total)).unwrap().get();
        assert_eq!(agent.fetch(id, &funded, paid).await, content, "{size}");
        total += size as u64;
    }
    let status = node.status().await;
    let channel = status.channel(funded.channel).unwrap();
    assert!(channel.watermark >= Tariff { per_mib: PRICE }.price(ByteCount::new(total)).unwrap());
    assert_eq!((status.bytes_served, status.connections), (total, 1));
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_free_node_serves_without_a_channel() {
    let world = World::new().await;
    let node = world.start(node_server::NodeConfig { tariff: Tariff { per_mib: 0 }, ..world.config() }).await;
    let content = bytes(3 * MIB);
    let id = store(&node, world.dir.path(), &content);
    let agent = Agent::greet(&world, &node).await;
    let (_send, mut receive, first) = agent.open(&whole(id), &world.key).await;
    let Answer::Head(head) = first else { panic!("{first:?}") };
    assert_eq!((head.size, head.price), (ByteCount::new(3 * MIB as u64), units(0)));
    let mut reader = crate::agent::Proving::new(id, head.size.get());
    while reader.next(&mut receive).await {}
    assert_eq!(reader.proven, content);
    node.shutdown().await.unwrap();
}

// r[verify request.max_price]
// r[verify content.ranges.rounding]
#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_rounded_to_groups_and_many_contents_come_under_one_signature() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let agent = Agent::bound(&world, &node, &funded).await;
    let (first, second) = (bytes(200_000), bytes(70_000));
    let ids = [store(&node, world.dir.path(), &first), store(&node, world.dir.path(), &second)];
    let ranges = ByteRanges::new([5..6, 100_000..100_001]).unwrap();
    let missing = ContentId::of(b"not here");
    let item = |content| FetchItem { content, ranges: ranges.clone() };
    let mut fetch = Fetch {
        items: vec![item(ids[0]), item(missing), item(ids[1])],
        group_log2: GroupSize::KIB16.log2(),
        max_price: units(0),
    };
    let refusal = agent.refusal_of(&fetch, &funded.signer).await;
    assert_eq!(refusal.code(), RefusalCode::PriceTooHigh);
    fetch.max_price = refusal.amount.unwrap();

    let (_send, mut receive) = agent.ask(&fetch, &funded.signer).await;
    let mut billed = 0;
    for (id, content) in [(ids[0], Some(&first)), (missing, None), (ids[1], Some(&second))] {
        match (answer(&mut receive).await, content) {
            (Answer::Refused(refusal), None) => assert_eq!(refusal.code(), RefusalCode::NotFound),
            (Answer::Head(head), Some(content)) => {
                let answered = ranges.answered(content.len() as u64, GroupSize::KIB16);
                assert_eq!(head.content_bytes.get(), answered.content_bytes());
                billed += answered.content_bytes();
                let mut decoder = Decoder::new(id, answered).unwrap();
                while let Some(len) = decoder.expects() {
                    let mut item = vec![0; len];
                    soon(receive.read_exact(&mut item)).await.unwrap();
                    if let Some(leaf) = decoder.accept(item).unwrap() {
                        assert_eq!(leaf.bytes(), &content[leaf.offset() as usize..][..leaf.len() as usize]);
                    }
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(Some(fetch.max_price), agent.tariff.price(ByteCount::new(billed)));
    assert_eq!(soon(receive.read(&mut [0; 1])).await.unwrap(), None);
    node.shutdown().await.unwrap();
}

// r[verify pricing.quote.signed]
#[tokio::test(flavor = "multi_thread")]
async fn a_quote_is_signed_free_and_kept() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let id = store(&node, world.dir.path(), &bytes(MIB + 1));
    let agent = Agent::greet(&world, &node).await;
    let (_send, mut receive) = agent.ask(&Describe::whole(id), &world.key).await;
    let description: Description = hear(&mut receive).await;
    let quote = description.quote.verify(&node.node_id()).unwrap();
    assert_eq!((quote.content, quote.size.get(), quote.price), (id, MIB as u64 + 1, units(PRICE + 1)));
    node.shutdown().await.unwrap();
}

// r[verify channel.window]
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_pay_gets_one_quantum_and_no_more() {
    let world = World::new().await;
    let node = world.start(node_server::NodeConfig { payment_timeout_ms: 300, ..world.config() }).await;
    let funded = world.fund(1_000_000).await;
    let id = store(&node, world.dir.path(), &bytes(4 * MIB));
    let agent = Agent::bound(&world, &node, &funded).await;
    let (_send, mut receive, first) = agent.open(&whole(id), &funded.signer).await;
    assert!(matches!(first, Answer::Head(_)));
    let mut got = 0;
    let end = loop {
        match soon(receive.read_chunk(MIB, true)).await {
            Ok(Some(chunk)) => got += chunk.bytes.len() as u64,
            other => break other,
        }
    };
    let quinn::ReadError::Reset(code) = end.unwrap_err() else { panic!("not reset") };
    assert_eq!(u64::from(code) as u32, aro_proto::error::close::UNPAID);
    // A reset may overtake what was sent before it.
    assert!(got <= QUANTUM_BYTES + QUANTUM_BYTES / 100, "{got}");
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_names_the_public_host_which_must_be_one() {
    let world = World::new().await;
    let with_host = |host: &str| node_server::NodeConfig { public_host: Some(host.into()), ..world.config() };
    let node = world.start(with_host("node.example")).await;
    let address = node.address_of(ContentId::of(b"x")).unwrap();
    assert_eq!(
        (address.host(), address.port(), address.node()),
        ("node.example", node.local_addr().port(), node.node_id())
    );
    node.shutdown().await.unwrap();
    let chain = std::sync::Arc::new(world.chain.clone());
    let refused = node_server::Node::start(with_host("no host"), world.key.clone(), chain).await;
    assert!(matches!(refused, Err(node_server::StartError::PublicHost { .. })));
}

// r[verify identity.node.pinned]
#[tokio::test(flavor = "multi_thread")]
async fn another_key_than_the_nodes_cannot_be_dialled() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let other = aro_proto::SecretKey::from_bytes(&[9; 32]).node_id();
    assert!(dial_as(&node, other).await.is_err());
    node.shutdown().await.unwrap();
}
