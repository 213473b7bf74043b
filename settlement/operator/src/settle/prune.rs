//! Forgetting: journal entries that are final, and the vouchers that the chain can take no more from.

use std::collections::{HashMap, HashSet};

use aro_proto::{Amount, ChannelId};
use settlement_chain::{Account, Address, CLOCK, clock_of};
use settlement_interface::accounts::{Channel, status};

use super::{SettleError, Settler, channels, snapshot};
use crate::batch::Facts;
use crate::submit::{Final, JournalEntry};
use crate::vouchers::{Effect, Finality, HistoryRow, StoredVoucher};

/// What one round leaves to the next.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// Vouchers that the chain seems to be done with, and the block height at which that was first seen.
    done: HashMap<ChannelId, u64>,
    /// The highest amount that the history has of a channel whose transactions are still coming in: two lanes may have
    /// settled it with the same voucher, and only one of them rose.
    written: HashMap<ChannelId, Amount>,
}

impl Settler {
    /// Forgets what is final: journal entries, then the vouchers that they settled.
    // r[impl settlement.prune]
    pub(super) async fn finish(
        &self,
        remembered: &mut Remembered,
        facts: &Facts,
        looked_at: &HashSet<ChannelId>,
    ) -> Result<(), SettleError> {
        let (finals, height) = self.submitter.finals(self.book.pending().await?).await?;
        let (failed, mut landed): (Vec<Final>, Vec<Final>) = finals.into_iter().partition(|it| it.failure.is_some());
        for Final { entry, slot, failure } in &failed {
            let error = failure.as_deref().unwrap_or_default();
            self.submitter.record_failure(entry, *slot, error, facts.now).await?;
        }
        landed.sort_by_key(|it| it.slot);
        let mut shown = facts.clone();
        let concerned: Vec<ChannelId> = landed.iter().flat_map(|it| channels(&it.entry)).collect();
        snapshot::refresh(&*self.chain, &self.program, &concerned, &mut shown).await?;
        let mut certain: HashSet<ChannelId> = HashSet::new();
        for Final { entry, slot, .. } in &landed {
            certain.extend(channels(entry));
            self.cache.forget(channels(entry));
            let effect = |channel| Effect {
                watermark: shown.channels.get(&channel).map(|channel| Amount::new(channel.settled)),
            };
            let entry = remembered.after_others(entry);
            let trail = HistoryRow::of(&entry, Finality { slot: *slot, at: facts.now }, effect);
            self.book.conclude(&entry.prepared.signature, &trail).await?;
            remembered.written.extend(trail.iter().map(|row| (row.channel, row.to)));
        }
        let pending = self.book.pending().await?;
        self.keep_told(|signature| pending.iter().any(|entry| entry.prepared.signature == *signature));
        let open: HashSet<ChannelId> = pending.iter().flat_map(channels).collect();
        remembered.written.retain(|channel, _| open.contains(channel));

        let vouchers = self.book.vouchers().await?;
        let done: HashMap<ChannelId, &StoredVoucher> = vouchers
            .iter()
            .filter(|stored| looked_at.contains(&stored.channel()))
            .filter(|stored| is_done(stored, facts.channels.get(&stored.channel()), facts.now))
            .map(|stored| (stored.channel(), stored))
            .collect();
        remembered.done.retain(|channel, _| done.contains_key(channel));
        let mut prunable: Vec<StoredVoucher> = Vec::new();
        for (channel, stored) in done {
            let first = *remembered.done.entry(channel).or_insert(height);
            let settled_in = height.saturating_sub(first) >= FINAL_AFTER_BLOCKS;
            if !open.contains(&channel) && (certain.contains(&channel) || settled_in) {
                prunable.push(*stored);
            }
        }
        self.book.prune(&self.attested(prunable, facts.now).await).await?;
        Ok(())
    }

    /// Those of which every server that answers shows that the chain is done with them: forgetting cannot be taken back,
    /// so one that lies about accounts must not bring it about. Where too few answer, all of it waits for the next round.
    // r[impl settlement.servers.forgetting]
    async fn attested(&self, prunable: Vec<StoredVoucher>, now: i64) -> Vec<StoredVoucher> {
        if prunable.is_empty() {
            return prunable;
        }
        let address = |stored: &StoredVoucher| Address::new_from_array(stored.channel().to_bytes());
        let addresses: Vec<Address> = prunable.iter().map(address).chain([CLOCK]).collect();
        match self.chain.accounts_by_server(&addresses, 2).await {
            Ok(views) => {
                // The earliest of their clocks: by a late one a voucher would have expired.
                let clock = |view: &Vec<Option<Account>>| clock_of(view.last().and_then(Option::as_ref)).ok();
                let Some(now) = views.iter().map(clock).try_fold(now, |now, own| Some(now.min(own?))) else {
                    return Vec::new();
                };
                let done_in = |index: usize, stored: &StoredVoucher, view: &[Option<Account>]| {
                    view.get(index).is_some_and(|account| self.is_done_with(stored, account.as_ref(), now))
                };
                let attested = |(index, stored): &(usize, StoredVoucher)| {
                    !views.is_empty() && views.iter().all(|view| done_in(*index, stored, view))
                };
                prunable.into_iter().enumerate().filter(attested).map(|(_, stored)| stored).collect()
            }
            Err(error) => {
                tracing::debug!(%error, "vouchers that are done are kept until two servers say so");
                Vec::new()
            }
        }
    }

    fn is_done_with(&self, stored: &StoredVoucher, account: Option<&Account>, now: i64) -> bool {
        let channel = account.filter(|account| account.owner == self.program.id);
        match channel.map(|account| Channel::decode(&account.data)) {
            None => is_done(stored, None, now),
            Some(Ok(channel)) => is_done(stored, Some(&channel), now),
            // Of a later program: not for this one to forget.
            Some(Err(_)) => false,
        }
    }
}

impl Remembered {
    /// An entry whose rises begin where the history already is.
    fn after_others(&self, entry: &JournalEntry) -> JournalEntry {
        let mut entry = entry.clone();
        for item in &mut entry.items {
            if let Some(written) = self.written.get(&item.channel) {
                item.trace.from = item.trace.from.max(*written);
            }
        }
        entry
    }
}

/// True if the chain will never take more from this voucher than it has.
fn is_done(stored: &StoredVoucher, channel: Option<&Channel>, now: i64) -> bool {
    let Some(channel) = channel else { return true };
    let live = stored.live(now).is_some_and(|live| live.voucher.cumulative > Amount::new(channel.settled));
    channel.status == status::CLOSED || (!stored.close && !live)
}

/// Blocks after which what was seen as confirmed counts as final: twice what finality takes.
const FINAL_AFTER_BLOCKS: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Kind;
    use crate::submit::tests::entry;
    use crate::vouchers::tests::accepted;

    #[test]
    fn voucher_that_two_lanes_settled_rises_once_in_the_history() {
        let mut remembered = Remembered::default();
        let end = Finality { slot: 7, at: 9 };
        let reached = |_| Effect { watermark: Some(Amount::new(50)) };
        let mut rises = Vec::new();
        for _ in 0..2 {
            let entry = remembered.after_others(&entry(Kind::Settle, 3, Some(50)));
            let rows = HistoryRow::of(&entry, end, reached);
            rises.extend(rows.iter().map(|row| row.to.get() - row.from.get()));
            remembered.written.extend(rows.iter().map(|row| (row.channel, row.to)));
        }
        assert_eq!(rises, [49, 0]);
    }

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
