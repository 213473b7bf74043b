//! The blockhash expires while the transaction is in flight.

use aro_tests::faulty::Fate;

use crate::scene::BASE_FEE;
use crate::story;

// r[verify settlement.submit.uncertain_not_dead]
#[tokio::test]
async fn transaction_that_is_in_flight_until_its_last_height_lands_once_or_never() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    for blocks in [1, 148, 149, 150, 151, 152, 200] {
        let mut scene = scene.branch().await;
        scene.ground.set_pace(PACE);
        scene.server.script([Fate::Late(blocks), Fate::Late(blocks)]);
        let operator = scene.start().await;
        story::tell(&mut scene, &operator).await;
        scene.calm(&operator).await;
        // One that expires burns nothing; what it was for may go out in two parts.
        scene.audit(undisturbed + BASE_FEE).await;
    }
}

#[tokio::test]
async fn round_whose_every_blockhash_expires_is_made_again() {
    let mut scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    scene.ground.set_pace(PACE);
    scene.server.script(vec![Fate::Dropped; 6]);
    let operator = scene.start().await;
    story::tell(&mut scene, &operator).await;
    scene.calm(&operator).await;
    assert!(scene.server.struck() >= 4);
    scene.audit(undisturbed + BASE_FEE).await;
}

/// Blocks between two looks: a blockhash dies before the second send of the same bytes.
const PACE: u64 = 40;
