//! One wallet, several processes: the budget holds over all of them, they lock money one after another, and what a killed
//! one kept is free again.
//!
//! The processes are this test's own program, started again with a task in its environment.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use agent_client::{Agent, BudgetError, ChannelPolicy, Policy, Purpose, Spending, Wallet};
use aro_proto::{Amount, NodeId, SecretKey};
use support::faulty::{Fault, FaultyChain};
use support::world::{SOL, World};

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

/// Says a word to whoever has started this process.
fn say(word: &str) {
    let mut output = std::io::stdout();
    writeln!(output, "{word}").unwrap();
    output.flush().unwrap();
}

/// Not a test by itself: what the started processes do.
#[test]
fn a_process_of_its_own() {
    let Ok(home) = std::env::var(HOME) else { return };
    if std::env::var(TASK).unwrap() == "lock" {
        return open_a_channel_for_ever(Path::new(&home));
    }
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
            say("kept");
            // Until it is killed, or its parent is gone.
            let mut line = String::new();
            std::io::stdin().read_line(&mut line).unwrap();
        }
        other => panic!("no such task: {other}"),
    }
}

/// An agent of this wallet on a chain of the process's own, with money to lock.
async fn agent_on(world: &World, chain: FaultyChain, wallet: Wallet) -> Agent {
    world.chain.airdrop(&wallet.owner(), 10 * SOL).unwrap();
    world.chain.mint_to(&world.setup.mint, &world.admin, &wallet.owner(), 10 * CAP).await.unwrap();
    let builder = Agent::builder().chain(Arc::new(chain)).wallet(wallet).channels(ChannelPolicy::manual());
    let agent = builder.build().await.unwrap();
    agent.wallet().deposit(Amount::new(10 * CAP)).await.unwrap();
    agent
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32])
}

/// Has the purse, and never comes to the end of its transaction.
fn open_a_channel_for_ever(home: &Path) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let world = World::new().await;
        world.register_node(&key(1), 900).await;
        let chain = FaultyChain::new(world.chain.clone());
        let agent = agent_on(&world, chain.clone(), Wallet::open(home).unwrap()).await;
        chain.set(Fault::HangAfterSend);
        let opening = tokio::spawn(async move { agent.open_channel(key(1).node_id(), Amount::new(CAP), None).await });
        chain.struck.notified().await;
        say("locking");
        // Until it is killed.
        let _ = opening.await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_locked_by_one_process_at_a_time_and_a_killed_one_keeps_nobody_out() {
    let world = World::new().await;
    world.register_node(&key(2), 900).await;
    let wallet = Wallet::create(&world.path("wallet")).unwrap();
    let home = wallet.dir().to_owned();
    let agent = agent_on(&world, FaultyChain::new(world.chain.clone()), wallet).await;
    let locking = move || {
        let mut process = start(&home, "lock");
        hear(&mut process, "locking");
        process
    };
    let mut process = tokio::task::spawn_blocking(locking).await.unwrap();
    let opener = agent.clone();
    let mut opening = tokio::spawn(async move { opener.open_channel(key(2).node_id(), Amount::new(CAP), None).await });
    // Many times what it takes where nobody is in the way.
    let waited = tokio::time::timeout(Duration::from_millis(1_500), &mut opening).await;
    assert!(waited.is_err(), "another process has the purse: {waited:?}");
    process.kill().unwrap();
    process.wait().unwrap();
    let opened = opening.await.unwrap().unwrap();
    let channels = agent.channels().await.unwrap();
    assert!(channels.iter().any(|channel| channel.channel == opened.channel));
    // What the dead one has sent counts until somebody knows what became of it.
    assert_eq!(agent.budget().spent(Spending::Deposits), Amount::new(2 * CAP));
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
