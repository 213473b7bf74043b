//! Memory does not grow with the size of a content, neither at the node nor at the agent.
//!
//! What could break: a buffer that holds a whole content or outboard, a queue without a bound, an allocation by a
//! claimed size. Alone in its process, whose peak it reads.

#![allow(clippy::panic, clippy::unwrap_used, reason = "that is how tests fail")]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use agent_client::{Agent, Wallet};
use aro_proto::Tariff;
use aro_proto::merkle::ByteRanges;
use aro_tests::world::World;
use nix::sys::resource::{UsageWho, getrusage};

/// One process holds chain, node, operator and agent: its peak bounds each of them.
#[tokio::test(flavor = "multi_thread")]
async fn the_peak_is_the_same_for_a_content_sixteen_times_as_large() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let world = World::new().await.expect("a world");
    let operator = world.operator(&home.path().join("operator"), 100).await.expect("an operator");
    let node = world.node(&home.path().join("node"), Tariff { per_mib: 1 }, &operator).await.expect("a node");
    let wallet = Wallet::create(&home.path().join("agent")).expect("a wallet");
    let owner = wallet.owner();
    let agent = Agent::builder().chain(world.chain.clone()).wallet(wallet).build().await.expect("an agent");
    world.fund(&owner, 1_000_000).await.expect("funded");
    agent.wallet().deposit("1".parse().expect("an amount")).await.expect("deposited");
    let _ = agent.open_channel(node.running.node_id(), "1".parse().expect("an amount"), None).await.expect("opened");
    node.running.follow_now().await.expect("followed");

    let mut peaks = Vec::new();
    for size in [24 << 20, 384 << 20] {
        let file = sparse(&home.path().join("content"), size);
        let stored = node.running.store().add_file(&file).expect("stored");
        let address = node.running.address_of(stored.id).expect("an address");
        let report = agent.fetch(&address).to_file(home.path().join("received")).await.expect("fetched");
        assert_eq!((report.verified_bytes, report.size_proven), (size, true));
        peaks.push(peak_kib());
    }
    let growth = peaks[1] - peaks[0];
    assert!(growth < 48 << 10, "the peak grew by {growth} KiB for 360 MiB more ({peaks:?} KiB)");
    agent.close().await;
}

/// Sizes and offsets beyond 32 bits, at little cost: only the end is fetched.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_content_above_four_gib_is_served_and_proven() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let world = World::new().await.expect("a world");
    let operator = world.operator(&home.path().join("operator"), 100).await.expect("an operator");
    let node = world.node(&home.path().join("node"), Tariff::default(), &operator).await.expect("a node");
    let wallet = Wallet::create(&home.path().join("agent")).expect("a wallet");
    let agent = Agent::builder().chain(world.chain.clone()).wallet(wallet).build().await.expect("an agent");

    let size = (4 << 30) + 12_345;
    let file = sparse(&home.path().join("content"), size);
    let stored = node.running.store().add_file(&file).expect("stored");
    let address = node.running.address_of(stored.id).expect("an address");
    let ranges = ByteRanges::single(size - 100, size).expect("a range");
    let (report, bytes) = agent.fetch(&address).ranges(ranges).to_bytes(1 << 20).await.expect("fetched");
    assert_eq!((report.size, report.size_proven), (size, true));
    assert_eq!(&bytes[bytes.len() - END.len()..], END);
    agent.close().await;
}

/// A file of zeros that takes no disk, but for its end.
fn sparse(path: &Path, size: u64) -> std::path::PathBuf {
    let mut file = File::create(path).expect("created");
    file.set_len(size).expect("sized");
    file.seek(SeekFrom::Start(size - END.len() as u64)).expect("sought");
    file.write_all(END).expect("written");
    path.to_owned()
}

fn peak_kib() -> i64 {
    getrusage(UsageWho::RUSAGE_SELF).expect("the system counts").max_rss()
}

const END: &[u8] = b"the very end";
