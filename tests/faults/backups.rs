//! The database is restored from an old backup; nodes offer again what the chain has not taken for good.

use std::path::PathBuf;
use std::sync::Arc;

use settlement_interface::accounts::status;

use crate::scene::{BASE_FEE, PRIORITY, Scene};

#[tokio::test]
async fn operator_restored_from_an_old_backup_ends_where_it_would_have_ended() {
    // Whether the nodes are heard before the restored operator's first round, or after.
    for rounds_first in [0, 1, 3] {
        let mut scene = Scene::new(&[4]).await;
        let [rising, closed, quiet, late] = scene.channels[0][..] else { panic!("four channels") };
        let operator = scene.start().await;
        let early: Vec<_> = [rising, closed, quiet].map(|channel| scene.stage.voucher(channel, 100)).to_vec();
        scene.hand_all(&operator, 0, &early).await;
        operator.shutdown().await;
        let backup = Backup::take(&scene);

        // What the backup knows nothing of: a voucher settled higher, a channel closed and gone, a voucher that was
        // acknowledged and not settled, on an old channel and on a new one.
        let operator = scene.start().await;
        let later = [scene.stage.voucher(rising, 500), scene.stage.closing(closed, 600)];
        scene.hand_all(&operator, 0, &later).await;
        let report = operator.settle_once().await.unwrap();
        assert_eq!((report.closed.len(), report.settled.len()), (1, 2), "{report:?}");
        let last = [scene.stage.closing(rising, 900), scene.stage.voucher(late, 300)];
        scene.hand_all(&operator, 0, &last).await;
        drop(operator);

        backup.restore(&scene).await;
        let operator = scene.start().await;
        for _ in 0..rounds_first {
            assert_eq!(operator.settle_once().await.unwrap().trouble, []);
        }
        // Its nodes keep what is not final on chain, and offer it again.
        scene.hand_all(&operator, 0, &last).await;
        scene.calm(&operator).await;
        // Settle and close, their refund, the last settle and close, its refund; and the old backup's settle again.
        scene.audit(7 * BASE_FEE).await;
    }
}

// r[verify settlement.close.said_anew]
#[tokio::test]
async fn wish_to_close_of_an_old_backup_closes_nothing_below_what_was_acknowledged_since() {
    let mut scene = Scene::new(&[2]).await;
    let [open, ending] = scene.channels[0][..] else { panic!("two channels") };
    let operator = scene.start().await;
    let early = [scene.stage.closing(open, 100), scene.stage.closing(ending, 100)];
    scene.hand_all(&operator, 0, &early).await;
    operator.shutdown().await;
    let backup = Backup::take(&scene);
    let operator = scene.start().await;
    let later = [scene.stage.closing(open, 600), scene.stage.closing(ending, 300)];
    scene.hand_all(&operator, 0, &later).await;
    drop(operator);

    backup.restore(&scene).await;
    scene.stage.request_close(ending).await.unwrap();
    let operator = scene.start().await;
    for _ in 0..3 {
        let report = operator.settle_once().await.unwrap();
        assert!(report.closed.is_empty(), "{report:?}");
    }
    let [open_now, ending_now] = [scene.channel(open).await.unwrap(), scene.channel(ending).await.unwrap()];
    assert_eq!((open_now.status, ending_now.status), (status::OPEN, status::CLOSING));
    assert_eq!(ending_now.settled, 100, "what is closing on chain is settled without any wait");
    scene.hand_all(&operator, 0, &later).await;
    let reports = scene.calm(&operator).await;
    assert_eq!(reports[0].closed.len(), 2, "said anew, they close at once: {reports:?}");
    // Given up by the agent, settled, closed, refunded.
    scene.audit(4 * BASE_FEE + PRIORITY).await;
}

#[tokio::test]
async fn journal_of_an_old_backup_is_resolved_and_not_repeated() {
    let mut scene = Scene::new(&[3]).await;
    let channels = scene.channels[0].clone();
    let operator = scene.start().await;
    let vouchers: Vec<_> = channels.iter().map(|channel| scene.stage.closing(*channel, 800)).collect();
    scene.hand_all(&operator, 0, &vouchers).await;
    // A round that is not final: its transactions are in the journal.
    assert_eq!(operator.settle_once().await.unwrap().closed.len(), 3);
    operator.shutdown().await;
    let backup = Backup::take(&scene);
    let operator = scene.start().await;
    scene.calm(&operator).await;
    drop(operator);

    backup.restore(&scene).await;
    scene.ground.pass(1_000).await;
    let operator = scene.start_on(Arc::new(scene.server.clone())).await;
    scene.calm(&operator).await;
    // One close, one refund, whatever the journal remembers.
    scene.audit(2 * BASE_FEE).await;
}

/// A copy of the operator's file.
struct Backup(tempfile::TempDir);

impl Backup {
    fn take(scene: &Scene) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(file(scene), dir.path().join("copy")).unwrap();
        Self(dir)
    }

    async fn restore(&self, scene: &Scene) {
        // The cut-off life must have let go of the file, or it would write into the restored one.
        scene.let_go().await;
        std::fs::copy(self.0.path().join("copy"), file(scene)).unwrap();
    }
}

fn file(scene: &Scene) -> PathBuf {
    scene.stage.config(scene.dir.path()).database()
}
