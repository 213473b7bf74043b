//! What is due, and why. Pure, and blind to packing: it sees amounts, times and the cost of a transaction.
//!
//! A transaction costs the same for one voucher as for many, so an open channel waits until enough has come together,
//! unless waiting has become a risk. What is closing never waits.

use std::collections::BTreeMap;

use aro_proto::Amount;
use aro_proto::limits::SETTLE_MARGIN_S;
use settlement_chain::Address;
use settlement_interface::voucher::NEVER;

/// Why a stored voucher is settled now. Where several hold, the first of this list is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Due {
    /// Its channel is closing: at the deadline it is lost.
    Closing,
    /// Its node asked to close the channel.
    Asked,
    /// It expires soon: at the expiry it is lost.
    ExpiresSoon,
    /// Too much hangs on it, for its channel or for its node.
    Exposure,
    /// What is unsettled is worth the cost, together with others of its node.
    Worth,
    /// It has waited long enough.
    Age,
    /// Nothing more has come for a while, so nothing is saved by waiting.
    Idle,
}

impl Due {
    /// All of them, in the order of their precedence.
    pub const ALL: [Self; 7] =
        [Self::Closing, Self::Asked, Self::ExpiresSoon, Self::Exposure, Self::Worth, Self::Age, Self::Idle];

    /// Its name in reports, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closing => "closing",
            Self::Asked => "asked",
            Self::ExpiresSoon => "expires_soon",
            Self::Exposure => "exposure",
            Self::Worth => "worth",
            Self::Age => "age",
            Self::Idle => "idle",
        }
    }
}

/// When settling is due. `Default` fits most operators; without an exchange rate `min_settle` alone says what is worth
/// a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Below this much unsettled an open channel is never worth settling. Default 0.01 $ARO.
    pub min_settle: Amount,
    /// Base units of $ARO that one SOL (10^9 lamports) costs; 0 if nobody said. Default 0.
    pub aro_per_sol: Amount,
    /// A transaction is worth sending when it settles this many times its cost. Default 100: its fee is 1 %.
    pub worth_factor: u32,
    /// Seconds that something unsettled may wait. Default one day.
    pub max_age_s: i64,
    /// Unsettled on one channel that is too much to leave. Default 10 $ARO.
    pub max_channel_exposure: Amount,
    /// The same as a part of the deposit, in basis points: beyond it the agent may soon want to close. Default 8,000.
    pub max_exposure_bps: u16,
    /// Unsettled on all channels of one node that is too much to leave. Default 100 $ARO.
    pub max_node_exposure: Amount,
    /// Seconds without news after which a channel counts as idle. Default one hour.
    pub idle_s: i64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            min_settle: Amount::new(10_000),
            aro_per_sol: Amount::ZERO,
            worth_factor: 100,
            max_age_s: 24 * 60 * 60,
            max_channel_exposure: Amount::new(10_000_000),
            max_exposure_bps: 8_000,
            max_node_exposure: Amount::new(100_000_000),
            idle_s: 60 * 60,
        }
    }
}

/// What settling costs at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Lamports of one transaction that is full: base and priority fee.
    pub transaction_lamports: u64,
    /// Vouchers that a full one settles.
    pub entries: usize,
}

impl Default for Cost {
    /// A transaction of one signature without priority, full in the larger format.
    fn default() -> Self {
        Self { transaction_lamports: 5_000, entries: 36 }
    }
}

/// One stored voucher beside its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The earning node's account.
    pub node: Address,
    /// Base units above the chain's watermark that the chain would still credit.
    pub unsettled: Amount,
    /// The channel's deposit.
    pub deposit: Amount,
    /// True if the channel is closing.
    pub closing: bool,
    /// True if its node asked to close it, and this operator may.
    pub asked: bool,
    /// The voucher's expiry in unix seconds, or 0.
    pub expires_at: i64,
    /// True if the node names another operator, who then gets the fee.
    pub foreign: bool,
    /// Unix second since which something has been unsettled.
    pub since: i64,
    /// Unix second of the last news of the channel.
    pub heard: i64,
}

impl Rules {
    /// For each candidate, in order: why it is due at `now` (unix seconds), or `None` while it can wait.
    // r[impl settlement.worth]
    pub fn choose(&self, now: i64, cost: &Cost, candidates: &[Candidate]) -> Vec<Option<Due>> {
        let prices = self.prices(cost);
        let mut of_node: BTreeMap<Address, Amount> = BTreeMap::new();
        for candidate in candidates {
            let sum = of_node.entry(candidate.node).or_default();
            *sum = sum.saturating_add(candidate.unsettled);
        }
        let mut chosen: Vec<Option<Due>> = candidates
            .iter()
            .map(|candidate| {
                let exposed = of_node.get(&candidate.node).is_some_and(|sum| *sum >= self.max_node_exposure);
                self.alone(now, &prices, candidate, exposed)
            })
            .collect();
        self.together(&prices, cost.entries, candidates, &mut chosen);
        for (candidate, due) in candidates.iter().zip(&mut chosen) {
            if due.is_none() {
                *due = self.in_time(now, &prices, candidate);
            }
        }
        chosen
    }

    /// What makes a voucher due whatever else waits.
    fn alone(&self, now: i64, prices: &Prices, candidate: &Candidate, node_exposed: bool) -> Option<Due> {
        if candidate.asked {
            return Some(if candidate.closing && !candidate.unsettled.is_zero() { Due::Closing } else { Due::Asked });
        }
        // A node that names another operator pays this one nothing: only what is worth a transaction of its own.
        let least = if candidate.foreign { self.min_settle.max(prices.transaction) } else { Amount::new(1) };
        if candidate.unsettled < least {
            return None;
        }
        if candidate.closing {
            return Some(Due::Closing);
        }
        if expires_soon(candidate.expires_at, now) {
            return Some(Due::ExpiresSoon);
        }
        if candidate.foreign || candidate.unsettled < prices.dust {
            return None;
        }
        let much_of_deposit = candidate.unsettled >= part(candidate.deposit, self.max_exposure_bps);
        let exposed = node_exposed
            || candidate.unsettled >= self.max_channel_exposure
            || (much_of_deposit && candidate.unsettled >= self.min_settle);
        exposed.then_some(Due::Exposure)
    }

    /// A node's vouchers share transactions: the largest first, while a transaction of them is worth its cost.
    fn together(&self, prices: &Prices, entries: usize, candidates: &[Candidate], chosen: &mut [Option<Due>]) {
        let mut waiting: BTreeMap<Address, Vec<usize>> = BTreeMap::new();
        for (index, candidate) in candidates.iter().enumerate() {
            let waits = chosen.get(index).is_some_and(Option::is_none);
            if waits && !candidate.foreign && !candidate.unsettled.is_zero() && candidate.unsettled >= self.min_settle {
                waiting.entry(candidate.node).or_default().push(index);
            }
        }
        let unsettled = |index: &usize| candidates.get(*index).map_or(Amount::ZERO, |candidate| candidate.unsettled);
        for mut indices in waiting.into_values() {
            indices.sort_by_key(|index| std::cmp::Reverse(unsettled(index)));
            for batch in indices.chunks(entries.max(1)) {
                let sum = batch.iter().map(unsettled).fold(Amount::ZERO, Amount::saturating_add);
                if sum < prices.worth {
                    break;
                }
                for index in batch {
                    if let Some(due) = chosen.get_mut(*index) {
                        *due = Some(Due::Worth);
                    }
                }
            }
        }
    }

    /// What makes a voucher due because time has passed.
    fn in_time(&self, now: i64, prices: &Prices, candidate: &Candidate) -> Option<Due> {
        let least = if candidate.foreign { self.min_settle.max(prices.transaction) } else { prices.dust };
        if candidate.unsettled < least {
            return None;
        }
        if now.saturating_sub(candidate.since) >= self.max_age_s {
            return Some(Due::Age);
        }
        (!candidate.foreign && now.saturating_sub(candidate.heard) >= self.idle_s).then_some(Due::Idle)
    }

    fn prices(&self, cost: &Cost) -> Prices {
        let transaction = self.in_base_units(cost.transaction_lamports);
        let entries = u64::try_from(cost.entries.max(1)).unwrap_or(u64::MAX);
        let worth = transaction.get().saturating_mul(u64::from(self.worth_factor));
        Prices { transaction, worth: Amount::new(worth), dust: Amount::new(transaction.get().div_ceil(entries).max(1)) }
    }

    /// Rounded up: a cost is never shown as nothing.
    fn in_base_units(&self, lamports: u64) -> Amount {
        let product = u128::from(lamports).saturating_mul(u128::from(self.aro_per_sol.get()));
        Amount::new(u64::try_from(product.div_ceil(LAMPORTS_PER_SOL)).unwrap_or(u64::MAX))
    }
}

/// Costs in base units.
struct Prices {
    /// One transaction.
    transaction: Amount,
    /// What one must settle to be worth sending.
    worth: Amount,
    /// One entry's part of a full transaction: what is below is not settled for its own sake, ever.
    dust: Amount,
}

fn expires_soon(expires_at: i64, now: i64) -> bool {
    expires_at != NEVER && expires_at.saturating_sub(now) <= SETTLE_MARGIN_S
}

/// `bps` basis points of an amount, rounded up.
fn part(amount: Amount, bps: u16) -> Amount {
    let product = u128::from(amount.get()).saturating_mul(u128::from(bps));
    Amount::new(u64::try_from(product.div_ceil(10_000)).unwrap_or(u64::MAX))
}

const LAMPORTS_PER_SOL: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// One base unit a lamport.
    fn rules() -> Rules {
        Rules {
            min_settle: Amount::new(1_000),
            aro_per_sol: Amount::new(1_000_000_000),
            worth_factor: 10,
            max_age_s: 86_400,
            max_channel_exposure: Amount::new(500_000),
            max_exposure_bps: 8_000,
            max_node_exposure: Amount::new(900_000),
            idle_s: 3_600,
        }
    }

    /// 5,000 lamports for 36 entries: a full transaction's entry costs 139, worth begins at 50,000.
    const COST: Cost = Cost { transaction_lamports: 5_000, entries: 36 };

    /// An open channel of which somebody has just heard.
    fn fresh(unsettled: u64) -> Candidate {
        Candidate {
            node: Address::new_from_array([1; 32]),
            unsettled: Amount::new(unsettled),
            deposit: Amount::new(10_000_000),
            closing: false,
            asked: false,
            expires_at: 0,
            foreign: false,
            since: NOW,
            heard: NOW,
        }
    }

    fn alone(candidate: Candidate) -> Option<Due> {
        rules().choose(NOW, &COST, &[candidate])[0]
    }

    // r[verify settlement.worth]
    #[test]
    fn voucher_is_due_for_exactly_the_stated_reason() {
        let old = NOW - 86_400;
        let quiet = NOW - 3_600;
        let foreign = |unsettled| Candidate { foreign: true, ..fresh(unsettled) };
        for (candidate, due) in [
            (fresh(0), None),
            (fresh(49_999), None),
            (fresh(50_000), Some(Due::Worth)),
            (fresh(499_999), Some(Due::Worth)),
            (fresh(500_000), Some(Due::Exposure)),
            (Candidate { deposit: Amount::new(10_000), ..fresh(7_999) }, None),
            (Candidate { deposit: Amount::new(10_000), ..fresh(8_000) }, Some(Due::Exposure)),
            (Candidate { deposit: Amount::new(999), ..fresh(999) }, None),
            (Candidate { since: old, heard: NOW, ..fresh(139) }, Some(Due::Age)),
            (Candidate { since: old, heard: NOW, ..fresh(138) }, None),
            (Candidate { since: old + 1, heard: NOW, ..fresh(139) }, None),
            (Candidate { since: quiet, heard: quiet, ..fresh(139) }, Some(Due::Idle)),
            (Candidate { since: quiet, heard: quiet + 1, ..fresh(139) }, None),
            (Candidate { since: old, heard: old, ..fresh(139) }, Some(Due::Age)),
            (Candidate { expires_at: NOW + SETTLE_MARGIN_S, ..fresh(1) }, Some(Due::ExpiresSoon)),
            (Candidate { expires_at: NOW + SETTLE_MARGIN_S + 1, ..fresh(1) }, None),
            (Candidate { asked: true, ..fresh(0) }, Some(Due::Asked)),
            (Candidate { asked: true, expires_at: NOW + 1, ..fresh(600_000) }, Some(Due::Asked)),
            (Candidate { closing: true, ..fresh(1) }, Some(Due::Closing)),
            (Candidate { closing: true, ..fresh(0) }, None),
            (Candidate { closing: true, asked: true, ..fresh(0) }, Some(Due::Asked)),
            (Candidate { closing: true, asked: true, ..fresh(600_000) }, Some(Due::Closing)),
            (foreign(800_000), None),
            (Candidate { closing: true, ..foreign(4_999) }, None),
            (Candidate { closing: true, ..foreign(5_000) }, Some(Due::Closing)),
            (Candidate { expires_at: NOW + 1, ..foreign(5_000) }, Some(Due::ExpiresSoon)),
            (Candidate { since: old, ..foreign(5_000) }, Some(Due::Age)),
            (Candidate { heard: quiet, ..foreign(5_000) }, None),
        ] {
            assert_eq!(alone(candidate), due, "{candidate:?}");
        }
    }

    #[test]
    fn vouchers_of_a_node_are_worth_a_transaction_together_and_those_of_two_nodes_are_not() {
        let rules = Rules { max_node_exposure: Amount::new(u64::MAX), ..rules() };
        let mut candidates = vec![fresh(1_400); 36];
        assert_eq!(rules.choose(NOW, &COST, &candidates), vec![Some(Due::Worth); 36]);
        candidates[0].node = Address::new_from_array([2; 32]);
        assert_eq!(rules.choose(NOW, &COST, &candidates), vec![None; 36]);
        // A second transaction must be worth it for itself; what is below the least never counts.
        let mut candidates = vec![fresh(1_400); 40];
        candidates.push(fresh(999));
        let chosen = rules.choose(NOW, &COST, &candidates);
        assert_eq!(chosen.iter().filter(|due| **due == Some(Due::Worth)).count(), 36);
        assert_eq!(chosen[40], None);
    }

    #[test]
    fn node_with_too_much_unsettled_settles_all_but_its_dust() {
        let mut candidates = vec![fresh(30_000); 30];
        candidates.push(fresh(138));
        let chosen = rules().choose(NOW, &COST, &candidates);
        assert_eq!(chosen[..30], vec![Some(Due::Exposure); 30]);
        assert_eq!(chosen[30], None);
    }

    #[test]
    fn without_an_exchange_rate_the_least_amount_alone_decides() {
        let rules = Rules { aro_per_sol: Amount::ZERO, ..rules() };
        let chosen = rules.choose(NOW, &COST, &[fresh(999), fresh(1_000)]);
        assert_eq!(chosen, [None, Some(Due::Worth)]);
        let old = Candidate { since: 0, ..fresh(1) };
        assert_eq!(rules.choose(NOW, &COST, &[old]), [Some(Due::Age)]);
    }

    #[test]
    fn absurd_figures_saturate() {
        let rules = Rules { aro_per_sol: Amount::new(u64::MAX), worth_factor: u32::MAX, ..rules() };
        let cost = Cost { transaction_lamports: u64::MAX, entries: 0 };
        let extreme = Candidate { since: i64::MIN, heard: i64::MIN, expires_at: i64::MAX, ..fresh(u64::MAX) };
        assert_eq!(rules.choose(i64::MAX, &cost, &[extreme])[0], Some(Due::ExpiresSoon));
        assert_eq!(rules.choose(i64::MIN, &cost, &[extreme, extreme])[1], Some(Due::Exposure));
    }
}
