//! The settling round: resolve what is open, plan from fresh facts, send, look at what the chain says, prune.

mod report;
mod snapshot;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aro_proto::{Amount, ChannelId};
use settlement_chain::reads::ReadError;
use settlement_chain::submit::Remedy;
use settlement_chain::{Address, ChainClient, ChainError, Program, Signature};
use settlement_interface::accounts::{Channel, status};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

pub use report::{ReclaimedChannel, SettleReport, SettledChannel, Skipped, Trouble};

use crate::batch::{Facts, Kind, Planned, Planner};
use crate::intake::ChannelCache;
use crate::submit::{End, JournalEntry, Resumed, Submitter};
use crate::vouchers::{Book, Effect, Finality, HistoryRow, Lease, StoreError, StoredVoucher};

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

/// Runs rounds, one at a time.
pub(crate) struct Settler {
    chain: Arc<dyn ChainClient>,
    program: Program,
    operator: Address,
    planner: Planner,
    book: Arc<Book>,
    submitter: Arc<Submitter>,
    cache: Arc<ChannelCache>,
    memory: Mutex<Memory>,
}

/// What one round leaves to the next.
#[derive(Default)]
struct Memory {
    /// Journal entries that a report has already told of.
    told: HashSet<Signature>,
    /// Vouchers that the chain seems to be done with, and the block height at which that was first seen.
    done: HashMap<ChannelId, u64>,
}

impl Settler {
    pub(crate) fn new(submitter: Submitter, operator: Address, cache: Arc<ChannelCache>) -> Self {
        Self {
            chain: Arc::clone(&submitter.chain),
            program: submitter.planner.program,
            operator,
            planner: submitter.planner.clone(),
            book: Arc::clone(&submitter.book),
            submitter: Arc::new(submitter),
            cache,
            memory: Mutex::new(Memory::default()),
        }
    }

    /// One round. Concurrent calls wait for each other.
    pub(crate) async fn round(&self) -> Result<SettleReport, SettleError> {
        let mut memory = self.memory.lock().await;
        let mut report = SettleReport::default();
        // r[impl settlement.lease]
        if let Lease::Elsewhere { holder, .. } = self.book.lead().await? {
            report.elsewhere = Some(holder);
            return Ok(report);
        }
        // r[impl settlement.uncertain]
        let (mut landed, busy) = self.resume(&mut memory, &mut report).await?;

        let vouchers = self.book.vouchers().await?;
        let snapshot = snapshot::take(&*self.chain, &self.program, &self.operator, &vouchers).await?;
        report.trouble.extend(snapshot.trouble.map(|message| Trouble { message, remedy: Remedy::Retry }));
        let before = snapshot.facts;
        let planned = self.planner.plan(&before, &vouchers, &busy);
        landed.extend(self.send(planned, &mut report).await?);

        let mut facts = before.clone();
        let touched: Vec<ChannelId> = landed.iter().flat_map(channels).collect();
        snapshot::refresh(&*self.chain, &self.program, &touched, &mut facts).await?;
        tell(&landed, &before, &facts, &mut report);

        let planned = self.planner.reclaim(&facts, &busy);
        let reclaims = self.send(planned, &mut report).await?;
        let mut after = facts.clone();
        let reclaimed: Vec<ChannelId> = reclaims.iter().flat_map(channels).collect();
        snapshot::refresh(&*self.chain, &self.program, &reclaimed, &mut after).await?;
        tell(&reclaims, &facts, &after, &mut report);

        landed.extend(reclaims);
        memory.told.extend(landed.iter().map(|entry| entry.prepared.signature));
        let looked_at = vouchers.iter().map(StoredVoucher::channel).collect();
        self.finish(&mut memory, &after, &looked_at).await?;
        Ok(report)
    }

    /// Finds out about everything that the journal holds. Returns what has landed and was never reported, and the
    /// channels whose fate is open.
    async fn resume(
        &self,
        memory: &mut Memory,
        report: &mut SettleReport,
    ) -> Result<(Vec<JournalEntry>, HashSet<ChannelId>), SettleError> {
        let mut tasks = JoinSet::new();
        for entry in self.book.pending().await? {
            let submitter = Arc::clone(&self.submitter);
            tasks.spawn(async move {
                let resumed = submitter.resume(&entry).await;
                (entry, resumed)
            });
        }
        let mut landed = Vec::new();
        let mut busy = HashSet::new();
        while let Some(joined) = tasks.join_next().await {
            let (entry, resumed) = joined.map_err(interrupted)?;
            let signature = entry.prepared.signature;
            match resumed? {
                Resumed::Landed if memory.told.contains(&signature) => {}
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
    async fn send(&self, planned: Vec<Planned>, report: &mut SettleReport) -> Result<Vec<JournalEntry>, SettleError> {
        let mut waiting = planned.into_iter();
        let mut tasks = JoinSet::new();
        let mut landed = Vec::new();
        let mut stopped = false;
        loop {
            while !stopped && tasks.len() < MAX_IN_FLIGHT {
                let Some(planned) = waiting.next() else { break };
                let submitter = Arc::clone(&self.submitter);
                tasks.spawn(async move { submitter.run(planned).await });
            }
            let Some(joined) = tasks.join_next().await else { break };
            for end in joined.map_err(interrupted)?? {
                match end {
                    End::Landed(entry) => {
                        // Intake must not judge by what was true before.
                        self.cache.forget(channels(&entry));
                        report.signatures.push(entry.prepared.signature);
                        landed.push(entry);
                    }
                    End::Void { planned, reason, stop } => {
                        if let Some(remedy) = stop.filter(|_| !stopped) {
                            report.trouble.push(Trouble { message: reason.clone(), remedy });
                            stopped = true;
                        }
                        let skipped =
                            |item: &crate::batch::Item| Skipped { channel: item.channel, reason: reason.clone() };
                        report.skipped.extend(planned.items.iter().map(skipped));
                    }
                    End::Open { signature, reason } => {
                        let message = format!("the fate of transaction {signature} is unknown: {reason}");
                        report.trouble.push(Trouble { message, remedy: Remedy::Retry });
                    }
                }
            }
        }
        let unsent = waiting.flat_map(|planned| planned.items);
        let skipped =
            |item: crate::batch::Item| Skipped { channel: item.channel, reason: "not tried: see trouble".into() };
        report.skipped.extend(unsent.map(skipped));
        Ok(landed)
    }

    /// Forgets what is final: journal entries, then the vouchers that they settled.
    // r[impl settlement.prune]
    async fn finish(
        &self,
        memory: &mut Memory,
        facts: &Facts,
        looked_at: &HashSet<ChannelId>,
    ) -> Result<(), SettleError> {
        let (finals, height) = self.submitter.finals(self.book.pending().await?).await?;
        let mut shown = facts.clone();
        let concerned: Vec<ChannelId> = finals.iter().flat_map(|(entry, _)| channels(entry)).collect();
        snapshot::refresh(&*self.chain, &self.program, &concerned, &mut shown).await?;
        let mut certain: HashSet<ChannelId> = HashSet::new();
        for (entry, slot) in &finals {
            certain.extend(channels(entry));
            self.cache.forget(channels(entry));
            let effect = |channel| Effect {
                watermark: shown.channels.get(&channel).map(|channel| Amount::new(channel.settled)),
            };
            let trail = HistoryRow::of(entry, Finality { slot: *slot, at: facts.now }, effect);
            self.book.conclude(&entry.prepared.signature, &trail).await?;
        }
        let pending = self.book.pending().await?;
        memory.told.retain(|signature| pending.iter().any(|entry| entry.prepared.signature == *signature));
        let open: HashSet<ChannelId> = pending.iter().flat_map(channels).collect();

        let vouchers = self.book.vouchers().await?;
        let done: Vec<&StoredVoucher> = vouchers
            .iter()
            .filter(|stored| looked_at.contains(&stored.channel()))
            .filter(|stored| is_done(stored, facts.channels.get(&stored.channel()), facts.now))
            .collect();
        memory.done.retain(|channel, _| done.iter().any(|stored| stored.channel() == *channel));
        let mut prunable: Vec<StoredVoucher> = Vec::new();
        for stored in done {
            let channel = stored.channel();
            let seen = *memory.done.entry(channel).or_insert(height);
            let settled_in = height.saturating_sub(seen) >= FINAL_AFTER_BLOCKS;
            if !open.contains(&channel) && (certain.contains(&channel) || settled_in) {
                prunable.push(*stored);
            }
        }
        self.book.prune(&prunable).await?;
        Ok(())
    }
}

/// Reports what landed transactions did, by the chain's word: a batch skips entries that lost a race.
fn tell(landed: &[JournalEntry], before: &Facts, after: &Facts, report: &mut SettleReport) {
    for entry in landed {
        let signature = entry.prepared.signature;
        for item in &entry.items {
            let channel = item.channel;
            let now = after.channels.get(&channel);
            let was = before.channels.get(&channel);
            let is_closed = now.is_none_or(|now| now.status == status::CLOSED);
            let watermark = now.or(was).map_or_else(|| item.voucher.unwrap_or_default(), |at| Amount::new(at.settled));
            let settled = SettledChannel { channel, signature, cumulative: watermark };
            match entry.kind {
                Kind::Close if is_closed => report.closed.push(settled),
                Kind::Settle if item.voucher.is_some_and(|voucher| voucher <= watermark) => {
                    report.settled.push(settled)
                }
                Kind::Finalize if is_closed => report.finalized.push(channel),
                Kind::Reclaim if now.is_none() => {
                    let refunded = was.map(settlement_chain::instructions::refundable).unwrap_or_default();
                    report.reclaimed.push(ReclaimedChannel { channel, signature, refunded: Amount::new(refunded) });
                }
                _ => {
                    let reason = "the chain skipped it: its state had changed before the transaction landed".into();
                    report.skipped.push(Skipped { channel, reason });
                }
            }
        }
    }
}

/// True if the chain will never take more from this voucher than it has.
fn is_done(stored: &StoredVoucher, channel: Option<&Channel>, now: i64) -> bool {
    let Some(channel) = channel else { return true };
    let live = stored.live(now).is_some_and(|live| live.voucher.cumulative > Amount::new(channel.settled));
    channel.status == status::CLOSED || (!stored.close && !live)
}

fn channels(entry: &JournalEntry) -> impl Iterator<Item = ChannelId> {
    entry.items.iter().map(|item| item.channel)
}

fn interrupted(error: tokio::task::JoinError) -> StoreError {
    StoreError::Database(format!("a settling task was interrupted: {error}"))
}

/// Transactions sent and not yet confirmed, at most: their blockhashes must not age while they queue.
const MAX_IN_FLIGHT: usize = 16;

/// Blocks after which what was seen as confirmed counts as final: twice what finality takes.
const FINAL_AFTER_BLOCKS: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vouchers::tests::accepted;

    // r[verify settlement.prune]
    #[test]
    fn voucher_is_done_only_when_the_chain_can_take_no_more_from_it() {
        let mut channel = Channel::from_bytes(&[0; Channel::LEN]);
        channel.deposit = 100;
        channel.settled = 50;
        let keep = |cumulative, close| StoredVoucher::new(&accepted(2, cumulative, close), 9);
        assert!(!is_done(&keep(51, false), Some(&channel), 9));
        assert!(is_done(&keep(50, false), Some(&channel), 9));
        assert!(!is_done(&keep(50, true), Some(&channel), 9), "it still has to close");
        assert!(is_done(&keep(51, true), None, 9));
        channel.status = status::CLOSED;
        assert!(is_done(&keep(51, true), Some(&channel), 9));
        channel.status = status::CLOSING;
        assert!(!is_done(&keep(51, true), Some(&channel), 9));
    }
}
