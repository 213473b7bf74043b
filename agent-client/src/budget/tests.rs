//! `spent + reserved <= cap` for every cap, under any interleaving of tasks and of guards as other processes have them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aro_proto::{Amount, NodeId};
use proptest::prelude::*;

use super::*;
use crate::ledger::{Clock, Ledger, LedgerError};

const V: Spending = Spending::Vouchers;
const CLASSES: [&str; 3] = ["", "films", "subtitles"];

fn units(value: u64) -> Amount {
    Amount::new(value)
}

fn node(id: u8) -> NodeId {
    NodeId::from_bytes([id; 32])
}

fn total(cap: u64) -> Policy {
    Policy { total: Some(units(cap)), ..Policy::default() }
}

fn guard(dir: &Path, policy: Policy) -> BudgetGuard {
    BudgetGuard::new(Ledger::open(dir).unwrap(), vec![policy], None)
}

fn exceeded(refused: Result<SpendPermit, BudgetError>) -> BudgetExceeded {
    match refused {
        Err(BudgetError::Exceeded(exceeded)) => exceeded,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dropped_permit_gives_everything_back_and_a_committed_one_only_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (guard, one) = (guard(dir.path(), total(10)), Purpose::vouchers(node(1)));
    drop(guard.reserve(&one, units(10)).unwrap());
    guard.reserve(&one, units(7)).unwrap().commit(units(3)).unwrap();
    assert_eq!((guard.spent(V), guard.reserved(V)), (units(3), units(0)));
    let refused = exceeded(guard.reserve(&one, units(8)));
    let due = BudgetExceeded { cap: Cap::Total, needed: units(8), left: units(7), sufficient: units(11) };
    assert_eq!(refused, due);
    assert!(guard.reserve(&one, units(7)).is_ok());
    guard.reserve(&one, units(4)).unwrap().commit(units(9)).unwrap();
    assert_eq!(guard.spent(V), units(7), "no more than the permit allows");
}

#[test]
fn each_cap_refuses_in_its_own_name_and_says_what_would_suffice() {
    let dir = tempfile::tempdir().unwrap();
    let mut policy = total(1_000);
    policy.per_node = Some(units(100));
    policy.nodes = BTreeMap::from([(node(2).to_string(), units(200))]);
    policy.classes = BTreeMap::from([("films".to_owned(), units(150))]);
    policy.windows = vec![WindowCap { seconds: 3_600, amount: units(250) }];
    policy.check().unwrap();
    let guard = BudgetGuard::new(Ledger::open(dir.path()).unwrap(), vec![policy], Some(units(240)));
    let spend =
        |purpose: &Purpose, amount| guard.reserve(purpose, units(amount)).unwrap().commit(units(amount)).unwrap();
    let why = |purpose: &Purpose, amount| exceeded(guard.reserve(purpose, units(amount)));
    let (one, two) = (Purpose::vouchers(node(1)), Purpose::vouchers(node(2)));

    spend(&one, 60);
    assert_eq!(
        why(&one, 41),
        BudgetExceeded { cap: Cap::Node, needed: units(41), left: units(40), sufficient: units(101) }
    );
    let films = two.clone().class("films");
    spend(&films, 100);
    assert_eq!((why(&films, 51).cap, why(&films, 51).left), (Cap::Class, units(50)));
    assert_eq!((why(&two, 90).cap, why(&two, 90).left), (Cap::Agent, units(80)));
    let request = two.clone().request(units(5));
    let first = guard.reserve(&request, units(3)).unwrap();
    let refused = why(&request.at(node(1)), 3);
    assert_eq!((refused.cap, refused.left, refused.sufficient), (Cap::Request, units(2), units(6)));
    drop(first);

    // Another process, whose own cap is none: the window and the whole hold it too.
    let mut wide = total(1_000);
    wide.windows = vec![WindowCap { seconds: 3_600, amount: units(250) }];
    let other = BudgetGuard::new(Ledger::open(dir.path()).unwrap(), vec![wide], None);
    assert_eq!(exceeded(other.reserve(&two, units(91))).cap, Cap::Window { seconds: 3_600 });
    assert!(other.reserve(&two, units(90)).is_ok());
    let verdicts = other.verdicts(&two, units(100)).unwrap();
    let said: Vec<_> = verdicts.iter().map(|verdict| (verdict.cap, verdict.left.get(), verdict.allows)).collect();
    assert_eq!(said, [(Cap::Window { seconds: 3_600 }, 90, false), (Cap::Total, 840, true)]);
    // Deposits count by themselves, and no window holds them.
    let deposit = Purpose::deposit(node(7));
    assert_eq!(exceeded(guard.reserve(&deposit, units(101))).cap, Cap::Node);
    guard.reserve(&deposit, units(100)).unwrap().commit(units(100)).unwrap();
    assert_eq!((guard.spent(Spending::Deposits), guard.spent(V)), (units(100), units(160)));
}

#[test]
fn a_permit_of_another_guard_does_not_mix() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (guard(dir.path(), total(5)), guard(elsewhere.path(), total(5)));
    let one = Purpose::vouchers(node(1));
    let mut mine = a.reserve(&one, units(1)).unwrap();
    let foreign = b.reserve(&one, units(5)).unwrap();
    assert_eq!(mine.merge(foreign).unwrap_err().amount(), units(5));
    assert_eq!((mine.amount(), b.reserved(V)), (units(1), units(0)));
}

#[test]
fn a_window_rolls_and_a_clock_that_jumps_opens_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicI64::new(1_000_000));
    let clock: Clock = {
        let time = Arc::clone(&time);
        Arc::new(move || time.load(Ordering::Relaxed))
    };
    let policy = Policy { windows: vec![WindowCap { seconds: 3_600, amount: units(10) }], ..Policy::default() };
    let guard = BudgetGuard::new(Ledger::open_with(dir.path(), clock).unwrap(), vec![policy], None);
    let one = Purpose::vouchers(node(1));
    let spend = |amount| guard.reserve(&one, units(amount)).map(|permit| permit.commit(units(amount)).unwrap());
    let at = |now| time.store(now, Ordering::Relaxed);
    spend(6).unwrap();
    at(1_001_800);
    spend(4).unwrap();
    assert!(spend(1).is_err());
    // An hour after the first: only that one has left the window.
    at(1_003_661);
    spend(6).unwrap();
    assert!(spend(1).is_err());
    // A jump ahead opens a window; the way back and ahead again opens no other.
    at(5_000_000);
    spend(10).unwrap();
    for now in [1_003_661, 0, 4_999_999, 5_000_000, i64::MIN] {
        at(now);
        assert!(spend(1).is_err(), "at {now}");
    }
    assert_eq!(guard.spent(V), units(26));
    at(5_003_661);
    spend(10).unwrap();
}

#[test]
fn fifty_threads_over_five_guards_cannot_exceed_the_cap_by_one_unit() {
    let dir = tempfile::tempdir().unwrap();
    let guards: Vec<_> = (0..5).map(|_| guard(dir.path(), total(300))).collect();
    std::thread::scope(|scope| {
        for number in 0..50_u8 {
            let guard = &guards[usize::from(number % 5)];
            scope.spawn(move || {
                let purpose = Purpose::vouchers(node(number % 3));
                for _ in 0..10 {
                    if let Ok(permit) = guard.reserve(&purpose, units(3)) {
                        permit.commit(units(3)).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(guards[0].spent(V), units(300), "all of it could be spent, and no more");
    for guard in &guards {
        guard.settle().unwrap();
        assert_eq!(guard.reserved(V), units(0));
    }
    assert_eq!(guards[0].standing(V).unwrap(), Spent { spent: units(300), reserved: units(0) });
}

#[test]
fn a_guess_takes_most_where_it_is_alone_and_little_beside_others() {
    let dir = tempfile::tempdir().unwrap();
    let (first, one) = (guard(dir.path(), total(6_400)), Purpose::vouchers(node(1)));
    let guess = |guard: &BudgetGuard| guard.guess(&one, units(u64::MAX), Guess::Brief).unwrap();
    let mut alone = guess(&first);
    let beside = guess(&first);
    assert_eq!((alone.amount(), beside.amount()), (units(5_600), units(800 / 64)));
    alone.settle_at(units(64)).unwrap();
    // What it did not need is not even on lease any more.
    assert_eq!(first.standing(V).unwrap().reserved, units(64 + 12));
    drop(beside);
    assert_eq!(first.guess(&one, units(u64::MAX), Guess::Long).unwrap().amount(), units(6_336 / 64));
    assert_eq!(first.guess(&one, units(7), Guess::Brief).unwrap().amount(), units(7));

    let second = guard(dir.path(), total(6_400));
    assert_eq!(guess(&second).amount(), units(6_336 / 64), "another process is at work");
    let open = tempfile::tempdir().unwrap();
    assert!(guard(open.path(), Policy::default()).guess(&one, units(9), Guess::Brief).is_none());
    let own = BudgetGuard::new(Ledger::open(open.path()).unwrap(), Vec::new(), Some(units(80)));
    assert_eq!(guess(&own).amount(), units(70));
}

#[tokio::test]
async fn a_price_waits_for_what_is_only_kept_for_a_guess_and_for_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (guard, one) = (guard(dir.path(), total(80)), Purpose::vouchers(node(1)));
    let mut guess = guard.guess(&one, units(u64::MAX), Guess::Brief).unwrap();
    let (same, purpose) = (guard.clone(), one.clone());
    let waiting = tokio::spawn(async move { same.set_aside_in_time(&purpose, units(50)).await });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    guess.settle_at(units(30)).unwrap();
    let set_aside = waiting.await.unwrap().unwrap();
    assert_eq!(set_aside.amount(), units(50));
    // What has a price is kept for good, as far as anybody knows.
    let started = std::time::Instant::now();
    let refused = guard.set_aside_in_time(&one, units(1)).await.map(|_| ());
    assert!(matches!(refused, Err(BudgetError::Exceeded(_))));
    assert!(started.elapsed() < std::time::Duration::from_millis(500));
}

#[test]
fn what_a_dead_guard_had_set_aside_is_free_again_and_what_it_spent_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (guard(dir.path(), total(100)), guard(dir.path(), total(100)));
    let one = Purpose::vouchers(node(1));
    theirs.reserve(&one, units(10)).unwrap().commit(units(10)).unwrap();
    let kept = theirs.reserve(&one, units(90)).unwrap();
    assert_eq!(exceeded(ours.reserve(&one, units(1))).left, units(0));
    // As a kill leaves it: the lease stays in the ledger, and the system lets the file go.
    std::fs::read_dir(dir.path().join("locks")).unwrap().for_each(|entry| {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("guard-")) {
            std::fs::remove_file(path).unwrap();
        }
    });
    let permit = ours.reserve(&one, units(90)).unwrap();
    assert_eq!((permit.amount(), ours.spent(V)), (units(90), units(10)));
    drop((permit, kept));
}

#[test]
fn most_reservations_ask_nobody_while_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    let guard = BudgetGuard::new(ledger.clone(), vec![total(1 << 40)], None);
    let one = Purpose::vouchers(node(1));
    let mut permits: Vec<_> = (0..64).map(|_| guard.reserve(&one, units(1_000)).unwrap()).collect();
    let changes = || {
        let count = |tx: &rusqlite::Transaction<'_>| {
            Ok::<i64, LedgerError>(tx.query_row("SELECT total_changes()", [], |row| row.get(0))?)
        };
        ledger.read(count).unwrap()
    };
    let before = changes();
    for turn in 0..1_000 {
        permits[turn % 64] = guard.reserve(&one, units(1_000)).unwrap();
    }
    assert!(changes() - before <= 2, "{} changes", changes() - before);
    assert_eq!(guard.reserved(V), units(64_000));
}

#[test]
fn a_policy_is_read_as_it_was_written_and_anything_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Policy::load(dir.path()).unwrap(), None);
    let policy = Policy {
        per_request: Some(units(5)),
        classes: BTreeMap::from([("films".to_owned(), units(9))]),
        windows: vec![WindowCap { seconds: 86_400, amount: units(7) }],
        ..total(100)
    };
    policy.save(dir.path()).unwrap();
    assert_eq!(Policy::load(dir.path()).unwrap(), Some(policy));
    for bad in ["", "{", "[]", r#"{"total": -1}"#, r#"{"total": 1.5}"#, r#"{"totla": 5}"#] {
        std::fs::write(dir.path().join("budget.json"), bad).unwrap();
        assert!(matches!(Policy::load(dir.path()), Err(PolicyError::Json { .. })), "{bad}");
    }
    let windows = vec![WindowCap { seconds: 59, amount: units(1) }];
    assert!(matches!(Policy { windows, ..Policy::default() }.check(), Err(PolicyError::Window(59))));
    let nodes = BTreeMap::from([("me".to_owned(), units(1))]);
    assert!(matches!(Policy { nodes, ..Policy::default() }.check(), Err(PolicyError::Node(_))));
    let classes = BTreeMap::from([(String::new(), units(1))]);
    assert!(matches!(Policy { classes, ..Policy::default() }.check(), Err(PolicyError::Class(_))));
}

#[derive(Clone, Debug)]
enum Step {
    Reserve {
        guard: usize,
        node: u8,
        class: usize,
        amount: u64,
    },
    Guess {
        guard: usize,
        node: u8,
        class: usize,
        most: u64,
        guess: Guess,
    },
    /// The price of a guess is known, and paid later.
    Know(usize, u64),
    Forget(usize),
    Commit(usize, u64),
    Release(usize),
    Split(usize, u64),
    Merge(usize, usize),
    Shrink(usize, u64),
    Settle(usize),
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    let amount = || prop_oneof![0..40u64, 0..400u64, Just(u64::MAX)];
    prop_oneof![
        4 => (0..3usize, 1..3u8, 0..3usize, amount())
            .prop_map(|(guard, node, class, amount)| Step::Reserve { guard, node, class, amount }),
        3 => (0..3usize, 1..3u8, 0..3usize, amount(), prop_oneof![Just(Guess::Brief), Just(Guess::Long)])
            .prop_map(|(guard, node, class, most, guess)| Step::Guess { guard, node, class, most, guess }),
        2 => (any::<usize>(), amount()).prop_map(|(i, a)| Step::Know(i, a)),
        1 => any::<usize>().prop_map(Step::Forget),
        2 => (any::<usize>(), amount()).prop_map(|(i, a)| Step::Commit(i, a)),
        1 => any::<usize>().prop_map(Step::Release),
        1 => (any::<usize>(), amount()).prop_map(|(i, a)| Step::Split(i, a)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(i, j)| Step::Merge(i, j)),
        1 => (any::<usize>(), amount()).prop_map(|(i, a)| Step::Shrink(i, a)),
        1 => (0..3usize).prop_map(Step::Settle),
        1 => (-5_000..5_000i64).prop_map(Step::Pass),
    ]
}

/// A permit, and what a reference says that it is for.
struct Held {
    permit: SpendPermit,
    guard: usize,
    node: u8,
    class: usize,
}

/// What is set aside for a request of unknown price.
struct Guessed {
    reservation: Reservation,
    guard: usize,
    node: u8,
    class: usize,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn spent_and_reserved_stay_within_every_cap_of_every_guard(
        caps in [0..2_000u64, 0..1_500, 0..1_500, 0..1_500],
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicI64::new(1_000_000));
        let policy = Policy {
            total: Some(units(caps[0])),
            per_node: Some(units(caps[1])),
            classes: BTreeMap::from([("films".to_owned(), units(caps[2]))]),
            windows: vec![WindowCap { seconds: 3_600, amount: units(caps[3]) }],
            ..Policy::default()
        };
        let guards: Vec<_> = (0..3).map(|_| {
            let time = Arc::clone(&time);
            let clock: Clock = Arc::new(move || time.load(Ordering::Relaxed));
            BudgetGuard::new(Ledger::open_with(dir.path(), clock).unwrap(), vec![policy.clone()], None)
        }).collect();
        let mut held: Vec<Held> = Vec::new();
        let mut guessed: Vec<Guessed> = Vec::new();
        let mut spent: BTreeMap<(u8, usize), u64> = BTreeMap::new();
        let mut flow: Vec<(i64, u64)> = Vec::new();
        let ledger = Ledger::open(dir.path()).unwrap();
        let latest = || {
            let read = |tx: &rusqlite::Transaction<'_>| Ok(tx.query_row("SELECT latest FROM clock", [], |row| row.get(0))?);
            ledger.read::<i64, LedgerError>(read).unwrap()
        };
        for step in steps {
            let count = held.len();
            match step {
                Step::Reserve { guard, node: id, class, amount } => {
                    let purpose = Purpose::vouchers(node(id)).class(CLASSES[class]);
                    if let Ok(permit) = guards[guard].reserve(&purpose, units(amount)) {
                        held.push(Held { permit, guard, node: id, class });
                    }
                }
                Step::Guess { guard, node: id, class, most, guess } => {
                    let purpose = Purpose::vouchers(node(id)).class(CLASSES[class]);
                    let reservation = guards[guard].guess(&purpose, units(most), guess).expect("there are caps");
                    guessed.push(Guessed { reservation, guard, node: id, class });
                }
                Step::Know(i, price) if !guessed.is_empty() => {
                    let i = i % guessed.len();
                    let Guessed { mut reservation, guard, node, class } = guessed.swap_remove(i);
                    if reservation.settle_at(units(price)).is_ok() {
                        prop_assert_eq!(reservation.amount(), units(price));
                        held.push(Held { permit: reservation.take(), guard, node, class });
                    }
                }
                Step::Forget(i) if !guessed.is_empty() => drop(guessed.swap_remove(i % guessed.len())),
                Step::Commit(i, used) if count > 0 => {
                    let Held { permit, node, class, .. } = held.swap_remove(i % count);
                    let used = used.min(permit.amount().get());
                    permit.commit(units(used)).unwrap();
                    *spent.entry((node, class)).or_default() += used;
                    flow.push((latest(), used));
                }
                Step::Release(i) if count > 0 => drop(held.swap_remove(i % count)),
                Step::Split(i, amount) if count > 0 => {
                    let Held { permit, guard, node, class } = &mut held[i % count];
                    let part = Held { permit: permit.split(units(amount)), guard: *guard, node: *node, class: *class };
                    held.push(part);
                }
                Step::Merge(i, j) if count > 1 => {
                    let other = held.swap_remove(i % count);
                    let into = &mut held[j % (count - 1)];
                    let same = (into.guard, into.node, into.class) == (other.guard, other.node, other.class);
                    if same {
                        into.permit.merge(other.permit).unwrap();
                    } else {
                        held.push(other);
                    }
                }
                Step::Shrink(i, amount) if count > 0 => held[i % count].permit.shrink_to(units(amount)),
                Step::Settle(guard) => guards[guard].settle().unwrap(),
                Step::Pass(seconds) => { time.fetch_add(seconds, Ordering::Relaxed); }
                _ => {}
            }
            let out = |wanted: &dyn Fn(u8, usize) -> bool| -> u64 {
                let gone = spent.iter().filter(|((node, class), _)| wanted(*node, *class)).map(|(_, amount)| amount);
                let kept = held.iter().filter(|held| wanted(held.node, held.class));
                let guesses = guessed.iter().filter(|guessed| wanted(guessed.node, guessed.class));
                gone.sum::<u64>()
                    + kept.map(|held| held.permit.amount().get()).sum::<u64>()
                    + guesses.map(|guessed| guessed.reservation.amount().get()).sum::<u64>()
            };
            prop_assert!(out(&|_, _| true) <= caps[0]);
            for id in 1..3 {
                prop_assert!(out(&|node, _| node == id) <= caps[1]);
            }
            prop_assert!(out(&|_, class| class == 1) <= caps[2]);
            let of_permits = held.iter().map(|held| (held.guard, held.permit.amount().get()));
            let of_guesses = guessed.iter().map(|guessed| (guessed.guard, guessed.reservation.amount().get()));
            let kept: Vec<(usize, u64)> = of_permits.chain(of_guesses).collect();
            let reserved: u64 = kept.iter().map(|(_, amount)| amount).sum();
            // In any hour there was, and in this one with all that is set aside.
            let in_hour = |end: i64| -> u64 {
                flow.iter().filter(|(at, _)| (end - 3_600..=end).contains(at)).map(|(_, amount)| amount).sum()
            };
            prop_assert!(flow.iter().all(|(end, _)| in_hour(*end) <= caps[3]));
            prop_assert!(in_hour(latest()) + reserved <= caps[3]);
            prop_assert_eq!(guards[0].spent(V).get(), spent.values().sum::<u64>());
            for (index, guard) in guards.iter().enumerate() {
                let of_it = kept.iter().filter(|(guard, _)| *guard == index).map(|(_, amount)| amount);
                prop_assert_eq!(guard.reserved(V).get(), of_it.sum::<u64>());
            }
        }
        // Nothing is lost either: what is left can be spent to the last unit.
        held.clear();
        guessed.clear();
        for guard in &guards {
            guard.settle().unwrap();
        }
        let standing = guards[0].standing(V).unwrap();
        prop_assert_eq!((standing.spent.get(), standing.reserved.get()), (spent.values().sum::<u64>(), 0));
    }
}
