//! What a request offers: the most that the node may bill for it, set aside before the request leaves.

use aro_proto::Amount;

use crate::agent::Agent;
use crate::budget::{BudgetGuard, Guess, Purpose, Reservation};
use crate::error::FetchError;

/// The money behind one request. What the node wants beyond it, it must ask for before it sends anything.
pub(super) struct Offer {
    guard: BudgetGuard,
    purpose: Purpose,
    /// The most that the request may cost, in base units.
    allowed: Amount,
    /// None where no cap can stand in the way: then the budget is asked when the price is known.
    reserved: Option<Reservation>,
    raises: u32,
}

impl Offer {
    /// For a request of this price, or of one that nobody knows yet.
    ///
    /// # Errors
    /// A cap does not allow the price.
    pub(super) async fn new(
        agent: &Agent,
        purpose: &Purpose,
        allowed: Amount,
        price: Option<Amount>,
    ) -> Result<Self, FetchError> {
        Self::with(agent, purpose, allowed, price, Guess::Brief).await
    }

    /// The same for one of many contents, whose price is known only with its last head.
    ///
    /// # Errors
    /// A cap does not allow the price.
    pub(super) async fn of_many(
        agent: &Agent,
        purpose: &Purpose,
        allowed: Amount,
        price: Option<Amount>,
    ) -> Result<Self, FetchError> {
        Self::with(agent, purpose, allowed, price, Guess::Long).await
    }

    async fn with(
        agent: &Agent,
        purpose: &Purpose,
        allowed: Amount,
        price: Option<Amount>,
        guess: Guess,
    ) -> Result<Self, FetchError> {
        let guard = agent.budget().clone();
        let reserved = match price {
            Some(price) => Some(guard.set_aside_in_time(purpose, price.min(allowed)).await?),
            None => guard.guess(purpose, allowed, guess),
        };
        Ok(Self { guard, purpose: purpose.clone(), allowed, reserved, raises: 0 })
    }

    /// What goes into the request, in base units.
    pub(super) fn most(&self) -> Amount {
        self.reserved.as_ref().map_or(self.allowed, |reserved| reserved.amount().min(self.allowed))
    }

    /// Whether a node that asks this much is asked again, with as much set aside.
    pub(super) fn may_rise_to(&self, price: Amount) -> bool {
        price > self.most() && price <= self.allowed && self.raises < MAX_RAISES
    }

    /// The price is this much: it is set aside instead of what is.
    ///
    /// # Errors
    /// It is above what is allowed, or a cap does not allow it.
    pub(super) async fn rise_to(&mut self, price: Amount) -> Result<(), FetchError> {
        if price > self.allowed {
            return Err(FetchError::PriceTooHigh { price, allowed: self.allowed });
        }
        if self.reserved.as_ref().is_some_and(|reserved| reserved.amount() < price) {
            self.raises += 1;
            // First, for it may be a part of what is needed.
            self.reserved = None;
            self.reserved = Some(self.guard.set_aside_in_time(&self.purpose, price).await?);
        }
        Ok(())
    }

    /// What is set aside, for the answer whose head is accepted.
    pub(super) fn reserved(&mut self) -> &mut Option<Reservation> {
        &mut self.reserved
    }
}

/// The first names a price where it was a guess; a second one, if the price has changed since.
const MAX_RAISES: u32 = 2;
