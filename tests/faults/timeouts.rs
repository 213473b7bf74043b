//! The server's answer never comes: after the transaction has landed, and before it has left.

use aro_tests::faulty::Fate;

use crate::story;

#[tokio::test]
async fn rpc_that_times_out_after_every_landing_costs_no_second_transaction() {
    let mut scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    scene.server.otherwise(Fate::LandsUnheard);
    let operator = scene.start().await;
    story::tell(&mut scene, &operator).await;
    scene.calm(&operator).await;
    assert!(scene.server.struck() > 5);
    scene.audit(undisturbed).await;
}

// r[verify settlement.submit.same_bytes]
#[tokio::test]
async fn send_that_never_left_is_repeated_with_the_same_bytes() {
    let mut scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    scene.server.script([Fate::TimesOut, Fate::Dropped, Fate::Lands, Fate::TimesOut]);
    let operator = scene.start().await;
    story::tell(&mut scene, &operator).await;
    scene.calm(&operator).await;
    let sent = scene.server.sent();
    assert!(sent[1..].contains(&sent[0]), "the first transaction goes out again as it is: {sent:?}");
    scene.audit(undisturbed).await;
}
