//! The `aro` command, killed, cut off and run out of room: what is on disk is never more than what is proven, and the next
//! run goes on where the last one stopped.
//!
//! What could break: a byte proven and then fetched again, a file that is not the content, a voucher for what the disk does not
//! hold, a pipe that hangs.

#![allow(clippy::panic, clippy::unwrap_used, reason = "that is how tests fail")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent_client::{Agent, Wallet};
use aro_proto::channel::BATCH_BYTES;
use aro_proto::limits::STREAM_WINDOW;
use aro_proto::{Amount, ByteCount, ContentId, Tariff};
use aro_tests::parts::held_beside;
use aro_tests::processes::{Ended, aro, ended, killed};
use aro_tests::rpc::RpcServer;
use aro_tests::world::{NodeHere, OperatorHere, World};
use serde_json::Value;
use tempfile::TempDir;

const PRICE: Tariff = Tariff { per_mib: 1_000 };
const MIB: usize = 1 << 20;
const DEPOSIT: u64 = 10_000_000;

/// Two nodes with one content, a chain for the command, and a wallet with a channel to each.
struct Scene {
    home: TempDir,
    world: World,
    rpc: RpcServer,
    nodes: Vec<NodeHere>,
    content: ContentId,
    size: u64,
    _operator: OperatorHere,
}

impl Scene {
    async fn new(size: usize) -> Self {
        let (world, home) = (World::new().await.unwrap(), tempfile::tempdir().unwrap());
        let operator = world.operator(&home.path().join("operator"), 0).await.unwrap();
        let rpc = RpcServer::start((*world.chain).clone()).await.unwrap();
        let source = home.path().join("source");
        let bytes: Vec<u8> =
            (0..size as u64).map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        fs::write(&source, &bytes).unwrap();
        let wallet = Wallet::create(&home.path().join("wallet")).unwrap();
        world.fund(&wallet.owner(), 2 * DEPOSIT).await.unwrap();
        let agent = agent(&world, wallet).await;
        agent.wallet().deposit(Amount::new(2 * DEPOSIT)).await.unwrap();
        let mut nodes = Vec::new();
        for name in ["first", "second"] {
            let node = world.node(&home.path().join(name), PRICE, &operator).await.unwrap();
            node.running.store().add_file(&source).unwrap();
            let _ = agent.open_channel(node.running.node_id(), Amount::new(DEPOSIT), None).await.unwrap();
            node.running.follow_now().await.unwrap();
            nodes.push(node);
        }
        agent.close().await;
        let content = ContentId::of(&bytes);
        Self { home, world, rpc, nodes, content, size: size as u64, _operator: operator }
    }

    fn out(&self) -> PathBuf {
        self.home.path().join("out")
    }

    /// `aro get` from a node.
    fn get(&self, node: usize, to: &Path) -> Command {
        let address = self.nodes[node].running.address_of(self.content).unwrap().to_string();
        let mut command = aro(&self.rpc.url, &self.home.path().join("wallet"));
        command.args(["get", &address, "-o"]).arg(to);
        command
    }

    /// Bytes of the content that lie beside the output, proven.
    fn held(&self) -> u64 {
        held_beside(&self.out(), self.content).unwrap().iter().map(|range| range.end - range.start).sum()
    }

    /// Base units signed on both channels together.
    async fn signed(&self) -> u64 {
        let wallet = Wallet::open(&self.home.path().join("wallet")).unwrap();
        let agent = agent(&self.world, wallet).await;
        agent.channels().await.unwrap().iter().map(|channel| channel.signed.get()).sum()
    }

    fn is_the_content(&self, path: &Path) -> bool {
        ContentId::of(&fs::read(path).unwrap()) == self.content
    }
}

async fn agent(world: &World, wallet: Wallet) -> Agent {
    let builder = Agent::builder().chain(world.chain.clone()).wallet(wallet).program(world.program.id);
    builder.build().await.unwrap()
}

fn price(bytes: u64) -> u64 {
    PRICE.price(ByteCount::new(bytes)).unwrap().get()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_the_next_run_goes_on_at_whatever_node() {
    let scene = Scene::new(24 * MIB).await;
    let out = scene.out();
    let part = scene.home.path().join("out.aro-part");
    let (mut held, mut kills) = (0, 0_u64);
    // The first kill before anything came, the others wherever the fetch is when so much is there.
    for (round, at) in [0, 1, 1_000_000, 3_000_000, 9_000_000, 15_000_000, 21_000_000].into_iter().enumerate() {
        let mut child = scene.get(round % 2, &out).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let has_ended = loop {
            let len = fs::metadata(&part).map_or(0, |part| part.len());
            if at == 0 || len >= at.max(held + 1) {
                break false;
            }
            if child.try_wait().unwrap().is_some() {
                break true;
            }
            assert!(Instant::now() < deadline, "nothing came");
            tokio::time::sleep(Duration::from_micros(300)).await;
        };
        let Ended { code, json, stderr } = killed(child).await;
        if out.exists() {
            break;
        }
        assert!(!has_ended, "refused for the sake of the dead? {code} {json} {stderr}");
        kills += 1;
        let now = scene.held();
        assert!(now >= held, "{now} of {held} bytes are left");
        held = now;
        if kills <= 2 {
            let signed = scene.signed().await;
            assert!(signed <= price(held) + 1, "{signed} signed for {held} bytes on disk");
        }
    }
    assert!(kills >= 3, "only {kills} kills before it was done");
    if !out.exists() {
        let Ended { code, json, stderr } = ended(scene.get(1, &out).spawn().unwrap()).await;
        assert_eq!(code, 0, "{json} {stderr}");
        assert_eq!(json["resumed_bytes"], held, "{json}");
        assert_eq!(json["verified_bytes"], scene.size - held, "{json}");
    }
    assert!(scene.is_the_content(&out));
    assert!(!part.exists());
    // What a dead process's transport may have acknowledged and its disk did not have, and rounding on two channels.
    let lost = kills * (u64::from(STREAM_WINDOW) + BATCH_BYTES);
    let signed = scene.signed().await;
    assert!(signed <= price(scene.size) + price(lost) + 2, "{signed} signed after {kills} kills");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_gets_the_content_and_nothing_else_and_one_that_breaks_ends_the_fetch() {
    let scene = Scene::new(24 * MIB).await;
    let mut child = scene.get(0, Path::new("-")).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let bytes = reading.await.unwrap();
    assert_eq!(ContentId::of(&bytes), scene.content);
    let Ended { code, stderr, .. } = ended(child).await;
    assert_eq!(code, 0, "{stderr}");
    let report: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&report["delivered_bytes"], &report["size_proven"]), (&scene.size.into(), &true.into()));

    let mut child = scene.get(1, Path::new("-")).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let head = tokio::task::spawn_blocking(move || {
        let mut head = vec![0; MIB];
        stdout.read_exact(&mut head).unwrap();
        head
    });
    assert!(head.await.unwrap() == bytes[..MIB]);
    let Ended { code, stderr, .. } = ended(child).await;
    assert_eq!(code, 1, "{stderr}");
    let error: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "BrokenPipe", "{stderr}");
    let node = &scene.nodes[1].running;
    let paid = scene.signed().await - price(scene.size);
    assert!(paid < price(scene.size), "cancelled, yet {paid} paid");
    assert!(node.store().get(scene.content).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_is_named_and_what_was_paid_is_not_paid_again() {
    let scene = Scene::new(24 * MIB).await;
    let out = scene.out();
    // A file may have 8 MiB (or 16, as shells count): writing beyond fails as on a full disk.
    let get = scene.get(0, &out);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 16384; exec \"$@\"", "sh"])
        .arg(get.get_program())
        .args(get.get_args());
    let limited = limited.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let Ended { code, json, stderr } = ended(limited).await;
    assert_eq!(code, 1, "{json} {stderr}");
    let error = &json["error"];
    assert_eq!((&error["code"], &error["who_acts"]), (&"Sink".into(), &"give_up".into()), "{json}");
    assert!(error["next_step"].as_str().unwrap().contains("make room"), "{json}");
    assert!(!out.exists());
    let (held, signed) = (scene.held(), scene.signed().await);
    assert!(held >= 7 * MIB as u64, "{held}");
    // What was proven and found no place any more: never beyond the credit window.
    assert!(signed <= price(held) + price(held) / 2 + price(MIB as u64), "{signed} for {held}");

    let Ended { code, json, stderr } = ended(scene.get(0, &out).spawn().unwrap()).await;
    assert_eq!(code, 0, "{json} {stderr}");
    assert_eq!((&json["resumed_bytes"], &json["verified_bytes"]), (&held.into(), &(scene.size - held).into()));
    assert!(scene.is_the_content(&out));
}

/// Longer than a fetch of this size takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
