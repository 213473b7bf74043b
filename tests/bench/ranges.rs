//! `aro-bench ranges`: how long a random range of a large content takes on a warm connection, proven and in the caller's
//! hands, beside bare QUIC from memory.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_client::AgentConfig;
use anyhow::{Context, Result, ensure};
use aro_proto::merkle::ByteRanges;
use aro_proto::transport::TransportSettings;
use aro_tests::faulty::Dice;
use bytes::Bytes;
use clap::Args;

use crate::raw::{self, Raw};
use crate::report::{Figure, Report};
use crate::rounds::median;
use crate::scene::{Scene, pattern};

/// How to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Mebibytes of the content.
    #[arg(long, value_name = "MIB", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    mib: u32,
    /// Bytes of a range.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    size: u32,
    /// Ranges of a round.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(100..))]
    count: u32,
    /// Rounds; their medians count.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// Folder for node and wallet; the system's temporary folder if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    let runtime = tokio::runtime::Runtime::new().context("no async runtime")?;
    let (ours, bare) = runtime.block_on(run(arguments))?;
    let at = |rounds: &[Vec<u64>], percent| median(rounds.iter().map(|times| percentile(times, percent)).collect());
    let figures = vec![
        Figure::new("p50_us", at(&ours, 50)),
        Figure::new("p99_us", at(&ours, 99)),
        Figure::new("raw_quinn_p50_us", at(&bare, 50)),
        Figure::new("raw_quinn_p99_us", at(&bare, 99)),
    ];
    let Arguments { mib, size, count, rounds, .. } = arguments;
    let title = format!("{count} random ranges of {size} bytes, one after the other, of {mib} MiB");
    let notes = vec![
        format!(
            "Medians of {rounds} rounds by turns. The content is in the system's page cache, raw quinn's in memory."
        ),
        "A range counts as there when its bytes are proven; its payment goes on beside the next one.".into(),
    ];
    Ok(Report { title, figures, notes })
}

async fn run(arguments: &Arguments) -> Result<(Vec<Vec<u64>>, Vec<Vec<u64>>)> {
    let scene = Scene::new(arguments.dir.as_deref(), |_| {}).await?;
    let (size, len) = (arguments.size as usize, u64::from(arguments.mib) << 20);
    let path = scene.home.path().join("large");
    let mut file = File::create(&path)?;
    for start in (0..len).step_by(BLOCK) {
        file.write_all(&pattern(1, start, BLOCK))?;
    }
    let content = scene.node.store().add_file(&path)?.id;
    std::fs::remove_file(&path)?;
    let address = scene.address(content)?;
    let agent = scene.agent("agent", AgentConfig { credit_timeout_ms: 0, ..AgentConfig::default() }).await?;
    // Of the raw side only the length of an answer matters.
    let block = pattern(1, 0, size.max(BLOCK));
    let raw = Raw::serve(Bytes::from(block.clone()), TransportSettings::default())?;
    let connection = raw.connect(raw.address()?).await?;
    let mut dice = Dice::new(1);
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=arguments.rounds {
        let (mut times, mut raw_times) = (Vec::new(), Vec::new());
        for _ in 0..arguments.count {
            let start = dice.below(len.saturating_sub(size as u64) / GROUP + 1) * GROUP;
            let ranges = ByteRanges::single(start, start + size as u64)?;
            let asked = Instant::now();
            let (_, bytes) = agent.fetch(&address).ranges(ranges).to_bytes(size as u64).await?;
            times.push(micros(asked.elapsed()));
            ensure!(bytes == pattern(1, start, size), "other bytes came");
            let asked = Instant::now();
            let bytes = raw::fetch(&connection, 0, size).await?;
            raw_times.push(micros(asked.elapsed()));
            ensure!(bytes == block[..size], "other raw bytes came");
        }
        // The first warms up.
        if round > 0 {
            ours.push(times);
            bare.push(raw_times);
        }
    }
    agent.close().await;
    scene.node.shutdown().await.context("the node does not stop")?;
    Ok((ours, bare))
}

fn percentile(times: &[u64], percent: usize) -> u64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Bytes made at once.
const BLOCK: usize = 1 << 20;
/// Ranges begin at chunk groups, so that what is asked is what travels.
const GROUP: u64 = 16 << 10;
