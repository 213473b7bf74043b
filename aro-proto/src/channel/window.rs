//! The credit window: how much a node lets stand unpaid.

use crate::amount::{Amount, ByteCount};
use crate::limits::{MAX_WINDOW_BYTES, QUANTUM_BYTES};
use crate::tariff::{Charge, Tariff};

/// Bytes of content that a node sends and bills at once: a quarter quantum. A node that waits then always leaves
/// more than half a window to be paid, so that payer and payee never wait for each other.
// r[impl channel.batch]
pub const BATCH_BYTES: u64 = QUANTUM_BYTES / 4;

/// The credit that an agent has earned by paying: half of what it has paid on this channel, at least the price of
/// one quantum, at most the price of 64 MiB. So a cheat gains at most one quantum, or half of what it spent.
///
/// Under a free tariff it is zero, and nothing is ever owed.
// r[impl channel.window]
pub fn credit_window(paid: Amount, tariff: &Tariff) -> Amount {
    let quantum = tariff.quantum().unwrap_or(UNBOUNDED);
    let most = tariff.price(ByteCount::new(MAX_WINDOW_BYTES)).unwrap_or(UNBOUNDED);
    Amount::new(paid.get() / 2).clamp(quantum, most)
}

/// How far the two counts of a channel may drift apart in all before the peer is distrusted: one quantum, or a 16th
/// of what was paid.
pub(super) fn counting_allowance(paid: Amount, tariff: &Tariff) -> Charge {
    let quantum = tariff.quantum().unwrap_or(UNBOUNDED);
    Charge::from_amount(quantum.max(Amount::new(paid.get() / 16)))
}

/// A price that does not fit 64 bits is more than any deposit.
const UNBOUNDED: Amount = Amount::new(u64::MAX);

#[cfg(test)]
mod tests {
    use super::*;

    // r[verify channel.window]
    #[test]
    fn the_window_is_half_of_what_is_paid_between_one_quantum_and_64_mib() {
        let tariff = Tariff { per_mib: 100 };
        let window = |paid| credit_window(Amount::new(paid), &tariff).get();
        assert_eq!([window(0), window(199), window(201), window(5_000)], [100, 100, 100, 2_500]);
        assert_eq!([window(12_799), window(12_800), window(u64::MAX)], [6_399, 6_400, 6_400]);
    }

    #[test]
    fn extreme_tariffs_neither_overflow_nor_panic() {
        assert_eq!(credit_window(Amount::new(9), &Tariff { per_mib: 0 }), Amount::ZERO);
        assert_eq!(credit_window(Amount::ZERO, &Tariff { per_mib: u64::MAX }), UNBOUNDED);
        assert_eq!(counting_allowance(Amount::ZERO, &Tariff { per_mib: u64::MAX }), Charge::from_amount(UNBOUNDED));
    }

    #[test]
    fn the_allowance_for_differing_counts_is_a_quantum_or_a_16th() {
        let allowance = |paid| counting_allowance(Amount::new(paid), &Tariff { per_mib: 100 });
        assert_eq!(allowance(1_615), Charge::from_amount(Amount::new(100)));
        assert_eq!(allowance(1_616), Charge::from_amount(Amount::new(101)));
    }
}
