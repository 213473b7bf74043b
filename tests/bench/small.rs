//! `aro-bench small`: how many small contents a second one connection brings, signed, paid and proven.
//!
//! Each of them is checked against its root again, outside of the measured time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_client::{Agent, AgentConfig};
use anyhow::{Context, Result, anyhow, ensure};
use aro_proto::transport::TransportSettings;
use aro_proto::{ByteCount, ContentId};
use bytes::Bytes;
use clap::Args;
use quinn::Connection;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::raw::{self, Raw};
use crate::report::{Figure, Report};
use crate::rounds::{cpu_time, median, per_second};
use crate::scene::{Scene, TARIFF, pattern};

/// How to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Bytes of a content.
    #[arg(long, value_name = "BYTES", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    size: u32,
    /// Requests of a round.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Different contents, asked for in turn.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    contents: u32,
    /// Requests at once.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=256))]
    in_flight: u32,
    /// Rounds; their median counts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// Folder for node and wallet, on the disk that is to be measured; the system's temporary folder if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    let runtime = tokio::runtime::Runtime::new().context("no async runtime")?;
    let small = runtime.block_on(Small::new(arguments))?;
    // Opens the credit window as far as it goes, fills the node's memory, and warms everything else up.
    for _ in 0..2 {
        runtime.block_on(small.batched())?;
        runtime.block_on(small.single())?;
        runtime.block_on(small.raw())?;
    }
    let (mut batched, mut single, mut raws) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..usize::from(arguments.rounds) {
        // Each comes first, second and last in turn.
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => batched.push(runtime.block_on(small.batched())?),
                1 => raws.push(runtime.block_on(small.raw())?),
                _ => single.push(runtime.block_on(small.single())?),
            }
        }
    }
    runtime.block_on(small.agent.close());
    let total = arguments.count as usize;
    let [(rate, cpu), (raw_rate, raw_cpu), (single_rate, single_cpu)] =
        [&batched, &raws, &single].map(|rounds| medians(rounds, total));
    let figures = vec![
        Figure::at_least("requests_per_s", rate, 25_000),
        Figure::new("raw_quinn_requests_per_s", raw_rate),
        Figure::new("one_by_one_requests_per_s", single_rate),
        Figure::new("cpu_us_per_request", cpu),
        Figure::new("raw_quinn_cpu_us_per_request", raw_cpu),
        Figure::new("one_by_one_cpu_us_per_request", single_cpu),
    ];
    let Arguments { size, count, contents, in_flight, rounds, .. } = arguments;
    let title =
        format!("{count} fetches of {size} bytes, {in_flight} in flight on one connection, {contents} contents");
    let notes = vec![
        format!("Medians of {rounds} rounds by turns, both ends in this process."),
        "requests_per_s: fetch_many, one signature and stream for half of what is in flight.".into(),
        "one_by_one: fetch, a signature and a stream for each; raw quinn: a stream for each and nothing else.".into(),
    ];
    Ok(Report { title, figures, notes })
}

/// What a round took.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    cpu: Duration,
}

impl Took {
    fn since(started: Instant, busy: Duration) -> Self {
        Self { wall: started.elapsed(), cpu: cpu_time().saturating_sub(busy) }
    }
}

/// Medians of the rounds of one kind: requests a second, and microseconds of CPU a request, both ends together.
fn medians(rounds: &[Took], count: usize) -> (u64, u64) {
    let rates = rounds.iter().map(|took| per_second(count, took.wall)).collect();
    let cpu =
        rounds.iter().map(|took| u64::try_from(took.cpu.as_micros()).unwrap_or(u64::MAX) / count as u64).collect();
    (median(rates), median(cpu))
}

struct Small {
    _scene: Scene,
    agent: Agent,
    contents: Vec<ContentId>,
    /// What is asked for, by its place among the contents.
    wanted: Vec<usize>,
    addresses: Vec<aro_proto::Address>,
    _raw: Raw,
    connection: Connection,
    size: usize,
    in_flight: usize,
}

impl Small {
    async fn new(arguments: &Arguments) -> Result<Self> {
        let scene = Scene::new(arguments.dir.as_deref(), |_| {}).await?;
        let size = arguments.size as usize;
        let (mut block, mut contents) = (Vec::new(), Vec::new());
        for number in 0..arguments.contents {
            let bytes = pattern(u64::from(number), 0, size);
            contents.push(scene.add(&bytes)?);
            block.extend_from_slice(&bytes);
        }
        let addresses = contents.iter().map(|id| scene.address(*id)).collect::<Result<_>>()?;
        let agent = scene.agent("agent", AgentConfig { credit_timeout_ms: 0, ..AgentConfig::default() }).await?;
        let raw = Raw::serve(Bytes::from(block), TransportSettings::default())?;
        let connection = raw.connect(raw.address()?).await?;
        let wanted = (0..arguments.count as usize).map(|number| number % contents.len()).collect();
        let in_flight = arguments.in_flight as usize;
        Ok(Self { _scene: scene, agent, contents, wanted, addresses, _raw: raw, connection, size, in_flight })
    }

    /// A signature and a stream for each.
    async fn single(&self) -> Result<Took> {
        let (started, busy) = (Instant::now(), cpu_time());
        let places = Arc::new(Semaphore::new(self.in_flight));
        let mut tasks = JoinSet::new();
        for (index, wanted) in self.wanted.iter().enumerate() {
            let place = Arc::clone(&places).acquire_owned().await?;
            let fetch = self.agent.fetch(&self.addresses[*wanted]).to_bytes(self.size as u64);
            tasks.spawn(async move {
                let fetched = fetch.await;
                drop(place);
                (index, fetched)
            });
        }
        let mut all = vec![Vec::new(); self.wanted.len()];
        while let Some(done) = tasks.join_next().await {
            let (index, fetched) = done?;
            all[index] = fetched?.1;
        }
        let took = Took::since(started, busy);
        self.check(&all)?;
        Ok(took)
    }

    /// A signature and a stream for dozens.
    async fn batched(&self) -> Result<Took> {
        let (started, busy) = (Instant::now(), cpu_time());
        let ids = self.wanted.iter().map(|wanted| self.contents[*wanted]).collect();
        let fetch = self.agent.fetch_many(&self.addresses[0], ids).in_flight(self.in_flight);
        let (report, fetched) = fetch.to_bytes(u64::MAX).await?;
        let all = fetched.into_iter().collect::<Result<Vec<_>, _>>()?;
        let took = Took::since(started, busy);
        let due = TARIFF.price(ByteCount::new((all.len() * self.size) as u64)).unwrap_or_default();
        ensure!(report.paid == due, "{} paid where {due} were due", report.paid);
        self.check(&all)?;
        Ok(took)
    }

    async fn raw(&self) -> Result<Took> {
        let (started, busy) = (Instant::now(), cpu_time());
        let offsets: Vec<u64> = self.wanted.iter().map(|wanted| (wanted * self.size) as u64).collect();
        let all = raw::fetch_many(&self.connection, &offsets, self.size, self.in_flight).await?;
        let took = Took::since(started, busy);
        self.check(&all)?;
        Ok(took)
    }

    /// Every answer has the root that was asked for.
    fn check(&self, all: &[Vec<u8>]) -> Result<()> {
        ensure!(all.len() == self.wanted.len(), "{} answers for {} requests", all.len(), self.wanted.len());
        for (bytes, wanted) in all.iter().zip(&self.wanted) {
            ensure!(bytes.len() == self.size, "an answer of {} bytes", bytes.len());
            let id = self.contents.get(*wanted).ok_or_else(|| anyhow!("no such content"))?;
            ensure!(ContentId::of(bytes) == *id, "an answer that is not the content");
        }
        Ok(())
    }
}
