//! Everything that happens to channels, as one story that tests disturb: settled, settled higher, closed by their
//! nodes, given up by the agent and finalized, refunded.

use aro_proto::ChannelId;
use aro_tests::stage::{GRACE_S, NOW};
use settlement_interface::accounts::status;
use settlement_operator::RunningOperator;

use crate::scene::Scene;

/// A scene for the story: two nodes, with three channels and two.
pub async fn scene() -> Scene {
    Scene::new(&[3, 2]).await
}

/// Lamports that the story burns when nothing goes wrong.
pub async fn undisturbed(scene: &Scene) -> u64 {
    let mut scene = scene.branch().await;
    let operator = scene.start().await;
    tell(&mut scene, &operator).await;
    scene.calm(&operator).await;
    scene.audit(u64::MAX).await;
    scene.burnt().await
}

/// Tells the story. It may be told again from the start wherever it broke off: nodes hand over again what is their best
/// by now, with their wishes, before anything is settled, and what has happened does not happen twice. A node that came
/// back with less would leave its wishes in doubt, and what is settled until it says them costs each node a transaction
/// more. The grace runs out only after a round that went well.
pub async fn tell(scene: &mut Scene, operator: &RunningOperator) {
    let [a, b, c] = scene.channels[0][..] else { panic!("three channels") };
    let [d, e] = scene.channels[1][..] else { panic!("two channels") };
    let stage = &scene.stage;
    let of_first = [stage.voucher(a, 1_000), stage.voucher(b, 2_000), stage.closing(c, 3_000)];
    let of_second = [stage.voucher(d, 400), stage.closing(e, 500)];
    let later_of_first = [stage.voucher(a, 1_500), stage.closing(b, 2_500)];
    let later_of_second = [stage.closing(d, 450)];

    scene.hand_best(operator, 0, &of_first).await;
    scene.hand_best(operator, 1, &of_second).await;
    if operator.settle_once().await.is_err() {
        return;
    }
    scene.hand_best(operator, 0, &later_of_first).await;
    scene.hand_best(operator, 1, &later_of_second).await;
    if scene.channel(a).await.is_some_and(|channel| channel.status == status::OPEN) {
        scene.stage.request_close(a).await.unwrap();
    }
    for _ in 0..MOST_ROUNDS {
        if !round(scene, operator, a).await {
            return;
        }
        if scene.is_safe(a).await {
            break;
        }
    }
    scene.stage.chain().warp_clock(NOW + i64::from(GRACE_S));
    let _ = operator.settle_once().await;
}

/// A round of whoever settles: where another operator does, its round is waited for, for the grace is long. False if
/// the operator is gone.
async fn round(scene: &Scene, operator: &RunningOperator, watched: ChannelId) -> bool {
    let settled = async {
        loop {
            match operator.settle_once().await {
                Err(_) => return false,
                Ok(report) if report.elsewhere.is_none() || scene.is_safe(watched).await => return true,
                Ok(_) => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("one of them settles")
}

/// How long another operator may take, or its lease to lapse.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// Rounds within the grace: where one is lost to a fault, another comes long before the deadline.
const MOST_ROUNDS: usize = 4;
