//! `aro-bench latency`: round trips until a paid, proven byte is there, on a new connection and on a warm one, beside
//! bare QUIC on the same path.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use agent_client::{Agent, AgentConfig};
use anyhow::{Context, Result, ensure};
use aro_proto::transport::TransportSettings;
use aro_proto::{Address, ContentId};
use aro_tests::relay::{LinkTerms, PathTerms, Relay};
use bytes::Bytes;
use clap::Args;

use crate::raw::{self, Raw};
use crate::report::{Figure, Report};
use crate::rounds::{median, thousandths};
use crate::scene::{Scene, pattern};

/// How to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Milliseconds to the node and back.
    #[arg(long, value_name = "MS", default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rtt_ms: u32,
    /// Bytes of the largest IP packet that passes; 1,500 is what the internet carries.
    #[arg(long, value_name = "BYTES", default_value_t = 1_500, value_parser = clap::value_parser!(u16).range(1_280..))]
    mtu: u16,
    /// Bytes of the content: one chunk group, which is what is proven at once.
    #[arg(long, value_name = "BYTES", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    size: u32,
    /// Rounds; their median counts.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// Folder for node and wallet; the system's temporary folder if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    let runtime = tokio::runtime::Runtime::new().context("no async runtime")?;
    let rtt = Duration::from_millis(arguments.rtt_ms.into());
    let (mut cold, mut warm, mut raw_cold, mut raw_warm) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    runtime.block_on(async {
        let path = Path::new(arguments, rtt).await?;
        for round in 0..=arguments.rounds {
            let ours = path.ours().await?;
            let bare = path.bare().await?;
            // The first opens what stays open: sockets, the wallet, the content.
            if round > 0 {
                cold.push(ours.0);
                warm.push(ours.1);
                raw_cold.push(bare.0);
                raw_warm.push(bare.1);
            }
        }
        anyhow::Ok(())
    })?;
    let rtts = |times: Vec<u64>| thousandths(median(times), u64::from(arguments.rtt_ms) * 1_000);
    let figures = vec![
        Figure::at_most("cold_first_byte_rtts", rtts(cold), 2_200).in_thousandths(),
        Figure::at_most("warm_first_byte_rtts", rtts(warm), 1_200).in_thousandths(),
        Figure::new("raw_quinn_cold_first_byte_rtts", rtts(raw_cold)).in_thousandths(),
        Figure::new("raw_quinn_warm_first_byte_rtts", rtts(raw_warm)).in_thousandths(),
    ];
    let title = format!(
        "first proven byte of {} at {} ms there and back, packets to {}",
        arguments.size, arguments.rtt_ms, arguments.mtu
    );
    let notes = vec![
        format!("Medians of {} rounds by turns. Cold: from the call on, handshake included.", arguments.rounds),
        "Ours has proven the whole content by then; raw quinn has received all of its bytes.".into(),
    ];
    Ok(Report { title, figures, notes })
}

struct Path {
    _scene: Scene,
    agent: Agent,
    address: Address,
    content: ContentId,
    size: usize,
    raw: Raw,
    raw_place: SocketAddr,
    _relays: [Relay; 2],
}

impl Path {
    async fn new(arguments: &Arguments, rtt: Duration) -> Result<Self> {
        // The relay is on loopback, but stands for the internet.
        let settings = TransportSettings::default().towards_internet();
        let scene = Scene::new(arguments.dir.as_deref(), |config| config.transport = settings).await?;
        let size = arguments.size as usize;
        let bytes = pattern(1, 0, size);
        let content = scene.add(&bytes)?;
        let agent = scene.agent("agent", AgentConfig { transport: settings, ..AgentConfig::default() }).await?;
        let link = LinkTerms { mtu: arguments.mtu.into(), ..LinkTerms::delay(rtt / 2) };
        let terms = PathTerms { up: link, down: link, seed: 1 };
        let relay = Relay::to(scene.node.local_addr(), &terms)?;
        let address = scene.address_at(content, relay.address().port())?;
        let raw = Raw::serve(Bytes::from(bytes), settings)?;
        let raw_relay = Relay::to(raw.address()?, &terms)?;
        let raw_place = raw_relay.address();
        Ok(Self { _scene: scene, agent, address, content, size, raw, raw_place, _relays: [relay, raw_relay] })
    }

    /// Microseconds on a new connection, and on the same one again.
    async fn ours(&self) -> Result<(u64, u64)> {
        let cold = self.fetch().await?;
        let warm = self.fetch().await?;
        // The next dials anew.
        self.agent.close().await;
        Ok((cold, warm))
    }

    async fn fetch(&self) -> Result<u64> {
        let (proven, seen) = mpsc::channel();
        let started = Instant::now();
        let fetch = self.agent.fetch(&self.address).progress(move |progress| {
            let _ = proven.send((started.elapsed(), progress.proven_bytes));
        });
        let (report, bytes) = fetch.to_bytes(self.size as u64).await?;
        let (first, _) = seen.recv().context("nothing was proven")?;
        ensure!(report.paid.get() == report.verified_bytes && report.acknowledged, "it was not paid");
        ensure!(ContentId::of(&bytes) == self.content && report.size_proven, "it is not the content");
        Ok(micros(first))
    }

    async fn bare(&self) -> Result<(u64, u64)> {
        let started = Instant::now();
        let connection = self.raw.connect(self.raw_place).await?;
        let first = raw::fetch(&connection, 0, self.size).await?;
        let cold = started.elapsed();
        let started = Instant::now();
        let second = raw::fetch(&connection, 0, self.size).await?;
        let warm = started.elapsed();
        connection.close(0_u32.into(), b"");
        ensure!([first, second].iter().all(|bytes| ContentId::of(bytes) == self.content), "other bytes came");
        Ok((micros(cold), micros(warm)))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
