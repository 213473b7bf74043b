//! A server that does not tell the truth about transactions.

use aro_tests::faulty::{Fate, Word};

use crate::scene::BASE_FEE;
use crate::story;

// r[verify settlement.submit.uncertain_not_dead]
#[tokio::test]
async fn status_that_lies_not_found_makes_nothing_land_twice() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    for word in [Word::NotFound, Word::NotFoundFromTheFuture, Word::Contradicting] {
        let mut scene = scene.branch().await;
        scene.ground.set_pace(PACE);
        scene.server.say(word);
        let operator = scene.start().await;
        story::tell(&mut scene, &operator).await;
        // It lies to the end: only the accounts show what has happened.
        scene.calm(&operator).await;
        // Closes that are taken for dead are found one by one: finalizing and refunding may take two parts each.
        scene.audit(undisturbed + 2 * BASE_FEE).await;
    }
}

// r[verify settlement.prune]
#[tokio::test]
async fn status_that_lies_finalized_makes_nothing_forgotten() {
    let mut scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    scene.server.say(Word::Finalized);
    scene.server.script(vec![Fate::Dropped; 4]);
    let operator = scene.start().await;
    story::tell(&mut scene, &operator).await;
    assert!(scene.server.struck() >= 3);
    scene.server.recover();
    scene.calm(&operator).await;
    scene.audit(undisturbed + BASE_FEE).await;
}

// r[verify settlement.uncertain]
#[tokio::test]
async fn silence_about_transactions_holds_up_but_loses_nothing() {
    let mut scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    let operator = scene.start().await;
    scene.server.script([Fate::Lands]);
    scene.server.say(Word::Silence);
    let (node, channel) = (0, scene.channels[0][0]);
    let voucher = scene.stage.voucher(channel, 1_000);
    scene.hand_all(&operator, node, &[voucher]).await;
    let cut_off = tokio::time::timeout(SILENCE, operator.settle_once()).await;
    assert!(cut_off.is_err(), "nobody said what became of it: {cut_off:?}");
    scene.server.recover();
    story::tell(&mut scene, &operator).await;
    scene.calm(&operator).await;
    scene.audit(undisturbed + BASE_FEE).await;
}

/// Blocks between two looks.
const PACE: u64 = 40;
/// How long the silence lasts.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(2);
