//! How often a voucher has landed and was wanted again: a server that lags, or lies, may show it unsettled for as long
//! as it likes, and must not have a fee for each look.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use solana_address::Address;
use tokio::time::Instant;

/// Vouchers that have landed. Each landing of the same one doubles the time until it is tried again because somebody
/// still shows it unsettled; a higher one starts anew.
#[derive(Debug, Default)]
pub struct Tries {
    landed: Mutex<HashMap<Address, Landed>>,
}

#[derive(Clone, Copy, Debug)]
struct Landed {
    cumulative: u64,
    times: u32,
    last: Instant,
}

impl Tries {
    /// A transaction with this voucher has landed, by all that is known.
    pub fn landed(&self, channel: Address, cumulative: u64, now: Instant) {
        let mut landed = self.lock();
        let before = landed.get(&channel).filter(|before| before.cumulative == cumulative);
        let times = before.map_or(0, |before| before.times).saturating_add(1);
        landed.insert(channel, Landed { cumulative, times, last: now });
    }

    /// True if this voucher landed so lately that another try must wait. `interval`: between two looks at the channel.
    pub fn rests(&self, channel: Address, cumulative: u64, interval: Duration, now: Instant) -> bool {
        let landed = self.lock();
        let Some(before) = landed.get(&channel).filter(|before| before.cumulative >= cumulative) else { return false };
        // Half an interval, so that the first look after a landing may find it forked away.
        let doubled = 1_u32.checked_shl(before.times.saturating_sub(1)).unwrap_or(u32::MAX);
        let rest = (interval / 2).saturating_mul(doubled).min(LONGEST.max(interval));
        now.saturating_duration_since(before.last) < rest
    }

    /// Forgets all channels but these.
    pub fn keep(&self, is_kept: impl Fn(&Address) -> bool) {
        self.lock().retain(|channel, _| is_kept(channel));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Address, Landed>> {
        self.landed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longest rest: who lies for days costs a transaction an hour for each batch.
const LONGEST: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    // r[verify settlement.servers.each]
    #[test]
    fn same_voucher_is_tried_again_ever_more_seldom_and_a_higher_one_at_once() {
        let tries = Tries::default();
        let channel = Address::new_from_array([1; 32]);
        let (paid, interval, start) = (500, Duration::from_secs(60), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert!(!tries.rests(channel, paid, interval, at(0)));
        // A server that shows it unsettled at every look, for a whole day.
        let mut landings = Vec::new();
        for minute in 0..24 * 60 {
            if !tries.rests(channel, paid, interval, at(60 * minute)) {
                tries.landed(channel, paid, at(60 * minute));
                landings.push(minute);
            }
        }
        assert_eq!(landings[..8], [0, 1, 2, 4, 8, 16, 32, 64]);
        assert!(landings.len() < 8 + 24, "then once an hour: {landings:?}");

        assert!(tries.rests(channel, 499, interval, at(60 * 24 * 60)), "a lower one as well");
        assert!(!tries.rests(channel, 501, interval, at(60 * 24 * 60)));
        tries.landed(channel, 501, at(60 * 24 * 60));
        assert!(!tries.rests(channel, 501, interval, at(60 * 24 * 60 + 30)), "it starts anew");
        tries.keep(|_| false);
        assert!(tries.lock().is_empty());
    }
}
