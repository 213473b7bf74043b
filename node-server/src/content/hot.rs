//! Hot stretches of contents, kept as they go on the wire: one request has one right answer, so the bytes that were put
//! together for one agent are right for the next, and are sent from here without a copy or a system call.
//!
//! A stretch is kept when it is asked for the second time, so that what is asked for once costs the others nothing, and
//! goes when it was not asked for while the clock went round. Memory is bounded by the budget, and by what is on its
//! way to agents.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::ContentId;
use aro_proto::merkle::Step;

use super::outboard::Batch;

/// The hot stretches of one store. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Hot {
    budget: usize,
    shelf: Arc<Mutex<Shelf>>,
}

/// Whose stretch, and its first leaf's place in the content.
type Key = (ContentId, u64);

#[derive(Debug, Default)]
struct Shelf {
    held: HashMap<Key, Held>,
    /// In the order in which the clock's hand comes by them.
    round: VecDeque<Key>,
    /// Memory that is held.
    bytes: usize,
    /// What was asked for once, lately and before that, as hashes.
    seen: [HashSet<u64>; 2],
    hasher: RandomState,
}

#[derive(Debug)]
struct Held {
    steps: Vec<Step>,
    batch: Batch,
    room: usize,
    is_used: bool,
}

impl Hot {
    /// Keeps `budget` bytes of memory at most.
    pub(super) fn new(budget: usize) -> Self {
        Self { budget, shelf: Arc::default() }
    }

    /// The stretch of exactly these steps, if it is kept.
    pub(super) fn get(&self, content: ContentId, steps: &[Step]) -> Option<Batch> {
        let key = (content, first_leaf(steps)?);
        let mut shelf = self.lock();
        let held = shelf.held.get_mut(&key).filter(|held| held.steps == steps)?;
        held.is_used = true;
        Some(held.batch.clone())
    }

    /// Offers a stretch that was put together anew and lies in `room` bytes of memory.
    pub(super) fn offer(&self, content: ContentId, steps: &[Step], batch: &Batch, room: usize) {
        let Some(offset) = first_leaf(steps) else { return };
        if room > self.budget {
            return;
        }
        let mut shelf = self.lock();
        let key = (content, offset);
        if !shelf.was_seen(&key) {
            return;
        }
        let held = Held { steps: steps.to_vec(), batch: batch.clone(), room, is_used: false };
        match shelf.held.insert(key, held) {
            // Other ranges begin with the same leaf: the last ones stay.
            Some(before) => shelf.bytes -= before.room,
            None => shelf.round.push_back(key),
        }
        shelf.bytes += room;
        shelf.shrink_to(self.budget);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    /// True the second time, and for as long as it is remembered.
    fn was_seen(&mut self, key: &Key) -> bool {
        let hash = self.hasher.hash_one(key);
        if self.seen.iter().any(|seen| seen.contains(&hash)) {
            return true;
        }
        if self.seen[0].len() >= MAX_SEEN {
            self.seen.swap(0, 1);
            self.seen[0].clear();
        }
        self.seen[0].insert(hash);
        false
    }

    fn shrink_to(&mut self, budget: usize) {
        while self.bytes > budget {
            let Some(key) = self.round.pop_front() else { return };
            if self.held.get_mut(&key).is_some_and(|held| std::mem::take(&mut held.is_used)) {
                self.round.push_back(key);
            } else {
                self.bytes -= self.held.remove(&key).map_or(0, |held| held.room);
            }
        }
    }
}

fn first_leaf(steps: &[Step]) -> Option<u64> {
    steps.iter().find_map(|step| match step {
        Step::Leaf { offset, .. } => Some(*offset),
        Step::Parent(_) => None,
    })
}

/// Memory that a node keeps for hot stretches unless told otherwise: 64 MiB.
pub(crate) const DEFAULT_HOT_BYTES: usize = 64 << 20;
/// Stretches that are remembered to have been asked for once, in each of two turns: 16 GiB of contents in all, at
/// about 1 MiB of memory.
const MAX_SEEN: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const CONTENT: ContentId = ContentId::from_bytes([7; 32]);

    fn leaf(offset: u64, len: u32) -> Vec<Step> {
        vec![Step::Leaf { offset, len }]
    }

    fn offer(hot: &Hot, steps: &[Step]) {
        hot.offer(CONTENT, steps, &Batch { wire: Bytes::from_static(b"x"), content_bytes: 1 }, 100);
    }

    #[test]
    fn a_stretch_is_kept_the_second_time_and_for_the_same_steps_only() {
        let hot = Hot::new(1_000);
        offer(&hot, &leaf(5, 10));
        assert!(hot.get(CONTENT, &leaf(5, 10)).is_none());
        offer(&hot, &leaf(5, 10));
        assert!(hot.get(CONTENT, &leaf(5, 10)).is_some());
        assert!(hot.get(CONTENT, &leaf(5, 11)).is_none());
        assert!(hot.get(ContentId::from_bytes([8; 32]), &leaf(5, 10)).is_none());
        assert!(hot.get(CONTENT, &[]).is_none());
    }

    #[test]
    fn what_is_not_asked_for_goes_first_and_the_budget_holds() {
        let hot = Hot::new(500);
        for offset in 0..5 {
            offer(&hot, &leaf(offset, 10));
            offer(&hot, &leaf(offset, 10));
        }
        assert!(hot.get(CONTENT, &leaf(0, 10)).is_some());
        for offset in [8, 8, 9, 9] {
            offer(&hot, &leaf(offset, 10));
        }
        let kept: Vec<u64> = (0..10).filter(|offset| hot.get(CONTENT, &leaf(*offset, 10)).is_some()).collect();
        assert_eq!((kept, hot.lock().bytes), (vec![0, 3, 4, 8, 9], 500));
        let none = Hot::new(0);
        offer(&none, &leaf(0, 10));
        offer(&none, &leaf(0, 10));
        assert!(none.get(CONTENT, &leaf(0, 10)).is_none());
    }

    #[test]
    fn the_memory_of_what_was_asked_for_once_is_bounded() {
        let hot = Hot::new(1_000);
        for offset in 0..3 * MAX_SEEN as u64 {
            offer(&hot, &leaf(offset, 10));
        }
        let shelf = hot.lock();
        assert!(shelf.seen.iter().all(|seen| seen.len() <= MAX_SEEN) && shelf.held.is_empty());
    }
}
