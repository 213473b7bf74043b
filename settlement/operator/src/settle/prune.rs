//! Forgetting: journal entries that are final, and the vouchers that the chain can take no more from.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aro_proto::{Amount, ChannelId};
use settlement_interface::accounts::{Channel, status};
use settlement_interface::voucher::is_expired;

use super::{Settler, SettleError, channels};
use crate::batch::Facts;
use crate::blocking::blocking;
use crate::vouchers::StoredVoucher;

/// Vouchers that the chain seems to be done with, and the block height at which that was first seen.
pub(super) type Done = HashMap<ChannelId, u64>;

impl Settler {
    /// Forgets what is final: journal entries, then the vouchers that they settled.
    // r[impl settlement.prune]
    pub(super) async fn finish(
        &self,
        seen: &mut Done,
        facts: &Facts,
        looked_at: &HashSet<ChannelId>,
    ) -> Result<(), SettleError> {
        let (finals, height) = self.submitter.finals(self.pending().await?).await?;
        let mut certain: HashSet<ChannelId> = HashSet::new();
        for entry in &finals {
            certain.extend(channels(entry));
            self.cache.forget(channels(entry));
            self.submitter.forget(entry).await?;
        }
        let pending = self.pending().await?;
        self.keep_told(|signature| pending.iter().any(|entry| entry.prepared.signature == *signature));
        let open: HashSet<ChannelId> = pending.iter().flat_map(channels).collect();

        let vouchers = self.vouchers().await?;
        let done: Vec<&StoredVoucher> = vouchers
            .iter()
            .filter(|stored| looked_at.contains(&stored.channel()))
            .filter(|stored| is_done(stored, facts.channels.get(&stored.channel()), facts.now))
            .collect();
        seen.retain(|channel, _| done.iter().any(|stored| stored.channel() == *channel));
        let mut prunable: Vec<(ChannelId, Amount)> = Vec::new();
        for stored in done {
            let channel = stored.channel();
            let first = *seen.entry(channel).or_insert(height);
            let settled_in = height.saturating_sub(first) >= FINAL_AFTER_BLOCKS;
            if !open.contains(&channel) && (certain.contains(&channel) || settled_in) {
                prunable.push((channel, stored.cumulative()));
            }
        }
        let book = Arc::clone(&self.book);
        blocking(move || book.prune(&prunable)).await?;
        Ok(())
    }
}

/// True if the chain will never take more from this voucher than it has.
fn is_done(stored: &StoredVoucher, channel: Option<&Channel>, now: i64) -> bool {
    let Some(channel) = channel else { return true };
    let settled = stored.cumulative() <= Amount::new(channel.settled);
    let dead = is_expired(stored.signed.voucher.expires_at, now);
    channel.status == status::CLOSED || (!stored.close && (settled || dead))
}

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
        let keep = |cumulative, close| StoredVoucher::from(&accepted(2, cumulative, close));
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
