//! How old the node's view of the chain is, and what it still lends when that is too old.
//!
//! While the chain cannot be seen an agent may be closing its channel, and what the node takes in vouchers may come
//! too late to settle. So a blind node lends a little, for a short failure of its server must not stop it, and then
//! nothing until it sees again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aro_proto::channel::BATCH_BYTES;
use aro_proto::{ByteCount, Refusal, RefusalCode};
use tokio::sync::watch;

/// When the chain was last seen, and what was lent since it should have been seen again.
pub(crate) struct Freshness {
    /// Never blind before this, unless a grace is short.
    most: Duration,
    max_blind: ByteCount,
    state: Mutex<State>,
    seen: watch::Sender<u64>,
}

struct State {
    seen: Instant,
    limit: Duration,
    lent: u64,
    told: bool,
}

/// Bytes lent while the node is blind; given back if they are not kept.
pub(crate) struct Loan<'a> {
    from: Option<&'a Freshness>,
    bytes: u64,
}

impl Freshness {
    /// A view that is fresh now.
    pub(crate) fn new(most: Duration, max_blind: ByteCount, now: Instant) -> Self {
        let state = State { seen: now, limit: most, lent: 0, told: false };
        Self { most, max_blind, state: Mutex::new(state), seen: watch::Sender::default() }
    }

    /// The chain was seen; the shortest grace of a channel that is served is this, in seconds.
    pub(crate) fn saw(&self, shortest_grace_s: u32, now: Instant) {
        let mut state = self.lock();
        if std::mem::take(&mut state.told) {
            tracing::info!("the chain is seen again: credit is given as before");
        }
        let quarter = Duration::from_secs(u64::from(shortest_grace_s) / 4);
        *state = State { seen: now, limit: self.most.min(quarter), lent: 0, told: false };
        drop(state);
        self.seen.send_modify(|turn| *turn = turn.wrapping_add(1));
    }

    /// How long ago the chain was seen.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.lock().seen)
    }

    /// True if a close might be running unseen.
    pub(crate) fn is_blind(&self, now: Instant) -> bool {
        self.lock().is_blind(now)
    }

    /// Hears when the chain is seen.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.seen.subscribe()
    }

    /// Lends the bytes of a batch; `None` if the node is blind and has lent what it may.
    // r[impl channel.view.fresh]
    pub(crate) fn lend(&self, bytes: ByteCount, now: Instant) -> Option<Loan<'_>> {
        let mut state = self.lock();
        if !state.is_blind(now) {
            return Some(Loan { from: None, bytes: 0 });
        }
        if !std::mem::replace(&mut state.told, true) {
            let seconds = now.saturating_duration_since(state.seen).as_secs();
            tracing::error!(
                seconds,
                "the chain cannot be followed: a close may be running unseen, little more is lent"
            );
        }
        state.lent = state.lent.checked_add(bytes.get()).filter(|lent| *lent <= self.max_blind.get())?;
        Some(Loan { from: Some(self), bytes: bytes.get() })
    }

    /// Why a new request is refused, if it is.
    // r[impl channel.view.fresh]
    pub(crate) fn refusal(&self, now: Instant) -> Option<Refusal> {
        let state = self.lock();
        if !state.is_blind(now) || self.max_blind.get().saturating_sub(state.lent) >= BATCH_BYTES {
            return None;
        }
        let seconds = now.saturating_duration_since(state.seen).as_secs();
        let reason = format!("this node has not seen the chain for {seconds} s and lends no more; ask another node");
        Some(Refusal::new(RefusalCode::OverCapacity, reason))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_blind(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) > self.limit
    }
}

impl Loan<'_> {
    /// The bytes were sent.
    pub(crate) fn keep(mut self) {
        self.from = None;
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if let Some(freshness) = self.from {
            let mut state = freshness.lock();
            state.lent = state.lent.saturating_sub(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE_S: u32 = 900;
    const SECOND: Duration = Duration::from_secs(1);

    fn bytes(batches: u64) -> ByteCount {
        ByteCount::new(batches * BATCH_BYTES)
    }

    // r[verify channel.view.fresh]
    #[test]
    fn a_blind_node_lends_its_bound_and_no_byte_more_until_it_sees_again() {
        let start = Instant::now();
        let freshness = Freshness::new(120 * SECOND, bytes(10), start);
        freshness.saw(GRACE_S, start);
        let fresh = start + 120 * SECOND;
        freshness.lend(bytes(50), fresh).unwrap().keep();
        assert!(!freshness.is_blind(fresh) && freshness.refusal(fresh).is_none());

        let blind = fresh + SECOND;
        assert!(freshness.is_blind(blind) && freshness.refusal(blind).is_none());
        freshness.lend(bytes(6), blind).unwrap().keep();
        assert!(freshness.lend(bytes(5), blind).is_none());
        drop(freshness.lend(bytes(4), blind).unwrap());
        freshness.lend(bytes(4), blind).unwrap().keep();
        assert!(freshness.lend(ByteCount::new(1), blind).is_none());
        assert_eq!(freshness.refusal(blind).unwrap().code(), RefusalCode::OverCapacity);

        freshness.saw(GRACE_S, blind);
        assert!(!freshness.is_blind(blind) && freshness.refusal(blind).is_none());
        // What was lent before does not count for the next time.
        assert!(freshness.lend(bytes(10), blind + 121 * SECOND).is_some());
    }

    // r[verify channel.view.fresh]
    #[test]
    fn a_short_grace_makes_the_node_blind_after_a_quarter_of_it() {
        let start = Instant::now();
        let freshness = Freshness::new(120 * SECOND, bytes(0), start);
        freshness.saw(200, start);
        assert!(!freshness.is_blind(start + 50 * SECOND));
        assert!(freshness.is_blind(start + 51 * SECOND) && freshness.refusal(start + 51 * SECOND).is_some());
    }
}
