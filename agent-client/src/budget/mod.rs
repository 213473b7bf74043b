//! The budget: how much this agent may sign away, held across all nodes, channels, fetches and processes at once.
//!
//! A [`SpendPermit`] is the only key to the wallet's signature, and only a [`BudgetGuard`] makes one. So no number
//! of parallel fetches, in however many processes, can sign one unit more than a cap.

mod approval;
mod cap;
mod guard;
mod leases;
mod permit;
mod policy;
mod purpose;
mod reservation;

pub use approval::{Approval, Approver, NotApproved};
pub use cap::{BudgetError, BudgetExceeded, Cap, Verdict};
pub use guard::{BudgetGuard, LineSpent, Spent};
pub(crate) use leases::{lock_deposit, release_deposit, unlock_deposit};
pub use permit::SpendPermit;
pub use policy::{Policy, PolicyError, WindowCap};
pub(crate) use purpose::Class;
pub use purpose::{Purpose, Spending};
pub(crate) use reservation::{Guess, Reservation};

#[cfg(test)]
mod tests;
