//! Fetches that are read while they run: in order, only what is proven, at the reader's pace.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use agent_client::{Agent, FetchError};
use aro_proto::merkle::ByteRanges;
use aro_proto::{ByteCount, SecretKey, Tariff};
use support::scripted::{Script, ScriptedNode, content};
use support::world::World;
use tokio::io::AsyncReadExt;

const PER_MIB: u64 = 1_000_003;
const MIB: usize = 1 << 20;

fn key() -> SecretKey {
    SecretKey::from_bytes(&[51; 32])
}

fn price(bytes: u64) -> u64 {
    Tariff { per_mib: PER_MIB }.price(ByteCount::new(bytes)).unwrap().get()
}

async fn scene(len: usize) -> (World, Agent, ScriptedNode) {
    let world = World::new().await;
    let (agent, _) = world.agent_with_channel(&key(), 100 * PER_MIB).await;
    let node = ScriptedNode::start(&world, &key(), content(len), PER_MIB).await;
    (world, agent, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_is_the_content_and_the_report_says_what_it_cost() {
    let (_world, agent, node) = scene(0).await;
    let mut total = 0;
    for len in [0, 1, 1024, 65_537, 9 * MIB + 5] {
        node.store(content(len));
        let (mut reader, mut read) = (agent.fetch(&node.address()).to_reader(), Vec::new());
        assert_eq!(reader.read_to_end(&mut read).await.unwrap(), len);
        assert!(read == node.content());
        let report = reader.report().await.unwrap();
        assert!(report.size_proven && report.acknowledged);
        total += len as u64;
        assert_eq!((report.delivered_bytes, node.seen().paid()), (len as u64, price(total)));
    }
    let ranges = ByteRanges::new([5..10, 70_000..200_000, 9 * MIB as u64..u64::MAX]).unwrap();
    let (mut reader, mut read) = (agent.fetch(&node.address()).ranges(ranges).to_reader(), Vec::new());
    reader.read_to_end(&mut read).await.unwrap();
    let all = node.content();
    assert!(read == [&all[5..10], &all[70_000..200_000], &all[9 * MIB..]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_holds_the_node_back_and_one_that_goes_pays_what_was_proven() {
    let (_world, agent, node) = scene(40 * MIB).await;
    let mut reader = agent.fetch(&node.address()).to_reader();
    let mut first = vec![0; MIB];
    reader.read_exact(&mut first).await.unwrap();
    assert!(first == node.content()[..MIB]);
    // The read-ahead and the stream's window fill up, and then nothing more is signed for.
    let mut signed = node.seen().paid();
    let quiet = async {
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            let now = node.seen().paid();
            if std::mem::replace(&mut signed, now) == now && now > 0 {
                break;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), quiet).await.expect("it is held back");
    assert!(signed < price(8 * MIB as u64), "{signed} paid for what nobody reads");
    reader.cancel().await;
    let seen = node.wait_for(|seen| !seen.ends.is_empty()).await;
    let proven = seen.ends[0].proven_bytes;
    assert!(proven < 8 * MIB as u64, "{proven}");
    node.wait_for(|seen| seen.paid() == price(proven)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_fails_gives_what_it_proved_and_then_its_error_never_an_end() {
    let (_world, agent, node) = scene(3 * MIB).await;
    node.follow(Script::FlipBit { byte: 2 * MIB, bit: 3 });
    let (mut reader, mut read) = (agent.fetch(&node.address()).to_reader(), Vec::new());
    let error = reader.read_to_end(&mut read).await.unwrap_err();
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<FetchError>());
    let Some(FetchError::Proof { proven, .. }) = cause else { panic!("{error}") };
    assert_eq!(read.len() as u64, proven.get());
    assert!(read.len() > MIB && read == node.content()[..read.len()]);
    assert!(matches!(reader.report().await, Err(FetchError::Proof { .. })));
}
