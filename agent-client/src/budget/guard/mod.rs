//! Reserve, then commit or release. At every moment and in every process `spent + reserved <= cap`, for each cap.
//!
//! What is set aside must only outlive its process's work, not its process, so it lives in memory, under a **lease** that
//! the ledger counts against every cap. A lease is taken in blocks, at most a 64th of what the tightest cap has left
//! beyond the need, so that most reservations ask nobody, and exactly once a cap is nearly used up. A voucher's own
//! transaction, which syncs anyway, refills the lease it has drawn from.

mod lease;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aro_proto::Amount;
use rusqlite::Transaction;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::cap::{BudgetError, Cap, Standing, Verdict};
use super::leases;
use super::permit::SpendPermit;
use super::policy::Policy;
use super::purpose::{Line, Purpose, Spending};
use crate::ledger::{Durability, Ledger, LedgerError};
use lease::{Account, Block, Books, Own};
pub(super) use lease::{Left, SHARE};

/// Holds all caps. Clones are one guard; several guards on one wallet, in one process or many, hold them together.
#[derive(Clone)]
pub struct BudgetGuard {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: Ledger,
    policies: Vec<Policy>,
    /// The most that this guard lets go, of each kind.
    own: Option<Amount>,
    books: Mutex<Books>,
    /// A guess is over.
    settled: Notify,
}

/// Where the budget stands, of one kind of spending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Spent {
    /// Base units spent for good, or locked in channels.
    pub spent: Amount,
    /// Base units that living processes have set aside, or may without asking.
    pub reserved: Amount,
}

/// What is spent of one kind, at one node, for one class of content.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LineSpent {
    /// `spent` or `locked`.
    pub what: &'static str,
    /// The node, in base58.
    pub node: String,
    /// The class of content; empty for none.
    pub class: String,
    /// Base units.
    pub spent: Amount,
}

impl BudgetGuard {
    pub(crate) fn new(ledger: Ledger, policies: Vec<Policy>, own: Option<Amount>) -> Self {
        let (books, settled) = (Mutex::default(), Notify::new());
        Self { inner: Arc::new(Inner { ledger, policies, own, books, settled }) }
    }

    /// Sets `amount` base units aside. Mostly a matter of memory; else one transaction without a sync.
    ///
    /// # Errors
    /// A cap does not allow it, or the ledger cannot be asked.
    pub fn reserve(&self, purpose: &Purpose, amount: Amount) -> Result<SpendPermit, BudgetError> {
        self.reserve_with(purpose, amount, Block::Grows)
    }

    /// The same for what is mostly given back in a moment: nothing is taken on lease beside it.
    pub(super) fn reserve_for_now(&self, purpose: &Purpose, amount: Amount) -> Result<SpendPermit, BudgetError> {
        self.reserve_with(purpose, amount, Block::None)
    }

    fn reserve_with(&self, purpose: &Purpose, amount: Amount, block: Block) -> Result<SpendPermit, BudgetError> {
        purpose.take(amount)?;
        match self.lease(&purpose.line, amount.get(), block) {
            Ok(()) => Ok(SpendPermit::new(self.clone(), &purpose.line, amount)),
            Err(error) => {
                purpose.give_back(amount);
                Err(error)
            }
        }
    }

    /// About how much may still be set aside for a purpose, as seen lately; what holds is [`reserve`](Self::reserve).
    pub fn left(&self, purpose: &Purpose) -> Amount {
        let shared = self.look(purpose).amount.map_or(Amount::new(u64::MAX), Amount::new);
        shared.min(purpose.left())
    }

    /// The same without the request's own cap, which nobody shares.
    pub(super) fn look(&self, purpose: &Purpose) -> Left {
        let mut books = self.lock();
        let line: &Line = &purpose.line;
        let own = self.own_standing(&books, line.spending).map(|standing| standing.left());
        if self.inner.policies.iter().all(Policy::is_open) {
            return Left { amount: own, is_alone: true };
        }
        let fresh = books.lines.get(line).and_then(|account| account.seen).filter(|(at, _)| at.elapsed() < FRESH);
        let left = match fresh {
            Some((_, left)) => left,
            None => {
                let holder = books.holder.as_ref().map(|holder| holder.id);
                let looked_up = self.inner.ledger.read(|tx| {
                    let standings = self.standings(tx, line)?;
                    let is_capped = standings.iter().any(|standing| standing.limit < leases::MOST);
                    let amount = is_capped.then(|| leases::tightest(&standings).left());
                    Ok::<_, LedgerError>(Left { amount, is_alone: !leases::has_others(tx, holder)? })
                });
                // Where the ledger cannot be read, the reservation says so.
                let left = looked_up.unwrap_or(Left { amount: None, is_alone: false });
                let account = books.lines.entry(line.clone()).or_default();
                let left = left.plus(account.leased.saturating_sub(account.used));
                account.seen = Some((Instant::now(), left));
                left
            }
        };
        Left { amount: own.into_iter().chain(left.amount).min(), ..left }
    }

    /// Another request's price is not known yet. Says how many there were before.
    pub(super) fn guess_begins(&self) -> usize {
        let mut books = self.lock();
        books.guesses += 1;
        books.guesses - 1
    }

    /// A request's price is known, or it is over: what it kept beyond that others may have, here and elsewhere.
    pub(super) fn guess_is_over(&self, purpose: &Purpose) {
        let mut books = self.lock();
        books.guesses = books.guesses.saturating_sub(1);
        let keeps_much = |account: &Account| account.leased.saturating_sub(account.used) > account.block;
        if books.lines.get(&*purpose.line).is_some_and(keeps_much) {
            self.let_slack_go(&mut books);
        }
        drop(books);
        self.inner.settled.notify_waiters();
    }

    /// Whether what is set aside now may be free in a moment: for prices that are not known yet, or by other processes.
    pub(super) fn may_be_freed(&self, cap: Cap) -> bool {
        let books = self.lock();
        let of_others = || {
            let holder = books.holder.as_ref().map(|holder| holder.id);
            self.inner.ledger.read(|tx| leases::have_others_leases(tx, holder)).unwrap_or(false)
        };
        match cap {
            Cap::Request => false,
            Cap::Agent => books.guesses > 0,
            Cap::Node | Cap::Class | Cap::Window { .. } | Cap::Total => books.guesses > 0 || of_others(),
        }
    }

    /// Resolves when a guess is over that is not yet when this is called.
    pub(super) fn settled(&self) -> Notified<'_> {
        self.inner.settled.notified()
    }

    /// What every cap would say to an amount, the tightest first. Sets nothing aside.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn verdicts(&self, purpose: &Purpose, amount: Amount) -> Result<Vec<Verdict>, LedgerError> {
        let mut books = self.lock();
        let line: &Line = &purpose.line;
        let standings = self.inner.ledger.write(Durability::Written, |tx| {
            self.give_back_slack(tx, &books)?;
            leases::reap(tx, &self.inner.ledger, books.holder.as_ref().map(|holder| holder.id))?;
            self.standings(tx, line)
        })?;
        books.forget_slack();
        let own = self.own_standing(&books, line.spending);
        let mut all: Vec<Standing> = purpose.standing().into_iter().chain(own).chain(standings).collect();
        // What a ledger can count is no cap of anybody's.
        all.retain(|standing| standing.limit < i64::MAX.unsigned_abs());
        all.sort_by_key(|standing| (standing.left(), standing.cap));
        all.dedup();
        Ok(all.iter().map(|standing| standing.verdict(amount.get())).collect())
    }

    /// Base units spent so far, by all processes; none if the ledger cannot be read.
    pub fn spent(&self, spending: Spending) -> Amount {
        self.standing(spending).map_or(Amount::ZERO, |standing| standing.spent)
    }

    /// Base units that permits of this guard stand for.
    pub fn reserved(&self, spending: Spending) -> Amount {
        Amount::new(self.lock().own(spending).used)
    }

    /// Where the budget stands, over all processes.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn standing(&self, spending: Spending) -> Result<Spent, LedgerError> {
        let (spent, leased) = self.inner.ledger.read(|tx| leases::sums(tx, spending))?;
        Ok(Spent { spent: Amount::new(spent), reserved: Amount::new(leased) })
    }

    /// What is spent and locked, node by node and class by class.
    ///
    /// # Errors
    /// The ledger cannot be read.
    pub fn lines(&self) -> Result<Vec<LineSpent>, LedgerError> {
        let lines = self.inner.ledger.read(leases::spent_by_line)?;
        let shown = lines.into_iter().map(|(line, spent)| LineSpent {
            what: if line.spending == Spending::Vouchers { "spent" } else { "locked" },
            node: line.node.to_string(),
            class: line.class.to_string(),
            spent,
        });
        Ok(shown.collect())
    }

    /// The caps that it holds.
    pub fn policies(&self) -> &[Policy] {
        &self.inner.policies
    }

    /// The most that one request may cost.
    pub(crate) fn per_request(&self) -> Amount {
        let caps = self.inner.policies.iter().filter_map(|policy| policy.per_request);
        caps.min().unwrap_or(Amount::new(u64::MAX))
    }

    /// Up to which amount nobody is asked.
    pub(crate) fn ask_above(&self) -> Option<Amount> {
        self.inner.policies.iter().filter_map(|policy| policy.ask_above).min()
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Whether what it spends is written where `ledger` writes.
    pub(crate) fn is_on(&self, ledger: &Ledger) -> bool {
        self.inner.ledger.is(ledger)
    }

    /// What this guard has counted as spent did not come about.
    pub(crate) fn forget(&self, spending: Spending, amount: Amount) {
        let mut books = self.lock();
        let own = books.own_mut(spending);
        own.spent = own.spent.saturating_sub(amount.get());
    }

    fn standings(&self, tx: &Transaction<'_>, line: &Line) -> Result<Vec<Standing>, LedgerError> {
        leases::standings(tx, &self.inner.ledger, &self.inner.policies, line)
    }

    fn own_standing(&self, books: &Books, spending: Spending) -> Option<Standing> {
        let Own { spent, used } = books.own(spending);
        let limit = self.inner.own?.get();
        Some(Standing { cap: Cap::Agent, limit, used: spent.saturating_add(used) })
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // Each change below is a few plain assignments; nothing in between can panic.
        self.inner.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for BudgetGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BudgetGuard").field("policies", &self.inner.policies).finish_non_exhaustive()
    }
}

/// How long a look at what is left serves as a hint.
const FRESH: Duration = Duration::from_millis(100);
