//! Money that is set aside for one request before it is sent, so that nothing comes that could not be paid.
//!
//! Where the price is known it is that. Where nobody knows it yet it is a guess, which bounds what the node may ask: most
//! of what is left for a request that is alone, a small part for those beside it and where other processes are at work.
//! A node that wants more says how much and sends nothing, and then exactly that is set aside, or the request refused.

use std::pin::pin;
use std::time::{Duration, Instant};

use aro_proto::Amount;

use super::cap::BudgetError;
use super::guard::{BudgetGuard, Left, SHARE};
use super::permit::SpendPermit;
use super::purpose::Purpose;

/// What one request may cost, set aside. What its answer does not need is given back, and all of it when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    purpose: Purpose,
    permit: SpendPermit,
    guess: Option<Guessing>,
}

/// For how long a price is a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guess {
    /// Until the node answers.
    Brief,
    /// Until most of the answer is there.
    Long,
}

/// Marks what is set aside for a price that nobody knows yet: others who lack it may wait until that is known.
#[derive(Debug)]
pub(super) struct Guessing {
    guard: BudgetGuard,
    purpose: Purpose,
}

impl BudgetGuard {
    /// Sets aside what a request costs.
    ///
    /// # Errors
    /// A cap does not allow it, or the ledger cannot be asked.
    pub(crate) fn set_aside(&self, purpose: &Purpose, price: Amount) -> Result<Reservation, BudgetError> {
        Ok(Reservation::new(purpose, self.reserve(purpose, price)?, None))
    }

    /// The same, but waits a moment for what is only kept for a guess, or is in other processes' hands.
    ///
    /// # Errors
    /// A cap does not allow it, or the ledger cannot be asked.
    pub(crate) async fn set_aside_in_time(&self, purpose: &Purpose, price: Amount) -> Result<Reservation, BudgetError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Before the try, so that nothing that is given back after it is missed.
            let mut settled = pin!(self.settled());
            settled.as_mut().enable();
            match self.set_aside(purpose, price) {
                Err(BudgetError::Exceeded(exceeded))
                    if Instant::now() < deadline && self.may_be_freed(exceeded.cap) =>
                {
                    tokio::select! {
                        () = settled => {}
                        () = tokio::time::sleep(LOOK_AGAIN) => {}
                    }
                }
                done => return done,
            }
        }
    }

    /// Sets aside a part of what is left, at most `most`, for a request whose price nobody knows yet; nothing if that is
    /// all there is. None where no cap stands in any request's way.
    pub(crate) fn guess(&self, purpose: &Purpose, most: Amount, guess: Guess) -> Option<Reservation> {
        let Left { amount, is_alone } = self.look(purpose);
        let left = amount?;
        let others = self.guess_begins();
        let guessing = Guessing::new(self.clone(), purpose);
        let takes_most = is_alone && others == 0 && guess == Guess::Brief;
        let part = if takes_most { left - left / SPARED } else { left / SHARE };
        let amount = Amount::new(part).min(most).min(purpose.left());
        let permit = self.reserve_for_now(purpose, amount);
        // What was left a moment ago is gone: the node is asked for its price.
        let permit = permit.or_else(|_| self.reserve_for_now(purpose, Amount::ZERO)).ok()?;
        Some(Reservation::new(purpose, permit, Some(guessing)))
    }
}

impl Reservation {
    fn new(purpose: &Purpose, permit: SpendPermit, guess: Option<Guessing>) -> Self {
        Self { purpose: purpose.clone(), permit, guess }
    }

    /// Base units set aside.
    pub(crate) fn amount(&self) -> Amount {
        self.permit.amount()
    }

    pub(crate) fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    /// The price is known: what is set aside beyond it is given back, and what is missing to it set aside.
    ///
    /// # Errors
    /// A cap does not allow what is missing.
    pub(crate) fn settle_at(&mut self, price: Amount) -> Result<(), BudgetError> {
        self.cover(price)?;
        let over = self.amount().saturating_sub(price);
        self.permit.shrink_to(price);
        self.purpose.give_back(over);
        // Last, for whoever waits for it looks at once.
        self.guess = None;
        Ok(())
    }

    /// Sees to it that at least so much is set aside.
    ///
    /// # Errors
    /// A cap does not allow what is missing.
    pub(crate) fn cover(&mut self, price: Amount) -> Result<(), BudgetError> {
        let missing = price.saturating_sub(self.amount());
        if !missing.is_zero() {
            let more = self.permit.guard().clone().reserve(&self.purpose, missing)?;
            self.permit.merge(more).expect("both permits are of one guard");
        }
        Ok(())
    }

    /// Leave to spend all of it, which is then set aside here no more. What the request's own cap counts of it is the
    /// caller's to give back.
    pub(crate) fn take(&mut self) -> SpendPermit {
        self.permit.split(self.amount())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.purpose.give_back(self.amount());
        self.permit.shrink_to(Amount::ZERO);
    }
}

impl Guessing {
    pub(super) fn new(guard: BudgetGuard, purpose: &Purpose) -> Self {
        Self { guard, purpose: purpose.clone() }
    }
}

impl Drop for Guessing {
    fn drop(&mut self) {
        self.guard.guess_is_over(&self.purpose);
    }
}

/// A request that is alone leaves an eighth to those that come beside it.
const SPARED: u64 = 8;
/// For how long a price waits for what may be given back. Longer than the answers of nodes that do not stall.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between looks at what other processes have given back, which nobody tells.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
