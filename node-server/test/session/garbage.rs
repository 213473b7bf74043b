//! Broken and hostile bytes end their own connection, and nothing else.

use aro_proto::error::close;
use aro_proto::limits::MAX_FRAME;
use aro_proto::message::{Hello, Message, NodeHello, Pay};
use aro_proto::wire::encode_frame;
use node_server::NodeConfig;

use crate::agent::{Agent, chain_ids, close_code, dial, hear, say, whole};
use crate::world::{World, bytes, store};

/// Bytes that are no frame, or no frame that is due here.
fn wrong_frames(world: &World) -> Vec<(&'static str, Vec<u8>)> {
    let hello = encode_frame(&Hello { minor_version: 0, chain: chain_ids(world) }).unwrap();
    let announced = |length: u32, kind: u8| [&length.to_le_bytes()[..], &[kind]].concat();
    vec![
        ("too long", announced(MAX_FRAME as u32 + 1, 0x10)),
        ("absurdly long", announced(u32::MAX, 0x10)),
        ("empty", announced(0, 0x10)),
        ("unknown kind", announced(1, 0xee)),
        ("unsigned", encode_frame(&whole(aro_proto::ContentId::of(b"x"))).unwrap()),
        ("a hello", hello),
        ("a short envelope", [announced(97, 0x10), vec![7; 96]].concat()),
        ("garbage", bytes(5000)),
    ]
}

// r[verify framing.length]
// r[verify framing.kind]
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_frame_on_a_request_stream_closes_the_connection_as_broken() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    for (what, wrong) in wrong_frames(&world) {
        let agent = Agent::greet(&world, &node).await;
        let (mut send, _receive) = agent.connection.open_bi().await.unwrap();
        send.write_all(&wrong).await.unwrap();
        assert_eq!(agent.closed_with().await, close::PROTOCOL, "{what}");
    }
    assert_still_serves(&world, node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_frame_on_the_control_stream_closes_the_connection_as_broken() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    for (what, wrong) in wrong_frames(&world) {
        let mut agent = Agent::greet(&world, &node).await;
        agent.control.0.write_all(&wrong).await.unwrap();
        assert_eq!(agent.closed_with().await, close::PROTOCOL, "{what}");
        if what == "a hello" {
            continue;
        }
        // And in place of the hello.
        let (_endpoint, connection) = dial(&node).await;
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(&wrong).await.unwrap();
        assert_eq!(close_code(&connection).await, close::PROTOCOL, "{what}");
    }
    assert_still_serves(&world, node).await;
}

// r[verify framing.kind]
#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_ends_or_stalls_half_way_closes_the_connection_as_broken() {
    let world = World::new().await;
    let node = world.start(NodeConfig { exchange_timeout_ms: 500, ..world.config() }).await;
    let frame = encode_frame(&Hello { minor_version: 0, chain: chain_ids(&world) }).unwrap();
    for (cut, finish) in [(3, true), (20, true), (3, false), (20, false)] {
        let agent = Agent::greet(&world, &node).await;
        let (mut send, _receive) = agent.connection.open_bi().await.unwrap();
        send.write_all(&frame[..cut]).await.unwrap();
        if finish {
            send.finish().unwrap();
        }
        assert_eq!(agent.closed_with().await, close::PROTOCOL, "{cut} bytes");
    }
    assert_still_serves(&world, node).await;
}

// r[verify identity.chain]
#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_hello_is_never_answered() {
    let world = World::new().await;
    let node = world.start(NodeConfig { exchange_timeout_ms: 500, ..world.config() }).await;
    let id = store(&node, world.dir.path(), &bytes(10));
    let (_endpoint, connection) = dial(&node).await;
    let (mut control, _receive) = connection.open_bi().await.unwrap();
    // One byte opens the stream, but is no hello.
    control.write_all(&[100]).await.unwrap();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, aro_proto::limits::EXPORTER_LABEL, b"").unwrap();
    let binding = aro_proto::identity::Binding { exporter, stream: 4 };
    let signed = aro_proto::identity::Signed::new(&whole(id), &world.key, &binding).unwrap();
    send.write_all(&signed.to_frame()).await.unwrap();
    assert!(crate::agent::soon(crate::agent::frame(&mut receive)).await.is_none());
    assert_eq!(close_code(&connection).await, close::PROTOCOL);

    // Nor is a payment.
    let (_endpoint, connection) = dial(&node).await;
    let (mut control, _receive) = connection.open_bi().await.unwrap();
    let voucher =
        aro_proto::message::VoucherOnWire { cumulative: aro_proto::Amount::new(1), expires_at: 0, signature: [0; 64] };
    say(&mut control, &Pay { voucher }).await;
    assert_eq!(close_code(&connection).await, close::PROTOCOL);
    assert_still_serves(&world, node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_is_closed() {
    let world = World::new().await;
    let node = world.start(NodeConfig { exchange_timeout_ms: 300, ..world.config() }).await;
    let (_endpoint, connection) = dial(&node).await;
    assert_eq!(close_code(&connection).await, close::PROTOCOL);
    assert_still_serves(&world, node).await;
}

async fn assert_still_serves(world: &World, node: node_server::RunningNode) {
    let (_endpoint, connection) = dial(&node).await;
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    say(&mut send, &Hello { minor_version: 0, chain: chain_ids(world) }).await;
    let hello: NodeHello = hear(&mut receive).await;
    assert_eq!(NodeHello::KIND, 0x02);
    assert_eq!(hello.min_grace_s, 900);
    connection.close(0_u32.into(), b"");
    node.shutdown().await.unwrap();
}
