//! Fetches to a file that break off and go on: at the same node or another, whole or in ranges, and no byte twice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::path::Path;
use std::sync::Mutex;

use agent_client::{Agent, FetchBuilder, FetchError, FetchReport};
use aro_proto::merkle::{ByteRanges, GroupSize};
use aro_proto::{Amount, ByteCount, SecretKey, Tariff};
use support::scripted::{Script, ScriptedNode, content};
use support::world::World;

const PER_MIB: u64 = 1_000_003;
const MIB: usize = 1 << 20;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32])
}

fn price(bytes: u64) -> u64 {
    Tariff { per_mib: PER_MIB }.price(ByteCount::new(bytes)).unwrap().get()
}

/// Two nodes with the same content, and an agent with a channel to each.
async fn scene(bytes: Vec<u8>) -> (World, Agent, [ScriptedNode; 2]) {
    let world = World::new().await;
    let deposit = 100 * PER_MIB;
    let agent = world.agent(2 * deposit).await;
    let mut nodes = Vec::new();
    for seed in [41, 42] {
        let node = world.register_node(&key(seed), 900).await;
        let _ = agent.open_channel(node, Amount::new(deposit), None).await.unwrap();
        nodes.push(ScriptedNode::start(&world, &key(seed), bytes.clone(), PER_MIB).await);
    }
    (world, agent, nodes.try_into().unwrap_or_else(|_| panic!("two nodes")))
}

/// Cancels a fetch as soon as so many bytes are proven; says how many were by then.
async fn cancel_at(fetch: FetchBuilder, bytes: u64, path: &Path) {
    let (reached, at) = tokio::sync::oneshot::channel();
    let reached = Mutex::new(Some(reached));
    let fetch = fetch.progress(move |progress| {
        if progress.proven_bytes >= bytes
            && let Some(reached) = reached.lock().unwrap().take()
        {
            let _ = reached.send(());
        }
    });
    tokio::select! {
        biased;
        _ = at => {}
        done = fetch.to_file(path) => panic!("it should have been cancelled: {done:?}"),
    }
}

fn names(world: &World) -> Vec<String> {
    let names = std::fs::read_dir(world.dir.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("out")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_broke_off_another_finishes_and_no_byte_is_fetched_or_paid_twice() {
    let (world, agent, [first, second]) = scene(content(9 * MIB + 12_345)).await;
    let path = world.path("out");
    std::fs::write(&path, b"before").unwrap();
    let size = first.content().len() as u64;
    let mut had = 0;
    // Wherever it breaks off, in the middle of groups too.
    for (node, cut) in [(&first, 100), (&first, 3 * MIB + 77), (&second, 2 * MIB), (&first, 70_000)] {
        node.follow(Script::CutAt(cut));
        let error = agent.fetch(&node.address()).to_file(&path).await.unwrap_err();
        let FetchError::Proof { proven, .. } = error else { panic!("{error}") };
        had += proven.get();
        node.wait_for(|seen| seen.ends.last().is_some_and(|end| end.proven_bytes == proven.get())).await;
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
    }
    assert!(had > 4 * MIB as u64 && had % GroupSize::KIB64.bytes() == 0, "{had}");
    second.follow(Script::Honest);
    let report = agent.fetch(&second.address()).to_file(&path).await.unwrap();
    assert_eq!((report.resumed_bytes, report.verified_bytes), (had, size - had));
    assert_eq!((report.size, report.delivered_bytes, report.size_proven), (size, size, true));
    assert_eq!(std::fs::read(&path).unwrap(), first.content());
    assert_eq!(names(&world), ["out"]);
    // Two channels, so rounded up twice.
    let paid = first.seen().paid() + second.seen().paid();
    assert!((price(size)..=price(size) + 1).contains(&paid), "{paid}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_was_whole_asks_nobody_whether_it_has_its_name_or_not() {
    let (world, agent, [node, _]) = scene(content(3 * MIB)).await;
    let path = world.path("out");
    cancel_at(agent.fetch(&node.address()), 3 * MIB as u64, &path).await;
    let before = node.wait_for(|seen| seen.paid() == price(3 * MIB as u64)).await;
    let report = agent.fetch(&node.address()).to_file(&path).await.unwrap();
    assert_eq!((report.resumed_bytes, report.verified_bytes, report.wire_bytes), (3 * MIB as u64, 0, 0));
    assert_eq!((report.paid, report.size, report.size_proven), (Amount::ZERO, 3 * MIB as u64, true));
    assert_eq!(node.seen().requests, before.requests);
    assert_eq!(std::fs::read(&path).unwrap(), node.content());
    let report = agent.fetch(&node.address()).to_file(&path).await.unwrap();
    assert_eq!((report.resumed_bytes, report.verified_bytes, report.paid), (3 * MIB as u64, 0, Amount::ZERO));
    assert_eq!(names(&world), ["out"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_go_on_too_and_other_ranges_use_what_is_there() {
    let (world, agent, [node, other]) = scene(content(4 * MIB)).await;
    let path = world.path("out");
    let ranges = |of: &[(u64, u64)]| ByteRanges::new(of.iter().map(|(start, end)| *start..*end)).unwrap();
    let many: Vec<_> = (0..40).map(|i| (i * 100_000 + 5, i * 100_000 + 20_000)).collect();
    let asked = ranges(&many);
    node.follow(Script::CutAt(500_000));
    let error = agent.fetch(&node.address()).ranges(asked.clone()).to_file(&path).await.unwrap_err();
    let FetchError::Proof { proven, .. } = error else { panic!("{error}") };
    assert!(proven.get() > 400_000);
    let report = agent.fetch(&other.address()).ranges(asked.clone()).to_file(&path).await.unwrap();
    let billed = asked.answered(4 * MIB as u64, GroupSize::KIB16).content_bytes();
    assert_eq!(report.verified_bytes, billed - proven.get());
    let all = node.content();
    let expected: Vec<u8> = many.iter().flat_map(|(start, end)| all[*start as usize..*end as usize].to_vec()).collect();
    assert_eq!((report.delivered_bytes, std::fs::read(&path).unwrap()), (expected.len() as u64, expected));

    // A part of another request of the same content: small groups in between are not fetched again.
    node.follow(Script::CutAt(200_000));
    let error = agent.fetch(&node.address()).ranges(ranges(&many[..10])).to_file(&path).await.unwrap_err();
    let FetchError::Proof { .. } = error else { panic!("{error}") };
    let had = node.seen().ends.last().unwrap().proven_bytes;
    let report = agent.fetch(&other.address()).to_file(&path).await.unwrap();
    assert_eq!((report.resumed_bytes, report.verified_bytes), (had, 4 * MIB as u64 - had));
    assert_eq!(std::fs::read(&path).unwrap(), all);
    assert_eq!(names(&world), ["out"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_start_pays_anew_and_another_content_is_not_mixed_in() {
    let (world, agent, [node, other]) = scene(content(3 * MIB)).await;
    let path = world.path("out");
    cancel_at(agent.fetch(&node.address()), MIB as u64, &path).await;
    let report: FetchReport = agent.fetch(&node.address()).resume(false).to_file(&path).await.unwrap();
    assert_eq!((report.resumed_bytes, report.verified_bytes), (0, 3 * MIB as u64));

    std::fs::remove_file(&path).unwrap();
    cancel_at(agent.fetch(&node.address()), MIB as u64, &path).await;
    other.store(content(2 * MIB + 1));
    let report = agent.fetch(&other.address()).to_file(&path).await.unwrap();
    assert_eq!((report.resumed_bytes, report.verified_bytes), (0, 2 * MIB as u64 + 1));
    assert_eq!(std::fs::read(&path).unwrap(), other.content());
    assert_eq!(names(&world), ["out"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_fetch_leaves_nothing_behind_and_keeps_what_was_there() {
    let (world, agent, [node, _]) = scene(content(3 * MIB)).await;
    let path = world.path("out");
    let cheap = |price| agent.fetch(&node.address()).max_price(Amount::new(price)).to_file(&path);
    assert!(matches!(cheap(1).await, Err(FetchError::PriceTooHigh { .. })));
    assert!(names(&world).is_empty());
    cancel_at(agent.fetch(&node.address()), 2 * MIB as u64, &path).await;
    assert!(matches!(cheap(1).await, Err(FetchError::PriceTooHigh { .. })));
    // What is left costs a third, and no more than that is asked.
    let report = cheap(PER_MIB).await.unwrap();
    assert!(report.resumed_bytes >= 2 * MIB as u64 && report.paid.get() <= PER_MIB, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lies_about_the_size_of_what_is_proven_is_found_out() {
    let (world, agent, [node, _]) = scene(content(3 * MIB)).await;
    let path = world.path("out");
    // The last group proves the size, and is there when the rest is asked for: its own fetch could not put it in place.
    let end = ByteRanges::single(3 * MIB as u64 - 1, 3 * MIB as u64).unwrap();
    let in_the_way = world.path("out.aro-ranges");
    std::fs::create_dir(&in_the_way).unwrap();
    let error = agent.fetch(&node.address()).ranges(end).to_file(&path).await.unwrap_err();
    assert!(matches!(error, FetchError::Sink(_)), "{error}");
    std::fs::remove_dir(&in_the_way).unwrap();
    node.follow(Script::Size(3 * MIB as u64 + 1));
    let error = agent.fetch(&node.address()).to_file(&path).await.unwrap_err();
    assert!(matches!(error, FetchError::Misbehaved { .. }), "{error}");
    node.follow(Script::Honest);
    let report = agent.fetch(&node.address()).to_file(&path).await.unwrap();
    assert_eq!(report.resumed_bytes, 16_384);
    assert_eq!(std::fs::read(&path).unwrap(), node.content());
}
