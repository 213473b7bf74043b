//! Vouchers that an operator takes per second on one core, durably.
//!
//! The whole process of taking runs on one CPU: the nodes' ends of the connections, QUIC, the strict verification of
//! every voucher, and redb's synced commits. So the figure is a floor for an operator that has a core to itself.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use aro_proto::channel::{SignedVoucher, Voucher};
use aro_proto::identity::{Verifier, VerifyingKey};
use aro_proto::limits::MAX_HANDOFF;
use aro_proto::message::HandoffVoucher;
use aro_proto::{Amount, ChannelId};
use aro_tests::line::{Line, Reply};
use aro_tests::stage::{OperatorKeys, Stage};
use settlement_operator::{OperatorConfig, RunningOperator};
use tokio::task::JoinSet;

use crate::rounds::{paired, per_second};

/// What the intake managed.
pub(super) struct Intake {
    /// Median over the rounds.
    pub(super) accepted_per_s: u64,
    /// Strict verifications alone, on the same core, by turns with the rounds.
    pub(super) verified_per_s: u64,
    rounds: usize,
    is_pinned: bool,
}

impl Intake {
    pub(super) fn notes(&self) -> Vec<String> {
        let core = if self.is_pinned { "one CPU" } else { "one thread and its helpers (no CPU could be pinned)" };
        vec![
            String::new(),
            format!(
                "Intake: {NODES} nodes over QUIC, {MAX_HANDOFF} vouchers a handoff, redb synced before each answer, nodes' \
                 ends included, all on {core}; median of {} rounds of {} vouchers.",
                self.rounds,
                NODES * MAX_HANDOFF * HANDOFFS
            ),
            format!(
                "No intake can take more than strict verification alone does on the same core, by turns with the rounds and \
                 as the operator verifies: {} per second; this one takes {} % of that.",
                self.verified_per_s,
                self.accepted_per_s.saturating_mul(100) / self.verified_per_s.max(1)
            ),
        ]
    }
}

/// Measures in `dir`, or in the system's temporary folder.
pub(super) fn measure(rounds: usize, dir: Option<&Path>) -> Result<Intake> {
    let folder = match dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let folder = folder.context("no folder for the operator's database")?;
    // A thread of its own: what it pins itself to, its runtime's threads inherit.
    std::thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            let is_pinned = pin();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let scene = runtime.block_on(Scene::new(folder.path()))?;
            let (accepted_per_s, verified_per_s) =
                paired(rounds, |round| runtime.block_on(scene.take(round)), |round| scene.verify(round))?;
            runtime.block_on(scene.check_after_restart(rounds))?;
            Ok(Intake { accepted_per_s, verified_per_s, rounds, is_pinned })
        });
        pinned.join().map_err(|_| anyhow!("the measuring thread has panicked"))?
    })
}

struct Scene {
    stage: Stage,
    keys: OperatorKeys,
    config: OperatorConfig,
    operator: RunningOperator,
    nodes: Vec<(Arc<Line>, Vec<ChannelId>)>,
}

impl Scene {
    async fn new(dir: &Path) -> Result<Self> {
        let mut stage = Stage::new().await?;
        let keys = stage.operator().await?;
        // As operators run: facts of the chain are good for a moment.
        let config = OperatorConfig { chain_cache_ms: OperatorConfig::default().chain_cache_ms, ..stage.config(dir) };
        let operator = stage.start(&keys, &config, Arc::new(stage.chain().clone())).await?;
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            let node = stage.node(keys.account).await?;
            let channels = stage.open(&node, MAX_HANDOFF, DEPOSIT).await?;
            let line = Line::to(&operator, &node.id, stage.chain_ids()).await?;
            nodes.push((Arc::new(line), channels));
        }
        Ok(Self { stage, keys, config, operator, nodes })
    }

    /// One round: every node hands over [`HANDOFFS`] times, each time a higher voucher of each of its channels.
    async fn take(&self, round: usize) -> Result<u64> {
        let mut nodes = Vec::new();
        for (line, channels) in &self.nodes {
            let handoff = |turn| channels.iter().map(|id| self.stage.voucher(*id, amount(round, turn))).collect();
            nodes.push((Arc::clone(line), (0..HANDOFFS).map(handoff).collect::<Vec<Vec<HandoffVoucher>>>()));
        }
        let started = Instant::now();
        let mut lines = JoinSet::new();
        for (line, handoffs) in nodes {
            lines.spawn(async move {
                for handoff in handoffs {
                    accepted(&line.hand(&handoff).await?, handoff.len())?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(line) = lines.join_next().await {
            line??;
        }
        let took = started.elapsed();
        self.check(&self.operator, round).await?;
        Ok(per_second(NODES * MAX_HANDOFF * HANDOFFS, took))
    }

    /// Strict verification alone, of as many vouchers as one handoff of every node has.
    fn verify(&self, round: usize) -> Result<u64> {
        let channels = self.nodes.iter().flat_map(|(_, channels)| channels);
        let key = VerifyingKey::from_bytes(&self.stage.signer().public())?;
        let signed: Vec<(SignedVoucher, &VerifyingKey)> = channels
            .map(|id| Voucher { channel: *id, cumulative: Amount::new(amount(round, 0)), expires_at: 0 })
            .map(|voucher| (voucher.sign(self.stage.signer()), &key))
            .collect();
        let verifier = Verifier::default();
        let started = Instant::now();
        for _ in 0..HANDOFFS {
            for group in signed.chunks(VERIFIED_AT_ONCE) {
                let good =
                    SignedVoucher::verify_all(&verifier, group).iter().filter(|verified| verified.is_ok()).count();
                ensure!(good == group.len(), "a good signature is refused");
            }
        }
        Ok(per_second(signed.len() * HANDOFFS, started.elapsed()))
    }

    /// Every channel's last voucher of the round is stored, whole.
    async fn check(&self, operator: &RunningOperator, round: usize) -> Result<()> {
        let stored: HashMap<ChannelId, SignedVoucher> =
            operator.vouchers().await?.iter().map(|stored| (stored.channel(), stored.signed)).collect();
        ensure!(stored.len() == NODES * MAX_HANDOFF, "{} vouchers are stored", stored.len());
        for id in self.nodes.iter().flat_map(|(_, channels)| channels) {
            let last = self.stage.voucher(*id, amount(round, HANDOFFS - 1));
            let found = stored.get(id).with_context(|| format!("nothing is stored of {id}"))?;
            ensure!(found.signature == last.signature && found.voucher.cumulative == last.cumulative, "{found:?}");
        }
        Ok(())
    }

    /// The operator is cut off, and another life finds the last round's vouchers.
    async fn check_after_restart(self, rounds: usize) -> Result<()> {
        let Self { stage, keys, config, operator, nodes } = self;
        drop(operator);
        let operator = stage.start(&keys, &config, Arc::new(stage.chain().clone())).await?;
        let scene = Self { operator, stage, keys, config, nodes };
        scene.check(&scene.operator, rounds - 1).await
    }
}

fn accepted(reply: &Reply, count: usize) -> Result<()> {
    match reply {
        Reply::Ack(ack) => {
            let taken = ack.verdicts.iter().filter(|verdict| verdict.refusal.is_none()).count();
            ensure!(taken == count, "{taken} of {count} vouchers were accepted");
            Ok(())
        }
        Reply::Refused(refusal) => bail!("a handoff was refused: {refusal}"),
    }
}

/// What the agents sign: higher with every handoff.
fn amount(round: usize, turn: usize) -> u64 {
    u64::try_from(round * HANDOFFS + turn + 1).unwrap_or(u64::MAX)
}

/// Keeps this thread, and those that it starts, on one CPU. False where the system has no way.
#[cfg(target_os = "linux")]
fn pin() -> bool {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    let me = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(me) else { return false };
    // The last one: interrupts like the first.
    let Some(cpu) = (0..CpuSet::count()).rev().find(|cpu| allowed.is_set(*cpu) == Ok(true)) else { return false };
    let mut one = CpuSet::new();
    one.set(cpu).is_ok() && sched_setaffinity(me, &one).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn pin() -> bool {
    false
}

/// Nodes that hand over at once: while one's vouchers are synced, another's are verified.
const NODES: usize = 4;
/// Handoffs of each node in a round.
const HANDOFFS: usize = 12;
/// As many as the operator verifies together.
const VERIFIED_AT_ONCE: usize = 64;
/// Base units in each channel.
const DEPOSIT: u64 = 1_000_000;
