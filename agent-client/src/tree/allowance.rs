//! What all files of a tree together may cost: what its caller allows, and what somebody has approved.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aro_proto::{Amount, ByteCount, Charge, ContentId, NodeId, Tariff};

use super::{TreeError, UNBOUNDED};
use crate::agent::Agent;
use crate::budget::{Approval, Spending};
use crate::error::FetchError;

/// One allowance for all parts of a tree. Where a policy has somebody asked, they are asked once, about the whole; the
/// parts ask nobody, and only a tree that becomes dearer than was approved is asked about again.
pub(super) struct Allowance {
    agent: Agent,
    /// What whoever is asked hears: the node, and the manifest if it is known.
    about: (NodeId, Option<ContentId>),
    /// The caller's bound, in base units.
    most: Amount,
    books: Mutex<Books>,
    /// One question at a time.
    asking: tokio::sync::Mutex<()>,
}

/// Charges add up exactly, as a channel's bill does, and are rounded once. Each channel is rounded up by itself, so of
/// several nodes each but the first may be paid one base unit more.
#[derive(Debug)]
struct Books {
    accepted: Charge,
    /// Bytes of files that nothing is set aside for yet.
    waiting: u64,
    /// Up to which nobody has to be asked, in base units.
    approved: Amount,
}

/// What becomes of a charge.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    Accepted,
    /// Somebody has to be asked first.
    Unapproved,
    /// All would come to this, in base units, which is above the caller's bound.
    TooHigh(Amount),
}

impl Allowance {
    pub(super) fn new(agent: Agent, node: NodeId, manifest: Option<ContentId>, most: Amount) -> Self {
        let approved = agent.budget().ask_above().unwrap_or(UNBOUNDED);
        let books = Mutex::new(Books { accepted: Charge::ZERO, waiting: 0, approved });
        Self { agent, about: (node, manifest), most, books, asking: tokio::sync::Mutex::default() }
    }

    /// The caller's bound, in base units.
    pub(super) fn most(&self) -> Amount {
        self.most
    }

    /// Before any file is asked for or sent: so many bytes are to come or to go, at one of these prices. They must be
    /// allowed at the lowest, and whoever has to be asked approves the highest.
    ///
    /// # Errors
    /// The caller does not allow it, or nobody approves it.
    pub(super) async fn expect(&self, cheapest: Tariff, dearest: Tariff, bytes: u64) -> Result<(), TreeError> {
        let (least, highest) = {
            let mut books = self.lock();
            books.waiting = bytes;
            (books.due_with(charge(cheapest, bytes)), books.due_with(charge(dearest, bytes)))
        };
        if least > self.most {
            return Err(self.too_high(least));
        }
        let _alone = self.asking.lock().await;
        self.ask(highest).await
    }

    /// Sets aside what so many bytes come to, once somebody has approved what they make of the whole, if that has to be.
    ///
    /// # Errors
    /// The caller does not allow it, or nobody approves it.
    pub(super) async fn reserve(&self, tariff: Tariff, bytes: u64) -> Result<Charge, TreeError> {
        let charge = charge(tariff, bytes);
        if self.take(charge, bytes)? {
            return Ok(charge);
        }
        let _alone = self.asking.lock().await;
        // Others may take what was approved.
        while !self.take(charge, bytes)? {
            let whole = self.lock().whole_with(tariff, bytes);
            self.ask(whole).await?;
        }
        Ok(charge)
    }

    /// The same, only if nobody has to be asked.
    pub(super) fn try_reserve(&self, tariff: Tariff, bytes: u64) -> Option<Charge> {
        let charge = charge(tariff, bytes);
        self.take(charge, bytes).is_ok_and(|taken| taken).then_some(charge)
    }

    /// So much is paid already.
    ///
    /// # Errors
    /// That is more than the caller allows.
    pub(super) fn paid(&self, charge: Charge) -> Result<(), TreeError> {
        let mut books = self.lock();
        books.accepted = books.with(charge);
        let due = books.due_with(Charge::ZERO);
        books.approved = books.approved.max(due);
        if due > self.most { Err(self.too_high(due)) } else { Ok(()) }
    }

    /// Gives back what is known not to be owed.
    pub(super) fn release(&self, charge: Charge) {
        let mut books = self.lock();
        books.accepted = books.accepted.saturating_sub(charge);
    }

    /// So many bytes have to be asked for again.
    pub(super) fn waits_for(&self, bytes: u64) {
        let mut books = self.lock();
        books.waiting = books.waiting.saturating_add(bytes);
    }

    /// False if somebody has to be asked first.
    fn take(&self, charge: Charge, bytes: u64) -> Result<bool, TreeError> {
        match self.lock().take(self.most, charge, bytes) {
            Taken::Accepted => Ok(true),
            Taken::Unapproved => Ok(false),
            Taken::TooHigh(price) => Err(self.too_high(price)),
        }
    }

    async fn ask(&self, whole: Amount) -> Result<(), TreeError> {
        let amount = whole.min(self.most);
        let approved = self.lock().approved;
        let Some(threshold) = self.agent.budget().ask_above().filter(|_| amount > approved) else { return Ok(()) };
        let ((node, content), spending) = (self.about, Spending::Vouchers);
        let asked = self.agent.approve(Approval { amount, threshold, node, content, spending }).await;
        asked.map_err(FetchError::from)?;
        self.lock().approved = amount;
        Ok(())
    }

    fn too_high(&self, price: Amount) -> TreeError {
        TreeError::PriceTooHigh { price, allowed: self.most }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // Plain numbers, changed in one go.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn take(&mut self, most: Amount, charge: Charge, bytes: u64) -> Taken {
        let due = self.due_with(charge);
        if due > most {
            return Taken::TooHigh(due);
        }
        if due > self.approved {
            return Taken::Unapproved;
        }
        (self.accepted, self.waiting) = (self.with(charge), self.waiting.saturating_sub(bytes));
        Taken::Accepted
    }

    /// What the whole comes to if so many bytes, and all that wait beside them, come at this price.
    fn whole_with(&self, tariff: Tariff, bytes: u64) -> Amount {
        self.due_with(charge(tariff, self.waiting.max(bytes)))
    }

    fn due_with(&self, charge: Charge) -> Amount {
        self.with(charge).to_amount().unwrap_or(UNBOUNDED)
    }

    fn with(&self, charge: Charge) -> Charge {
        self.accepted.checked_add(charge).unwrap_or(Charge::from_parts(u128::MAX))
    }
}

fn charge(tariff: Tariff, bytes: u64) -> Charge {
    tariff.charge(ByteCount::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u64 = 1 << 19;

    fn books(approved: u64, waiting: u64) -> Books {
        Books { accepted: Charge::ZERO, waiting, approved: Amount::new(approved) }
    }

    #[test]
    fn an_allowance_is_held_to_the_part_of_a_unit() {
        let (mut books, most) = (books(u64::MAX, 0), Amount::new(3));
        let half = charge(Tariff { per_mib: 1 }, HALF);
        for _ in 0..6 {
            assert_eq!(books.take(most, half, 0), Taken::Accepted);
        }
        assert_eq!(books.take(most, half, 0), Taken::TooHigh(Amount::new(4)));
        books.accepted = books.accepted.saturating_sub(half);
        assert_eq!(books.take(most, half, 0), Taken::Accepted);
    }

    #[test]
    fn what_becomes_dearer_than_approved_is_asked_about_as_a_whole() {
        let (mut books, tariff) = (books(4, 4 * HALF), Tariff { per_mib: 2 });
        let dearer = Tariff { per_mib: 3 };
        for _ in 0..2 {
            assert_eq!(books.take(UNBOUNDED, charge(tariff, HALF), HALF), Taken::Accepted);
        }
        assert_eq!(books.waiting, 2 * HALF);
        assert_eq!(books.take(UNBOUNDED, charge(dearer, HALF), HALF), Taken::Accepted);
        assert_eq!(books.take(UNBOUNDED, charge(dearer, HALF), HALF), Taken::Unapproved);
        // Two halves at 2, one at 3, and the one that waits at 3.
        assert_eq!(books.whole_with(dearer, HALF), Amount::new(5));
        books.approved = Amount::new(5);
        assert_eq!(books.take(UNBOUNDED, charge(dearer, HALF), HALF), Taken::Accepted);
    }
}
