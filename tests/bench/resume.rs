//! `aro-bench resume`: the `aro` command, killed at random points of a fetch and run again until the file is whole.
//!
//! Every kill is a SIGKILL of a real process. What it left is proven from outside, by the files' documented layout; what the
//! next run takes up, it says itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use agent_client::{Agent, AgentConfig, Wallet};
use anyhow::{Context, Result, ensure};
use aro_proto::{ByteCount, ContentId};
use aro_tests::parts::held_beside;
use aro_tests::processes::{Ended, aro, ended_within, killed};
use aro_tests::relay::{LinkTerms, PathTerms, Relay};
use aro_tests::rpc::RpcServer;
use clap::Args;
use serde_json::Value;

use crate::report::{Figure, Report};
use crate::scene::{Scene, TARIFF, pattern};

/// How to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Kills, at random points of the content.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    kills: u32,
    /// Mebibytes of the content.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(4..=16_384))]
    mib: u32,
    /// Megabits a second that the path to the node carries.
    #[arg(long, value_name = "MBIT", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate_mbit: u32,
    /// Decides where the kills fall; a random number if not given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Folder for node, wallet and file; the system's temporary folder if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    let runtime = tokio::runtime::Runtime::new().context("no async runtime")?;
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => random()?,
    };
    let story = runtime.block_on(Story::begin(arguments))?;
    let told = runtime.block_on(story.tell(arguments.kills, seed))?;
    runtime.block_on(story.scene.node.shutdown())?;
    let price = TARIFF.price(ByteCount::new(story.size)).context("a price beyond all bounds")?.get();
    let beyond = told.signed.saturating_sub(price);
    let figures = vec![
        Figure::at_most("bytes_fetched_twice", told.twice, 0),
        Figure::new("kills", told.kills),
        Figure::new("runs_refused_unpaid", told.refused),
        Figure::new("bytes_of_content", story.size),
        Figure::new("bytes_beside_at_last_start", told.held),
        Figure::new("paid_for_bytes", told.signed),
        Figure::new("paid_beyond_price_permille", beyond * 1_000 / price.max(1)),
        Figure::new("paid_beyond_price", beyond),
        Figure::new("paid_short_of_price", price.saturating_sub(told.signed)),
        Figure::new("ahead_of_disk_at_first_kill", told.ahead),
        Figure::new("elapsed_ms", u64::try_from(told.elapsed.as_millis()).unwrap_or(u64::MAX)),
    ];
    let Arguments { mib, rate_mbit, .. } = arguments;
    Ok(Report {
        title: format!("{mib} MiB at {rate_mbit} Mbit/s, `aro get` killed {} times (seed {seed})", told.kills),
        figures,
        notes: vec![
            "Real processes, killed with SIGKILL; the file's root is checked at the end.".into(),
            "Twice are bytes that a kill left proven on disk and that a later run did not take up.".into(),
            "Paid beyond the price is paid ahead: what was sent for nothing and neither the node's allowance nor its window had \
             room for when the last process died."
                .into(),
            "Paid short of it is what was written when a process died and had not been counted yet.".into(),
        ],
    })
}

struct Story {
    scene: Scene,
    rpc: RpcServer,
    relay: Relay,
    content: ContentId,
    size: u64,
}

/// What came of it.
struct Told {
    kills: u64,
    /// Runs that the node refused while it still sent to a dead one.
    refused: u64,
    twice: u64,
    /// What the last run found proven.
    held: u64,
    /// Base units signed in all; one pays for a byte.
    signed: u64,
    /// Base units signed at the first kill for what was not on disk then.
    ahead: u64,
    elapsed: Duration,
}

impl Story {
    async fn begin(arguments: &Arguments) -> Result<Self> {
        let scene = Scene::new(arguments.dir.as_deref(), |_| {}).await?;
        let size = u64::from(arguments.mib) << 20;
        let content = scene.add(&pattern(7, 0, usize::try_from(size)?))?;
        scene.agent(WALLET, AgentConfig::default()).await?.close().await;
        let rpc = RpcServer::start((*scene.world.chain).clone()).await?;
        let rate = u64::from(arguments.rate_mbit);
        let link = LinkTerms {
            rate_bit_s: Some(rate * 1_000_000),
            // What 50 ms of the path hold.
            queue_bytes: (rate * 6_250).max(65_536),
            ..LinkTerms::delay(Duration::from_millis(5))
        };
        let relay = Relay::to(scene.node.local_addr(), &PathTerms { up: link, down: link, seed: 1 })?;
        Ok(Self { scene, rpc, relay, content, size })
    }

    async fn tell(&self, kills: u32, seed: u64) -> Result<Told> {
        let started = Instant::now();
        let mut random = Random(seed | 1);
        // Where the kills fall, rising, each in its own share of the content.
        let share = self.size / (u64::from(kills) + 1);
        let points: Vec<u64> = (0..u64::from(kills)).map(|kill| kill * share + random.below(share)).collect();
        let mut told = Told { kills: 0, refused: 0, twice: 0, held: 0, signed: 0, ahead: 0, elapsed: Duration::ZERO };
        for point in points {
            let resumed = loop {
                match self.kill_at(self.run()?, point.max(told.held + 1)).await? {
                    Some(resumed) => break resumed,
                    None => told.refused += 1,
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                ensure!(started.elapsed() < ALL, "refused again and again");
            };
            ensure!(!self.out().exists(), "the fetch was done before kill {}: make it longer", told.kills + 1);
            told.twice += told.held.saturating_sub(resumed);
            told.kills += 1;
            told.held = self.held()?;
            if told.kills == 1 {
                told.ahead = self.signed().await?.saturating_sub(told.held);
            }
        }
        let report = loop {
            let child = self.run()?;
            if let Some(report) = finished(ended_within(ALL, child).await)? {
                break report;
            }
            (told.refused, told.held) = (told.refused + 1, self.held()?);
            tokio::time::sleep(Duration::from_secs(1)).await;
            ensure!(started.elapsed() < ALL, "refused again and again");
        };
        let number = |key: &str| report[key].as_u64().with_context(|| format!("no {key} in {report}"));
        told.twice += told.held.saturating_sub(number("resumed_bytes")?);
        // What was asked for again although it was taken up.
        told.twice += (number("resumed_bytes")? + number("verified_bytes")?).saturating_sub(self.size);
        told.signed = self.signed().await?;
        told.elapsed = started.elapsed();
        ensure!(ContentId::of(&fs::read(self.out())?) == self.content, "the file is not the content");
        Ok(told)
    }

    /// `aro get` through the relay. It tells in its log what it takes up.
    fn run(&self) -> Result<Child> {
        let address = self.scene.address_at(self.content, self.relay.address().port())?.to_string();
        let mut command = aro(&self.rpc.url, &self.scene.home.path().join(WALLET));
        command.args(["get", &address, "-o"]).arg(self.out());
        command.env("RUST_LOG", "agent_client=debug").env("NO_COLOR", "1");
        command.spawn().context("`aro` does not start")
    }

    /// Kills a run once the part file reaches so far. Says what it had taken up; none if the node did not let it begin,
    /// because it waits for what it sent to a process that died.
    async fn kill_at(&self, mut child: Child, point: u64) -> Result<Option<u64>> {
        let deadline = Instant::now() + PATIENCE;
        let part = self.beside();
        loop {
            if fs::metadata(&part).is_ok_and(|part| part.len() >= point) || child.try_wait()?.is_some() {
                break;
            }
            ensure!(Instant::now() < deadline, "nothing came for {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let Ended { code, stderr: log, .. } = killed(child).await;
        if code == UNPAID {
            return Ok(None);
        }
        ensure!(code == -1, "it ended by itself: {log}");
        // Killed before it came to that, it took up nothing and lost nothing.
        Ok(Some(taken_up(&log).map_or_else(|| self.held(), Ok)?))
    }

    fn held(&self) -> Result<u64> {
        Ok(held_beside(&self.out(), self.content)?.iter().map(|range| range.end - range.start).sum())
    }

    async fn signed(&self) -> Result<u64> {
        let wallet = Wallet::open(&self.scene.home.path().join(WALLET))?;
        let world = &self.scene.world;
        let builder = Agent::builder().chain(world.chain.clone()).program(world.program.id);
        let agent = builder.wallet(wallet).build().await?;
        Ok(agent.channels().await?.iter().map(|channel| channel.signed.get()).sum())
    }

    fn out(&self) -> PathBuf {
        self.scene.home.path().join("out")
    }

    fn beside(&self) -> PathBuf {
        Path::new(&self.scene.home.path()).join("out.aro-part")
    }
}

/// The report of a run that ends well. None if the node waits for what it sent to a process that died.
fn finished(ended: Ended) -> Result<Option<Value>> {
    let Ended { code, json, stderr } = ended;
    if code == UNPAID {
        return Ok(None);
    }
    ensure!(code == 0, "the last run failed: {json} {stderr}");
    ensure!(json.is_object(), "no report: {stderr}");
    Ok(Some(json))
}

/// What the log of a run says that it took up.
fn taken_up(log: &str) -> Option<u64> {
    let number = log.lines().find_map(|line| line.split_once("resumed_bytes=")).map(|(_, rest)| rest)?;
    number.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// xorshift64, Marsaglia 2003.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }
}

fn random() -> Result<u64> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).context("the system gives no random bytes")?;
    Ok(u64::from_le_bytes(seed))
}

const WALLET: &str = "agent";
/// Exit code of a run that the node refuses until it is paid.
const UNPAID: i32 = 4;
/// Longer than all runs together.
const ALL: Duration = Duration::from_secs(1_800);
/// Longer than a run needs to get going on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_takes_up_is_read_from_its_log() {
        assert_eq!(
            taken_up("x DEBUG agent_client::fetch: a fetch begins resumed_bytes=65536 missing=1\ny"),
            Some(65_536)
        );
        assert_eq!(taken_up("nothing of it"), None);
    }
}
