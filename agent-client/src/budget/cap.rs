//! Which cap holds, and how far it is from allowing something.

use std::fmt;
use std::sync::Arc;

use aro_proto::Amount;
use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::ledger::LedgerError;

/// A cap on spending. All of them hold at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cap {
    /// Of one fetch or upload.
    Request,
    /// Of one agent, from when it was built.
    Agent,
    /// Of one node, for all time.
    Node,
    /// Of one class of content, for all time.
    Class,
    /// Of any span of so many seconds, counted in whole minutes.
    Window {
        /// Its length in seconds.
        seconds: u32,
    },
    /// Of the wallet, for all time.
    Total,
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => f.write_str("request"),
            Self::Agent => f.write_str("agent"),
            Self::Node => f.write_str("node"),
            Self::Class => f.write_str("class"),
            Self::Window { seconds } => write!(f, "window of {seconds} s"),
            Self::Total => f.write_str("total"),
        }
    }
}

impl Serialize for Cap {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// A cap does not allow it: the tightest of those that do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the budget's cap ({cap}) has {left} $ARO left, {needed} are needed")]
pub struct BudgetExceeded {
    /// Which cap.
    pub cap: Cap,
    /// Base units asked for.
    pub needed: Amount,
    /// Base units neither spent nor set aside under it.
    pub left: Amount,
    /// The least value of this cap under which the same would be allowed, in base units.
    pub sufficient: Amount,
}

impl BudgetExceeded {
    /// What to do next, for people.
    pub fn next_step(&self) -> String {
        let sufficient = self.sufficient;
        match self.cap {
            Cap::Agent => format!("allow more with --budget {sufficient}"),
            Cap::Request => format!(
                "allow more with --budget {sufficient}, or in the budget: aro budget set --per-request {sufficient}"
            ),
            Cap::Node => format!("allow more: aro budget set --node NODE={sufficient}"),
            Cap::Class => format!("allow more: aro budget set --class NAME={sufficient}"),
            Cap::Window { seconds } => format!("wait, or allow more: aro budget set --window {seconds}={sufficient}"),
            Cap::Total => format!("allow more: aro budget set --total {sufficient}"),
        }
    }
}

/// Why nothing was set aside.
#[derive(Clone, Debug, Error)]
pub enum BudgetError {
    /// A cap does not allow it.
    #[error(transparent)]
    Exceeded(#[from] BudgetExceeded),
    /// The ledger cannot be asked.
    #[error(transparent)]
    Ledger(Arc<LedgerError>),
}

impl From<LedgerError> for BudgetError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(Arc::new(error))
    }
}

/// What one cap says to an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Which cap.
    pub cap: Cap,
    /// What it is, in base units.
    pub limit: Amount,
    /// Base units neither spent nor set aside under it.
    pub left: Amount,
    /// Whether it would allow the amount.
    pub allows: bool,
}

/// One cap as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) cap: Cap,
    pub(super) limit: u64,
    /// Spent and set aside under it.
    pub(super) used: u64,
}

impl Standing {
    pub(super) fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    pub(super) fn exceeded(&self, needed: u64) -> BudgetExceeded {
        BudgetExceeded {
            cap: self.cap,
            needed: Amount::new(needed),
            left: Amount::new(self.left()),
            sufficient: Amount::new(self.used.saturating_add(needed)),
        }
    }

    pub(super) fn verdict(&self, needed: u64) -> Verdict {
        Verdict {
            cap: self.cap,
            limit: Amount::new(self.limit),
            left: Amount::new(self.left()),
            allows: needed <= self.left(),
        }
    }
}
