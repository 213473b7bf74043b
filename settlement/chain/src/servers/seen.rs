//! When each transaction was first seen here: how old it is at least.

use std::{collections::HashMap, time::Duration};

use solana_signature::Signature;
use tokio::time::Instant;

/// When transactions were first sent or asked about.
#[derive(Default)]
pub(super) struct FirstSeen(HashMap<Signature, Instant>);

impl FirstSeen {
    /// Remembers the first sight of one, for at least this long.
    pub(super) fn insert(&mut self, signature: Signature, now: Instant, kept: Duration) {
        if self.0.len() >= MAX_SEEN && !self.0.contains_key(&signature) {
            // Those that are old are asked about again, if at all, and then wait once more.
            self.0.retain(|_, at| now.saturating_duration_since(*at) < kept);
            if self.0.len() >= MAX_SEEN {
                return;
            }
        }
        self.0.entry(signature).or_insert(now);
    }

    pub(super) fn since(&self, signature: &Signature) -> Option<Instant> {
        self.0.get(signature).copied()
    }
}

/// Transactions whose first sight is remembered: some 8 MB. Of more, none is believed to be old.
const MAX_SEEN: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_sight_stands_and_what_finds_no_place_is_not_old() {
        let mut seen = FirstSeen::default();
        let (start, kept) = (Instant::now(), Duration::from_secs(300));
        let signature = |number: usize| {
            let mut bytes = [0; 64];
            bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
            Signature::from(bytes)
        };
        for number in 0..MAX_SEEN {
            seen.insert(signature(number), start, kept);
        }
        let later = start + Duration::from_secs(1);
        seen.insert(signature(0), later, kept);
        assert_eq!(seen.since(&signature(0)), Some(start));
        seen.insert(signature(MAX_SEEN), later, kept);
        assert_eq!(seen.since(&signature(MAX_SEEN)), None);
        seen.insert(signature(MAX_SEEN), start + kept, kept);
        assert_eq!(seen.since(&signature(MAX_SEEN)), Some(start + kept));
    }
}
