//! What all channels of one owner owe together: many channels must not make one free ride into many.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aro_proto::Charge;
use tokio::sync::watch;

/// The sum of what the channels of one agent account owe, held under a limit.
///
/// A single channel is held by its own credit window; the limit counts only once another one owes too.
#[derive(Debug)]
pub(crate) struct OwnerTab {
    limit: Charge,
    owed: Mutex<Charge>,
    falls: watch::Sender<u64>,
}

impl OwnerTab {
    pub(crate) fn new(limit: Charge) -> Self {
        Self { limit, owed: Mutex::default(), falls: watch::Sender::default() }
    }

    /// Locks the sum. A channel takes this lock while it holds its own, never the other way round.
    pub(crate) fn open(&self) -> OpenTab<'_> {
        OpenTab { tab: self, owed: self.owed.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Hears when the owner owes less.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.falls.subscribe()
    }
}

/// The sum, while nobody else can change it.
pub(crate) struct OpenTab<'a> {
    tab: &'a OwnerTab,
    owed: MutexGuard<'a, Charge>,
}

impl OpenTab<'_> {
    /// Whether a channel that is counted with `counted` may come to owe `after`.
    // r[impl channel.owner.bound]
    pub(crate) fn has_room(&self, counted: Charge, after: Charge) -> bool {
        let others = self.owed.saturating_sub(counted);
        others == Charge::ZERO || others.checked_add(after).is_some_and(|sum| sum <= self.tab.limit)
    }

    /// The most that a channel that is counted with `counted` may come to owe.
    pub(crate) fn most_owed(&self, counted: Charge) -> Charge {
        let others = self.owed.saturating_sub(counted);
        if others == Charge::ZERO { Charge::from_parts(u128::MAX) } else { self.tab.limit.saturating_sub(others) }
    }

    /// What the owner owes, if another channel than the one counted with `counted` has used up the limit.
    pub(crate) fn used_up(&self, counted: Charge) -> Option<Charge> {
        (*self.owed > counted && *self.owed >= self.tab.limit).then_some(*self.owed)
    }

    /// A channel that was counted with `counted` owes `now`.
    pub(crate) fn recount(&mut self, counted: &mut Charge, now: Charge) {
        let falls = now < *counted;
        // The sum of at most 2^64 parts each for every channel stays far below 2^128.
        *self.owed = self.owed.saturating_sub(*counted).checked_add(now).unwrap_or(*self.owed);
        *counted = now;
        if falls {
            self.tab.falls.send_modify(|turn| *turn = turn.wrapping_add(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(parts: u128) -> Charge {
        Charge::from_parts(parts)
    }

    // r[verify channel.owner.bound]
    #[test]
    fn channels_of_one_owner_share_the_limit_and_one_alone_has_its_window() {
        let tab = OwnerTab::new(charge(100));
        let (mut first, mut second) = (Charge::ZERO, Charge::ZERO);
        assert!(tab.open().has_room(first, charge(150)), "alone, its own window holds it");
        tab.open().recount(&mut first, charge(70));
        assert!(tab.open().has_room(second, charge(30)));
        assert!(!tab.open().has_room(second, charge(31)));
        assert_eq!(tab.open().most_owed(second), charge(30));
        assert_eq!(tab.open().most_owed(first), charge(u128::MAX), "alone, its own window holds it");
        tab.open().recount(&mut second, charge(30));
        assert_eq!(tab.open().used_up(second), Some(charge(100)));
        assert!(!tab.open().has_room(first, charge(71)));

        let falls = tab.subscribe();
        tab.open().recount(&mut first, charge(10));
        assert!(falls.has_changed().unwrap());
        assert_eq!(tab.open().used_up(second), None);
        assert!(tab.open().has_room(second, charge(90)));
        tab.open().recount(&mut first, Charge::ZERO);
        assert_eq!(tab.open().used_up(second), None, "its own debt alone is its window's matter");
    }
}
