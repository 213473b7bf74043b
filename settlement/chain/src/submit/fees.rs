//! What is offered for a place in a block, and how much of it may be spent. Integers only; time is an argument.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use solana_signature::Signature;

/// How two kinds of work pay for their place in a block. What would cost more than its cap is offered the cap: work
/// goes out with less, and never stops for want of a priority fee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeePolicy {
    /// Work that can wait for a quieter block.
    pub normal: LanePolicy,
    /// Channels that are closing: what misses their deadline is lost.
    pub urgent: LanePolicy,
}

/// How one kind of work pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanePolicy {
    /// Of what others recently paid for the same accounts, this percentile is offered. 0 to 100.
    pub percentile: u8,
    /// The least that is offered, in micro-lamports per compute unit.
    pub min_price: u64,
    /// Most lamports of priority fee for one transaction.
    pub max_per_transaction: u64,
    /// Most lamports of priority fee within an hour.
    pub max_per_hour: u64,
    /// What no block has taken in time is offered so many percent of its last price. 100 to 1,000.
    pub raise_percent: u32,
    /// How often it is signed anew within a round, each time when its blockhash has run out. At most 10.
    pub replans: u32,
}

impl Default for FeePolicy {
    fn default() -> Self {
        Self {
            normal: LanePolicy {
                percentile: 50,
                min_price: 0,
                max_per_transaction: 20_000,
                max_per_hour: 1_000_000,
                raise_percent: 200,
                replans: 1,
            },
            urgent: LanePolicy {
                percentile: 90,
                min_price: 1_000,
                max_per_transaction: 500_000,
                max_per_hour: 20_000_000,
                raise_percent: 200,
                replans: 4,
            },
        }
    }
}

impl FeePolicy {
    /// The lane of a kind of work.
    pub const fn lane(&self, is_urgent: bool) -> &LanePolicy {
        if is_urgent { &self.urgent } else { &self.normal }
    }

    /// Whether an operator can keep this policy.
    ///
    /// # Errors
    /// [`BadFeePolicy`] says which value is wrong, and what it may be.
    pub fn check(&self) -> Result<(), BadFeePolicy> {
        self.normal.check("normal")?;
        self.urgent.check("urgent")
    }
}

/// A policy that no operator can keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFeePolicy {
    /// A percentile is a part of a hundred.
    #[error("{lane}: percentile is {percentile}; it is at most 100")]
    Percentile {
        /// `normal` or `urgent`.
        lane: &'static str,
        /// What was given.
        percentile: u8,
    },
    /// One transaction could spend more than an hour may.
    #[error("{lane}: max_per_transaction is {transaction} lamports, above max_per_hour, which is {hour}")]
    Caps {
        /// `normal` or `urgent`.
        lane: &'static str,
        /// What one transaction could spend.
        transaction: u64,
        /// What an hour may.
        hour: u64,
    },
    /// Nobody means to spend so much in an hour.
    #[error("{lane}: max_per_hour is {hour} lamports; it is at most {MAX_HOUR}, ten SOL")]
    Hour {
        /// `normal` or `urgent`.
        lane: &'static str,
        /// What was given.
        hour: u64,
    },
    /// A price that falls is never taken, and one that leaps meets its cap at once.
    #[error("{lane}: raise_percent is {percent}; it is 100 to 1000, and 200 doubles")]
    Raise {
        /// `normal` or `urgent`.
        lane: &'static str,
        /// What was given.
        percent: u32,
    },
    /// A round would take more than a quarter of an hour.
    #[error("{lane}: replans is {replans}; it is at most {MAX_REPLANS}, for each takes a minute")]
    Replans {
        /// `normal` or `urgent`.
        lane: &'static str,
        /// What was given.
        replans: u32,
    },
}

impl LanePolicy {
    /// Micro-lamports per compute unit to offer, by what others recently paid. `generation` counts the transactions
    /// that were signed for the same work and died: each raises the offer.
    pub fn price(&self, recent: &[u64], generation: u32) -> u64 {
        let mut sorted = recent.to_vec();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let index = last.saturating_mul(usize::from(self.percentile.min(100))).div_ceil(100);
        let usual = sorted.get(index).copied().unwrap_or_default().max(self.min_price);
        if generation == 0 {
            return usual;
        }
        let raised = |price: u128, _| price.saturating_mul(self.raise_percent.into()) / 100;
        let price = (0..generation.min(MOST_RAISES)).fold(u128::from(usual.max(FIRST_RAISE)), raised);
        u64::try_from(price).unwrap_or(u64::MAX)
    }

    fn check(&self, lane: &'static str) -> Result<(), BadFeePolicy> {
        let Self { percentile, max_per_transaction, max_per_hour, raise_percent, replans, .. } = *self;
        if percentile > 100 {
            Err(BadFeePolicy::Percentile { lane, percentile })
        } else if max_per_hour > MAX_HOUR {
            Err(BadFeePolicy::Hour { lane, hour: max_per_hour })
        } else if max_per_transaction > max_per_hour {
            Err(BadFeePolicy::Caps { lane, transaction: max_per_transaction, hour: max_per_hour })
        } else if !(100..=1_000).contains(&raise_percent) {
            Err(BadFeePolicy::Raise { lane, percent: raise_percent })
        } else if replans > MAX_REPLANS {
            Err(BadFeePolicy::Replans { lane, replans })
        } else {
            Ok(())
        }
    }
}

/// What has been spent within the hour. What an earlier life or another process has spent it knows once it is
/// [recalled](Self::recall); of that it does not know for which kind of work it was, and counts it for both.
pub struct FeeBudget {
    policy: FeePolicy,
    state: Mutex<State>,
}

/// A transaction that has cost a priority fee, or may yet cost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Its signature.
    pub signature: Signature,
    /// The priority fee.
    pub lamports: u64,
    /// How long ago.
    pub ago: Duration,
}

#[derive(Default)]
struct State {
    lanes: [Lane; 2],
    /// The lease's fence under which the store was last asked.
    recalled: Option<u64>,
}

/// Oldest first.
type Lane = VecDeque<Booked>;

#[derive(Clone, Copy, Debug)]
struct Booked {
    at: Instant,
    lamports: u64,
    /// Of the transaction, once it is signed.
    signature: Option<Signature>,
}

impl FeeBudget {
    /// A budget of which nothing is spent.
    pub fn new(policy: FeePolicy) -> Self {
        Self { policy, state: Mutex::default() }
    }

    /// The policy that it holds.
    pub const fn policy(&self) -> &FeePolicy {
        &self.policy
    }

    /// True if the store was asked what the hour has cost since the lease has this fence.
    pub fn is_recalled(&self, fence: u64) -> bool {
        self.lock().recalled == Some(fence)
    }

    /// Books what the store knows of and this process does not.
    pub fn recall(&self, fence: u64, spent: impl IntoIterator<Item = Spent>, now: Instant) {
        let mut state = self.lock();
        if state.recalled.replace(fence) == Some(fence) {
            return;
        }
        let own: HashSet<Signature> = state.lanes.iter().flatten().filter_map(|booked| booked.signature).collect();
        for spent in spent {
            if spent.lamports > 0 && !own.contains(&spent.signature) {
                let at = now.checked_sub(spent.ago).unwrap_or(now);
                let booked = Booked { at, lamports: spent.lamports, signature: Some(spent.signature) };
                state.lanes.iter_mut().for_each(|lane| lane.push_back(booked));
            }
        }
        for lane in &mut state.lanes {
            lane.make_contiguous().sort_by_key(|booked| booked.at);
        }
    }

    /// Sets aside what may be spent of `wanted` lamports on one transaction: all of it, or what the caps leave.
    pub fn take(&self, is_urgent: bool, wanted: u64, now: Instant) -> u64 {
        let mut state = self.lock();
        let lane = &mut state.lanes[usize::from(is_urgent)];
        let granted = left(self.policy.lane(is_urgent), lane, now).min(wanted);
        if granted > 0 {
            lane.push_back(Booked { at: now, lamports: granted, signature: None });
        }
        granted
    }

    /// Says for which transaction something was set aside.
    pub fn name(&self, is_urgent: bool, granted: u64, signature: Signature) {
        let mut state = self.lock();
        if let Some(booked) = unnamed(&mut state.lanes[usize::from(is_urgent)], granted) {
            booked.signature = Some(signature);
        }
    }

    /// Takes back what was set aside for a transaction that was never signed.
    pub fn give_back(&self, is_urgent: bool, granted: u64) {
        let mut state = self.lock();
        let lane = &mut state.lanes[usize::from(is_urgent)];
        if let Some(index) = lane.iter().rposition(|booked| booked.signature.is_none() && booked.lamports == granted) {
            lane.remove(index);
        }
    }

    /// Takes back what was set aside for a transaction that never landed and never will.
    pub fn give_back_of(&self, signature: &Signature) {
        for lane in &mut self.lock().lanes {
            lane.retain(|booked| booked.signature.as_ref() != Some(signature));
        }
    }

    /// Lamports that the caps leave for one transaction.
    pub fn left(&self, is_urgent: bool, now: Instant) -> u64 {
        left(self.policy.lane(is_urgent), &mut self.lock().lanes[usize::from(is_urgent)], now)
    }

    /// Lamports of priority fee that the last hour has cost, or may yet cost.
    pub fn spent_within_hour(&self, is_urgent: bool, now: Instant) -> u64 {
        let mut state = self.lock();
        let lane = &mut state.lanes[usize::from(is_urgent)];
        forget_old(lane, now);
        sum(lane)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No step in between leaves it wrong by more than one entry.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn left(policy: &LanePolicy, lane: &mut Lane, now: Instant) -> u64 {
    forget_old(lane, now);
    policy.max_per_hour.saturating_sub(sum(lane)).min(policy.max_per_transaction)
}

fn unnamed(lane: &mut Lane, lamports: u64) -> Option<&mut Booked> {
    lane.iter_mut().rfind(|booked| booked.signature.is_none() && booked.lamports == lamports)
}

fn forget_old(lane: &mut Lane, now: Instant) {
    while lane.front().is_some_and(|booked| now.saturating_duration_since(booked.at) >= HOUR) {
        lane.pop_front();
    }
}

fn sum(lane: &Lane) -> u64 {
    lane.iter().fold(0, |sum, booked| sum.saturating_add(booked.lamports))
}

const HOUR: Duration = Duration::from_secs(3_600);

/// The most lamports of an hour that a configuration may allow.
const MAX_HOUR: u64 = 10_000_000_000;

/// The most transactions that are signed anew for the same work within a round.
const MAX_REPLANS: u32 = 10;

/// Raises after which any price has met its cap.
const MOST_RAISES: u32 = 64;

/// The price, in micro-lamports per compute unit, that is raised where blocks seem free and yet a transaction died.
const FIRST_RAISE: u64 = 500;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LANE: LanePolicy = LanePolicy {
        percentile: 50,
        min_price: 10,
        max_per_transaction: 1_000,
        max_per_hour: 2_500,
        raise_percent: 200,
        replans: 1,
    };

    fn budget() -> FeeBudget {
        let urgent = LanePolicy { percentile: 100, ..LANE };
        FeeBudget::new(FeePolicy { normal: LANE, urgent })
    }

    fn spent(number: u8, lamports: u64, seconds: u64) -> Spent {
        Spent { signature: Signature::from([number; 64]), lamports, ago: Duration::from_secs(seconds) }
    }

    // r[verify settlement.priority.bounded]
    #[test]
    fn price_follows_what_others_pay_and_rises_with_every_death() {
        let recent = [900, 100, 300, 200, 500];
        assert_eq!(LANE.price(&recent, 0), 300);
        assert_eq!(LanePolicy { percentile: 100, ..LANE }.price(&recent, 0), 900);
        assert_eq!(LanePolicy { percentile: 0, ..LANE }.price(&recent, 0), 100);
        assert_eq!(LANE.price(&[], 0), 10, "nobody pays: the minimum");
        assert_eq!([1, 2, 3].map(|generation| LANE.price(&[], generation)), [1_000, 2_000, 4_000]);
        assert_eq!(LANE.price(&[5_000], 2), 20_000);
        assert_eq!(LANE.price(&[u64::MAX], 63), u64::MAX);
        assert_eq!(LANE.price(&[0], 200), u64::MAX);
        let gently = LanePolicy { raise_percent: 150, ..LANE };
        assert_eq!([1, 2].map(|generation| gently.price(&[1_000], generation)), [1_500, 2_250]);
        let never = LanePolicy { raise_percent: 100, ..LANE };
        assert_eq!(never.price(&[1_000], 9), 1_000);
    }

    #[test]
    fn policy_that_nobody_can_keep_is_refused_and_the_usual_one_is_not() {
        assert_eq!(FeePolicy::default().check(), Ok(()));
        let lane = "urgent";
        for (urgent, wrong) in [
            (LanePolicy { percentile: 101, ..LANE }, BadFeePolicy::Percentile { lane, percentile: 101 }),
            (LanePolicy { max_per_hour: 999, ..LANE }, BadFeePolicy::Caps { lane, transaction: 1_000, hour: 999 }),
            (LanePolicy { max_per_hour: u64::MAX, ..LANE }, BadFeePolicy::Hour { lane, hour: u64::MAX }),
            (LanePolicy { raise_percent: 99, ..LANE }, BadFeePolicy::Raise { lane, percent: 99 }),
            (LanePolicy { replans: 11, ..LANE }, BadFeePolicy::Replans { lane, replans: 11 }),
        ] {
            assert_eq!(FeePolicy { normal: LANE, urgent }.check(), Err(wrong));
        }
        // None is spent at all: work goes out for the base fee.
        assert_eq!(FeePolicy { normal: LanePolicy { max_per_transaction: 0, ..LANE }, urgent: LANE }.check(), Ok(()));
    }

    // r[verify settlement.priority.bounded]
    #[test]
    fn what_the_caps_do_not_leave_is_not_offered() {
        let now = Instant::now();
        let budget = budget();
        assert_eq!([5_000, 900, 700].map(|wanted| budget.take(false, wanted, now)), [1_000, 900, 600]);
        assert_eq!(budget.take(false, 1, now), 0, "the hour is used up");
        assert_eq!(budget.take(true, 800, now), 800, "but not for urgent work");
        budget.give_back(false, 900);
        assert_eq!(budget.take(false, 5_000, now), 900);
        let later = now + HOUR;
        assert_eq!(budget.spent_within_hour(false, later), 0);
        assert_eq!(budget.take(false, 5_000, later), 1_000);
    }

    // r[verify settlement.priority.bounded]
    #[test]
    fn what_an_earlier_life_spent_counts_until_its_hour_is_over() {
        let now = Instant::now() + HOUR;
        let budget = budget();
        budget.recall(7, [spent(1, 900, 0), spent(2, 1_500, 1_800), spent(3, 1_000, 3_600)], now);
        assert!(budget.is_recalled(7) && !budget.is_recalled(8));
        assert_eq!(budget.take(false, 5_000, now), 100);
        assert_eq!(budget.take(true, 5_000, now), 100, "whatever it was for");
        assert_eq!(budget.take(false, 5_000, now + HOUR / 2), 1_000);
        budget.recall(7, [spent(4, 2_500, 0)], now);
        assert_eq!(budget.left(true, now + HOUR / 2), 1_000, "once for each lease");
    }

    #[test]
    fn what_this_process_knows_is_not_counted_twice_and_what_never_landed_not_at_all() {
        let now = Instant::now();
        let budget = budget();
        let [mine, other] = [1, 2].map(|number| Signature::from([number; 64]));
        assert_eq!(budget.take(false, 600, now), 600);
        budget.name(false, 600, mine);
        budget.recall(1, [spent(1, 600, 0), spent(2, 500, 0)], now);
        assert_eq!([false, true].map(|lane| budget.spent_within_hour(lane, now)), [1_100, 500]);
        budget.give_back(false, 600);
        assert_eq!(budget.spent_within_hour(false, now), 1_100, "it is signed, and may land");
        budget.give_back_of(&mine);
        budget.give_back_of(&other);
        assert_eq!([false, true].map(|lane| budget.spent_within_hour(lane, now)), [0, 0]);
    }

    proptest! {
        // r[verify settlement.priority.bounded]
        #[test]
        fn no_hour_and_no_transaction_costs_more_than_its_cap(
            steps in prop::collection::vec((0_u64..2_000, 0_u64..1_800, any::<bool>(), any::<bool>()), 1..80),
        ) {
            let start = Instant::now();
            let budget = budget();
            let mut now = start;
            let mut kept: Vec<(Instant, bool, u64)> = Vec::new();
            for (wanted, seconds, is_urgent, died) in steps {
                now += Duration::from_secs(seconds);
                let granted = budget.take(is_urgent, wanted, now);
                prop_assert!(granted <= wanted.min(LANE.max_per_transaction));
                if died {
                    budget.give_back(is_urgent, granted);
                } else {
                    kept.push((now, is_urgent, granted));
                }
                for lane in [false, true] {
                    let hour: u64 = kept
                        .iter()
                        .filter(|(at, urgent, _)| *urgent == lane && now.duration_since(*at) < HOUR)
                        .map(|(_, _, granted)| granted)
                        .sum();
                    prop_assert!(hour <= LANE.max_per_hour);
                }
            }
        }
    }
}
