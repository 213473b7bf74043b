//! Trees and names from hostile publishers and nodes: a manifest that lies about a size, a node that lies about a manifest,
//! links in the way, records that go back.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agent_client::{Agent, AgentConfig, FetchError, FetchTreeReport, NameError, Preference, Spending, TreeError};
use aro_proto::manifest::{Entry, ManifestError, SignedManifest};
use aro_proto::message::{NameRefused, NameTaken, Refused, Resolved};
use aro_proto::naming::{NameRecord, TargetKind, VerifiedName};
use aro_proto::wire::encode_frame;
use aro_proto::{Amount, ContentId, NameAddress, NodeAddress, Refusal, RefusalCode, SecretKey};
use support::scripted::{Script, ScriptedNode, content};
use support::world::World;

const PER_MIB: u64 = 1_000_000;

/// An agent with a channel to a node that has what it is given.
struct Scene {
    world: World,
    agent: Agent,
    node: ScriptedNode,
}

impl Scene {
    async fn new(contents: &[&[u8]]) -> Self {
        let world = World::new().await;
        let key = SecretKey::from_bytes(&[43; 32]);
        let (agent, _) = world.agent_with_channel(&key, 50 * PER_MIB).await;
        let node = ScriptedNode::start(&world, &key, content(10), PER_MIB).await;
        for bytes in contents {
            node.also_has(bytes);
        }
        Self { world, agent, node }
    }

    /// Publishes a manifest at the node; hostile ones are signed all the same.
    fn manifest(&self, entries: Vec<Entry>) -> aro_proto::Address {
        let bytes = SignedManifest::sign(entries, &publisher()).unwrap().to_bytes();
        self.node.also_has(&bytes);
        self.address(&bytes)
    }

    fn address(&self, bytes: &[u8]) -> aro_proto::Address {
        NodeAddress::from(&self.node.address()).with_content(ContentId::of(bytes))
    }

    fn target(&self) -> std::path::PathBuf {
        self.world.path("target")
    }
}

fn publisher() -> SecretKey {
    SecretKey::from_bytes(&[90; 32])
}

fn entry(name: &str, bytes: &[u8]) -> Entry {
    let (content, size) = (ContentId::of(bytes), bytes.len() as u64);
    Entry { name: name.parse().unwrap(), content, size, media_type: None, executable: false }
}

/// Every file below a folder, without what agents keep there.
fn files(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).into_iter().flatten() {
        let path = item.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != ".aro-part" {
            found.extend(files(&path).into_iter().map(|inner| format!("{name}/{inner}")));
        } else if name != ".aro-part" {
            found.push(name);
        }
    }
    found.sort();
    found
}

// r[verify manifest.write.inside]
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_comes_whole_and_again_for_nothing() {
    let (small, large) = (content(1_000), content(700_000));
    let scene = Scene::new(&[&small, &large, b""]).await;
    let entries =
        vec![entry("a/small", &small), entry("a/same", &small), entry("b/c/large", &large), entry("empty", b"")];
    let manifest = scene.manifest(entries);
    let report = scene.agent.fetch_tree(&manifest).to_folder(scene.target()).await.unwrap();
    assert_eq!((report.files, report.kept_files, report.publisher), (4, 0, publisher().agent_id()));
    assert_eq!(files(&scene.target()), ["a/same", "a/small", "b/c/large", "empty"]);
    assert_eq!(std::fs::read(scene.target().join("b/c/large")).unwrap(), large);
    assert_eq!(std::fs::read(scene.target().join("a/same")).unwrap(), small);
    assert!(!scene.target().join(".aro-part").exists());
    assert_eq!(scene.agent.budget().spent(Spending::Vouchers), report.paid);

    std::fs::write(scene.target().join("a/small"), b"changed").unwrap();
    let again = scene.agent.fetch_tree(&manifest).to_folder(scene.target()).await.unwrap();
    assert_eq!((again.kept_files, std::fs::read(scene.target().join("a/small")).unwrap()), (3, small));
    let whole = scene.agent.fetch_tree(&manifest).to_folder(scene.target()).await.unwrap();
    assert_eq!(whole.kept_files, 4);
}

// r[verify manifest.size.proven]
#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_a_size_is_the_publishers_and_leaves_no_file() {
    let (small, large, honest) = (content(1_000), content(700_000), content(2_000));
    for (bytes, claimed) in [
        (&small, 999),
        (&small, 1_001),
        (&small, 0),
        (&large, 300_000),
        (&large, 699_999),
        (&large, 700_001),
        (&large, 5),
    ] {
        let scene = Scene::new(&[&small, &large, &honest]).await;
        let lie = Entry { size: claimed, ..entry("dir/lie", bytes) };
        let manifest = scene.manifest(vec![lie]);
        let error = scene.agent.fetch_tree(&manifest).to_folder(scene.target()).await.unwrap_err();
        let TreeError::ManifestMismatch { name, claimed: said, proven, publisher: blamed } = error else {
            panic!("{claimed} of {}: {error}", bytes.len())
        };
        assert_eq!((name.as_str(), said, proven), ("dir/lie", claimed, bytes.len() as u64));
        assert_eq!(blamed, publisher().agent_id());
        assert!(files(&scene.target()).is_empty());
    }
}

// r[verify manifest.size.proven]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lies_about_a_size_is_blamed_itself() {
    let large = content(700_000);
    let scene = Scene::new(&[&large]).await;
    let manifest = scene.manifest(vec![entry("large", &large)]);
    scene.node.follow(Script::QuoteSize(650_000));
    let error = scene.agent.fetch_tree(&manifest).to_folder(scene.target()).await.unwrap_err();
    let TreeError::Entry { error: FetchError::Misbehaved { node, .. }, .. } = error else { panic!("{error}") };
    assert_eq!(node, scene.node.address().node());
    assert!(files(&scene.target()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn purse_and_disk_are_bounded_before_a_file_is_paid() {
    let large = content(700_000);
    let scene = Scene::new(&[&large]).await;
    let manifest = scene.manifest(vec![entry("large", &large)]);
    let tree = || scene.agent.fetch_tree(&manifest);
    let error = tree().max_bytes(699_999).to_folder(scene.target()).await.unwrap_err();
    assert!(matches!(error, TreeError::TooLarge { claimed: 700_000, limit: 699_999 }), "{error}");
    let error = tree().max_price(Amount::new(600_000)).to_folder(scene.target()).await.unwrap_err();
    let TreeError::PriceTooHigh { price, .. } = error else { panic!("{error}") };
    assert!(files(&scene.target()).is_empty());
    let report = tree().max_price(price).to_folder(scene.target()).await.unwrap();
    assert!(report.paid <= price, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_manifest_is_the_publishers_fault_and_writes_nothing() {
    let bytes = content(5_000);
    let altered = {
        let mut bytes = SignedManifest::sign(vec![entry("a", b"x")], &publisher()).unwrap().to_bytes();
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    let scene = Scene::new(&[&bytes, &altered]).await;
    for bytes in [&bytes, &altered] {
        let error = scene.agent.fetch_tree(&scene.address(bytes)).to_folder(scene.target()).await.unwrap_err();
        let TreeError::Manifest { error, .. } = error else { panic!("{error}") };
        assert!(matches!(error, ManifestError::NotAManifest | ManifestError::Signature(_)), "{error}");
        assert!(!scene.target().exists());
    }
}

// r[verify manifest.write.inside]
#[tokio::test(flavor = "multi_thread")]
async fn a_planted_link_keeps_a_tree_from_being_written_elsewhere() {
    let small = content(1_000);
    let scene = Scene::new(&[&small]).await;
    let outside = scene.world.path("outside");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::create_dir_all(scene.target()).unwrap();
    symlink(&outside, scene.target().join("dir")).unwrap();
    let manifest = scene.manifest(vec![entry("dir/evil", &small)]);
    let error = scene.agent.fetch_tree(&manifest).to_folder(scene.target()).await.unwrap_err();
    assert!(matches!(&error, TreeError::Target { path, .. } if path.ends_with("dir/evil")), "{error}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}

/// Several nodes with the same files, and an agent with a channel to each.
struct Fleet {
    world: World,
    agent: Agent,
    nodes: Vec<ScriptedNode>,
    files: Vec<Vec<u8>>,
}

impl Fleet {
    /// So many nodes with small files and large ones, each of which is another content.
    async fn new(count: u8, small: usize, large: usize) -> Self {
        let world = World::new().await;
        let keys: Vec<SecretKey> = (0..count).map(|i| SecretKey::from_bytes(&[61 + i; 32])).collect();
        let config =
            AgentConfig { connect_timeout_ms: 2_000, answer_timeout_ms: ANSWER_TIMEOUT_MS, ..AgentConfig::default() };
        let agent = world.agent_with_channels(&keys, 100 * PER_MIB, |builder| builder.config(config)).await;
        let file = |number: usize, len| {
            let mut bytes = content(len);
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            bytes
        };
        let files = (0..small).map(|i| file(i, SMALL)).chain((small..small + large).map(|i| file(i, LARGE))).collect();
        let mut nodes = Vec::new();
        for key in &keys {
            nodes.push(ScriptedNode::start(&world, key, content(10), PER_MIB).await);
        }
        let fleet = Self { world, agent, nodes, files };
        for (node, bytes) in fleet.nodes.iter().flat_map(|node| fleet.files.iter().map(move |bytes| (node, bytes))) {
            node.also_has(bytes);
        }
        fleet
    }

    /// Fetches everything from all nodes; whatever they do, it comes whole, and what was signed is what is reported.
    async fn fetch(&self, prefer: Preference) -> FetchTreeReport {
        let entries = self.files.iter().enumerate().map(|(i, bytes)| entry(&format!("d/{i:04}"), bytes)).collect();
        let manifest = SignedManifest::sign(entries, &publisher()).unwrap().to_bytes();
        self.nodes[0].also_has(&manifest);
        let first = NodeAddress::from(&self.nodes[0].address());
        let tree = self.agent.fetch_tree(&first.with_content(ContentId::of(&manifest))).prefer(prefer);
        let others = self.nodes[1..].iter().map(|node| NodeAddress::from(&node.address()));
        let target = self.world.path("target");
        let steps = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&steps);
        let tree = tree.also_from(others).progress(move |now| seen.lock().unwrap().push(now));
        let report = tree.to_folder(&target).await.unwrap();
        for (i, bytes) in self.files.iter().enumerate() {
            assert!(&std::fs::read(target.join(format!("d/{i:04}"))).unwrap() == bytes, "file {i}");
        }
        let last = *steps.lock().unwrap().last().unwrap();
        let all: u64 = self.files.iter().map(|bytes| bytes.len() as u64).sum();
        assert_eq!((last.files, last.bytes, last.total_bytes), (self.files.len() as u64, all, all));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.agent.budget().reserved(Spending::Vouchers).is_zero() {
            assert!(Instant::now() < deadline, "the budget is held for nobody");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(self.agent.budget().spent(Spending::Vouchers), report.paid, "{report:?}");
        let verified: u64 = report.sources.iter().map(|source| source.verified_bytes).sum();
        assert_eq!(verified + manifest.len() as u64, report.verified_bytes);
        report
    }
}

const ANSWER_TIMEOUT_MS: u64 = 5_000;
const SMALL: usize = 20_000;
const LARGE: usize = 6 << 20;
/// Bytes a second of a node that keeps a rate.
const RATE: u64 = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn small_and_large_files_come_from_all_nodes_at_once() {
    let fleet = Fleet::new(3, 120, 2).await;
    fleet.nodes.iter().for_each(|node| node.follow(Script::Slow(RATE)));
    let report = fleet.fetch(Preference::Balanced).await;
    let all = (120 * SMALL + 2 * LARGE) as u64;
    assert_eq!(report.bytes, all);
    for source in &report.sources {
        // Each at the same rate: none is left with more than half of the work, which one alone would have had.
        assert!((all / 8..all / 2).contains(&source.verified_bytes), "{report:?}");
        assert_eq!(source.left_out, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_lie_die_or_dawdle_hold_up_no_tree() {
    let fleet = Fleet::new(4, 64, 2).await;
    let [honest, slow, dying, lying] = &fleet.nodes[..] else { panic!("four nodes") };
    honest.follow(Script::Slow(RATE));
    slow.follow(Script::Slow(30_000));
    dying.follow(Script::DiesAfter(150_000));
    lying.follow(Script::FlipContent(10));
    let report = fleet.fetch(Preference::Fastest).await;
    let [of_honest, of_slow, of_dying, of_lying] = &report.sources[..] else { panic!("{report:?}") };
    assert!(of_honest.verified_bytes > 20 * of_slow.verified_bytes, "{report:?}");
    assert!(of_dying.verified_bytes < 500_000, "{report:?}");
    let blame = of_lying.left_out.as_ref().and_then(|left_out| left_out.blame.as_ref());
    assert_eq!(blame.map(|blame| blame.node), Some(lying.address().node()), "{report:?}");
    assert_eq!(of_honest.left_out, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_nothing_holds_up_not_even_the_manifest() {
    let fleet = Fleet::new(3, 12, 0).await;
    let entries = fleet.files.iter().enumerate().map(|(i, bytes)| entry(&format!("{i}"), bytes)).collect();
    let manifest = SignedManifest::sign(entries, &publisher()).unwrap().to_bytes();
    let [silent, lying, honest] = &fleet.nodes[..] else { panic!("three nodes") };
    [silent, lying, honest].iter().for_each(|node| node.also_has(&manifest));
    silent.follow(Script::NoHello);
    lying.follow(Script::FlipContent(10));
    let address = NodeAddress::from(&silent.address()).with_content(ContentId::of(&manifest));
    let others = [lying, honest].map(|node| NodeAddress::from(&node.address()));
    let tree = fleet.agent.fetch_tree(&address).also_from(others).prefer(Preference::Fastest);
    let report = tree.to_folder(fleet.world.path("target")).await.unwrap();
    assert_eq!((report.files, files(&fleet.world.path("target")).len()), (12, 12));
    // Less than it takes to give up one that does not answer.
    assert!(report.elapsed < Duration::from_millis(ANSWER_TIMEOUT_MS), "{report:?}");
    assert_eq!(report.sources[0].verified_bytes, 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_lacks_comes_from_one_that_has_it_and_only_cheap_ones_are_asked() {
    let mut fleet = Fleet::new(3, 40, 0).await;
    // Only the first one has these, and the last one wants more than twice as much.
    for number in 0..10_u8 {
        let bytes = vec![number; 3_000];
        fleet.nodes[0].also_has(&bytes);
        fleet.files.push(bytes);
    }
    fleet.nodes[2].asks(3 * PER_MIB);
    let report = fleet.fetch(Preference::Balanced).await;
    assert!(report.sources[1].verified_bytes > 0, "{report:?}");
    assert_eq!((report.sources[2].verified_bytes, report.sources[2].requests), (0, 0));
    assert_eq!(fleet.nodes[2].seen().vouchers.len(), 0);
}

fn record(sequence: u64, target: &[u8]) -> NameRecord {
    NameRecord {
        publisher: publisher().agent_id(),
        name: "site".parse().unwrap(),
        sequence,
        target: ContentId::of(target),
        kind: TargetKind::Content,
        issued_at: 1_800_000_000,
        valid_until: None,
    }
}

fn resolved(record: &VerifiedName) -> Script {
    Script::RequestBytes(encode_frame(&Resolved { record: record.signed().clone() }).unwrap())
}

// r[verify name.newest]
// r[verify name.remembered]
// r[verify name.resolve.checked]
#[tokio::test(flavor = "multi_thread")]
async fn the_newest_record_counts_and_no_node_takes_it_back() {
    let scene = Scene::new(&[]).await;
    let other_key = SecretKey::from_bytes(&[44; 32]);
    scene.world.register_node(&other_key, 900).await;
    let other = ScriptedNode::start(&scene.world, &other_key, content(10), 0).await;
    let (first, second) = (NodeAddress::from(&scene.node.address()), NodeAddress::from(&other.address()));
    let both = [first.clone(), second.clone()];
    let name = NameAddress { publisher: publisher().agent_id(), name: "site".parse().unwrap() };
    let sign = |sequence, target: &[u8]| record(sequence, target).sign(&publisher());
    let not_found = Refused { refusal: Refusal::new(RefusalCode::NameNotFound, "") };
    let not_found = Script::RequestBytes(encode_frame(&not_found).unwrap());

    scene.node.follow(not_found.clone());
    other.follow(not_found.clone());
    assert!(matches!(scene.agent.resolve(&name, &both).await, Err(NameError::NotFound { .. })));
    scene.node.follow(resolved(&sign(3, b"old")));
    other.follow(resolved(&sign(5, b"new")));
    assert_eq!(scene.agent.resolve(&name, &both).await.unwrap(), record(5, b"new"));
    // One node alone, which is behind.
    let stale = scene.agent.resolve(&name, std::slice::from_ref(&first)).await.unwrap_err();
    assert!(matches!(stale, NameError::Stale { shown: 3, seen: 5, .. }), "{stale}");
    // The publisher has signed two under one number.
    scene.node.follow(resolved(&sign(5, b"other")));
    assert!(matches!(scene.agent.resolve(&name, &both).await, Err(NameError::TwoRecords { sequence: 5, .. })));
    let alone = scene.agent.resolve(&name, std::slice::from_ref(&first)).await;
    assert!(matches!(alone, Err(NameError::TwoRecords { sequence: 5, .. })));

    // Another's record, another name, a signature that does not hold: the node's fault.
    let stranger = record(9, b"x").sign(&SecretKey::from_bytes(&[91; 32]));
    let renamed = NameRecord { name: "other".parse().unwrap(), ..record(9, b"x") }.sign(&publisher());
    let mut forged = sign(9, b"x").signed().clone();
    forged.record.target = ContentId::of(b"y");
    let forged = Script::RequestBytes(encode_frame(&Resolved { record: forged }).unwrap());
    for lie in [resolved(&stranger), resolved(&renamed), forged] {
        scene.node.follow(lie);
        let alone = scene.agent.resolve(&name, std::slice::from_ref(&first)).await;
        assert!(matches!(alone, Err(NameError::Fetch(FetchError::Misbehaved { .. }))), "{alone:?}");
        // Beside an honest one it is of no account.
        assert_eq!(scene.agent.resolve(&name, &both).await.unwrap().sequence, 5);
    }
    let over = NameRecord { valid_until: Some(1), ..record(6, b"z") }.sign(&publisher());
    scene.node.follow(resolved(&over));
    assert!(matches!(scene.agent.resolve(&name, &both).await, Err(NameError::Expired { until: 1, .. })));
    // Its end gives nothing older its place back.
    scene.node.follow(not_found);
    assert!(matches!(scene.agent.resolve(&name, &both).await, Err(NameError::Stale { shown: 5, seen: 6, .. })));

    // Nor does the name's, which its publisher may give a meaning again.
    scene.node.follow(resolved(&NameRecord::withdrawn(name.clone(), 7, 1_800_000_000).sign(&publisher())));
    let gone = scene.agent.resolve(&name, &both).await.unwrap_err();
    assert!(matches!(&gone, NameError::Withdrawn { name: gone } if *gone == name) && !gone.is_retryable(), "{gone}");
    let alone = scene.agent.resolve(&name, std::slice::from_ref(&second)).await;
    assert!(matches!(alone, Err(NameError::Stale { shown: 5, seen: 7, .. })));
    scene.node.follow(resolved(&sign(8, b"again")));
    assert_eq!(scene.agent.resolve(&name, &both).await.unwrap(), record(8, b"again"));
}

// r[verify name.refused.checked]
// r[verify name.record.before_send]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_cannot_talk_a_publisher_out_of_its_own_name() {
    let scene = Scene::new(&[]).await;
    let node = NodeAddress::from(&scene.node.address());
    let resolve = encode_frame(&Refused { refusal: Refusal::new(RefusalCode::NameNotFound, "") }).unwrap();
    let publish = async |answer: Vec<u8>, target: &[u8]| {
        scene.node.follow(Script::NameBytes { publish: answer, resolve: resolve.clone() });
        let name = "site".parse().unwrap();
        scene.agent.publish_name(&node, name, ContentId::of(target), TargetKind::Content).run().await
    };
    let taken = |sequence| encode_frame(&NameTaken { sequence }).unwrap();
    let refused = |current: &VerifiedName, altered: bool| {
        let mut current = current.signed().clone();
        current.record.sequence += u64::from(altered);
        let refusal = Refusal::new(RefusalCode::NameNotRising, "scripted");
        encode_frame(&NameRefused { refusal, current }).unwrap()
    };
    // Another publisher's record, one that nobody signed, a number that was never sent.
    let strange = record(9, b"x").sign(&publisher());
    for lie in [refused(&strange, false), refused(&strange, true), taken(7)] {
        let error = publish(lie, b"a").await.unwrap_err();
        assert!(matches!(error, NameError::Fetch(FetchError::Misbehaved { .. })), "{error}");
    }
    // The number was spent before it left: the same meaning keeps it, another one gets the next.
    let record = publish(taken(1), b"a").await.unwrap();
    assert_eq!((record.sequence, record.target), (1, ContentId::of(b"a")));
    assert_eq!(publish(taken(2), b"b").await.unwrap().sequence, 2);
    assert_eq!(publish(taken(3), b"a").await.unwrap().sequence, 3);
    let denied = encode_frame(&Refused { refusal: Refusal::new(RefusalCode::PublishDenied, "") }).unwrap();
    let error = publish(denied, b"c").await.unwrap_err();
    assert!(matches!(&error, NameError::Fetch(FetchError::Refused(_))) && error.code() == "PublishDenied", "{error}");

    // Withdrawn, which is said again to every node under the same number.
    scene.node.follow(Script::NameBytes { publish: taken(5), resolve: resolve.clone() });
    let withdraw = async |name: &str| scene.agent.withdraw_name(&node, name.parse().unwrap()).run().await;
    for _ in 0..2 {
        let record = withdraw("site").await.unwrap();
        assert!(record.is_withdrawn() && record.sequence == 5, "{record:?}");
    }
    assert!(matches!(withdraw("unheard-of").await, Err(NameError::NotFound { .. })));
    assert_eq!(publish(taken(6), b"a").await.unwrap().sequence, 6);
}
