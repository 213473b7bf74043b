//! One wallet, several processes: the budget holds over all of them, and what a killed one kept is free again.
//!
//! The processes are this test's own program, started again with a task in its environment.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use agent_client::{BudgetError, Policy, Purpose, Spending, Wallet};
use aro_proto::{Amount, NodeId};

const HOME: &str = "ARO_TEST_HOME";
const TASK: &str = "ARO_TEST_TASK";
const CAP: u64 = 1_000;

fn policy() -> Policy {
    Policy { total: Some(Amount::new(CAP)), ..Policy::default() }
}

fn start(home: &Path, task: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_of_its_own", "--nocapture"])
        .env(HOME, home)
        .env(TASK, task)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the process has said so.
fn hear(child: &mut Child, word: &str) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let found = lines.map_while(Result::ok).any(|line| line.contains(word));
    assert!(found, "the process ended without saying {word}");
}

/// Not a test by itself: what the started processes do.
#[test]
fn a_process_of_its_own() {
    let Ok(home) = std::env::var(HOME) else { return };
    let guard = Wallet::open(Path::new(&home)).unwrap().budget(policy()).unwrap();
    let purpose = Purpose::vouchers(NodeId::from_bytes([1; 32]));
    match std::env::var(TASK).unwrap().as_str() {
        "spend" => loop {
            match guard.reserve(&purpose, Amount::new(7)) {
                Ok(permit) => permit.commit(Amount::new(7)).unwrap(),
                Err(BudgetError::Exceeded(_)) => break,
                Err(other) => panic!("{other}"),
            }
        },
        "keep" => {
            guard.reserve(&purpose, Amount::new(100)).unwrap().commit(Amount::new(100)).unwrap();
            let _kept = guard.reserve(&purpose, Amount::new(CAP - 100)).unwrap();
            writeln!(std::io::stdout(), "kept").unwrap();
            std::io::stdout().flush().unwrap();
            // Until it is killed, or its parent is gone.
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
        }
        other => panic!("no such task: {other}"),
    }
}

#[test]
fn processes_that_spend_at_once_stop_at_the_cap_to_the_unit() {
    let dir = tempfile::tempdir().unwrap();
    let wallet = Wallet::create(&dir.path().join("wallet")).unwrap();
    let processes: Vec<Child> = (0..4).map(|_| start(wallet.dir(), "spend")).collect();
    for mut process in processes {
        assert!(process.wait().unwrap().success());
    }
    let guard = wallet.budget(policy()).unwrap();
    // As many whole sevens as fit.
    assert_eq!(guard.spent(Spending::Vouchers), Amount::new(CAP / 7 * 7));
    assert_eq!(guard.standing(Spending::Vouchers).unwrap().reserved, Amount::ZERO);
}

#[test]
fn a_killed_process_keeps_nothing_and_what_it_spent_stays_spent() {
    let dir = tempfile::tempdir().unwrap();
    let wallet = Wallet::create(&dir.path().join("wallet")).unwrap();
    let mut process = start(wallet.dir(), "keep");
    hear(&mut process, "kept");
    let guard = wallet.budget(policy()).unwrap();
    let purpose = Purpose::vouchers(NodeId::from_bytes([2; 32]));
    assert!(matches!(guard.reserve(&purpose, Amount::new(1)), Err(BudgetError::Exceeded(_))));
    process.kill().unwrap();
    process.wait().unwrap();
    let permit = guard.reserve(&purpose, Amount::new(CAP - 100)).unwrap();
    assert_eq!(permit.amount(), Amount::new(CAP - 100));
    assert!(guard.reserve(&purpose, Amount::new(1)).is_err());
    assert_eq!(guard.spent(Spending::Vouchers), Amount::new(100));
}
