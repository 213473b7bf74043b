//! Leave to spend.

use aro_proto::Amount;

use super::guard::BudgetGuard;
use super::purpose::{Class, Line, Spending};
use crate::ledger::LedgerError;

/// Leave to spend up to an amount. Dropping it gives the leave back; only a guard makes one.
#[derive(Debug)]
pub struct SpendPermit {
    guard: BudgetGuard,
    spending: Spending,
    /// What it covers of each line; few, for they differ in their class at most where a node is one.
    parts: Vec<(Line, u64)>,
}

impl SpendPermit {
    pub(super) fn new(guard: BudgetGuard, line: &Line, amount: Amount) -> Self {
        Self { guard, spending: line.spending, parts: vec![(line.clone(), amount.get())] }
    }

    /// Base units that may still be spent under it.
    pub fn amount(&self) -> Amount {
        Amount::new(self.parts.iter().fold(0, |sum: u64, (_, part)| sum.saturating_add(*part)))
    }

    /// What it is for.
    pub fn spending(&self) -> Spending {
        self.spending
    }

    /// `used` base units are spent for good, at most what the permit allows; the rest is given back. Waits for the disk.
    ///
    /// # Errors
    /// The ledger cannot be written: then nothing is spent and nothing is on leave.
    pub fn commit(self, used: Amount) -> Result<(), LedgerError> {
        self.guard.clone().commit(self, used, |_| Ok(()))
    }

    /// Parts off a permit of at most `amount` base units.
    pub fn split(&mut self, amount: Amount) -> SpendPermit {
        let mut left = amount.get();
        let take = |part: &mut (Line, u64)| {
            let taken = part.1.min(left);
            left -= taken;
            part.1 -= taken;
            (part.0.clone(), taken)
        };
        let parts = self.parts.iter_mut().map(take).filter(|(_, taken)| *taken > 0).collect();
        SpendPermit { guard: self.guard.clone(), spending: self.spending, parts }
    }

    /// Parts off at most `amount` base units of one class.
    pub(crate) fn split_class(&mut self, class: &Class, amount: Amount) -> SpendPermit {
        let (mut rest, mut parts) = (amount.get(), Vec::new());
        for (line, part) in self.parts.iter_mut().filter(|(line, _)| line.class == *class) {
            let taken = rest.min(*part);
            rest -= taken;
            *part -= taken;
            parts.push((line.clone(), taken));
        }
        SpendPermit { guard: self.guard.clone(), spending: self.spending, parts }
    }

    /// Takes in another permit of the same guard and kind; a foreign one is handed back.
    ///
    /// # Errors
    /// The other permit, if it is of another guard or kind.
    pub fn merge(&mut self, mut other: SpendPermit) -> Result<(), SpendPermit> {
        if !self.guard.is(&other.guard) || self.spending != other.spending {
            return Err(other);
        }
        for (line, amount) in std::mem::take(&mut other.parts) {
            match self.parts.iter_mut().find(|(known, _)| *known == line) {
                Some((_, known)) => *known = known.saturating_add(amount),
                None => self.parts.push((line, amount)),
            }
        }
        Ok(())
    }

    /// Gives back what exceeds `needed`.
    pub fn shrink_to(&mut self, needed: Amount) {
        drop(self.split(self.amount().saturating_sub(needed)));
    }

    /// Gives back what of each class exceeds what is needed of it, and all of the classes that are not named.
    pub(crate) fn shrink_classes(&mut self, needed: &[(Class, Amount)]) {
        let spare = |part: &mut (Line, u64)| {
            let needed = needed.iter().find(|(class, _)| *class == part.0.class).map_or(0, |(_, amount)| amount.get());
            let over = part.1.saturating_sub(needed);
            part.1 -= over;
            (part.0.clone(), over)
        };
        let parts = self.parts.iter_mut().map(spare).collect();
        drop(SpendPermit { guard: self.guard.clone(), spending: self.spending, parts });
        self.parts.retain(|(_, amount)| *amount > 0);
    }

    pub(crate) fn guard(&self) -> &BudgetGuard {
        &self.guard
    }

    /// The first `used` base units of it, by line.
    pub(super) fn used(&self, used: Amount) -> Vec<(Line, u64)> {
        let mut left = used.get();
        let take = |(line, part): &(Line, u64)| {
            let taken = left.min(*part);
            left -= taken;
            (line.clone(), taken)
        };
        self.parts.iter().map(take).filter(|(_, taken)| *taken > 0).collect()
    }

    /// What was spent is covered no more.
    pub(super) fn take_off(&mut self, spent: &[(Line, u64)]) {
        for (line, amount) in spent {
            if let Some((_, part)) = self.parts.iter_mut().find(|(known, _)| known == line) {
                *part = part.saturating_sub(*amount);
            }
        }
    }

    /// All of it, which this permit then stands for no more.
    pub(super) fn dissolve(&mut self) -> Vec<(Line, u64)> {
        std::mem::take(&mut self.parts)
    }
}

impl Drop for SpendPermit {
    fn drop(&mut self) {
        let parts = self.dissolve();
        self.guard.release(&parts);
    }
}
