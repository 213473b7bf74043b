//! The audit itself: it sees what it is there to see.

use std::panic::AssertUnwindSafe;

use aro_proto::Amount;
use aro_proto::message::HandoffVerdict;

use crate::scene::{BASE_FEE, Scene};

#[tokio::test]
async fn audit_sees_a_lost_voucher_an_invented_one_and_a_fee_too_many() {
    let mut scene = Scene::new(&[3]).await;
    let [paid, forgotten, unsigned] = scene.channels[0][..] else { panic!("three channels") };
    let operator = scene.start().await;
    let voucher = scene.stage.voucher(paid, 700);
    scene.hand_all(&operator, 0, &[voucher]).await;
    scene.calm(&operator).await;
    scene.audit(BASE_FEE).await;

    assert!(is_found(&scene, BASE_FEE - 1).await, "one lamport above the bound");

    let honest = scene.promises.clone();
    let lost = scene.stage.voucher(forgotten, 900);
    scene.promises.offer(&lost);
    let verdict = HandoffVerdict { channel: forgotten, watermark: Some(Amount::new(900)), refusal: None };
    scene.promises.hear(&lost, &verdict);
    assert!(is_found(&scene, BASE_FEE).await, "an acknowledged voucher that was never settled");

    scene.promises = honest.clone();
    scene.promises.hear(&scene.stage.closing(paid, 700), &HandoffVerdict { channel: paid, ..verdict.clone() });
    assert!(is_found(&scene, BASE_FEE).await, "a wish to close that was never fulfilled");

    // Settled past the operator, by somebody to whom the agent's voucher was never offered.
    scene.promises = honest;
    let stranger = scene.branch().await;
    let dir = tempfile::tempdir().unwrap();
    let other = stranger.start_in(dir.path(), std::sync::Arc::new(scene.server.clone())).await;
    let mut stranger = stranger;
    let voucher = stranger.stage.voucher(unsigned, 50);
    stranger.hand_all(&other, 0, &[voucher]).await;
    assert_eq!(other.settle_once().await.unwrap().settled.len(), 1);
    assert!(is_found(&scene, 2 * BASE_FEE).await, "more is settled than this scene's agents signed");
}

/// True if the audit fails.
async fn is_found(scene: &Scene, most_fees: u64) -> bool {
    let mut audit = Box::pin(AssertUnwindSafe(scene.audit(most_fees)));
    std::future::poll_fn(move |context| {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| audit.as_mut().poll(context)));
        match polled {
            Err(_) => std::task::Poll::Ready(true),
            Ok(poll) => poll.map(|()| false),
        }
    })
    .await
}
