//! When the agent opens channels, tops them up and closes them by itself, and how much it may lock in doing so.

use aro_proto::Amount;
use thiserror::Error;

/// What an agent may do with channels without being asked each time. Whatever it allows, the budget holds too, and
/// nothing is locked that was not deposited before ([`Money::deposit`](crate::Money::deposit)).
///
/// Money in a channel is not spent: what no voucher pays comes back when the channel closes. The caps here bound what is
/// locked and not signed away; the budget bounds what is signed away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelPolicy {
    /// Whether channels are opened and topped up when a fetch or an upload needs it. Default yes.
    pub automatic: bool,
    /// The least first deposit and the least top-up, in base units. Default 0.1 $ARO. More: fewer transactions, and more
    /// that lies idle.
    pub min_deposit: Amount,
    /// What is locked at once, as a multiple of the price that is asked now. Default 4. More: fewer transactions.
    pub price_multiple: u32,
    /// The most that may lie in channels to one node and not be signed away, in base units. Default 10 $ARO. More: a node
    /// that stops serving keeps more from you until its grace is over.
    pub node_cap: Amount,
    /// The same for all nodes together. Default 50 $ARO.
    pub total_cap: Amount,
    /// The longest grace, in seconds, that a channel may have which nobody asked for by hand: so long can a node hold up
    /// what it locks. Default 7 days.
    pub max_grace_s: u32,
    /// Seconds of the chain's time without use after which a channel is closed and its rest taken back. Default 7 days;
    /// none: never.
    pub idle_close_s: Option<u32>,
}

impl ChannelPolicy {
    /// Nothing happens unasked: without an open channel, or with too small a deposit, fetches that cost money fail.
    pub fn manual() -> Self {
        Self { automatic: false, idle_close_s: None, ..Self::default() }
    }

    /// How many base units to lock so that `needed` more can be paid to a node.
    pub(crate) fn deposit_for(&self, needed: Amount, room: &Room) -> Result<Amount, Narrow> {
        let node_left = self.node_cap.saturating_sub(room.locked_to_node);
        let total_left = self.total_cap.saturating_sub(room.locked_in_all);
        let bounds = [
            (Bound::Node, node_left),
            (Bound::Total, total_left),
            (Bound::Budget, room.budget_left),
            (Bound::Available, room.available),
        ];
        let (bound, most) = bounds.into_iter().min_by_key(|(_, left)| *left).unwrap_or((Bound::Node, node_left));
        // A base unit at least: a channel of nothing cannot be opened.
        let needed = needed.max(Amount::new(1));
        if needed > most {
            return Err(Narrow { bound, most });
        }
        let multiple = Amount::new(needed.get().saturating_mul(u64::from(self.price_multiple)));
        // One node is not to take what the budget holds for the others.
        let share = Amount::new(room.budget_left.get() / BUDGET_SHARE);
        Ok(multiple.max(self.min_deposit).min(share).max(needed).min(most))
    }
}

impl Default for ChannelPolicy {
    fn default() -> Self {
        Self {
            automatic: true,
            min_deposit: Amount::new(100_000),
            price_multiple: 4,
            node_cap: Amount::new(10_000_000),
            total_cap: Amount::new(50_000_000),
            max_grace_s: 7 * 24 * 3_600,
            idle_close_s: Some(7 * 24 * 3_600),
        }
    }
}

/// What holds a deposit back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// In channels to this node, neither signed away nor settled.
    pub(crate) locked_to_node: Amount,
    /// The same in all channels.
    pub(crate) locked_in_all: Amount,
    /// What the budget leaves for deposits.
    pub(crate) budget_left: Amount,
    /// In the program, in no channel.
    pub(crate) available: Amount,
}

/// The bound that leaves too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Narrow {
    pub(crate) bound: Bound,
    /// What it leaves, in base units.
    pub(crate) most: Amount,
}

/// A bound on deposits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Node,
    Total,
    Budget,
    Available,
}

/// A cap of the [`ChannelPolicy`] that a deposit would exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChannelCap {
    /// [`ChannelPolicy::node_cap`].
    #[error("one node")]
    Node,
    /// [`ChannelPolicy::total_cap`].
    #[error("all nodes")]
    Total,
}

/// A deposit takes at most this part of what the budget leaves, unless one request needs more.
const BUDGET_SHARE: u64 = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn units(value: u64) -> Amount {
        Amount::new(value)
    }

    fn policy() -> ChannelPolicy {
        ChannelPolicy {
            min_deposit: units(100),
            node_cap: units(1_000),
            total_cap: units(3_000),
            ..ChannelPolicy::default()
        }
    }

    fn wide() -> Room {
        Room {
            locked_to_node: Amount::ZERO,
            locked_in_all: Amount::ZERO,
            budget_left: units(u64::MAX),
            available: units(u64::MAX),
        }
    }

    #[test]
    fn a_deposit_is_the_least_or_a_multiple_of_the_price_within_every_bound() {
        for (needed, room, locked) in [
            (0, wide(), Ok(100)),
            (1, wide(), Ok(100)),
            (50, wide(), Ok(200)),
            (300, wide(), Ok(1_000)),
            (1_000, wide(), Ok(1_000)),
            (1_001, wide(), Err((Bound::Node, 1_000))),
            (u64::MAX, wide(), Err((Bound::Node, 1_000))),
            (50, Room { locked_to_node: units(900), ..wide() }, Ok(100)),
            (101, Room { locked_to_node: units(900), ..wide() }, Err((Bound::Node, 100))),
            (1, Room { locked_to_node: units(2_000), ..wide() }, Err((Bound::Node, 0))),
            (50, Room { locked_in_all: units(2_940), ..wide() }, Ok(60)),
            (61, Room { locked_in_all: units(2_940), ..wide() }, Err((Bound::Total, 60))),
            (50, Room { available: units(120), ..wide() }, Ok(120)),
            (121, Room { available: units(120), ..wide() }, Err((Bound::Available, 120))),
            (0, Room { available: Amount::ZERO, ..wide() }, Err((Bound::Available, 0))),
            // A quarter of the budget, or what is needed.
            (50, Room { budget_left: units(600), ..wide() }, Ok(150)),
            (50, Room { budget_left: units(100), ..wide() }, Ok(50)),
            (101, Room { budget_left: units(100), ..wide() }, Err((Bound::Budget, 100))),
        ] {
            let deposit = policy().deposit_for(units(needed), &room);
            assert_eq!(deposit.map(Amount::get).map_err(|n| (n.bound, n.most.get())), locked, "{needed} in {room:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_locked_covers_the_need_and_exceeds_no_bound(
            needed: u64, to_node: u64, in_all: u64, budget_left: u64, available: u64, min: u64, multiple: u32,
        ) {
            let policy = ChannelPolicy { min_deposit: units(min), price_multiple: multiple, ..policy() };
            let room = Room {
                locked_to_node: units(to_node % 2_000),
                locked_in_all: units(in_all % 5_000),
                budget_left: units(budget_left),
                available: units(available),
            };
            if let Ok(deposit) = policy.deposit_for(units(needed % 2_000), &room) {
                prop_assert!(deposit >= units(needed % 2_000) && deposit > Amount::ZERO);
                prop_assert!(deposit <= room.budget_left && deposit <= room.available);
                prop_assert!(deposit.saturating_add(room.locked_to_node) <= policy.node_cap);
                prop_assert!(deposit.saturating_add(room.locked_in_all) <= policy.total_cap);
            }
        }
    }
}
