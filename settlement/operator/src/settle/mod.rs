//! Settling, in three lanes that do not wait for each other: the round settles stored vouchers that are due, the
//! urgent lane what is closing, the sweep ends and refunds what no voucher points at.

mod claims;
mod costs;
mod prune;
mod reconcile;
mod report;
pub(crate) mod snapshot;
mod sweep;
mod urgent;

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::{Amount, ChannelId};
use settlement_chain::reads::ReadError;
use settlement_chain::submit::Remedy;
use settlement_chain::views::Tries;
use settlement_chain::{Address, ChainClient, ChainError, Program, Signature};
use settlement_interface::accounts::status;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use report::{ReclaimedChannel, SettleReport, SettledChannel, Skipped, Trouble};
pub(crate) use urgent::{LONGEST_LOOK, SHORTEST_LOOK, Seen, joined, look_interval};

use crate::batch::{Facts, Item, Kind, Planned, Planner};
use crate::intake::ChannelCache;
use crate::metrics::{Lane, Metrics, Standing, TransactionEnd};
use crate::submit::{End, JournalEntry, Resumed, Submitter};
use crate::vouchers::{Book, Lease, StoreError, StoredVoucher};
use claims::Claims;
use costs::Costs;
use prune::Remembered;

/// Why a round could not be made. Nothing is lost: the next one starts from what the chain says.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// Accounts could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The chain did not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The operator's file could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SettleError {
    /// True if the same round may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read(error) => error.is_retryable(),
            Self::Chain(error) => error.is_retryable(),
            Self::Store(error) => error.is_retryable(),
        }
    }
}

/// Settles.
pub(crate) struct Settler {
    chain: Arc<dyn ChainClient>,
    program: Program,
    operator: Address,
    planner: Planner,
    book: Arc<Book>,
    submitter: Submitter,
    cache: Arc<ChannelCache>,
    metrics: Arc<Metrics>,
    withdraw_fees_above: Option<Amount>,
    /// When wishes to close that are in doubt count, though nobody has said them anew; `None`: never.
    old_wishes_from: Option<Instant>,
    costs: Costs,
    claims: Claims,
    tries: Tries,
    /// The store's count of wishes when a round last read them.
    wishes: AtomicU64,
    /// Journal entries that a report has already told of.
    told: Mutex<HashSet<Signature>>,
    /// One round at a time, and what it leaves to the next.
    rounds: tokio::sync::Mutex<Remembered>,
    /// One sweep at a time.
    sweeping: tokio::sync::Mutex<()>,
}

impl Settler {
    pub(crate) fn new(
        submitter: Submitter,
        operator: Address,
        cache: Arc<ChannelCache>,
        metrics: Arc<Metrics>,
        withdraw_fees_above: Option<Amount>,
        old_wishes_from: Option<Instant>,
    ) -> Self {
        let costs = Costs::of(&submitter.planner);
        Self {
            chain: Arc::clone(&submitter.chain),
            program: submitter.planner.program,
            operator,
            planner: submitter.planner.clone(),
            book: Arc::clone(&submitter.book),
            submitter,
            cache,
            metrics,
            withdraw_fees_above,
            old_wishes_from,
            costs,
            claims: Claims::default(),
            tries: Tries::default(),
            wishes: AtomicU64::new(0),
            told: Mutex::default(),
            rounds: tokio::sync::Mutex::default(),
            sweeping: tokio::sync::Mutex::default(),
        }
    }

    /// A round and then a sweep: all that can be done now.
    pub(crate) async fn once(self: &Arc<Self>) -> Result<SettleReport, SettleError> {
        let mut report = self.round().await?;
        report.add(self.sweep().await?);
        Ok(report)
    }

    /// One round over the stored vouchers. Concurrent calls wait for each other.
    pub(crate) async fn round(self: &Arc<Self>) -> Result<SettleReport, SettleError> {
        let mut remembered = self.rounds.lock().await;
        let mut report = SettleReport::default();
        if !self.leads(&mut report).await? {
            return Ok(report);
        }
        // r[impl settlement.uncertain]
        let (landed, mut busy) = self.resume(&mut report).await?;
        busy.extend(self.claims.of(&[Lane::Urgent]));

        // Before the wishes themselves, so that none is counted and not read.
        self.wishes.store(self.book.wishes().await?, Ordering::SeqCst);
        let vouchers = self.book.vouchers().await?;
        let mut facts = snapshot::stored(&*self.chain, &self.program, &vouchers).await?;
        self.costs.ask(&*self.chain, &self.planner).await;
        facts.cost = self.costs.now(&self.submitter.fees, false);
        facts.believes_old_wishes = self.old_wishes_from.is_some_and(|from| from <= Instant::now());
        let facts = self.after(&facts, &landed, &mut report).await?;
        self.metrics.standing(&standing(&facts, &vouchers));
        let landed = self.send(self.planner.plan(&facts, &vouchers, &busy), Lane::Settle, &mut report).await?;
        let facts = self.after(&facts, &landed, &mut report).await?;
        let facts = self.end_and_reclaim(facts, &busy, Lane::Settle, &mut report).await?;
        self.metrics.standing(&standing(&facts, &vouchers));

        let looked_at: HashSet<ChannelId> = vouchers.iter().map(StoredVoucher::channel).collect();
        self.tries.keep(|channel| looked_at.contains(&ChannelId::from_bytes(channel.to_bytes())));
        self.finish(&mut remembered, &facts, &looked_at).await?;
        let aside = self.book.quarantined().await?.len();
        self.metrics.quarantined(u64::try_from(aside).unwrap_or(u64::MAX));
        Ok(report)
    }

    /// True if this process settles, and wishes to close have come in since its last round, to whichever process.
    pub(crate) async fn is_wanted(&self) -> Result<bool, StoreError> {
        Ok(self.book.leads() && self.book.wishes().await? != self.wishes.load(Ordering::SeqCst))
    }

    /// True if this process is the one that settles; else the report says who is.
    // r[impl settlement.lease]
    async fn leads(&self, report: &mut SettleReport) -> Result<bool, StoreError> {
        let lease = self.book.lead().await?;
        self.metrics.lease_held(matches!(lease, Lease::Held(_)));
        if let Lease::Elsewhere { holder, .. } = lease {
            report.elsewhere = Some(holder);
            return Ok(false);
        }
        Ok(true)
    }

    /// Every stored voucher's channel, for who looks after them.
    pub(crate) async fn channels(&self) -> Result<Vec<ChannelId>, SettleError> {
        Ok(self.book.vouchers().await?.iter().map(StoredVoucher::channel).collect())
    }

    /// Finds out about everything that the journal holds and nobody is busy with. Returns what has landed and was
    /// never told, and the channels whose fate is open.
    async fn resume(
        self: &Arc<Self>,
        report: &mut SettleReport,
    ) -> Result<(Vec<JournalEntry>, HashSet<ChannelId>), SettleError> {
        let in_flight = self.claims.of(&[Lane::Urgent, Lane::Sweep]);
        let mut busy = HashSet::new();
        let mut tasks = JoinSet::new();
        for entry in self.book.pending().await? {
            if channels(&entry).any(|channel| in_flight.contains(&channel)) {
                if !self.is_told(&entry) && !self.submitter.has_failed(&entry) {
                    busy.extend(channels(&entry));
                }
                continue;
            }
            let settler = Arc::clone(self);
            tasks.spawn(async move {
                let resumed = settler.submitter.resume(&entry).await;
                (entry, resumed)
            });
        }
        let mut landed = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            let (entry, resumed) = joined.map_err(interrupted)?;
            let signature = entry.prepared.signature;
            match resumed? {
                Resumed::Landed if self.is_told(&entry) => {}
                Resumed::Landed => {
                    report.signatures.push(signature);
                    landed.push(entry);
                }
                Resumed::Void => {}
                Resumed::Open => {
                    busy.extend(channels(&entry));
                    let message = format!("the fate of transaction {signature} is still unknown");
                    report.trouble.push(Trouble { message, remedy: Remedy::Retry });
                }
            }
        }
        Ok((landed, busy))
    }

    /// Carries plans out, several at a time. Returns what landed.
    async fn send(
        &self,
        planned: Vec<Planned>,
        lane: Lane,
        report: &mut SettleReport,
    ) -> Result<Vec<JournalEntry>, SettleError> {
        let mut waiting = planned.into_iter();
        let mut tasks = JoinSet::new();
        let mut landed = Vec::new();
        let mut stopped = false;
        loop {
            while !stopped && tasks.len() < MAX_IN_FLIGHT {
                let Some(planned) = waiting.next() else { break };
                self.count_dues(&planned, report);
                let claim = self.claims.take(lane, planned.items.iter().map(|item| item.channel).collect());
                let (submitter, kind) = (self.submitter.clone(), planned.kind);
                tasks.spawn(async move {
                    let ends = submitter.run(planned).await;
                    drop(claim);
                    (kind, ends)
                });
            }
            let Some(joined) = tasks.join_next().await else { break };
            let (kind, ends) = joined.map_err(interrupted)?;
            for end in ends? {
                stopped |= matches!(&end, End::Void { stop: Some(_), .. });
                landed.extend(self.conclude(kind, end, report));
            }
        }
        let skipped = |item: Item| Skipped { channel: item.channel, reason: "not tried: see trouble".into() };
        report.skipped.extend(waiting.flat_map(|planned| planned.items).map(skipped));
        Ok(landed)
    }

    /// Counts and reports how a transaction ended. Returns its entry if it landed.
    fn conclude(&self, kind: Kind, end: End, report: &mut SettleReport) -> Option<JournalEntry> {
        match end {
            End::Landed(entry) => {
                self.metrics.transaction(kind, TransactionEnd::Landed);
                self.metrics.spent_on(&entry);
                // Intake must not judge by what was true before.
                self.cache.forget(channels(&entry));
                for (channel, cumulative) in entry.items.iter().filter_map(|item| Some((item.channel, item.voucher?))) {
                    self.tries.landed(address(channel), cumulative.get(), Instant::now());
                }
                report.signatures.push(entry.prepared.signature);
                Some(entry)
            }
            End::Void { planned, reason, stop } => {
                self.metrics.transaction(kind, TransactionEnd::Void);
                if let Some(remedy) = stop {
                    let trouble = Trouble { message: reason.clone(), remedy };
                    if !report.trouble.contains(&trouble) {
                        report.trouble.push(trouble);
                    }
                }
                let skipped = |item: &Item| Skipped { channel: item.channel, reason: reason.clone() };
                report.skipped.extend(planned.items.iter().map(skipped));
                None
            }
            End::Open { signature, reason } => {
                self.metrics.transaction(kind, TransactionEnd::Open);
                let message = format!("the fate of transaction {signature} is unknown: {reason}");
                report.trouble.push(Trouble { message, remedy: Remedy::Retry });
                None
            }
        }
    }

    fn count_dues(&self, planned: &Planned, report: &mut SettleReport) {
        for (item, due) in planned.items.iter().zip(&planned.dues) {
            self.metrics.due(*due);
            report.dues.insert(item.channel, *due);
        }
    }

    /// True if a report has told of this entry.
    fn is_told(&self, entry: &JournalEntry) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).contains(&entry.prepared.signature)
    }

    fn tell(&self, landed: &[JournalEntry]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.extend(landed.iter().map(|entry| entry.prepared.signature));
    }

    fn keep_told(&self, is_pending: impl Fn(&Signature) -> bool) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).retain(is_pending);
    }
}

/// How much waits, by these facts.
pub(crate) fn standing(facts: &Facts, vouchers: &[StoredVoucher]) -> Standing {
    let mut standing = Standing { stored: u64::try_from(vouchers.len()).unwrap_or(u64::MAX), ..Standing::default() };
    for stored in vouchers {
        let Some(channel) = facts.channels.get(&stored.channel()) else { continue };
        let live = stored.live(facts.now).map_or(0, |live| live.voucher.cumulative.get());
        let above = live.saturating_sub(channel.settled);
        let is_settleable = channel.is_settleable(facts.now);
        if above > 0 && is_settleable {
            standing.unsettled = standing.unsettled.saturating_add(above);
            standing.oldest_age_s = standing.oldest_age_s.max(facts.now.saturating_sub(stored.since));
        }
        if channel.status == status::CLOSING {
            standing.closing = standing.closing.saturating_add(1);
            if above > 0 && is_settleable {
                standing.closing_at_risk = standing.closing_at_risk.saturating_add(above);
                let earlier = standing.nearest_deadline == 0 || channel.deadline < standing.nearest_deadline;
                standing.nearest_deadline = if earlier { channel.deadline } else { standing.nearest_deadline };
            }
        }
    }
    standing
}

fn address(channel: ChannelId) -> Address {
    Address::new_from_array(channel.to_bytes())
}

fn channels(entry: &JournalEntry) -> impl Iterator<Item = ChannelId> {
    entry.items.iter().map(|item| item.channel)
}

fn interrupted(error: tokio::task::JoinError) -> StoreError {
    StoreError::Database(format!("a settling task was interrupted: {error}"))
}

/// Transactions of a lane that are sent and not yet confirmed, at most: their blockhashes must not age while they
/// queue.
const MAX_IN_FLIGHT: usize = 16;
