//! Two operators race: with the same keys on two machines that know nothing of each other, and with one database.

use std::sync::Arc;
use std::time::Duration;

use aro_tests::faulty::{Fate, Fuse, FusedChain, FusedStore, Server};
use settlement_operator::vouchers::{MemoryStore, OperatorStore, PostgresStore};
use settlement_operator::{OperatorConfig, RunningOperator};

use crate::postgres::Database;
use crate::scene::{BASE_FEE, PRIORITY, Scene};
use crate::story;

#[tokio::test]
async fn two_operators_with_one_key_and_two_stores_settle_everything_once() {
    for seed in 0..SEEDS {
        let mut scene = Scene::new(&[5]).await;
        let channels = scene.channels[0].clone();
        let other_dir = tempfile::tempdir().unwrap();
        let other_server = Server::new(Arc::clone(&scene.ground));
        // Now the one is first and now the other.
        scene.server.by_chance(seed, 50, Fate::Late(2));
        other_server.by_chance(seed + 1_000, 50, Fate::Late(2));
        let one = scene.start().await;
        let other = scene.start_in(other_dir.path(), Arc::new(other_server)).await;

        // The node hands over to both; one has been away and knows less.
        let early: Vec<_> = channels.iter().map(|channel| scene.stage.voucher(*channel, 1_000)).collect();
        let late: Vec<_> = channels.iter().map(|channel| scene.stage.voucher(*channel, 2_000)).collect();
        let closing: Vec<_> = channels.iter().map(|channel| scene.stage.closing(*channel, 3_000)).collect();
        scene.hand_all(&one, 0, &early).await;
        scene.hand_all(&other, 0, &late).await;
        let (first, second) = tokio::join!(one.settle_once(), other.settle_once());
        assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");

        scene.hand_all(&one, 0, &closing).await;
        scene.hand_all(&other, 0, &closing).await;
        let (first, second) = tokio::join!(one.settle_once(), other.settle_once());
        assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
        scene.calm(&one).await;
        scene.calm(&other).await;
        // Settle, close and refund, by each of them: at the worst both pay for everything.
        scene.audit(2 * 3 * BASE_FEE).await;
    }
}

// r[verify settlement.lease]
#[tokio::test]
async fn one_of_two_on_one_store_dies_at_every_step_and_the_other_takes_over() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    let mut steps = 0;
    loop {
        steps += 1;
        let mut scene = scene.branch().await;
        let store: Arc<dyn OperatorStore> = Arc::new(MemoryStore::default());
        if take_over(&mut scene, [Arc::clone(&store), store], steps, undisturbed).await {
            break;
        }
    }
    assert!(steps > 8, "the first operator did {steps} steps");
}

// r[verify settlement.lease]
#[tokio::test]
async fn one_of_two_on_one_postgres_dies_and_the_other_takes_over() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    for steps in [2, 5, 9, 14, 20, 27] {
        let Some(database) = Database::create().await else { return };
        let mut scene = scene.branch().await;
        let [one, other] = [database.url.as_str(); 2].map(PostgresStore::open);
        let stores: [Arc<dyn OperatorStore>; 2] = [Arc::new(one.await.unwrap()), Arc::new(other.await.unwrap())];
        take_over(&mut scene, stores, steps, undisturbed).await;
    }
}

/// One operator tells the story until it dies; another, with its own connection to the same store and its own server,
/// tries to settle all the while, and goes on alone. True if the first did not die.
async fn take_over(scene: &mut Scene, stores: [Arc<dyn OperatorStore>; 2], steps: u64, undisturbed: u64) -> bool {
    let [one_store, other_store] = stores;
    let config = OperatorConfig { lease_ttl_ms: LEASE_MS, ..scene.stage.config(scene.dir.path()) };
    let fuse = Fuse::of(steps);
    let chain = FusedChain::new(Arc::new(scene.server.clone()), Arc::clone(&fuse));
    let other_chain = Arc::new(Server::new(Arc::clone(&scene.ground)));
    let other = scene.stage.start_with_store(&scene.keys, &config, other_chain, other_store).await.unwrap();
    let keys = scene.keys.clone();
    let life = async {
        let store = FusedStore::new(one_store, Arc::clone(&fuse));
        let Ok(one) = scene.stage.start_with_store(&keys, &config, chain, store).await else { return };
        story::tell(scene, &one).await;
    };
    let rivalry = async {
        // The first comes first, or it would have little to do.
        while fuse.burnt() < HEAD_START {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        loop {
            let _ = other.settle_once().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        biased;
        () = fuse.blows() => {}
        () = life => {}
        () = rivalry => {}
    }
    lead(&other).await;
    story::tell(scene, &other).await;
    scene.calm(&other).await;
    // What was signed before the death goes out alone; where the lease changed hands before, that is twice.
    scene.audit(undisturbed + 2 * (BASE_FEE + PRIORITY)).await;
    !fuse.is_blown()
}

/// Waits until this operator is the one that settles.
async fn lead(operator: &RunningOperator) {
    let leading = async {
        while operator.settle_once().await.is_ok_and(|report| report.elsewhere.is_some()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), leading).await.expect("a dead holder's lease lapses");
}

const SEEDS: u64 = 6;
/// Steps of the first operator before the second wants to settle too.
const HEAD_START: u64 = 4;
/// How long a lease outlives its holder.
const LEASE_MS: u64 = 300;
