//! What a full settling transaction would cost now: the base fee, and the priority fee that the fee policy would offer
//! for one of its size by what others pay.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use settlement_chain::ChainClient;
use settlement_chain::submit::Terms;

use crate::batch::{Cost, Planner};
use crate::submit::{FeeBudget, LAMPORTS_PER_SIGNATURE};

/// The size of a full transaction, and what others paid when they were last asked about.
pub(super) struct Costs {
    entries: usize,
    terms: Terms,
    /// Micro-lamports per compute unit.
    recent: Mutex<Vec<u64>>,
}

impl Costs {
    /// The costs of this planner's transactions.
    pub(super) fn of(planner: &Planner) -> Self {
        let full = planner.full();
        let instructions: Vec<_> = full.iter().map(|planned| planned.instruction.clone()).collect();
        Self {
            entries: full.map_or(1, |planned| planned.items.len()),
            terms: Terms::estimate(planner.format, &instructions),
            recent: Mutex::default(),
        }
    }

    /// Asks the chain what others paid lately. Where it does not say, what it said before stands.
    pub(super) async fn ask(&self, chain: &dyn ChainClient, planner: &Planner) {
        match chain.recent_fees(&[planner.authority, planner.operator]).await {
            Ok(recent) => *self.recent.lock().unwrap_or_else(PoisonError::into_inner) = recent,
            Err(error) => tracing::debug!(%error, "recent fees are not known"),
        }
    }

    /// The cost of a full transaction of this lane.
    pub(super) fn now(&self, fees: &FeeBudget, is_urgent: bool) -> Cost {
        let price = fees.policy().lane(is_urgent).price(&self.recent.lock().unwrap_or_else(PoisonError::into_inner), 0);
        let priority = self.terms.at_price(price).priority_fee().min(fees.left(is_urgent, Instant::now()));
        Cost { transaction_lamports: LAMPORTS_PER_SIGNATURE.saturating_add(priority), entries: self.entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::planner::tests::planner;
    use crate::submit::FeePolicy;

    // r[verify settlement.worth]
    #[test]
    fn cost_follows_the_price_of_a_full_transaction_up_to_what_may_be_offered() {
        let (costs, fees) = (Costs::of(&planner()), FeeBudget::new(FeePolicy::default()));
        assert_eq!((costs.now(&fees, false).transaction_lamports, costs.entries), (5_000, 8));
        *costs.recent.lock().unwrap() = vec![10_000];
        let units = u64::from(costs.terms.compute_units);
        assert_eq!(costs.now(&fees, false).transaction_lamports, 5_000 + units.div_ceil(100));
        *costs.recent.lock().unwrap() = vec![u64::MAX];
        assert_eq!(costs.now(&fees, false).transaction_lamports, 25_000);
        assert_eq!(costs.now(&fees, true).transaction_lamports, 505_000);
        while fees.take(false, u64::MAX, Instant::now()) > 0 {}
        assert_eq!(costs.now(&fees, false).transaction_lamports, 5_000, "nothing more is offered this hour");
    }
}
