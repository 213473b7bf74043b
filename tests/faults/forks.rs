//! Confirmed, and then forked away.

use aro_tests::faulty::FINALITY;

use crate::scene::{BASE_FEE, Scene};
use crate::story;

// r[verify settlement.prune]
#[tokio::test]
async fn each_transaction_in_turn_is_forked_away_right_after_it_was_called_confirmed() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    for spared in 0.. {
        let mut scene = scene.branch().await;
        scene.ground.ambush(spared).await;
        let operator = scene.start().await;
        story::tell(&mut scene, &operator).await;
        scene.calm(&operator).await;
        // What comes back comes back in a batch of its own.
        scene.audit(undisturbed + BASE_FEE).await;
        if scene.ground.forked_away().await.is_empty() {
            assert!(spared > 5, "{spared} transactions were forked away");
            break;
        }
    }
}

#[tokio::test]
async fn whole_round_is_forked_away_and_comes_back() {
    let mut scene = Scene::new(&[6]).await;
    let operator = scene.start().await;
    let channels = scene.channels[0].clone();
    let vouchers: Vec<_> = channels.iter().map(|channel| scene.stage.closing(*channel, 7_000)).collect();
    scene.hand_all(&operator, 0, &vouchers).await;

    let before = scene.ground.checkpoint().await;
    let report = operator.settle_once().await.unwrap();
    assert_eq!((report.closed.len(), report.reclaimed.len()), (6, 6), "{report:?}");
    assert_eq!(operator.vouchers().await.unwrap().len(), 6, "what is not final is not forgotten");
    scene.ground.pass(FINALITY / 2).await;
    let lost = scene.ground.fork_away(before).await;
    assert!(lost.len() >= 2, "closes and refunds: {}", lost.len());
    assert!(!scene.is_closed(channels[0]).await);

    scene.calm(&operator).await;
    // The lost transactions burnt nothing; their like burn as much once more.
    scene.audit(u64::try_from(lost.len() + 1).unwrap() * BASE_FEE).await;
}

#[tokio::test]
async fn forked_away_close_that_another_life_must_find_out_about() {
    let mut scene = Scene::new(&[4]).await;
    let channels = scene.channels[0].clone();
    let vouchers: Vec<_> = channels.iter().map(|channel| scene.stage.closing(*channel, 7_000)).collect();
    let before = {
        let operator = scene.start().await;
        scene.hand_all(&operator, 0, &vouchers).await;
        let before = scene.ground.checkpoint().await;
        assert_eq!(operator.settle_once().await.unwrap().closed.len(), 4);
        before
    };
    scene.ground.fork_away(before).await;
    let operator = scene.start().await;
    scene.calm(&operator).await;
    scene.audit(3 * BASE_FEE).await;
}
