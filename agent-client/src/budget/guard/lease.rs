//! What a guard has on lease and what it uses of it: taken in blocks, refilled by what spends, given back where others may
//! miss it.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Instant;

use aro_proto::Amount;
use rusqlite::Transaction;

use super::{BudgetGuard, Inner};
use crate::budget::cap::BudgetError;
use crate::budget::leases;
use crate::budget::permit::SpendPermit;
use crate::budget::purpose::{Line, Spending};
use crate::ledger::{Durability, Hold, LedgerError};

#[derive(Default)]
pub(super) struct Books {
    /// Entered in the ledger with the first lease.
    pub(super) holder: Option<Holder>,
    pub(super) lines: HashMap<Line, Account>,
    vouchers: Own,
    deposits: Own,
    /// Requests whose price nobody knows yet.
    pub(super) guesses: usize,
}

pub(super) struct Holder {
    pub(super) id: i64,
    hold: Hold,
}

/// One line of this guard.
#[derive(Default)]
pub(super) struct Account {
    /// What the ledger counts as ours.
    pub(super) leased: u64,
    /// What permits stand for.
    pub(super) used: u64,
    /// What is asked for beyond the need next time.
    pub(super) block: u64,
    /// What was left, and when that was looked up.
    pub(super) seen: Option<(Instant, Left)>,
}

/// What may still be set aside on a line, as seen lately.
#[derive(Clone, Copy, Debug)]
pub(in crate::budget) struct Left {
    /// Base units; none if nothing caps the line but what a ledger can count.
    pub(in crate::budget) amount: Option<u64>,
    /// No other guard is at work on the wallet.
    pub(in crate::budget) is_alone: bool,
}

impl Left {
    pub(super) fn plus(self, amount: u64) -> Self {
        Self { amount: self.amount.map(|left| left.saturating_add(amount)), ..self }
    }

    fn minus(self, amount: u64) -> Self {
        Self { amount: self.amount.map(|left| left.saturating_sub(amount)), ..self }
    }
}

/// What is taken on lease beside what is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Block {
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
pub(super) struct Own {
    pub(super) spent: u64,
    pub(super) used: u64,
}

impl BudgetGuard {
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
    pub(in crate::budget) fn release(&self, parts: &[(Line, u64)]) {
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
    pub(super) fn let_slack_go(&self, books: &mut Books) {
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
    pub(super) fn lease(&self, line: &Line, amount: u64, block: Block) -> Result<(), BudgetError> {
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

    pub(super) fn give_back_slack(&self, tx: &Transaction<'_>, books: &Books) -> Result<(), LedgerError> {
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
}

impl Books {
    pub(super) fn own(&self, spending: Spending) -> Own {
        match spending {
            Spending::Vouchers => self.vouchers,
            Spending::Deposits => self.deposits,
        }
    }

    pub(super) fn own_mut(&mut self, spending: Spending) -> &mut Own {
        match spending {
            Spending::Vouchers => &mut self.vouchers,
            Spending::Deposits => &mut self.deposits,
        }
    }

    /// The slack has been given back.
    pub(super) fn forget_slack(&mut self) {
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
pub(in crate::budget) const SHARE: u64 = 64;
/// And at most so many times the amount that was asked for.
const MOST_BLOCKS: u64 = 1_024;
