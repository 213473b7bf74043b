//! Killed after every single persist and every single send.

use std::sync::Arc;

use aro_tests::faulty::{Dice, Fuse};

use crate::scene::{BASE_FEE, PRIORITY, Scene};
use crate::story;

// r[verify settlement.write_ahead]
// r[verify settlement.handoff.durable]
#[tokio::test]
async fn killed_after_every_single_persist_and_send() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    let mut steps = 0;
    loop {
        steps += 1;
        let mut scene = scene.branch().await;
        let lived_on = short_life(&mut scene, &Fuse::of(steps)).await;
        let operator = scene.start().await;
        story::tell(&mut scene, &operator).await;
        scene.calm(&operator).await;
        // What was signed before the death goes out alone, beside the batch that it would have been part of.
        scene.audit(undisturbed + BASE_FEE + PRIORITY).await;
        if lived_on {
            break;
        }
    }
    assert!(steps > 20, "the story has {steps} steps");
}

#[tokio::test]
async fn killed_again_and_again_at_random() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    for seed in 0..SEEDS {
        let mut scene = scene.branch().await;
        let mut dice = Dice::new(seed);
        let mut deaths = 0;
        while deaths < MOST_DEATHS && !short_life(&mut scene, &Fuse::of(1 + dice.below(8))).await {
            deaths += 1;
        }
        let operator = scene.start().await;
        story::tell(&mut scene, &operator).await;
        scene.calm(&operator).await;
        scene.audit(undisturbed + deaths * (BASE_FEE + PRIORITY)).await;
    }
}

/// Tells the story with an operator that dies with the fuse. True if the fuse was longer than the life.
async fn short_life(scene: &mut Scene, fuse: &Arc<Fuse>) -> bool {
    let Some(operator) = scene.start_mortal(fuse).await else { return false };
    tokio::select! {
        biased;
        () = fuse.blows() => {}
        () = story::tell(scene, &operator) => {}
    }
    !fuse.is_blown()
}

const SEEDS: u64 = 10;
const MOST_DEATHS: u64 = 12;
