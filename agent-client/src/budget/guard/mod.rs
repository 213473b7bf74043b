//! Reserve, then commit or release. At every moment and in every process `spent + reserved <= cap`, for each cap.
//!
//! What is set aside must only outlive its process's work, not its process, so it lives in memory, under a **lease** that
//! the ledger counts against every cap. A lease is taken in blocks, at most a 64th of what the tightest cap has left
//! beyond the need, so that most reservations ask nobody, and exactly once a cap is nearly used up. A voucher's own
//! transaction, which syncs anyway, refills the lease it has drawn from.

use std::collections::HashMap;
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
use crate::ledger::{Durability, Hold, Ledger, LedgerError};

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

#[derive(Default)]
struct Books {
    /// Entered in the ledger with the first lease.
    holder: Option<Holder>,
    lines: HashMap<Line, Account>,
    vouchers: Own,
    deposits: Own,
    /// Requests whose price nobody knows yet.
    guesses: usize,
}

struct Holder {
    id: i64,
    hold: Hold,
}

/// One line of this guard.
#[derive(Default)]
struct Account {
    /// What the ledger counts as ours.
    leased: u64,
    /// What permits stand for.
    used: u64,
    /// What is asked for beyond the need next time.
    block: u64,
    /// What was left, and when that was looked up.
    seen: Option<(Instant, Left)>,
}

/// What may still be set aside on a line, as seen lately.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    /// Base units; none if nothing caps the line but what a ledger can count.
    pub(super) amount: Option<u64>,
    /// No other guard is at work on the wallet.
    pub(super) is_alone: bool,
}

impl Left {
    fn plus(self, amount: u64) -> Self {
        Self { amount: self.amount.map(|left| left.saturating_add(amount)), ..self }
    }

    fn minus(self, amount: u64) -> Self {
        Self { amount: self.amount.map(|left| left.saturating_sub(amount)), ..self }
    }
}

/// What is taken on lease beside what is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    /// More each time.
    Grows,
    None,
}

/// Changes of leases beside a spending.
struct Adjustments {
    holder: i64,
    given_back: Vec<(Line, u64)>,
    refills: Vec<(Line, u64)>,
}

/// What this guard has let go of one kind.
#[derive(Clone, Copy, Default)]
struct Own {
    spent: u64,
    used: u64,
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

    /// Spends `used` of a permit and does `work` in the same transaction, with one sync: both are done or neither is. The
    /// rest of the permit is given back, and all of it if it fails.
    pub(crate) fn commit<E: From<LedgerError>>(
        &self,
        mut permit: SpendPermit,
        used: Amount,
        work: impl FnOnce(&Transaction<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.spend(&mut permit, |tx| work(tx).map(|()| used)).map(drop)
    }

    /// Does `work`, which says how much of the permit it spends, and spends that, in one transaction with one sync. What
    /// it did not spend stays with the permit, and all of it if it fails.
    pub(crate) fn spend<E: From<LedgerError>>(
        &self,
        permit: &mut SpendPermit,
        work: impl FnOnce(&Transaction<'_>) -> Result<Amount, E>,
    ) -> Result<Amount, E> {
        let adjustments = self.adjustments(permit);
        let ledger = &self.inner.ledger;
        let written = ledger.write(Durability::Synced, |tx| {
            let used = work(tx)?.min(permit.amount());
            let parts = permit.used(used);
            leases::spend(tx, ledger, adjustments.holder, &parts)?;
            for (line, slack) in &adjustments.given_back {
                leases::give_back(tx, adjustments.holder, line, *slack)?;
            }
            let mut granted = Vec::new();
            for (line, wanted) in &adjustments.refills {
                let left = leases::tightest(&self.standings(tx, line)?).left();
                let more = (*wanted).min(left / SHARE);
                if more > 0 {
                    leases::take(tx, adjustments.holder, line, more)?;
                    granted.push((line.clone(), more));
                }
            }
            Ok::<_, E>((used, parts, granted))
        });
        let mut books = self.lock();
        let (used, parts, granted) = match written {
            Ok(written) => written,
            Err(error) => {
                for (line, slack) in adjustments.given_back {
                    books.lines.entry(line).or_default().leased += slack;
                }
                return Err(error);
            }
        };
        for (line, amount) in &parts {
            let account = books.lines.entry(line.clone()).or_default();
            account.leased = account.leased.saturating_sub(*amount);
            account.used = account.used.saturating_sub(*amount);
            let own = books.own_mut(line.spending);
            own.used = own.used.saturating_sub(*amount);
            own.spent = own.spent.saturating_add(*amount);
        }
        for (line, more) in granted {
            let account = books.lines.entry(line).or_default();
            account.leased = account.leased.saturating_add(more);
        }
        drop(books);
        permit.take_off(&parts);
        Ok(used)
    }

    /// What permits stood for is free again, within the lease.
    pub(super) fn release(&self, parts: &[(Line, u64)]) {
        if parts.iter().all(|(_, amount)| *amount == 0) {
            return;
        }
        let mut books = self.lock();
        for (line, amount) in parts {
            if let Some(account) = books.lines.get_mut(line) {
                account.used = account.used.saturating_sub(*amount);
                account.seen = account.seen.map(|(at, left)| (at, left.plus(*amount)));
            }
            let own = books.own_mut(line.spending);
            own.used = own.used.saturating_sub(*amount);
        }
        let is_idle = books.vouchers.used == 0 && books.deposits.used == 0;
        let has_slack = books.lines.values().any(|account| account.leased > account.used);
        if is_idle && has_slack {
            self.let_slack_go(&mut books);
        }
    }

    /// Gives back what others may miss; if the ledger is not to be had now, that is tried again later.
    fn let_slack_go(&self, books: &mut Books) {
        match self.inner.ledger.write::<_, LedgerError>(Durability::Written, |tx| self.give_back_slack(tx, books)) {
            Ok(()) => books.forget_slack(),
            Err(error) => tracing::debug!(%error, "a budget guard's lease is given back later"),
        }
    }

    /// Gives back what is on lease and not in use, so that other processes may have it.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub fn settle(&self) -> Result<(), LedgerError> {
        let mut books = self.lock();
        self.inner.ledger.write(Durability::Written, |tx| self.give_back_slack(tx, &books))?;
        books.forget_slack();
        Ok(())
    }

    /// Sets aside within the lease, or takes more of it.
    fn lease(&self, line: &Line, amount: u64, block: Block) -> Result<(), BudgetError> {
        let mut guarded = self.lock();
        let books = &mut *guarded;
        if let Some(own) = self.own_standing(books, line.spending).filter(|own| amount > own.left()) {
            return Err(own.exceeded(amount).into());
        }
        let account = books.lines.entry(line.clone()).or_default();
        let slack = account.leased.saturating_sub(account.used);
        if amount > slack {
            let beside = if block == Block::Grows { account.block } else { 0 };
            let granted = self.ask(books, line, amount - slack, beside)?;
            let account = books.lines.entry(line.clone()).or_default();
            account.leased = account.leased.saturating_add(granted);
            if block == Block::Grows {
                // A line that asks again soon asks for more: as often as its size doubles, not as often as it is used.
                let (least, most) = (amount.saturating_mul(8), amount.saturating_mul(MOST_BLOCKS));
                account.block = beside.saturating_mul(2).clamp(least, most);
            }
        }
        let account = books.lines.entry(line.clone()).or_default();
        account.used = account.used.saturating_add(amount);
        account.seen = account.seen.map(|(at, left)| (at, left.minus(amount)));
        let own = books.own_mut(line.spending);
        own.used = own.used.saturating_add(amount);
        Ok(())
    }

    /// Takes `need` more on lease, and up to `block` beyond it where the caps leave room.
    fn ask(&self, books: &mut Books, line: &Line, need: u64, block: u64) -> Result<u64, BudgetError> {
        let ledger = &self.inner.ledger;
        let holder = self.holder(books)?;
        let (outcome, is_settled) = ledger.write(Durability::Written, |tx| {
            // Leave that was given when the clock was ahead is not used in a window before that.
            ledger.tick(tx)?;
            let mut tightest = leases::tightest(&self.standings(tx, line)?);
            let is_settled = need > tightest.left();
            if is_settled {
                // What others and we keep and do not need may be what is missing; and the dead need nothing.
                self.give_back_slack(tx, books)?;
                leases::reap(tx, ledger, Some(holder))?;
                tightest = leases::tightest(&self.standings(tx, line)?);
            }
            // The slack of this very line is gone too then.
            let slack = books.lines.get(line).map_or(0, |account| account.leased.saturating_sub(account.used));
            let need = if is_settled { need.saturating_add(slack) } else { need };
            if need > tightest.left() {
                return Ok::<_, LedgerError>((Err(tightest.exceeded(need)), is_settled));
            }
            let room = (tightest.left() - need) / SHARE;
            let granted = if is_settled { need } else { need.saturating_add(block.min(room)) };
            leases::take(tx, holder, line, granted)?;
            Ok((Ok(granted), is_settled))
        })?;
        if is_settled {
            books.forget_slack();
        }
        Ok(outcome?)
    }

    /// What a transaction that spends a permit does to the leases that it is of: one that is running low is refilled, and
    /// one that nothing else uses is given back, which here is done in memory already.
    fn adjustments(&self, permit: &SpendPermit) -> Adjustments {
        let mut books = self.lock();
        let holder = books.holder.as_ref().map_or(0, |holder| holder.id);
        let (mut given_back, mut refills) = (Vec::new(), Vec::new());
        for (line, amount) in permit.used(permit.amount()) {
            let Some(account) = books.lines.get_mut(&line) else { continue };
            let slack = account.leased.saturating_sub(account.used);
            if account.used == amount && slack > 0 {
                account.leased -= slack;
                given_back.push((line, slack));
            } else if account.used > amount && slack < account.block / 2 {
                refills.push((line, account.block - slack));
            }
        }
        Adjustments { holder, given_back, refills }
    }

    fn standings(&self, tx: &Transaction<'_>, line: &Line) -> Result<Vec<Standing>, LedgerError> {
        leases::standings(tx, &self.inner.ledger, &self.inner.policies, line)
    }

    fn give_back_slack(&self, tx: &Transaction<'_>, books: &Books) -> Result<(), LedgerError> {
        let Some(holder) = &books.holder else { return Ok(()) };
        for (line, account) in &books.lines {
            let slack = account.leased.saturating_sub(account.used);
            if slack > 0 {
                leases::give_back(tx, holder.id, line, slack)?;
            }
        }
        Ok(())
    }

    fn holder(&self, books: &mut Books) -> Result<i64, LedgerError> {
        if let Some(holder) = &books.holder {
            return Ok(holder.id);
        }
        let (ledger, name) = (&self.inner.ledger, format!("guard-{}", random_name()?));
        let hold = Hold::take(ledger.dir(), &name)?.ok_or(LedgerError::Impossible("a name that is drawn twice"))?;
        let id = ledger.write(Durability::Written, |tx| {
            leases::reap(tx, ledger, None)?;
            leases::enter(tx, &name)
        })?;
        books.holder = Some(Holder { id, hold });
        Ok(id)
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

impl Books {
    fn own(&self, spending: Spending) -> Own {
        match spending {
            Spending::Vouchers => self.vouchers,
            Spending::Deposits => self.deposits,
        }
    }

    fn own_mut(&mut self, spending: Spending) -> &mut Own {
        match spending {
            Spending::Vouchers => &mut self.vouchers,
            Spending::Deposits => &mut self.deposits,
        }
    }

    /// The slack has been given back.
    fn forget_slack(&mut self) {
        for account in self.lines.values_mut() {
            account.leased = account.leased.min(account.used);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let books = self.books.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(Holder { id, hold }) = books.holder.take() else { return };
        match self.ledger.write(Durability::Written, |tx| leases::leave(tx, id)) {
            Ok(()) => hold.remove(),
            // Whoever needs it finds the file unlocked.
            Err(error) => tracing::debug!(%error, "a budget guard's lease is left behind"),
        }
    }
}

fn random_name() -> Result<String, LedgerError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| LedgerError::Impossible("a system without random bytes"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A block is at most this part of what the tightest cap has left: what others could miss of it.
pub(super) const SHARE: u64 = 64;
/// And at most so many times the amount that was asked for.
const MOST_BLOCKS: u64 = 1_024;
/// How long a look at what is left serves as a hint.
const FRESH: Duration = Duration::from_millis(100);
