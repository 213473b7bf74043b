//! Who has cost work for nothing, and must wait: strikes that wear off with time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Counts strikes for each key. A key with too many is out until enough have worn off.
#[derive(Debug)]
pub(super) struct Strikes<K> {
    /// So many are forgiven.
    limit: u32,
    /// One wears off in this time.
    wears_off: Duration,
    counts: Mutex<HashMap<K, (u32, Instant)>>,
}

impl<K: Eq + Hash + Copy> Strikes<K> {
    pub(super) fn new(limit: u32, wears_off: Duration) -> Self {
        Self { limit, wears_off, counts: Mutex::default() }
    }

    /// How long a key is still out; `None` if it is not.
    pub(super) fn out_for(&self, key: &K) -> Option<Duration> {
        let mut counts = self.lock();
        let count = self.current(&mut counts, key);
        let over = count.checked_sub(self.limit)?.checked_add(1)?;
        self.wears_off.checked_mul(over)
    }

    /// Counts strikes. However many there are, a key is back after a bounded time.
    pub(super) fn add(&self, key: K, strikes: u32) {
        if strikes == 0 {
            return;
        }
        let mut counts = self.lock();
        let count = self.current(&mut counts, &key);
        if counts.len() >= MAX_KEYS && !counts.contains_key(&key) {
            // The oldest strikes are the likeliest to have worn off.
            if let Some(oldest) = counts.iter().min_by_key(|(_, (_, at))| *at).map(|(key, _)| *key) {
                counts.remove(&oldest);
            }
        }
        let most = self.limit.saturating_mul(MOST);
        counts.insert(key, (count.saturating_add(strikes).min(most), Instant::now()));
    }

    /// The strikes of a key that have not worn off; a key without any is forgotten.
    fn current(&self, counts: &mut HashMap<K, (u32, Instant)>, key: &K) -> u32 {
        let Some((count, at)) = counts.get_mut(key) else { return 0 };
        let nanos = self.wears_off.as_nanos().max(1);
        let worn = u32::try_from(at.elapsed().as_nanos() / nanos).unwrap_or(u32::MAX);
        *count = count.saturating_sub(worn);
        if let Some(moved) = self.wears_off.checked_mul(worn).and_then(|worn| at.checked_add(worn)) {
            *at = moved;
        }
        let count = *count;
        if count == 0 {
            counts.remove(key);
        }
        count
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, (u32, Instant)>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys that are counted at once: some 6 MB for the longest keys.
const MAX_KEYS: usize = 100_000;
/// Strikes that are remembered, in limits.
const MOST: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn key_is_out_after_too_many_and_back_when_enough_have_worn_off() {
        let strikes = Strikes::new(4, Duration::from_secs(10));
        strikes.add('a', 3);
        assert_eq!(strikes.out_for(&'a'), None);
        strikes.add('a', 2);
        assert_eq!(strikes.out_for(&'a'), Some(Duration::from_secs(20)));
        assert_eq!(strikes.out_for(&'b'), None);
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(strikes.out_for(&'a'), Some(Duration::from_secs(10)), "half a strike is none");
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(strikes.out_for(&'a'), None);
        strikes.add('a', u32::MAX);
        assert_eq!(strikes.out_for(&'a'), Some(Duration::from_secs(290)), "bounded");
        tokio::time::advance(Duration::from_secs(1_000)).await;
        assert_eq!(strikes.out_for(&'a'), None);
        assert!(strikes.lock().is_empty(), "what has worn off takes no room");
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_bounded() {
        let strikes = Strikes::new(1, Duration::from_secs(1_000_000));
        for key in 0..MAX_KEYS {
            strikes.lock().insert(key, (9, Instant::now()));
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        strikes.add(MAX_KEYS, 9);
        assert_eq!(strikes.lock().len(), MAX_KEYS);
        assert!(strikes.out_for(&MAX_KEYS).is_some());
    }
}
