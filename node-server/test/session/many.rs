//! Many contents under one signature, small ones from memory: the same bytes as from disk.

use aro_proto::merkle::{ByteRanges, GroupSize};
use aro_proto::message::{Fetch, FetchItem, Message, Refused};
use aro_proto::wire::{FRAME_HEAD, FrameHead};
use aro_proto::{Amount, ContentId};

use crate::agent::{Agent, soon};
use crate::world::{World, bytes, store};

// r[verify content.encoding.preorder]
#[tokio::test(flavor = "multi_thread")]
async fn small_contents_in_memory_answer_byte_for_byte_as_from_disk() {
    let world = World::new().await;
    let mut answers = Vec::new();
    for small_contents_bytes in [0, 64 << 20] {
        let node = world.start(node_server::NodeConfig { small_contents_bytes, ..world.config() }).await;
        let funded = world.fund(1_000_000).await;
        let mut agent = Agent::bound(&world, &node, &funded).await;
        let sizes = [0, 1, 16_384, 16_385, 65_536, 65_537, 200_000, 40_000, 3];
        let mut ids: Vec<ContentId> = sizes.map(|size| store(&node, world.dir.path(), &bytes(size))).into();
        ids.insert(4, ContentId::of(b"nobody has this"));
        let mut paid = 0;
        // The second time all small ones lie in memory.
        for _ in 0..2 {
            for (ranges, group) in [
                (ByteRanges::all(), GroupSize::KIB64),
                (ByteRanges::all(), GroupSize::KIB16),
                (ByteRanges::new([0..1, 20_000..50_000]).unwrap(), GroupSize::KIB16),
            ] {
                let items = ids.iter().map(|id| FetchItem { content: *id, ranges: ranges.clone() }).collect();
                let fetch = Fetch { items, group_log2: group.log2(), max_price: Amount::new(u64::MAX) };
                let (_send, mut receive) = agent.ask(&fetch, &funded.signer).await;
                let answer = soon(receive.read_to_end(4 << 20)).await.unwrap();
                // About what it costs, and never less: the window opens again.
                paid += answer.len() as u64 / 1_000;
                agent.pay(&funded, paid).await.unwrap();
                answers.push(answer);
            }
        }
        node.shutdown().await.unwrap();
    }
    let (from_disk, from_memory) = answers.split_at(6);
    assert_eq!(from_disk[..3], from_disk[3..]);
    assert_eq!(from_disk, from_memory);
    assert!(from_disk.iter().all(|answer| answer.len() > 100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_content_is_refused_in_its_place_and_the_others_are_served() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    let agent = Agent::bound(&world, &node, &funded).await;
    let (sound, rotten) = (bytes(20_000), bytes(30_000));
    let ids = [&rotten, &sound].map(|content| store(&node, world.dir.path(), content));
    let data = world.config().dir.join("contents").join(ids[0].to_string()).join("data");
    std::fs::write(data, vec![9; 30_000]).unwrap();
    let items = ids.iter().map(|id| FetchItem { content: *id, ranges: ByteRanges::all() }).collect();
    let fetch = Fetch { items, group_log2: GroupSize::KIB64.log2(), max_price: Amount::new(u64::MAX) };
    let (_send, mut receive) = agent.ask(&fetch, &funded.signer).await;
    let answer = soon(receive.read_to_end(1 << 20)).await.unwrap();
    let head = FrameHead::parse(answer.first_chunk::<FRAME_HEAD>().unwrap()).unwrap();
    assert_eq!(head.kind, Refused::KIND);
    assert!(answer.ends_with(&sound[sound.len() - 1_000..]), "{} bytes", answer.len());
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_several_endpoints_serves_and_stops_as_one() {
    let world = World::new().await;
    let node = world.start(node_server::NodeConfig { endpoints: 3, ..world.config() }).await;
    let content = bytes(100_000);
    let id = store(&node, world.dir.path(), &content);
    let funded = world.fund(1_000_000).await;
    let mut agents = Vec::new();
    for _ in 0..12 {
        agents.push(Agent::bound(&world, &node, &funded).await);
    }
    let mut paid = 0;
    for agent in &mut agents {
        assert_eq!(agent.fetch(id, &funded, paid).await, content);
        paid += 100;
    }
    assert_eq!(node.status().await.connections, 12);
    node.shutdown().await.unwrap();
}
