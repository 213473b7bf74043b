//! Uploads from end to end, in one process: an agent publishes, another fetches, and every unit is accounted for.
//!
//! What could break: a content that is served but is not what was sent, a byte paid twice after a break, a bill that the two
//! sides do not agree on, a budget that an upload does not keep to.

#![allow(clippy::panic, clippy::unwrap_used, reason = "that is how tests fail")]

mod commands;
mod trees;

use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_client::{Agent, FetchError, PublishReport, PublishSource, Spending, Wallet};
use aro_proto::channel::BATCH_BYTES;
use aro_proto::message::TRAILER_LEN;
use aro_proto::{Amount, ByteCount, ContentId, NodeAddress, RefusalCode, Tariff};
use aro_tests::world::{NodeHere, OperatorHere, World};
use node_server::{NodeConfig, PublishConfig, Publishers};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, DuplexStream};

const FETCH: Tariff = Tariff { per_mib: 300 };
const PUBLISH: Tariff = Tariff { per_mib: 1_000 };
const MIB: usize = 1 << 20;
const BATCH: usize = BATCH_BYTES as usize;
/// Room of a pipe for all that an upload sends at once.
const PIPE: usize = MIB;
const DEPOSIT: u64 = 1_000_000;

struct Scene {
    world: World,
    home: TempDir,
    _operator: OperatorHere,
    node: NodeHere,
}

impl Scene {
    async fn new() -> Self {
        let (world, home) = (World::new().await.unwrap(), tempfile::tempdir().unwrap());
        let operator = world.operator(&home.path().join("operator"), 0).await.unwrap();
        // Some contents by way of the page cache, some past it.
        let page_cache_bytes = 4 << 20;
        let publish = PublishConfig {
            publishers: Publishers::WhoPays,
            tariff: PUBLISH,
            page_cache_bytes,
            ..PublishConfig::default()
        };
        let config = NodeConfig { tariff: FETCH, publish, ..NodeConfig::new(home.path().join("node")) };
        let node = world.node_with(config, &operator).await.unwrap();
        Self { world, home, _operator: operator, node }
    }

    /// An agent with a channel to the node.
    async fn agent(&self, name: &str) -> Agent {
        let wallet = Wallet::create(&self.home.path().join(name)).unwrap();
        self.world.fund(&wallet.owner(), DEPOSIT).await.unwrap();
        let builder = Agent::builder().chain(self.world.chain.clone()).wallet(wallet).program(self.world.program.id);
        let agent = builder.build().await.unwrap();
        agent.wallet().deposit(Amount::new(DEPOSIT)).await.unwrap();
        let _ = agent.open_channel(self.node.running.node_id(), Amount::new(DEPOSIT), None).await.unwrap();
        self.node.running.follow_now().await.unwrap();
        agent
    }

    fn address(&self) -> NodeAddress {
        NodeAddress::from(&self.node.running.address_of(ContentId::of(b"")).unwrap())
    }

    /// What the node holds in vouchers of an agent's only channel.
    async fn watermark(&self, agent: &Agent) -> u64 {
        let channel = agent.channels().await.unwrap()[0].channel;
        self.node.running.status().await.channel(channel).unwrap().watermark.get()
    }
}

fn write(path: &Path, len: usize) -> Vec<u8> {
    let bytes: Vec<u8> = (0..len as u64).map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    std::fs::write(path, &bytes).unwrap();
    bytes
}

fn price(tariff: Tariff, bytes: usize) -> u64 {
    tariff.price(ByteCount::new(bytes as u64)).unwrap().get()
}

/// What a broken-off upload brought is paid beside it; then nothing is set aside any more.
async fn nothing_stays_reserved(agent: &Agent) {
    let settled = async {
        while agent.budget().reserved(Spending::Vouchers) > Amount::ZERO {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), settled).await.expect("nothing stays reserved");
}

// r[verify publish.receipt.checked]
// r[verify publish.pay.acknowledged]
// r[verify publish.head.checked]
#[tokio::test(flavor = "multi_thread")]
async fn what_one_agent_publishes_another_fetches_and_both_have_paid_exactly() {
    let scene = Scene::new().await;
    let publisher = scene.agent("publisher").await;
    let path = scene.home.path().join("film");
    let bytes = write(&path, 9 * MIB + 12_345);
    let reports = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&reports);
    let publish = publisher.publish(&scene.address(), &path).progress(move |at| log.lock().unwrap().push(at));
    let report = publish.run().await.unwrap();
    assert_eq!((report.content, report.size), (ContentId::of(&bytes), bytes.len() as u64));
    assert_eq!((report.taken_bytes, report.paid.get()), (report.size, price(PUBLISH, bytes.len())));
    assert!(report.acknowledged && report.vouchers >= 5 && report.wire_bytes > report.size);
    assert_eq!(scene.watermark(&publisher).await, report.paid.get());
    nothing_stays_reserved(&publisher).await;
    let last = *reports.lock().unwrap().last().unwrap();
    assert_eq!((last.proven_bytes, last.spent), (report.size, report.paid));

    // Again: the node has it, and nothing is paid.
    let again = publisher.publish(&scene.address(), &path).run().await.unwrap();
    assert_eq!((again.taken_bytes, again.paid, again.address.clone()), (0, Amount::ZERO, report.address.clone()));

    let reader = scene.agent("reader").await;
    let (fetched, got) = reader.fetch(&report.address).to_bytes(u64::MAX).await.unwrap();
    assert!(got == bytes);
    assert_eq!(fetched.paid.get(), price(FETCH, bytes.len()));
    assert_eq!(scene.watermark(&reader).await, fetched.paid.get());

    // A pipe, on the same channel.
    let piped = PublishSource::stream(std::io::Cursor::new(bytes[..3 * MIB].to_vec()));
    let stream = publisher.publish(&scene.address(), piped).max_bytes(4 * MIB as u64).run().await.unwrap();
    assert_eq!((stream.content, stream.size), (ContentId::of(&bytes[..3 * MIB]), 3 * MIB as u64));
    assert_eq!(scene.watermark(&publisher).await, price(PUBLISH, bytes.len() + 3 * MIB));
    nothing_stays_reserved(&publisher).await;
    publisher.close().await;
    reader.close().await;
    scene.node.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_goes_on_and_nothing_is_paid_twice() {
    let scene = Scene::new().await;
    let publisher = scene.agent("publisher").await;
    let path = scene.home.path().join("film");
    let bytes = write(&path, 20 * MIB);
    let (seen, mut taken) = tokio::sync::watch::channel(0_u64);
    let publish = publisher.publish(&scene.address(), &path).progress(move |at| {
        seen.send_replace(at.proven_bytes);
    });
    tokio::select! {
        done = publish.run() => panic!("{done:?}"),
        reached = taken.wait_for(|taken| *taken >= 3 * MIB as u64) => drop(reached),
    }
    let report = again(&publisher, &scene, &path).await;
    assert!(report.taken_bytes <= 17 * MIB as u64, "{}", report.taken_bytes);
    // What was in flight when it broke off may be the node's loss, never the agent's.
    let paid = publisher.channels().await.unwrap()[0].signed.get();
    assert!(paid <= price(PUBLISH, bytes.len()), "{paid}");
    nothing_stays_reserved(&publisher).await;
    publisher.close().await;
    scene.node.running.shutdown().await.unwrap();
}

/// A pipe whose upload has come so far that the agent has heard of all that the node took: one batch.
struct Piped {
    running: Pin<Box<dyn Future<Output = Result<PublishReport, FetchError>>>>,
    pipe: DuplexStream,
}

impl Piped {
    async fn begin(publisher: &Agent, scene: &Scene, bytes: &[u8]) -> Self {
        let (mut pipe, source) = tokio::io::duplex(PIPE);
        let (seen, mut taken) = tokio::sync::watch::channel(0_u64);
        let publish = publisher.publish(&scene.address(), PublishSource::stream(source)).max_bytes(4 * MIB as u64);
        let publish = publish.progress(move |at| {
            seen.send_replace(at.proven_bytes);
        });
        // The node keeps what may be the trailer back.
        pipe.write_all(&bytes[..BATCH + TRAILER_LEN]).await.unwrap();
        let mut running: Pin<Box<dyn Future<Output = _>>> = Box::pin(publish.run());
        tokio::select! {
            done = &mut running => panic!("{done:?}"),
            heard = taken.wait_for(|taken| *taken == BATCH as u64) => drop(heard),
        }
        Self { running, pipe }
    }

    /// Sends so many more bytes, and hears nothing any more.
    async fn send_unheard(&mut self, bytes: &[u8]) {
        self.pipe.write_all(bytes).await.unwrap();
        tokio::select! {
            biased;
            done = &mut self.running => panic!("{done:?}"),
            () = std::future::ready(()) => {}
        }
    }
}

// r[verify publish.cancel.reset]
#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_given_up_behind_the_nodes_acknowledgements_leave_the_window_free() {
    let scene = Scene::new().await;
    let publisher = scene.agent("publisher").await;
    let path = scene.home.path().join("film");
    let bytes = write(&path, 20 * MIB);
    let mut uploads = [Piped::begin(&publisher, &scene, &bytes).await, Piped::begin(&publisher, &scene, &bytes).await];
    // Each leaves as a whole, for it fits the stream's receive window, and together they are more than the window holds.
    for upload in &mut uploads {
        upload.send_unheard(&bytes[..3 * BATCH]).await;
    }
    let window_is_full = async {
        while scene.node.running.status().await.bytes_taken < (2 + 4) * BATCH as u64 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), window_is_full).await.expect("the node takes what its window holds");
    drop(uploads);

    let report = again(&publisher, &scene, &path).await;
    assert_eq!((report.content, report.taken_bytes), (ContentId::of(&bytes), bytes.len() as u64));
    // Of the pipes what the agent has heard of, and nothing of what it has not.
    let paid = publisher.channels().await.unwrap()[0].signed.get();
    assert_eq!(paid, price(PUBLISH, 2 * BATCH + bytes.len()));
    assert_eq!(scene.watermark(&publisher).await, paid);
    nothing_stays_reserved(&publisher).await;
    publisher.close().await;
    scene.node.running.shutdown().await.unwrap();
}

/// Publishes a file whose last upload broke off a moment ago.
async fn again(publisher: &Agent, scene: &Scene, path: &Path) -> PublishReport {
    loop {
        match publisher.publish(&scene.address(), path).run().await {
            Ok(report) => break report,
            // The node has not seen yet that the first one is over.
            Err(FetchError::Refused(refusal)) => assert_eq!(refusal.code(), RefusalCode::OverCapacity),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Brings a 20 MiB content anew.
fn piped(bytes: &[u8]) -> PublishSource {
    PublishSource::spool(std::io::Cursor::new(bytes.to_vec()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_that_is_kept_goes_on_when_the_same_bytes_are_piped_again() {
    let scene = Scene::new().await;
    let publisher = scene.agent("publisher").await;
    let bytes = write(&scene.home.path().join("film"), 20 * MIB);
    let (seen, mut taken) = tokio::sync::watch::channel(0_u64);
    let publish = publisher.publish(&scene.address(), piped(&bytes)).progress(move |at| {
        seen.send_replace(at.proven_bytes);
    });
    tokio::select! {
        done = publish.run() => panic!("{done:?}"),
        reached = taken.wait_for(|taken| *taken >= 3 * MIB as u64) => drop(reached),
    }
    let report = loop {
        match publisher.publish(&scene.address(), piped(&bytes)).run().await {
            Ok(report) => break report,
            // The node has not seen yet that the first one is over.
            Err(FetchError::Refused(refusal)) => assert_eq!(refusal.code(), RefusalCode::OverCapacity),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((report.content, report.size), (ContentId::of(&bytes), bytes.len() as u64));
    assert!(report.taken_bytes <= 17 * MIB as u64, "{}", report.taken_bytes);
    let paid = publisher.channels().await.unwrap()[0].signed.get();
    assert!(paid <= price(PUBLISH, bytes.len()), "{paid}");
    nothing_stays_reserved(&publisher).await;

    let long = publisher.publish(&scene.address(), piped(&bytes)).max_bytes(bytes.len() as u64 - 1).run().await;
    assert!(matches!(long, Err(FetchError::TooLarge { limit, .. }) if limit == bytes.len() as u64 - 1), "{long:?}");
    publisher.close().await;
    scene.node.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_by_itself_after_the_node_went_away_and_came_back() {
    let Scene { world, home, node, _operator } = Scene::new().await;
    let config = NodeConfig { shutdown_grace_ms: 50, ..node.config.clone() };
    let scene = Scene { world, home, node: NodeHere { config, ..node }, _operator };
    let publisher = scene.agent("publisher").await;
    let address = scene.address();
    let bytes = write(&scene.home.path().join("film"), 20 * MIB);
    // Once with the settings from above, and once in the middle of the upload.
    let node = scene.world.restart(scene.node).await.unwrap();
    let (seen, mut taken) = tokio::sync::watch::channel(0_u64);
    let publish = publisher.publish(&address, piped(&bytes)).progress(move |at| {
        seen.send_replace(at.proven_bytes);
    });
    let coming_back = async {
        let _ = taken.wait_for(|taken| *taken >= 3 * MIB as u64).await.unwrap();
        scene.world.restart(node).await.unwrap()
    };
    let (report, node) = tokio::join!(publish.run(), coming_back);
    let report = report.unwrap();
    let size = bytes.len() as u64;
    assert_eq!((report.content, report.size), (ContentId::of(&bytes), size));
    assert!(report.taken_bytes <= size && report.taken_bytes > size - 2 * MIB as u64, "{report:?}");
    assert!(report.receipt.receipt.taken.get() <= 17 * MIB as u64, "{report:?}");
    let paid = publisher.channels().await.unwrap()[0].signed.get();
    // What the node had not been paid for when it stopped it has forgotten.
    assert!(paid <= report.paid.get() && report.paid.get() <= price(PUBLISH, bytes.len()), "{paid} {report:?}");
    nothing_stays_reserved(&publisher).await;
    publisher.close().await;
    node.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn caps_hold_and_refusals_say_who_must_act() {
    let scene = Scene::new().await;
    let publisher = scene.agent("publisher").await;
    let path = scene.home.path().join("film");
    write(&path, 2 * MIB);
    let node = scene.address();
    let dear = publisher.publish(&node, &path).max_price(Amount::new(1_999)).run().await;
    assert!(matches!(dear, Err(FetchError::PriceTooHigh { price, .. }) if price.get() == 2_000), "{dear:?}");
    let capped = publisher.publish(&node, &path).budget(Amount::new(1_999)).run().await;
    assert!(matches!(capped, Err(FetchError::BudgetExceeded(_))), "{capped:?}");
    let long = PublishSource::stream(std::io::Cursor::new(vec![7; 2 * MIB]));
    let cut = publisher.publish(&node, long).max_bytes(MIB as u64).run().await;
    assert!(matches!(cut, Err(FetchError::TooLarge { limit, .. }) if limit == MIB as u64), "{cut:?}");
    let missing = publisher.publish(&node, &scene.home.path().join("none")).run().await;
    assert!(matches!(missing, Err(FetchError::Source(_))), "{missing:?}");
    nothing_stays_reserved(&publisher).await;
    publisher.close().await;
    scene.node.running.shutdown().await.unwrap();
}
