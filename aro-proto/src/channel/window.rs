//! The credit window: how much a node lets stand unpaid.

use super::streams::add;
use crate::amount::{Amount, ByteCount};
use crate::limits::{CONNECTION_WINDOW, MAX_WINDOW_BYTES, QUANTUM_BYTES, STREAM_WINDOW};
use crate::tariff::{Charge, Tariff};

/// Bytes of content that a node sends and bills at once: a quarter quantum. A node that waits then always leaves
/// more than half a window to be paid, so that payer and payee never wait for each other.
// r[impl channel.batch]
pub const BATCH_BYTES: u64 = QUANTUM_BYTES / 4;

/// The credit that an agent has earned by paying: half of what it has paid on this channel, at least the price of
/// one quantum, at most the price of 128 MiB. So a cheat gains at most one quantum, or half of what it spent.
///
/// Under a free tariff it is zero, and nothing is ever owed.
// r[impl channel.window]
pub fn credit_window(paid: Amount, tariff: &Tariff) -> Amount {
    let quantum = tariff.quantum().unwrap_or(UNBOUNDED);
    let most = tariff.price(ByteCount::new(MAX_WINDOW_BYTES)).unwrap_or(UNBOUNDED);
    Amount::new(paid.get() / 2).clamp(quantum, most)
}

/// What is left of the window at this price if `taken` of it is lent or disputed, in base units: never less than the least,
/// by which the smallest payment step is measured.
// r[impl channel.window.stated]
pub(super) fn window_less(paid: Amount, taken: Amount, tariff: &Tariff) -> Amount {
    credit_window(paid, tariff).saturating_sub(taken).max(credit_window(Amount::ZERO, tariff))
}

/// What an agent with so many open streams lets gather before it signs: a quantum, later a 16th of what it has paid, so
/// that signatures and their disk syncs become rare. Of a wide window no more than half of what the streams cannot fill
/// with what is on its way, or a quarter: the rest is for what comes while a voucher is under way. Never more than half,
/// so that the node's wait always has a voucher due.
pub(super) fn payment_step(paid: Amount, window: Amount, tariff: &Tariff, streams: usize) -> Amount {
    let quantum = tariff.quantum().unwrap_or(UNBOUNDED);
    let receive_windows = u64::from(STREAM_WINDOW).saturating_mul(u64::try_from(streams).unwrap_or(u64::MAX));
    let in_flight = ByteCount::new(receive_windows.min(u64::from(CONNECTION_WINDOW)));
    let left = window.saturating_sub(tariff.price(in_flight).unwrap_or(UNBOUNDED));
    let (of_paid, of_left) = (paid.get() / 16, (left.get() / 2).max(window.get() / 4));
    quantum.max(Amount::new(of_paid.min(of_left))).min(Amount::new(window.get() / 2)).max(LEAST)
}

/// The largest step of any agent, for a node that does not know how many streams that counts.
fn largest_step(paid: Amount, window: Amount, tariff: &Tariff) -> Amount {
    payment_step(paid, window, tariff, 0)
}

/// How far the two counts of a channel may drift apart in all before the peer is distrusted: what one stream may have
/// in flight when it stops, though never more than the credit window that the node risks anyway, and a 16th of all
/// that was paid, so that an agent that cancels now and then and pays in between is never cut off for it.
pub(super) fn counting_allowance(paid: Amount, tariff: &Tariff) -> Charge {
    let in_flight = tariff.price(ByteCount::new(u64::from(STREAM_WINDOW) + BATCH_BYTES)).unwrap_or(UNBOUNDED);
    let floor = credit_window(paid, tariff).min(in_flight);
    Charge::from_amount(floor.saturating_add(Amount::new(paid.get() / 16)))
}

/// What an agent that died may not know of: what was on its way, and what it had proven and not signed for. Never more
/// than the node lends. The step is the smaller the more is on its way, and the sum is largest with all that may be.
pub(super) fn crash_allowance(signed: Amount, tariff: &Tariff) -> Charge {
    let window = credit_window(signed, tariff);
    let in_flight = tariff.price(ByteCount::new(u64::from(CONNECTION_WINDOW))).unwrap_or(UNBOUNDED);
    Charge::from_amount(window.min(in_flight.saturating_add(payment_step(signed, window, tariff, usize::MAX))))
}

/// How much of the window a dispute may take before new requests are refused: what stays must hold the
/// largest payment step and a batch, or payer and payee would wait for each other.
pub(super) fn dispute_limit(paid: Amount, tariff: &Tariff) -> Charge {
    dispute_limit_within(credit_window(paid, tariff), paid, tariff)
}

/// The same where less of the window is left.
pub(super) fn dispute_limit_within(window: Amount, paid: Amount, tariff: &Tariff) -> Charge {
    let step = Charge::from_amount(largest_step(paid, window, tariff));
    Charge::from_amount(window).saturating_sub(step).saturating_sub(tariff.charge(ByteCount::new(BATCH_BYTES)))
}

/// What has to be left of any window: the smallest payment step and a batch.
pub(super) fn least_room(tariff: &Tariff) -> Charge {
    let least = credit_window(Amount::ZERO, tariff);
    let step = payment_step(Amount::ZERO, least, tariff, usize::MAX);
    add(Charge::from_amount(step), tariff.charge(ByteCount::new(BATCH_BYTES)))
}

/// How much of the window what is lent for lost connections may take. The agent is told of what it leaves, which is a
/// window like any other if it is the least at least; of less it is not told, so that must hold a payment step and a
/// batch.
pub(super) fn lending_limit(paid: Amount, tariff: &Tariff) -> Charge {
    let least = credit_window(Amount::ZERO, tariff);
    let beyond_least = Charge::from_amount(credit_window(paid, tariff).saturating_sub(least));
    beyond_least.max(dispute_limit(paid, tariff))
}

/// The least step of a watermark.
pub(super) const LEAST: Amount = Amount::new(1);

/// A price that does not fit 64 bits is more than any deposit.
const UNBOUNDED: Amount = Amount::new(u64::MAX);

#[cfg(test)]
mod tests {
    use super::*;

    // r[verify channel.window]
    #[test]
    fn the_window_is_half_of_what_is_paid_between_one_quantum_and_128_mib() {
        let tariff = Tariff { per_mib: 100 };
        let window = |paid| credit_window(Amount::new(paid), &tariff).get();
        assert_eq!([window(0), window(199), window(201), window(5_000)], [100, 100, 100, 2_500]);
        assert_eq!([window(25_599), window(25_600), window(u64::MAX)], [12_799, 12_800, 12_800]);
    }

    #[test]
    fn extreme_tariffs_neither_overflow_nor_panic() {
        assert_eq!(credit_window(Amount::new(9), &Tariff { per_mib: 0 }), Amount::ZERO);
        assert_eq!(credit_window(Amount::ZERO, &Tariff { per_mib: u64::MAX }), UNBOUNDED);
        assert_eq!(counting_allowance(Amount::ZERO, &Tariff { per_mib: u64::MAX }), Charge::from_amount(UNBOUNDED));
    }

    #[test]
    fn the_allowance_is_what_a_stream_has_in_flight_within_the_window_and_a_16th() {
        let allowance = |paid| counting_allowance(Amount::new(paid), &Tariff { per_mib: 100 });
        let units = |amount| Charge::from_amount(Amount::new(amount));
        assert_eq!([allowance(0), allowance(199)], [units(100), units(112)]);
        let in_flight = 100 * (u64::from(STREAM_WINDOW) + BATCH_BYTES) / QUANTUM_BYTES;
        assert_eq!(allowance(2 * in_flight - 2), units(in_flight - 1 + (2 * in_flight - 2) / 16));
        assert_eq!([allowance(1_600), allowance(3_200)], [units(in_flight + 100), units(in_flight + 200)]);
        assert_eq!(allowance(u64::MAX), units(in_flight + u64::MAX / 16));
    }

    #[test]
    fn a_payment_step_is_a_quantum_or_a_16th_of_what_is_paid_within_what_the_window_has_room_for() {
        let step = |paid, window, streams| {
            payment_step(Amount::new(paid), Amount::new(window), &Tariff { per_mib: 100 }, streams).get()
        };
        for streams in [0, 1, 100] {
            assert_eq!([step(0, 0, streams), step(0, 100, streams), step(399, 199, streams)], [1, 50, 99]);
            assert_eq!([step(1_600, 800, streams), step(1_616, 808, streams)], [100, 101]);
            assert_eq!([step(25_600, 12_800, streams), step(51_200, 12_800, streams)], [1_600, 3_200]);
            assert_eq!(step(1_616, u64::MAX, streams), 101);
        }
        let widest = [0, 1, 4, 15, 16, usize::MAX].map(|streams| step(u64::MAX, 12_800, streams));
        assert_eq!(widest, [6_400, 6_300, 6_000, 4_900, 4_800, 4_800]);
        // Of a window that what is on its way fills it is a quarter.
        assert_eq!([step(u64::MAX, 800, 1), step(u64::MAX, 800, 2), step(u64::MAX, 800, 4)], [300, 200, 200]);
    }

    #[test]
    fn an_agent_that_died_may_lack_what_was_on_its_way_and_the_step_beside_that() {
        let tariff = Tariff { per_mib: 100 };
        assert_eq!(crash_allowance(Amount::new(80_000), &tariff), Charge::from_amount(Amount::new(8_000)));
        for paid in (0..160_000).step_by(111).map(Amount::new) {
            let window = credit_window(paid, &tariff);
            for streams in 0..40 {
                let receive_windows =
                    ByteCount::new((streams * u64::from(STREAM_WINDOW)).min(u64::from(CONNECTION_WINDOW)));
                let step = payment_step(paid, window, &tariff, usize::try_from(streams).unwrap());
                let lacks = tariff.price(receive_windows).unwrap().saturating_add(step).min(window);
                assert!(
                    Charge::from_amount(lacks) <= crash_allowance(paid, &tariff),
                    "{paid:?} paid, {streams} streams"
                );
            }
        }
    }

    #[test]
    fn honest_streams_that_all_stop_at_once_stay_below_the_dispute_limit() {
        let tariff = Tariff { per_mib: 100 };
        for paid in (0..160_000).map(Amount::new) {
            // Everything unpaid was in flight, and nothing was forgiven before.
            let window = Charge::from_amount(credit_window(paid, &tariff));
            let disputed = window.saturating_sub(counting_allowance(paid, &tariff));
            assert!(disputed <= dispute_limit(paid, &tariff), "{paid:?} paid");
        }
    }
}
