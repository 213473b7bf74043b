//! Could break: progress (both sides waiting for each other), the two counts at the end, recovery from restarts.
//!
//! `ARO_SIM_SEED=n` runs one world.

use super::world::{Habits, Restart, World};
use crate::tariff::Charge;

#[test]
fn honest_parties_never_wait_for_each_other_and_settle_equal() {
    for seed in seeds(0..16) {
        let mut world = World::new(seed, Habits { cancels: false, prepay_mib: seed % 3 * 2 });
        world.run(STEPS);
        world.finish();
        assert_equal(&world);
        assert_eq!(world.breaks, 0, "seed {seed}: payer and payee waited for each other");
    }
}

// r[verify channel.cancel.settle]
#[test]
fn cancelled_streams_settle_equal_or_the_difference_exceeds_what_both_allow() {
    for seed in seeds(100..116) {
        let mut world = World::new(seed, Habits { cancels: true, prepay_mib: 0 });
        world.run(STEPS);
        world.finish();
        if world.has_parted {
            let allowed = world.forgiven.checked_add(world.payer.conceded()).unwrap();
            assert!(world.lost > allowed, "seed {seed}");
        } else {
            assert_equal(&world);
        }
    }
}

// r[verify channel.reconcile]
#[test]
fn after_a_restart_of_either_side_the_parties_go_on_and_nothing_stays_unpaid() {
    let mut reunited = 0;
    for seed in seeds(200..216) {
        let mut world = World::new(seed, Habits { cancels: false, prepay_mib: 0 });
        world.run(STEPS / 4);
        world.restart(if seed % 2 == 0 { Restart::Node } else { Restart::Agent });
        if world.has_parted {
            continue;
        }
        reunited += 1;
        world.run(STEPS / 4);
        world.finish();
        assert!(!world.has_parted, "seed {seed}");
        assert_eq!((world.breaks, world.payee.owed()), (0, Charge::ZERO), "seed {seed}");
        assert_eq!(world.payer.accepted(), world.payer.signed(), "seed {seed}: a voucher was lost");
        assert!(world.payer.owes() >= world.payee.billed(), "seed {seed}");
    }
    assert!(reunited > 8, "most breaks lose less than a quantum, and are made good");
}

fn assert_equal(world: &World) {
    let (seed, payee, payer) = (world.seed, &world.payee, &world.payer);
    assert!(world.next_stream > 3, "seed {seed}: the world did nothing");
    assert_eq!(payer.owes(), payee.billed(), "seed {seed}");
    assert_eq!(payee.owed(), Charge::ZERO, "seed {seed}");
    let bill = payee.billed().to_amount().unwrap();
    assert!(payee.paid() >= bill && payee.paid() <= bill.saturating_add(world.prepay), "seed {seed}");
    assert_eq!(payer.accepted(), payer.signed(), "seed {seed}: a voucher was lost");
}

fn seeds(all: std::ops::Range<u64>) -> std::ops::Range<u64> {
    match std::env::var("ARO_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => all,
    }
}

const STEPS: u32 = 600;
