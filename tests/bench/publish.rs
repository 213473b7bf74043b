//! Uploads: hashed by the agent, sent over loopback, proven, paid and durable at the node, and for comparison the same
//! bytes hashed, written and synced by themselves.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_client::{Agent, Wallet};
use anyhow::{Context, Result, ensure};
use aro_proto::merkle::ContentHasher;
use aro_proto::{Amount, ByteCount, ContentId, NodeAddress, Tariff};
use aro_tests::world::{NodeHere, World};
use node_server::{NodeConfig, PublishConfig, Publishers};

use crate::report::{Figure, Report};
use crate::rounds::paired;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// MiB of the content that is published.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    mib: u64,
    /// Uploads, each with its plain counterpart; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=101))]
    rounds: u64,
    /// Folder on the disk to measure; the system's temporary folder if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Measures uploads and plain writes by turns.
pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let home = match &arguments.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let scene = runtime.block_on(Scene::new(home.path(), arguments.mib << 20))?;
    let rounds = usize::try_from(arguments.rounds)?;
    let (published, plain) =
        paired(rounds, |round| runtime.block_on(scene.publish(round)), |round| scene.plain(round))?;
    runtime.block_on(scene.end())?;
    Ok(Report {
        title: format!("{} MiB published, median of {rounds} rounds, in MB/s (10^6 bytes)", arguments.mib),
        figures: vec![
            Figure::new("publish_mb_s", published),
            Figure::new("blake3_write_fsync_mb_s", plain),
            Figure::new("publish_over_plain_percent", published * 100 / plain.max(1)),
        ],
        notes: vec![
            "An upload is read twice (for its id, and to be sent), crosses loopback, is proven, paid and synced."
                .into(),
            "Its plain counterpart is read once from the same file, hashed, written and synced.".into(),
        ],
    })
}

struct Scene {
    home: PathBuf,
    size: u64,
    node: NodeHere,
    agent: Agent,
    _operator: aro_tests::world::OperatorHere,
}

impl Scene {
    async fn new(home: &Path, size: u64) -> Result<Self> {
        let world = World::new().await?;
        let operator = world.operator(&home.join("operator"), 0).await?;
        let publish = PublishConfig {
            publishers: Publishers::WhoPays,
            tariff: PRICE,
            max_content_bytes: size,
            quota_bytes_per_publisher: u64::MAX,
            quota_bytes: u64::MAX,
            ..PublishConfig::default()
        };
        let node = world.node_with(NodeConfig { publish, ..NodeConfig::new(home.join("node")) }, &operator).await?;
        let wallet = Wallet::create(&home.join("agent"))?;
        world.fund(&wallet.owner(), DEPOSIT).await?;
        let builder = Agent::builder().chain(world.chain.clone()).wallet(wallet).program(world.program.id);
        let agent = builder.build().await?;
        agent.wallet().deposit(Amount::new(DEPOSIT)).await?;
        let _ = agent.open_channel(node.running.node_id(), Amount::new(DEPOSIT), None).await?;
        node.running.follow_now().await?;
        Ok(Self { home: home.to_owned(), size, node, agent, _operator: operator })
    }

    /// MB/s of one paid upload.
    async fn publish(&self, round: usize) -> Result<u64> {
        let (path, content) = self.source(round)?;
        let node = NodeAddress::from(&self.node.running.address_of(content)?);
        let started = Instant::now();
        let report = self.agent.publish(&node, &path).run().await?;
        let took = started.elapsed();
        ensure!(report.content == content && report.taken_bytes == self.size, "not what was sent: {report:?}");
        // The price of each content by itself is a bound: the channel is rounded up once.
        let price = PRICE.price(ByteCount::new(self.size)).unwrap_or_default();
        ensure!(report.acknowledged && report.paid <= price && !report.paid.is_zero(), "not paid: {report:?}");
        let stored = self.node.running.store().get(content)?.context("published, but not there")?;
        ensure!(stored.size() == self.size, "stored with another size");
        fs::remove_dir_all(self.home.join("node/contents").join(content.to_string()))?;
        fs::remove_file(path)?;
        Ok(self.rate(took))
    }

    /// MB/s of hashing, writing and syncing.
    fn plain(&self, round: usize) -> Result<u64> {
        let (path, content) = self.source(round)?;
        let copy = self.home.join("plain");
        let started = Instant::now();
        let (mut source, mut target) = (File::open(&path)?, File::create(&copy)?);
        let (mut hasher, mut buffer) = (ContentHasher::default(), vec![0; BUFFER]);
        loop {
            let read = source.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            target.write_all(&buffer[..read])?;
        }
        target.sync_all()?;
        let took = started.elapsed();
        ensure!(hasher.finish() == (content, self.size), "not what was read");
        fs::remove_file(copy)?;
        fs::remove_file(path)?;
        Ok(self.rate(took))
    }

    /// A new file that no round had before, on disk and in the system's memory.
    fn source(&self, round: usize) -> Result<(PathBuf, ContentId)> {
        let path = self.home.join("source");
        let (mut file, mut hasher, mut buffer) = (File::create(&path)?, ContentHasher::default(), vec![0_u8; BUFFER]);
        let mut left = self.size;
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
        let mut state = u64::from_le_bytes(seed) ^ round as u64;
        while left > 0 {
            for word in buffer.chunks_exact_mut(8) {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                word.copy_from_slice(&state.to_le_bytes());
            }
            let len = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            hasher.update(&buffer[..len]);
            file.write_all(&buffer[..len])?;
            left -= len as u64;
        }
        file.sync_all()?;
        Ok((path, hasher.finish().0))
    }

    fn rate(&self, took: Duration) -> u64 {
        let micros = took.as_micros().max(1);
        u64::try_from(u128::from(self.size) / micros).unwrap_or(u64::MAX)
    }

    async fn end(self) -> Result<()> {
        self.agent.close().await;
        self.node.running.shutdown().await?;
        Ok(())
    }
}

/// Base units per MiB.
const PRICE: Tariff = Tariff { per_mib: 10 };
/// Base units in the channel.
const DEPOSIT: u64 = 1_000_000_000_000;
/// Bytes read and written at once.
const BUFFER: usize = 1 << 20;
