//! What money is for: the kind of spending, the node, the class of content, and the request.

use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::{Amount, NodeId};

use super::cap::{BudgetExceeded, Cap, Standing};

/// What money leaves for. Caps hold for each kind by itself: a deposit comes back unless vouchers take it, so counting
/// both against one sum would count the same unit twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spending {
    /// Signed away to a node.
    Vouchers,
    /// Locked in a channel until it is taken back.
    Deposits,
}

/// A class of content, of the caller's choosing; empty for none.
pub(crate) type Class = Arc<str>;

/// What money is set aside for. Clones are for the same request.
#[derive(Clone, Debug)]
pub struct Purpose {
    pub(super) line: Arc<Line>,
    /// What the request may cost, if it is one.
    tally: Option<Arc<Tally>>,
}

/// What is counted by itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Line {
    pub(crate) spending: Spending,
    pub(crate) node: NodeId,
    pub(crate) class: Class,
}

/// What one request has set aside and not given back.
#[derive(Debug)]
struct Tally {
    cap: Amount,
    used: Mutex<Amount>,
}

impl Spending {
    /// As the ledger names it.
    pub(crate) fn code(self) -> i64 {
        match self {
            Self::Vouchers => 0,
            Self::Deposits => 1,
        }
    }
}

impl Purpose {
    /// Vouchers for a node.
    pub fn vouchers(node: NodeId) -> Self {
        Self::new(Spending::Vouchers, node, "")
    }

    /// A deposit in a channel to a node.
    pub fn deposit(node: NodeId) -> Self {
        Self::new(Spending::Deposits, node, "")
    }

    /// For content of this class.
    pub fn class(self, class: &str) -> Self {
        Self { tally: self.tally, ..Self::new(self.line.spending, self.line.node, class) }
    }

    /// The purpose of one request, which may cost `cap` in all, whatever it asks of which nodes.
    pub fn request(self, cap: Amount) -> Self {
        Self { tally: Some(Arc::new(Tally { cap, used: Mutex::default() })), ..self }
    }

    /// The same request at another node.
    pub fn at(&self, node: NodeId) -> Self {
        let Line { spending, class, .. } = &*self.line;
        Self { tally: self.tally.clone(), ..Self::new(*spending, node, class) }
    }

    fn new(spending: Spending, node: NodeId, class: &str) -> Self {
        Self { line: Arc::new(Line { spending, node, class: Arc::from(class) }), tally: None }
    }

    pub(crate) fn node(&self) -> NodeId {
        self.line.node
    }

    pub(crate) fn class_name(&self) -> &Class {
        &self.line.class
    }

    /// How the request's own cap stands.
    pub(super) fn standing(&self) -> Option<Standing> {
        let tally = self.tally.as_ref()?;
        let used = *tally.used.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Standing { cap: Cap::Request, limit: tally.cap.get(), used: used.get() })
    }

    /// What the request may still cost; everything if it has no cap.
    pub(crate) fn left(&self) -> Amount {
        self.standing().map_or(Amount::new(u64::MAX), |standing| Amount::new(standing.left()))
    }

    /// Counts against the request's own cap.
    pub(super) fn take(&self, amount: Amount) -> Result<(), BudgetExceeded> {
        let Some(tally) = &self.tally else { return Ok(()) };
        let mut used = tally.used.lock().unwrap_or_else(PoisonError::into_inner);
        let standing = Standing { cap: Cap::Request, limit: tally.cap.get(), used: used.get() };
        if amount.get() > standing.left() {
            return Err(standing.exceeded(amount.get()));
        }
        *used = used.saturating_add(amount);
        Ok(())
    }

    /// What was set aside for the request and is not needed.
    pub(crate) fn give_back(&self, amount: Amount) {
        let Some(tally) = &self.tally else { return };
        let mut used = tally.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_sub(amount);
    }
}
