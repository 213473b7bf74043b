//! `aro-bench lossy`: what share of a path's rate arrives as content where packets are lost, beside bare QUIC.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_client::{Agent, AgentConfig};
use anyhow::{Context, Result, ensure};
use aro_proto::transport::{Congestion, TransportSettings};
use aro_proto::{Address, ContentId};
use aro_tests::relay::{LinkTerms, PathTerms, Relay};
use bytes::Bytes;
use clap::Args;

use crate::raw::{self, Raw};
use crate::report::{Figure, Report};
use crate::rounds::{paired, thousandths};
use crate::scene::{Scene, pattern};

/// How to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Milliseconds to the node and back.
    #[arg(long, value_name = "MS", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rtt_ms: u32,
    /// Share of packets lost, each way.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    loss: f64,
    /// Megabits a second that the path carries.
    #[arg(long, value_name = "MBIT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate_mbit: u32,
    /// Bytes of the largest IP packet that passes; 1,500 is what the internet carries.
    #[arg(long, value_name = "BYTES", default_value_t = 1_500, value_parser = clap::value_parser!(u16).range(1_280..))]
    mtu: u16,
    /// Mebibytes of a round.
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    mib: u32,
    /// How the node finds its rate; raw quinn has its default, CUBIC.
    #[arg(long, value_name = "NAME", default_value_t = Congestion::Cubic)]
    congestion: Congestion,
    /// Rounds; their median counts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// Decides which packets are lost.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Folder for node and wallet; the system's temporary folder if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    let runtime = tokio::runtime::Runtime::new().context("no async runtime")?;
    let path = runtime.block_on(Path::new(arguments))?;
    let (ours, bare) = paired(
        arguments.rounds.into(),
        |round| runtime.block_on(path.ours(round)),
        |round| runtime.block_on(path.bare(round)),
    )?;
    let rate_bytes = u64::from(arguments.rate_mbit) * 125_000;
    let figures = vec![
        Figure::new("goodput_share", thousandths(ours, rate_bytes)).in_thousandths(),
        Figure::new("raw_quinn_goodput_share", thousandths(bare, rate_bytes)).in_thousandths(),
        Figure::new("goodput_over_raw", thousandths(ours, bare)).in_thousandths(),
        Figure::new("goodput_kbit_s", ours / 125),
        Figure::new("raw_quinn_goodput_kbit_s", bare / 125),
    ];
    let Arguments { rtt_ms, loss, rate_mbit, mtu, mib, congestion, rounds, .. } = arguments;
    let title = format!("{mib} MiB at {rtt_ms} ms, {loss} lost, {rate_mbit} Mbit/s, packets to {mtu}, {congestion}");
    let notes = vec![format!(
        "Medians of {rounds} rounds by turns, one stream on a new connection, both losing alike, packets as for the internet."
    )];
    Ok(Report { title, figures, notes })
}

struct Path {
    scene: Scene,
    agent: Agent,
    content: ContentId,
    len: usize,
    raw: Raw,
    terms: PathTerms,
}

impl Path {
    async fn new(arguments: &Arguments) -> Result<Self> {
        let congestion = arguments.congestion;
        let settings = TransportSettings::default().towards_internet();
        let ours = TransportSettings { congestion, ..settings };
        let scene = Scene::new(arguments.dir.as_deref(), |config| config.transport = ours).await?;
        let len = (arguments.mib as usize) << 20;
        let bytes = pattern(1, 0, len);
        let content = scene.add(&bytes)?;
        let agent = scene.agent("agent", AgentConfig { transport: settings, ..AgentConfig::default() }).await?;
        // A channel that has paid a while has its widest window.
        let direct = scene.address(content)?;
        for _ in 0..(128 / arguments.mib).max(1) {
            let _ = agent.fetch(&direct).to_bytes(u64::MAX).await?;
        }
        agent.close().await;
        let raw = Raw::serve(Bytes::from(bytes), settings)?;
        let link = LinkTerms {
            delay: Duration::from_millis(arguments.rtt_ms.into()) / 2,
            loss_ppm: ppm(arguments.loss)?,
            rate_bit_s: Some(u64::from(arguments.rate_mbit) * 1_000_000),
            // What the path itself holds, as routers are built; 64 KiB at least.
            queue_bytes: (u64::from(arguments.rate_mbit) * 125 * u64::from(arguments.rtt_ms)).max(65_536),
            mtu: arguments.mtu.into(),
        };
        let terms = PathTerms { up: link, down: link, seed: arguments.seed };
        Ok(Self { scene, agent, content, len, raw, terms })
    }

    /// Bytes a second of ours.
    async fn ours(&self, round: usize) -> Result<u64> {
        let relay = self.relay(self.scene.node.local_addr(), round)?;
        let address: Address = self.scene.address_at(self.content, relay.address().port())?;
        let started = Instant::now();
        let (report, bytes) = self.agent.fetch(&address).to_bytes(self.len as u64).await?;
        let took = started.elapsed();
        ensure!(report.paid.get() == report.verified_bytes && report.size_proven, "it was not paid or not proven");
        self.agent.close().await;
        self.check(&bytes)?;
        Ok(self.rate(took))
    }

    /// Bytes a second of bare QUIC.
    async fn bare(&self, round: usize) -> Result<u64> {
        let relay = self.relay(self.raw.address()?, round)?;
        let started = Instant::now();
        let connection = self.raw.connect(relay.address()).await?;
        let bytes = raw::fetch(&connection, 0, self.len).await?;
        let took = started.elapsed();
        connection.close(0_u32.into(), b"");
        self.check(&bytes)?;
        Ok(self.rate(took))
    }

    fn relay(&self, to: SocketAddr, round: usize) -> Result<Relay> {
        let seed = self.terms.seed.wrapping_add(round as u64 * 2);
        Ok(Relay::to(to, &PathTerms { seed, ..self.terms })?)
    }

    fn check(&self, bytes: &[u8]) -> Result<()> {
        ensure!(ContentId::of(bytes) == self.content, "other bytes came");
        Ok(())
    }

    fn rate(&self, took: Duration) -> u64 {
        u64::try_from(self.len as u128 * 1_000_000 / took.as_micros().max(1)).unwrap_or(u64::MAX)
    }
}

/// A share as parts of a million.
#[allow(clippy::float_arithmetic, reason = "a probability on the command line")]
fn ppm(share: f64) -> Result<u32> {
    ensure!((0.0..1.0).contains(&share), "a loss of {share} is not a share below 1");
    Ok((share * 1e6).round() as u32)
}
