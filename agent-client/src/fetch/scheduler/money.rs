//! What a fetch may cost, over all its sources, exactly.

use core::str::FromStr;

use aro_proto::{Amount, ByteCount, Charge, Tariff};
use thiserror::Error;

use super::source::Source;
use super::{Scheduler, SourceId};

/// What a fetch from many nodes aims at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// Every source that the budget allows, whatever it costs.
    Fastest,
    /// Only the cheapest sources; dearer ones only while those fail or stall.
    Cheapest,
    /// Sources that ask at most twice as much as the cheapest; dearer ones only while those fail or stall.
    #[default]
    Balanced,
}

/// Not a preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a preference is fastest, balanced or cheapest")]
pub struct PreferenceError;

impl FromStr for Preference {
    type Err = PreferenceError;
    fn from_str(text: &str) -> Result<Self, PreferenceError> {
        match text {
            "fastest" => Ok(Self::Fastest),
            "balanced" => Ok(Self::Balanced),
            "cheapest" => Ok(Self::Cheapest),
            _ => Err(PreferenceError),
        }
    }
}

impl Preference {
    /// The dearest tariff that is used while `cheapest` works.
    pub(crate) fn dearest(self, cheapest: Tariff) -> Tariff {
        let factor = match self {
            Self::Fastest => return Tariff { per_mib: u64::MAX },
            Self::Cheapest => 1,
            Self::Balanced => 2,
        };
        Tariff { per_mib: cheapest.per_mib.saturating_mul(factor) }
    }
}

impl Scheduler {
    /// Whether a source of this price is used, as prices and sources stand.
    pub(super) fn is_asked_at(&self, tariff: Tariff) -> bool {
        let ready = self.sources.iter().filter(|source| source.is_ready());
        let cheapest = ready.map(|source| source.tariff.per_mib).min().unwrap_or_default();
        tariff.per_mib <= self.plan.prefer.dearest(Tariff { per_mib: cheapest }).per_mib
    }

    /// The most of `len` bytes that this source may be asked for, so that the rest can still be paid at the cheapest
    /// source that is left. `extra` bytes come on top of what has to be fetched, where a tail is asked for twice.
    pub(super) fn affordable(&self, source: usize, len: u64, extra: bool) -> u64 {
        let Some(source_ref) = self.sources.get(source) else { return 0 };
        if source_ref.tariff.is_free() || self.cost_with(source, len, extra) <= self.plan.allowed {
            return len;
        }
        // The cost rises with the length, so the bound is found by halving.
        let group = self.plan.group;
        let (mut fits, mut breaks) = (0, len.div_ceil(group));
        while breaks - fits > 1 {
            let middle = fits + (breaks - fits) / 2;
            if self.cost_with(source, middle * group, extra) <= self.plan.allowed {
                fits = middle;
            } else {
                breaks = middle;
            }
        }
        fits * group
    }

    /// What the fetch costs in all if nothing more goes wrong: what is proven and asked for at its sources' prices,
    /// the rest at the cheapest.
    pub(crate) fn expected_cost(&self) -> Amount {
        self.cost_with(usize::MAX, 0, false)
    }

    /// The same if this source brings all that nobody was asked for yet.
    pub(crate) fn cost_at(&self, source: SourceId) -> Amount {
        self.cost_with(source.0, self.pool.bytes(), false)
    }

    /// What is proven costs so far.
    pub(crate) fn spent(&self) -> Amount {
        let costs = self.sources.iter().map(|source| source.used.to_amount().unwrap_or(UNBOUNDED));
        costs.fold(Amount::ZERO, Amount::saturating_add)
    }

    fn cost_with(&self, source: usize, len: u64, extra: bool) -> Amount {
        let rest = self.pool.bytes().saturating_sub(if extra { 0 } else { len });
        let cheapest = self.cheapest_left();
        let mut sum = Amount::ZERO;
        for (index, each) in self.sources.iter().enumerate() {
            let mut charge = add(each.used, self.reserved(index));
            if index == source {
                charge = add(charge, each.tariff.charge(ByteCount::new(len)));
            }
            if Some(index) == cheapest {
                charge = add(charge, each.tariff.charge(ByteCount::new(rest)));
            }
            sum = sum.saturating_add(charge.to_amount().unwrap_or(UNBOUNDED));
        }
        sum
    }

    /// The source that the rest would cost least at.
    fn cheapest_left(&self) -> Option<usize> {
        let left = self.sources.iter().enumerate().filter(|(_, source)| source.may_still_serve());
        left.min_by_key(|(_, source)| source.tariff.per_mib).map(|(index, _)| index)
    }

    /// What may still be proven of what a source was asked for.
    fn reserved(&self, source: usize) -> Charge {
        let segments = self.segments.values().filter(|segment| segment.source == source);
        segments.map(|segment| segment.tariff.charge(ByteCount::new(segment.left()))).fold(Charge::ZERO, add)
    }
}

impl Source {
    /// So many bytes more are proven, at the price of when they were asked for.
    pub(super) fn charge(&mut self, tariff: Tariff, bytes: u64) {
        self.used = add(self.used, tariff.charge(ByteCount::new(bytes)));
    }
}

pub(super) fn add(one: Charge, other: Charge) -> Charge {
    one.checked_add(other).unwrap_or(Charge::from_parts(u128::MAX))
}

/// More than any deposit.
const UNBOUNDED: Amount = Amount::new(u64::MAX);
