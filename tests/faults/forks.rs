//! Confirmed, and then forked away.

use aro_tests::faulty::{FINALITY, Fate};
use settlement_chain::Signature;
use settlement_operator::RunningOperator;
use settlement_operator::vouchers::HistoryQuery;

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

// r[verify settlement.audit]
#[tokio::test]
async fn failure_leaves_its_row_once_it_is_final_and_none_where_a_fork_takes_it_back() {
    for is_forked in [false, true] {
        let mut scene = Scene::new(&[1]).await;
        let operator = scene.start().await;
        let voucher = scene.stage.voucher(scene.channels[0][0], 900);
        scene.hand_all(&operator, 0, &[voucher]).await;
        let before = scene.ground.checkpoint().await;
        scene.ground.set_pace(0);
        scene.server.script([Fate::Blindly(1)]);
        // While the batch is on its way, which names the operator, the node leaves it.
        let leaves = async {
            while scene.server.sent().is_empty() {
                tokio::task::yield_now().await;
            }
            scene.stage.switch_operator(&scene.nodes[0], None).await.unwrap();
            scene.ground.pass(1).await;
        };
        let (report, ()) = tokio::join!(operator.settle_once(), leaves);
        assert!(report.unwrap().settled.is_empty());
        let failed = scene.server.sent()[0];
        assert_eq!(scene.ground.landings().await[0].signature, failed, "it cost its fee");
        assert_eq!(failures(&operator).await, [], "it may be forked away");
        drop(operator.settle_once().await.unwrap());
        assert_eq!(failures(&operator).await, [], "and does not come twice");

        if is_forked {
            scene.ground.fork_away(before).await;
        } else {
            scene.ground.pass(FINALITY).await;
            scene.stage.switch_operator(&scene.nodes[0], Some(scene.keys.account)).await.unwrap();
        }
        scene.ground.set_pace(1);
        scene.calm(&operator).await;
        let told: &[Signature] = if is_forked { &[] } else { &[failed] };
        assert_eq!(failures(&operator).await, told);
        // The batch is paid for once more where the first one failed, and two signatures for each change of the node.
        scene.audit(if is_forked { BASE_FEE } else { (2 + 2 * 2) * BASE_FEE }).await;
    }
}

/// The transactions that the history says have failed.
async fn failures(operator: &RunningOperator) -> Vec<Signature> {
    let rows = operator.history(&HistoryQuery::default()).await.unwrap();
    rows.into_iter().filter(|(_, row)| row.error.is_some()).map(|(_, row)| row.signature).collect()
}
