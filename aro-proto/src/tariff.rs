//! Prices: base units of $ARO per 2^20 units of a kind, summed exactly.
//!
//! A [`Charge`] counts in 2^-20 parts of a base unit, so splitting a request into ranges, streams or groups never
//! gains or loses anything. It becomes an [`Amount`] only when a voucher is due, rounded up once for the whole
//! channel: `ceil(a + b) <= ceil(a) + ceil(b)`, so no sum of fetches costs more than its quotes.

#![deny(clippy::arithmetic_side_effects, clippy::cast_possible_truncation, reason = "money")]

use serde::{Deserialize, Serialize};

use crate::amount::{Amount, ByteCount};
use crate::limits::QUANTUM_BYTES;

/// What is counted and billed. Numbers are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum UnitKind {
    /// Proven content bytes.
    Bytes = 1,
}

/// A node's price list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// Base units per MiB of proven content bytes. 0 serves for free.
    pub per_mib: u64,
}

/// An exact sum owed, in 2^-20 parts of a base unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Charge(u128);

impl Tariff {
    /// What `bytes` cost, exactly. Cannot overflow: both factors have 64 bits.
    // r[impl pricing.exact]
    pub fn charge(&self, bytes: ByteCount) -> Charge {
        Charge(u128::from(bytes.get()).saturating_mul(u128::from(self.per_mib)))
    }

    /// The price of a request by itself: what a quote says and `max_price` is held against.
    /// `None` if it does not fit 64 bits.
    // r[impl pricing.quote]
    pub fn price(&self, bytes: ByteCount) -> Option<Amount> {
        self.charge(bytes).to_amount()
    }

    /// The most bytes whose price is no more than `amount`, in base units; where everything is free, no bound at all.
    pub fn affordable(&self, amount: Amount) -> ByteCount {
        let parts = Charge::from_amount(amount).parts();
        let bytes = parts.checked_div(u128::from(self.per_mib)).and_then(|bytes| u64::try_from(bytes).ok());
        ByteCount::new(bytes.unwrap_or(u64::MAX))
    }

    /// The price of one quantum: the smallest credit window.
    pub fn quantum(&self) -> Option<Amount> {
        self.price(ByteCount::new(QUANTUM_BYTES))
    }

    /// True if everything is free, so that no channel is needed.
    pub const fn is_free(&self) -> bool {
        self.per_mib == 0
    }
}

impl Charge {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From a count of 2^-20 parts of a base unit, as it travels on the wire.
    pub const fn from_parts(parts: u128) -> Self {
        Self(parts)
    }

    /// The count of 2^-20 parts of a base unit.
    pub const fn parts(self) -> u128 {
        self.0
    }

    /// A whole amount, as a charge.
    pub fn from_amount(amount: Amount) -> Self {
        Self(u128::from(amount.get()).saturating_mul(PARTS))
    }

    /// The amount that covers this charge: rounded up. `None` if it does not fit 64 bits.
    // r[impl pricing.round_once]
    pub fn to_amount(self) -> Option<Amount> {
        u64::try_from(self.0.div_ceil(PARTS)).ok().map(Amount::new)
    }

    /// The sum, or `None` if it does not fit.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, or `None` if `other` is larger.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// The difference, or nothing if `other` is larger.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// Parts of a base unit: prices are per MiB.
const PARTS: u128 = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // r[verify pricing.exact]
        #[test]
        fn splitting_a_fetch_never_changes_its_charge(per_mib in any::<u64>(), parts in prop::collection::vec(0..1u64 << 40, 1..50)) {
            let tariff = Tariff { per_mib };
            let total: u64 = parts.iter().sum();
            let sum = parts.iter().try_fold(Charge::ZERO, |sum, part| sum.checked_add(tariff.charge(ByteCount::new(*part))));
            prop_assert_eq!(sum, Some(tariff.charge(ByteCount::new(total))));
        }

        // r[verify pricing.round_once]
        #[test]
        fn a_sum_never_costs_more_than_its_quotes(per_mib in 0..1u64 << 36, parts in prop::collection::vec(0..1u64 << 40, 1..50)) {
            let tariff = Tariff { per_mib };
            let quotes: u128 = parts.iter().map(|part| u128::from(tariff.price(ByteCount::new(*part)).unwrap().get())).sum();
            let total = tariff.price(ByteCount::new(parts.iter().sum())).unwrap();
            prop_assert!(u128::from(total.get()) <= quotes);
        }
    }

    // r[verify pricing.quote]
    #[test]
    fn a_quote_rounds_up_and_refuses_what_does_not_fit() {
        let tariff = Tariff { per_mib: 100 };
        let price = |bytes| tariff.price(ByteCount::new(bytes)).map(Amount::get);
        assert_eq!(
            [price(0), price(1), price(1 << 20), price((1 << 20) + 1)],
            [Some(0), Some(1), Some(100), Some(101)]
        );
        assert_eq!(Tariff { per_mib: u64::MAX }.price(ByteCount::new(1 << 21)), None);
    }
}
