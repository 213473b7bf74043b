//! Two servers of one chain, of which one is dead, lags or lies.

use std::sync::Arc;
use std::time::Duration;

use aro_tests::faulty::{Fate, Server, Word};
use settlement_chain::{ChainClient, Servers};

use crate::scene::{BASE_FEE, Scene};
use crate::story;

// r[verify settlement.servers.landed]
#[tokio::test]
async fn one_server_that_swears_to_what_both_have_dropped_makes_nothing_forgotten() {
    let mut scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    scene.ground.set_pace(PACE);
    let (chain, liar) = two(&scene);
    liar.say(Word::Finalized);
    liar.otherwise(Fate::Dropped);
    scene.server.script(vec![Fate::Dropped; 4]);
    let operator = scene.start_on(chain).await;
    story::tell(&mut scene, &operator).await;
    assert!(scene.server.struck() >= 3);
    liar.recover();
    scene.calm(&operator).await;
    scene.audit(undisturbed + BASE_FEE).await;
}

#[tokio::test]
async fn server_that_lags_or_is_dead_costs_no_voucher_and_no_second_transaction() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    for is_dead in [false, true] {
        let mut scene = scene.branch().await;
        let (chain, other) = two(&scene);
        other.set_down(is_dead);
        if !is_dead {
            other.fall_behind();
        }
        let operator = scene.start_on(chain).await;
        story::tell(&mut scene, &operator).await;
        other.recover();
        scene.calm(&operator).await;
        scene.audit(undisturbed + BASE_FEE).await;
    }
}

/// The scene's own server and another, as one chain; and the other.
fn two(scene: &Scene) -> (Arc<dyn ChainClient>, Server) {
    let other = Server::new(Arc::clone(&scene.ground));
    let members: Vec<(String, Arc<dyn ChainClient>)> =
        vec![("honest".into(), Arc::new(scene.server.clone())), ("other".into(), Arc::new(other.clone()))];
    (Arc::new(Servers::with_patience(members, Duration::from_millis(200))), other)
}

/// Blocks between two looks: a blockhash dies soon.
const PACE: u64 = 20;
