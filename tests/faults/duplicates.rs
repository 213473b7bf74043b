//! Delivered twice: transactions to the chain, handoffs to the operator.

use aro_proto::Amount;
use aro_tests::faulty::Fate;
use aro_tests::line::Line;

use crate::scene::{BASE_FEE, Scene};
use crate::story;

#[tokio::test]
async fn every_transaction_is_delivered_twice_and_counts_once() {
    let mut scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    scene.server.otherwise(Fate::Twice);
    let operator = scene.start().await;
    story::tell(&mut scene, &operator).await;
    scene.calm(&operator).await;
    for landing in scene.ground.landings().await {
        // Days later, from somebody who kept a copy.
        let _ = scene.ground.land(&landing.transaction).await;
    }
    scene.audit(undisturbed).await;
}

#[tokio::test]
async fn handoff_that_arrives_many_times_over_many_lines_is_one_voucher() {
    let mut scene = Scene::new(&[2]).await;
    let operator = scene.start().await;
    let channels = scene.channels[0].clone();
    let vouchers: Vec<_> = channels.iter().map(|channel| scene.stage.closing(*channel, 9_000)).collect();
    scene.hand_all(&operator, 0, &vouchers).await;
    let twice: Vec<_> = vouchers.iter().chain(&vouchers).copied().collect();
    let mut deliveries = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let line = Line::to(&operator, &scene.nodes[0].id, scene.stage.chain_ids()).await.unwrap();
        let twice = twice.clone();
        deliveries.spawn(async move { line.hand(&twice).await });
    }
    assert_eq!(deliveries.join_all().await.len(), 8);
    let stored = operator.vouchers().await.unwrap();
    assert_eq!(stored.len(), 2);
    assert!(stored.iter().all(|stored| stored.cumulative() == Amount::new(9_000)));

    scene.calm(&operator).await;
    // One close, one refund.
    scene.audit(2 * BASE_FEE).await;
}
