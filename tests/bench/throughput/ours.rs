//! The product: nodes with the same content and an agent with a channel to those that are paid.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use agent_client::{Agent, AgentConfig, FetchReport, Wallet};
use anyhow::{Result, anyhow, ensure};
use aro_proto::merkle::OutboardBuilder;
use aro_proto::transport::TransportSettings;
use aro_proto::{Address, Amount, ContentId, Tariff};
use aro_tests::world::{NodeHere, OperatorHere, World};
use bytes::Bytes;
use node_server::NodeConfig;

use super::meter::{Meter, Sample};

/// A deployment that is ready to serve one content.
pub(super) struct Scene {
    agent: Agent,
    size: u64,
    content: ContentId,
    /// Free, and all of it hot.
    free: Address,
    /// Paid, and all of it hot.
    paid: Address,
    /// Paid, and read from the files.
    on_disk: Address,
    received: PathBuf,
    _nodes: [NodeHere; 3],
    _operator: OperatorHere,
}

impl Scene {
    /// Funds the channels for so many rounds.
    pub(super) async fn new(dir: &Path, bytes: &[u8], rounds: u64, transport: TransportSettings) -> Result<Self> {
        let size = bytes.len() as u64;
        let world = World::new().await?;
        let operator = world.operator(&dir.join("operator"), 100).await?;
        // Pages are a little longer than what they hold.
        let hot = usize::try_from(size + size / 16)? + (1 << 20);
        let start = |name, per_mib, hot_bytes| {
            let tariff = Tariff { per_mib };
            let config = NodeConfig { tariff, transport, hot_bytes, ..NodeConfig::new(dir.join(name)) };
            world.node_with(config, &operator)
        };
        let nodes =
            [start("free", 0, hot).await?, start("paid", PER_MIB, hot).await?, start("disk", PER_MIB, 0).await?];

        let wallet = Wallet::create(&dir.join("agent"))?;
        let owner = wallet.owner();
        let config = AgentConfig { transport, ..AgentConfig::default() };
        let agent = Agent::builder().chain(world.chain.clone()).wallet(wallet).config(config).build().await?;
        let deposit = Amount::new(size.div_ceil(1 << 20) * PER_MIB * (rounds + 1));
        world.fund(&owner, 2 * deposit.get()).await?;
        agent.wallet().deposit(Amount::new(2 * deposit.get())).await?;
        for node in &nodes[1..] {
            let _ = agent.open_channel(node.running.node_id(), deposit, None).await?;
            node.running.follow_now().await?;
        }

        let file = dir.join("content");
        fs::write(&file, bytes)?;
        let mut addresses = Vec::new();
        for node in &nodes {
            let stored = node.running.store().add_file(&file)?;
            ensure!(stored.size == size, "{} bytes were stored", stored.size);
            addresses.push(node.running.address_of(stored.id)?);
        }
        fs::remove_file(&file)?;
        let [free, paid, on_disk] = addresses.try_into().map_err(|_| anyhow!("three nodes have three addresses"))?;
        let (content, received) = (paid.content(), dir.join("received"));
        ensure!(free.content() == content && on_disk.content() == content, "several ids of one file");
        Ok(Self { agent, size, content, free, paid, on_disk, received, _nodes: nodes, _operator: operator })
    }

    pub(super) fn content(&self) -> ContentId {
        self.content
    }

    /// Proven, for nothing.
    pub(super) async fn verified(&self) -> Result<(Sample, u64)> {
        let (sample, report) = self.to_memory(&self.free).await?;
        ensure!(report.vouchers == 0 && report.paid == Amount::ZERO, "a free fetch was paid: {report:?}");
        Ok((sample, report.vouchers))
    }

    /// Proven and paid, to the last base unit.
    pub(super) async fn paid(&self) -> Result<(Sample, u64)> {
        let (sample, report) = self.to_memory(&self.paid).await?;
        self.check_paid(&report)?;
        Ok((sample, report.vouchers))
    }

    /// Proven, paid and on disk.
    pub(super) async fn paid_to_file(&self) -> Result<Sample> {
        let meter = Meter::start();
        let report = self.agent.fetch(&self.on_disk).to_file(&self.received).await?;
        let sample = meter.stop(self.size);
        self.check(&report)?;
        self.check_paid(&report)?;
        ensure!(root_of(&self.received, self.size)? == self.content, "the file is not the content");
        fs::remove_file(&self.received)?;
        Ok(sample)
    }

    pub(super) async fn end(&self) {
        self.agent.close().await;
    }

    async fn to_memory(&self, from: &Address) -> Result<(Sample, FetchReport)> {
        // Where the next piece belongs; none once one came out of order.
        let next = Arc::new(Mutex::new(Some(0)));
        let at = Arc::clone(&next);
        let meter = Meter::start();
        let report = self
            .agent
            .fetch(from)
            .to_each(move |offset, bytes| {
                let mut next = at.lock().unwrap_or_else(PoisonError::into_inner);
                *next = next.filter(|next| *next == offset).map(|next| next + bytes.len() as u64);
            })
            .await?;
        let sample = meter.stop(self.size);
        let came = *next.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(came == Some(self.size), "{came:?} of {} bytes came in order", self.size);
        self.check(&report)?;
        Ok((sample, report))
    }

    /// All groups and the size are proven against the root.
    fn check(&self, report: &FetchReport) -> Result<()> {
        let is_whole = report.verified_bytes == self.size && report.size_proven && report.content == self.content;
        ensure!(is_whole, "not all is proven: {report:?}");
        Ok(())
    }

    fn check_paid(&self, report: &FetchReport) -> Result<()> {
        let due = (Tariff { per_mib: PER_MIB }).price(aro_proto::ByteCount::new(self.size));
        ensure!(report.acknowledged && Some(report.paid) == due, "not all is paid: {report:?}");
        Ok(())
    }
}

/// A content that no disk or network makes smaller.
pub(super) fn content(size: u64) -> Result<Bytes> {
    Ok(noise(usize::try_from(size)?, 1).into())
}

pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64, Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn root_of(path: &Path, size: u64) -> Result<ContentId> {
    let mut reader = File::open(path)?;
    let (mut builder, mut buffer) = (OutboardBuilder::new(size), vec![0; 1 << 20]);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(builder.finish()?),
            read => builder.update(&buffer[..read], |_, _| {}),
        }
    }
}

/// Base units for a MiB: a quantum is then this many.
const PER_MIB: u64 = 100;
