//! Could break: progress (both sides waiting for each other), the two counts at the end, recovery from restarts.
//!
//! `ARO_SIM_SEED=n` runs one world.

use std::collections::VecDeque;

use super::world::{Habits, Restart, World};
use super::*;
use crate::limits::{CONNECTION_WINDOW, STREAM_WINDOW};
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

// r[verify channel.batch]
#[test]
fn a_lone_stream_at_the_least_window_never_stalls_whatever_its_batches() {
    for per_mib in [1, 3, 7, 100] {
        for groups in 1..=BATCH_BYTES / GROUP {
            let mut payee = Payee::new(terms(10 * per_mib), Tariff { per_mib }, None);
            deliver(&mut payee, Tariff { per_mib }, groups * GROUP);
            assert_eq!(payee.owed(), Charge::ZERO);
        }
    }
}

// r[verify channel.cancel.settle]
#[test]
fn an_open_dispute_that_is_let_through_does_not_stall_the_next_request() {
    for groups in 1..=BATCH_BYTES / GROUP {
        let mut payee = Payee::new(terms(1_000), TARIFF, None);
        for (stream, batches) in [(1, 4), (2, 1)] {
            payee.begin(StreamKey(stream), bytes(MIB)).unwrap();
            for _ in 0..batches {
                assert_eq!(payee.may_send(StreamKey(stream), bytes(BATCH_BYTES)), Ok(Permit::Granted));
            }
            payee.end(StreamKey(stream), Some(bytes(0))).unwrap();
        }
        let dispute = Charge::from_amount(units(25));
        assert_eq!(payee.disputed(), dispute);
        deliver(&mut payee, TARIFF, groups * GROUP);
        assert_eq!(payee.owed().to_amount(), dispute.to_amount());
    }
}

// r[verify channel.lost.settle]
#[test]
fn what_is_lent_for_lost_connections_does_not_stall_the_next_request() {
    for groups in 1..=BATCH_BYTES / GROUP {
        let mut payee = Payee::new(terms(1_000), TARIFF, None);
        for (stream, batches) in [(1, 4), (2, 1)] {
            payee.begin(StreamKey(stream), bytes(MIB)).unwrap();
            for _ in 0..batches {
                assert_eq!(payee.may_send(StreamKey(stream), bytes(BATCH_BYTES)), Ok(Permit::Granted));
            }
            payee.lost(StreamKey(stream), InFlight::default()).unwrap();
        }
        assert_eq!((payee.owed(), payee.lent()), (Charge::ZERO, Charge::from_amount(units(25))));
        deliver(&mut payee, TARIFF, groups * GROUP);
        assert_eq!(payee.owed(), Charge::ZERO);
    }
    // Whatever the window, and with as much of it lent as may be.
    for paid in (0..8_000).step_by(37).chain([25_600, 51_200, 102_400, 160_000]) {
        let mut payee = Payee::new(terms(300_000), TARIFF, (paid > 0).then(|| durable(paid)));
        let mut billed = Charge::ZERO;
        for stream in 1.. {
            payee.begin(StreamKey(stream), bytes(64 * MIB)).unwrap();
            while payee.may_send(StreamKey(stream), bytes(BATCH_BYTES)) == Ok(Permit::Granted) {}
            payee.lost(StreamKey(stream), InFlight::default()).unwrap();
            if std::mem::replace(&mut billed, payee.billed()) == payee.billed() && stream > 1 {
                break;
            }
        }
        let due = payee.billed().to_amount().unwrap();
        payee.credit(durable(due.get().max(paid)));
        deliver(&mut payee, TARIFF, BATCH_BYTES);
        assert_eq!(payee.owed(), Charge::ZERO, "{paid} paid");
    }
}

// r[verify channel.pay_proven_only]
// r[verify channel.window.stated]
#[test]
fn many_streams_at_a_wide_window_never_stall_whatever_is_lent_or_disputed_and_whatever_they_cost() {
    for paid in [12_800, 25_600, 51_200, 102_400, 160_000] {
        for (streams, tariff) in [1, 4, 16, 40].into_iter().flat_map(|streams| TARIFFS.map(|tariff| (streams, tariff)))
        {
            for taken in [|_: &mut Payee| (), dispute_what_may_be, lend_what_may_be] {
                let mut payee = Payee::new(terms(1_000_000), TARIFF, Some(durable(paid)));
                taken(&mut payee);
                if payee.clone().begin_at(StreamKey(0), tariff, bytes(MIB)).is_err() {
                    // At this price what is disputed is too much.
                    assert!(tariff != TARIFF && payee.disputed() > Charge::ZERO);
                    continue;
                }
                deliver_at_once(&mut payee, streams, tariff);
                assert_eq!(payee.owed(), payee.disputed(), "{paid} paid, {streams} streams at {tariff:?}");
            }
        }
    }
}

// r[verify channel.window.stated]
#[test]
fn streams_of_every_price_never_stall_at_narrow_windows_of_which_something_is_lent() {
    for (per_mib, own) in [(100, 1), (400, 1), (400, 100), (100, 100), (7, 100), (3, 3)] {
        let (tariff, own) = (Tariff { per_mib }, Tariff { per_mib: own });
        for batches in 1..=8 {
            let mut payee = Payee::new(terms(1_000_000), tariff, None);
            // One that is lost takes up the allowance, the next one is lent for.
            for (stream, batches) in [(1, 4), (2, batches)] {
                payee.begin(StreamKey(stream), bytes(4 * MIB)).unwrap();
                for _ in 0..batches {
                    let _ = payee.may_send(StreamKey(stream), bytes(BATCH_BYTES)).unwrap();
                }
                payee.lost(StreamKey(stream), InFlight::default()).unwrap();
            }
            assert!(payee.lent() > Charge::ZERO, "{tariff:?}");
            let due = payee.billed().to_amount().unwrap();
            payee.credit(durable(due.get()));
            deliver_at_once(&mut payee, 1, own);
            assert_eq!(payee.owed(), Charge::ZERO, "{tariff:?}, {own:?}");
        }
    }
}

// r[verify channel.cancel.settle]
#[test]
fn what_is_lent_and_disputed_lets_no_request_begin_that_could_only_wait() {
    for per_mib in [3, 7, 100] {
        let tariff = Tariff { per_mib };
        let mut payee = Payee::new(terms(1_000 * per_mib), tariff, None);
        for (stream, batches) in [(1, 4), (2, 1)] {
            payee.begin(StreamKey(stream), bytes(MIB)).unwrap();
            for _ in 0..batches {
                assert_eq!(payee.may_send(StreamKey(stream), bytes(BATCH_BYTES)), Ok(Permit::Granted));
            }
            payee.lost(StreamKey(stream), InFlight::default()).unwrap();
        }
        // Lent for the second one; a dispute beside it leaves less than a step and a batch.
        payee.begin(StreamKey(3), bytes(MIB)).unwrap();
        assert_eq!(payee.may_send(StreamKey(3), bytes(BATCH_BYTES)), Ok(Permit::Granted));
        payee.end(StreamKey(3), Some(bytes(0))).unwrap();
        assert_eq!((payee.lent(), payee.disputed()), (tariff.charge(bytes(BATCH_BYTES)), payee.lent()));
        assert!(matches!(payee.begin(StreamKey(4), bytes(MIB)), Err(BeginError::Unpaid { .. })), "{tariff:?}");
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

/// Delivers 3 MiB and a byte to a new payer, in this batch and the largest by turns, with no delay anywhere: each
/// wait must have a voucher due.
fn deliver(payee: &mut Payee, tariff: Tariff, batch: u64) {
    let mut sizes = [BATCH_BYTES, batch].into_iter().cycle();
    let mut planned = batch;
    const STREAM: StreamKey = StreamKey(0);
    let mut payer = Payer::new(*payee.terms(), tariff, payee.paid(), units(0));
    payer.credited(payee.paid(), payee.stated_window()).unwrap();
    let mut left = 3 * MIB + 1;
    payee.begin(STREAM, bytes(left)).unwrap();
    payer.begin(STREAM, bytes(left)).unwrap();
    while left > 0 {
        let next = bytes(planned.min(left));
        match payee.may_send(STREAM, next).unwrap() {
            Permit::Granted => {
                payer.proved(STREAM, next).unwrap();
                left -= next.get();
                planned = sizes.next().unwrap();
            }
            Permit::Wait => {
                let due = payer.due(false).unwrap_or_else(|| panic!("{tariff:?}: stalled by batches of {batch}"));
                pay(payee, &mut payer, due);
            }
        }
    }
    payer.end(STREAM).unwrap();
    payee.end(STREAM, None).unwrap();
    if let Some(due) = payer.due(true) {
        pay(payee, &mut payer, due);
    }
}

/// Sends and aborts until one more would have new requests refused.
fn dispute_what_may_be(payee: &mut Payee) {
    for stream in (1_000..).map(StreamKey) {
        let mut next = payee.clone();
        next.begin(stream, bytes(BATCH_BYTES)).unwrap();
        assert_eq!(next.may_send(stream, bytes(BATCH_BYTES)), Ok(Permit::Granted));
        next.end(stream, Some(bytes(0))).unwrap();
        if next.begin(StreamKey(0), bytes(MIB)).is_err() {
            assert!(payee.disputed() > Charge::ZERO);
            return;
        }
        next.end(StreamKey(0), None).unwrap();
        *payee = next;
    }
}

/// Loses streams until nothing more is lent, and pays what stays billed.
fn lend_what_may_be(payee: &mut Payee) {
    let mut lent = None;
    for stream in (1_000..).map(StreamKey) {
        payee.begin(stream, bytes(128 * MIB)).unwrap();
        while payee.may_send(stream, bytes(BATCH_BYTES)) == Ok(Permit::Granted) {}
        payee.lost(stream, InFlight::default()).unwrap();
        if lent.replace(payee.lent()) == Some(payee.lent()) {
            break;
        }
    }
    let due = payee.billed().to_amount().unwrap();
    payee.credit(durable(due.get().max(payee.paid().get())));
    assert!(payee.lent() > Charge::ZERO);
}

/// Delivers 192 MiB to a payer that pays only when nothing else is left to happen: as much as the receive windows hold is
/// on its way whenever the node lends it. Whoever waits then must have a voucher due.
fn deliver_at_once(payee: &mut Payee, streams: u64, tariff: Tariff) {
    let mut payer = Payer::new(*payee.terms(), TARIFF, payee.paid(), units(0));
    payer.credited(payee.paid(), payee.stated_window()).unwrap();
    let each = (192 * MIB / streams).next_multiple_of(BATCH_BYTES);
    for stream in (0..streams).map(StreamKey) {
        payee.begin_at(stream, tariff, bytes(each)).unwrap();
        payer.begin_at(stream, tariff, bytes(each)).unwrap();
    }
    let most = (streams * u64::from(STREAM_WINDOW)).min(u64::from(CONNECTION_WINDOW)) / BATCH_BYTES;
    let mut in_flight = VecDeque::new();
    let mut left: VecDeque<StreamKey> = (0..each / BATCH_BYTES).flat_map(|_| (0..streams).map(StreamKey)).collect();
    while !left.is_empty() || !in_flight.is_empty() {
        let has_room = (in_flight.len() as u64) < most;
        if let Some(next) = left.front().filter(|_| has_room)
            && payee.may_send(*next, bytes(BATCH_BYTES)) == Ok(Permit::Granted)
        {
            in_flight.extend(left.pop_front());
        } else if let Some(arrived) = in_flight.pop_front() {
            payer.proved(arrived, bytes(BATCH_BYTES)).unwrap();
        } else {
            let due = payer.due(false);
            let due = due.unwrap_or_else(|| panic!("{streams} streams at {tariff:?} stalled, {:?} paid", payee.paid()));
            pay(payee, &mut payer, due);
        }
    }
    for stream in (0..streams).map(StreamKey) {
        payer.end(stream).unwrap();
        payee.end(stream, None).unwrap();
    }
    if let Some(due) = payer.due(true) {
        pay(payee, &mut payer, due);
    }
}

fn pay(payee: &mut Payee, payer: &mut Payer, due: Due) {
    payer.record_signed(due.cumulative);
    let credit = payee.credit(durable(due.cumulative.get()));
    payer.credited(credit.cumulative, credit.window).unwrap();
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

pub(super) fn seeds(all: std::ops::Range<u64>) -> std::ops::Range<u64> {
    match std::env::var("ARO_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => all,
    }
}

const STEPS: u32 = 600;
const GROUP: u64 = 16 << 10;
/// A channel's own price, and others that its streams may have.
const TARIFFS: [Tariff; 3] = [TARIFF, Tariff { per_mib: 25 }, Tariff { per_mib: 400 }];
