//! The disk is full, or loses its power.

use std::sync::Arc;

use aro_tests::faulty::{Dice, Disk, Fuse};
use settlement_operator::vouchers::{OperatorStore, RedbStore};

use crate::scene::{BASE_FEE, PRIORITY, Scene};
use crate::story;

// r[verify settlement.handoff.durable]
// r[verify settlement.write_ahead]
#[tokio::test]
async fn full_disk_acknowledges_nothing_sends_nothing_and_heals_without_a_restart() {
    let mut scene = Scene::new(&[4]).await;
    let channels = scene.channels[0].clone();
    let (disk, fuse) = (Disk::default(), Fuse::endless());
    let operator = scene.start_mortal_with(&fuse, store(&disk, &fuse).await).await.unwrap();
    let early: Vec<_> = channels.iter().map(|channel| scene.stage.voucher(*channel, 100)).collect();
    let late: Vec<_> = channels.iter().map(|channel| scene.stage.closing(*channel, 200)).collect();
    scene.hand_all(&operator, 0, &early).await;

    disk.set_full(true);
    for _ in 0..3 {
        assert_eq!(scene.hand(&operator, 0, &late).await, [], "nothing is acknowledged");
        // Whether the round fails as a whole or reports its trouble, nothing may leave.
        let _ = operator.settle_once().await;
        assert_eq!(scene.server.sent(), [], "what cannot be written down first is not sent");
    }
    disk.set_full(false);
    // The database is opened anew by the first who asks; the node comes back, as it was told to.
    let taken = async { while scene.hand(&operator, 0, &late).await.is_empty() {} };
    tokio::time::timeout(PATIENCE, taken).await.expect("there is room again");
    scene.calm(&operator).await;
    // Closes and refunds.
    scene.audit(2 * BASE_FEE).await;
}

#[tokio::test]
async fn disk_that_is_full_again_and_again_loses_nothing() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    for seed in 0..SEEDS {
        let mut scene = scene.branch().await;
        let mut dice = Dice::new(seed);
        let (disk, fuse) = (Disk::default(), Fuse::endless());
        let operator = scene.start_mortal_with(&fuse, store(&disk, &fuse).await).await.unwrap();
        for _ in 0..3 {
            let weather = async {
                loop {
                    disk.set_full(dice.strikes(30));
                    tokio::time::sleep(std::time::Duration::from_millis(1 + dice.below(10))).await;
                }
            };
            tokio::select! {
                () = weather => {}
                () = story::tell(&mut scene, &operator) => {}
            }
        }
        disk.set_full(false);
        story::tell(&mut scene, &operator).await;
        scene.calm(&operator).await;
        // A transaction whose end could not be written down is looked up again; what it was to be batched with may go
        // out alone, once for each of the four times that the story is told.
        scene.audit(undisturbed + 4 * BASE_FEE).await;
    }
}

#[tokio::test]
async fn power_cut_at_any_write_keeps_what_was_acknowledged() {
    let scene = story::scene().await;
    let undisturbed = story::undisturbed(&scene).await;
    let whole = {
        let mut scene = scene.branch().await;
        let (disk, fuse) = (Disk::with_database(), Fuse::endless());
        assert!(life(&mut scene, &disk, &fuse).await);
        fuse.burnt()
    };
    for seed in 0..SEEDS {
        let mut scene = scene.branch().await;
        let mut dice = Dice::new(seed);
        let disk = Disk::with_database();
        let mut cuts = 0;
        while cuts < 4 && !life(&mut scene, &disk, &Fuse::of(1 + dice.below(whole))).await {
            disk.lose_power(dice.roll());
            cuts += 1;
        }
        let fuse = Fuse::endless();
        let operator = scene.start_mortal_with(&fuse, store(&disk, &fuse).await).await.unwrap();
        story::tell(&mut scene, &operator).await;
        scene.calm(&operator).await;
        scene.audit(undisturbed + cuts * (BASE_FEE + PRIORITY)).await;
    }
}

/// Tells the story until the fuse blows. True if it was longer than the life.
async fn life(scene: &mut Scene, disk: &Disk, fuse: &Arc<Fuse>) -> bool {
    let living = async {
        let Ok(store) = RedbStore::open_with(disk.process(fuse)).await else { return };
        let Some(operator) = scene.start_mortal_with(fuse, Arc::new(store)).await else { return };
        story::tell(scene, &operator).await;
    };
    tokio::select! {
        biased;
        () = fuse.blows() => {}
        () = living => {}
    }
    !fuse.is_blown()
}

async fn store(disk: &Disk, fuse: &Arc<Fuse>) -> Arc<dyn OperatorStore> {
    Arc::new(RedbStore::open_with(disk.process(fuse)).await.unwrap())
}

const SEEDS: u64 = 8;
/// How long an operator may take to notice that there is room again.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
