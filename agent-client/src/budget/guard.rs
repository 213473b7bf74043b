//! Reserve, then commit or release. At every moment `spent + reserved <= cap`, for each kind of spending.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aro_proto::Amount;
use thiserror::Error;

/// What money leaves for. The cap holds for each kind by itself: a deposit comes back unless vouchers take it, so
/// counting both against one sum would count the same unit twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spending {
    /// Signed away to a node.
    Vouchers,
    /// Locked in a channel until it closes.
    Deposits,
}

/// Holds the cap. Clones share one account.
#[derive(Clone, Debug)]
pub struct BudgetGuard {
    books: Arc<Mutex<Books>>,
}

/// Leave to spend up to an amount. Dropping it gives the leave back; only a guard makes one.
#[derive(Debug)]
pub struct SpendPermit {
    guard: BudgetGuard,
    spending: Spending,
    amount: Amount,
}

/// The cap does not allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the budget has {left} $ARO left, {needed} are needed")]
pub struct BudgetExceeded {
    /// Base units asked for.
    pub needed: Amount,
    /// Base units neither spent nor reserved.
    pub left: Amount,
    /// The least cap under which the same would be allowed, in base units.
    pub sufficient: Amount,
}

impl BudgetGuard {
    /// A guard that lets at most `cap` base units go, for each kind of spending.
    pub fn new(cap: Amount) -> Self {
        let books = Books { cap, vouchers: Account::default(), deposits: Account::default() };
        Self { books: Arc::new(Mutex::new(books)) }
    }

    /// A guard that lets everything go: what each call allows, and the deposits, are then the only bounds.
    pub fn unlimited() -> Self {
        Self::new(Amount::new(u64::MAX))
    }

    /// Sets `amount` base units aside.
    ///
    /// # Errors
    /// Less than that is left.
    pub fn reserve(&self, spending: Spending, amount: Amount) -> Result<SpendPermit, BudgetExceeded> {
        let mut books = self.lock();
        let left = books.left(spending);
        if amount > left {
            let sufficient = books.cap.saturating_sub(left).saturating_add(amount);
            return Err(BudgetExceeded { needed: amount, left, sufficient });
        }
        let account = books.account(spending);
        account.reserved = account.reserved.saturating_add(amount);
        Ok(SpendPermit { guard: self.clone(), spending, amount })
    }

    /// Base units neither spent nor reserved.
    pub fn left(&self, spending: Spending) -> Amount {
        self.lock().left(spending)
    }

    /// Base units spent so far.
    pub fn spent(&self, spending: Spending) -> Amount {
        self.lock().account(spending).spent
    }

    /// Base units set aside and not yet spent.
    pub fn reserved(&self, spending: Spending) -> Amount {
        self.lock().account(spending).reserved
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // Each change below is a pair of plain assignments; nothing in between can panic.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpendPermit {
    /// Base units that may still be spent under it.
    pub fn amount(&self) -> Amount {
        self.amount
    }

    /// What it is for.
    pub fn spending(&self) -> Spending {
        self.spending
    }

    /// `used` base units are spent for good, at most what the permit allows; the rest is given back.
    pub fn commit(mut self, used: Amount) {
        let used = used.min(self.amount);
        let mut books = self.guard.lock();
        let account = books.account(self.spending);
        account.reserved = account.reserved.saturating_sub(self.amount);
        account.spent = account.spent.saturating_add(used);
        drop(books);
        self.amount = Amount::ZERO;
    }

    /// Parts off a permit of at most `amount` base units.
    pub fn split(&mut self, amount: Amount) -> SpendPermit {
        let part = amount.min(self.amount);
        self.amount = self.amount.saturating_sub(part);
        SpendPermit { guard: self.guard.clone(), spending: self.spending, amount: part }
    }

    /// Takes in another permit of the same guard and kind; a foreign one is handed back.
    ///
    /// # Errors
    /// The other permit, if it is of another guard or kind.
    pub fn merge(&mut self, mut other: SpendPermit) -> Result<(), SpendPermit> {
        let same = Arc::ptr_eq(&self.guard.books, &other.guard.books) && self.spending == other.spending;
        if !same {
            return Err(other);
        }
        self.amount = self.amount.saturating_add(other.amount);
        other.amount = Amount::ZERO;
        Ok(())
    }

    /// Gives back what exceeds `needed`.
    pub fn shrink_to(&mut self, needed: Amount) {
        drop(self.split(self.amount.saturating_sub(needed)));
    }
}

impl Drop for SpendPermit {
    fn drop(&mut self) {
        let mut books = self.guard.lock();
        let account = books.account(self.spending);
        account.reserved = account.reserved.saturating_sub(self.amount);
    }
}

#[derive(Debug)]
struct Books {
    cap: Amount,
    vouchers: Account,
    deposits: Account,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    spent: Amount,
    reserved: Amount,
}

impl Books {
    fn account(&mut self, spending: Spending) -> &mut Account {
        match spending {
            Spending::Vouchers => &mut self.vouchers,
            Spending::Deposits => &mut self.deposits,
        }
    }

    fn left(&mut self, spending: Spending) -> Amount {
        let cap = self.cap;
        let account = self.account(spending);
        cap.saturating_sub(account.spent).saturating_sub(account.reserved)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V: Spending = Spending::Vouchers;

    fn units(value: u64) -> Amount {
        Amount::new(value)
    }

    #[test]
    fn a_dropped_permit_gives_everything_back_and_a_committed_one_only_the_rest() {
        let guard = BudgetGuard::new(units(10));
        drop(guard.reserve(V, units(10)).unwrap());
        guard.reserve(V, units(7)).unwrap().commit(units(3));
        assert_eq!((guard.spent(V), guard.reserved(V), guard.left(V)), (units(3), units(0), units(7)));
        let refused = guard.reserve(V, units(8)).unwrap_err();
        assert_eq!(refused, BudgetExceeded { needed: units(8), left: units(7), sufficient: units(11) });
        assert!(BudgetGuard::new(refused.sufficient).reserve(V, units(3 + 8)).is_ok());
    }

    #[test]
    fn a_permit_never_commits_more_than_it_allows() {
        let guard = BudgetGuard::new(units(10));
        guard.reserve(V, units(4)).unwrap().commit(units(9));
        assert_eq!(guard.spent(V), units(4));
    }

    #[test]
    fn kinds_have_the_same_cap_but_their_own_sums() {
        let guard = BudgetGuard::new(units(10));
        guard.reserve(Spending::Deposits, units(10)).unwrap().commit(units(10));
        assert!(guard.reserve(Spending::Deposits, units(1)).is_err());
        assert!(guard.reserve(V, units(10)).is_ok());
    }

    #[test]
    fn permits_of_another_guard_do_not_mix() {
        let (a, b) = (BudgetGuard::new(units(5)), BudgetGuard::new(units(5)));
        let mut mine = a.reserve(V, units(1)).unwrap();
        let foreign = b.reserve(V, units(5)).unwrap();
        assert_eq!(mine.merge(foreign).unwrap_err().amount(), units(5));
        assert_eq!(mine.amount(), units(1));
        assert_eq!(b.reserved(V), units(0));
    }

    #[test]
    fn fifty_threads_cannot_exceed_the_cap_by_one_unit() {
        let guard = BudgetGuard::new(units(1000));
        std::thread::scope(|scope| {
            for _ in 0..50 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        if let Ok(permit) = guard.reserve(V, units(3)) {
                            permit.commit(units(3));
                        }
                    }
                });
            }
        });
        assert_eq!(guard.spent(V), units(999));
        assert_eq!(guard.reserved(V), units(0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Reserve(u64),
        Commit(usize, u64),
        Release(usize),
        Split(usize, u64),
        Merge(usize, usize),
        Shrink(usize, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let amount = || prop_oneof![0..40u64, Just(u64::MAX)];
        prop_oneof![
            amount().prop_map(Step::Reserve),
            (any::<usize>(), amount()).prop_map(|(i, a)| Step::Commit(i, a)),
            any::<usize>().prop_map(Step::Release),
            (any::<usize>(), amount()).prop_map(|(i, a)| Step::Split(i, a)),
            (any::<usize>(), any::<usize>()).prop_map(|(i, j)| Step::Merge(i, j)),
            (any::<usize>(), amount()).prop_map(|(i, a)| Step::Shrink(i, a)),
        ]
    }

    proptest! {
        #[test]
        fn spent_and_reserved_stay_within_the_cap(cap in 0..100u64, steps in prop::collection::vec(step(), 0..200)) {
            let guard = BudgetGuard::new(units(cap));
            let mut permits: Vec<SpendPermit> = Vec::new();
            let mut spent = 0;
            for step in steps {
                let count = permits.len();
                match step {
                    Step::Reserve(amount) => permits.extend(guard.reserve(V, units(amount))),
                    Step::Commit(i, used) if count > 0 => {
                        let permit = permits.swap_remove(i % count);
                        spent += used.min(permit.amount().get());
                        permit.commit(units(used));
                    }
                    Step::Release(i) if count > 0 => drop(permits.swap_remove(i % count)),
                    Step::Split(i, amount) if count > 0 => {
                        let part = permits[i % count].split(units(amount));
                        permits.push(part);
                    }
                    Step::Merge(i, j) if count > 1 => {
                        let other = permits.swap_remove(i % count);
                        permits[j % (count - 1)].merge(other).unwrap();
                    }
                    Step::Shrink(i, amount) if count > 0 => permits[i % count].shrink_to(units(amount)),
                    _ => {}
                }
                let reserved: u64 = permits.iter().map(|permit| permit.amount().get()).sum();
                prop_assert_eq!(guard.spent(V), units(spent));
                prop_assert_eq!(guard.reserved(V), units(reserved));
                prop_assert!(spent + reserved <= cap);
                prop_assert_eq!(guard.left(V), units(cap - spent - reserved));
            }
        }
    }
}
