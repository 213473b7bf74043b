//! Two operators race: the same keys on two machines that know nothing of each other, each with its own store.

use std::sync::Arc;

use aro_tests::faulty::{Fate, Server};

use crate::scene::{BASE_FEE, Scene};

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

const SEEDS: u64 = 6;
