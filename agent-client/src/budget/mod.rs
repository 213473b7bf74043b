//! The budget: how much this agent may sign away, held across all nodes, channels and fetches at once.
//!
//! A [`SpendPermit`] is the only key to the wallet's signature, and only a [`BudgetGuard`] makes one. So no number
//! of parallel fetches can sign one unit more than the cap.

mod guard;

pub use guard::{BudgetExceeded, BudgetGuard, SpendPermit, Spending};
