//! Could break: paying for what is not proven, paying too late, trusting the node's account of the channel.

use super::*;
use crate::tariff::Charge;

const A: StreamKey = StreamKey(4);
const B: StreamKey = StreamKey(8);

// r[verify channel.pay_proven_only]
#[test]
fn only_proven_bytes_are_paid_rounded_up_once() {
    let mut payer = open(10_000, 0);
    payer.begin(A, bytes(8 * MIB)).unwrap();
    assert_eq!(payer.due(true), None);
    payer.proved(A, bytes(1)).unwrap();
    assert_eq!((due(&payer, false), due(&payer, true)), (None, Some(1)));
    payer.proved(A, bytes(MIB / 2 - 1)).unwrap();
    assert_eq!((due(&payer, false), due(&payer, true)), (Some(50), Some(50)));
}

#[test]
fn a_stream_that_grows_reserves_and_proves_more_but_never_beyond_the_deposit() {
    let mut payer = open(300, 0);
    payer.begin(A, bytes(MIB)).unwrap();
    assert_eq!(payer.grow(B, bytes(1)), Err(PayerError::UnknownStream(B)));
    payer.grow(A, bytes(2 * MIB)).unwrap();
    assert_eq!(payer.grow(A, bytes(MIB)), Err(PayerError::DepositExhausted { missing: units(100) }));
    payer.proved(A, bytes(3 * MIB)).unwrap();
    assert!(payer.proved(A, bytes(1)).is_err());
    assert_eq!((payer.end(A), due(&payer, true)), (Ok(bytes(3 * MIB)), Some(300)));
}

#[test]
fn a_voucher_stays_due_until_the_wallet_has_signed() {
    let mut payer = open(10_000, 0);
    payer.begin(A, bytes(MIB)).unwrap();
    payer.proved(A, bytes(MIB)).unwrap();
    assert_eq!((due(&payer, false), due(&payer, false)), (Some(100), Some(100)));
    payer.record_signed(units(100));
    assert_eq!((due(&payer, true), payer.signed()), (None, units(100)));
}

#[test]
fn vouchers_come_each_quantum_once_the_window_is_wide() {
    let mut payer = open(10_000, 1_000);
    payer.credited(units(1_000), units(500)).unwrap();
    payer.begin(A, bytes(8 * MIB)).unwrap();
    payer.proved(A, bytes(MIB - 1)).unwrap();
    assert_eq!(due(&payer, false), Some(1_100));
    let mut early = open(10_000, 1_000);
    early.credited(units(1_000), units(500)).unwrap();
    early.begin(A, bytes(8 * MIB)).unwrap();
    early.proved(A, bytes(MIB / 2)).unwrap();
    assert_eq!(due(&early, false), None);
}

// r[verify channel.pay_proven_only]
#[test]
fn a_wide_window_is_paid_by_16ths_of_what_is_paid_up_to_half_of_what_streams_leave_of_it() {
    let alone = [(25_600, 1, 16), (38_400, 1, 24), (51_200, 1, 32), (99_200, 1, 62), (120_000, 1, 63)];
    let beside_others = [(25_600, 16, 16), (51_200, 16, 32), (120_000, 5, 59), (120_000, 16, 48), (120_000, 40, 48)];
    for (paid, streams, step_mib) in alone.into_iter().chain(beside_others) {
        let mut payer = open(200_000, paid);
        payer.credited(units(paid), units(12_800)).unwrap();
        payer.begin(A, bytes(128 * MIB)).unwrap();
        (1..streams).for_each(|other| payer.begin(StreamKey(100 + other), bytes(MIB)).unwrap());
        payer.proved(A, bytes(step_mib * MIB - (16 << 10))).unwrap();
        assert_eq!(due(&payer, false), None);
        payer.proved(A, bytes(16 << 10)).unwrap();
        assert_eq!(due(&payer, false), Some(paid + 100 * step_mib));
    }
}

#[test]
fn a_node_cannot_force_tiny_vouchers_by_claiming_a_tiny_window() {
    let mut payer = open(10_000, 0);
    payer.credited(units(0), units(0)).unwrap();
    payer.begin(A, bytes(MIB)).unwrap();
    payer.proved(A, bytes(MIB / 4)).unwrap();
    assert_eq!(due(&payer, false), None);
}

#[test]
fn prepaying_stops_at_the_limit_the_open_requests_and_the_deposit() {
    let prepaid = |deposit, prepay, mib: u64| {
        let mut payer = Payer::new(terms(deposit), TARIFF, units(0), units(prepay));
        payer.begin(A, bytes(mib * MIB)).unwrap();
        due(&payer, false)
    };
    assert_eq!(prepaid(10_000, 0, 8), None);
    assert_eq!(prepaid(10_000, 300, 8), Some(300));
    assert_eq!(prepaid(10_000, 5_000, 8), Some(800));
    assert_eq!(prepaid(800, 5_000, 8), Some(800));
    assert_eq!(Payer::new(terms(800), TARIFF, units(0), units(500)).due(true), None);
}

// r[verify channel.reserve]
#[test]
fn requests_beyond_the_deposit_are_refused_before_they_are_sent() {
    let mut payer = open(300, 0);
    payer.begin(A, bytes(2 * MIB)).unwrap();
    let missing = PayerError::DepositExhausted { missing: units(100) };
    assert_eq!(payer.begin(B, bytes(2 * MIB)), Err(missing));
    assert_eq!(payer.deposit_left(), units(100));
    payer.refresh(&terms(400));
    assert_eq!(payer.begin(B, bytes(2 * MIB)), Ok(()));
    assert_eq!(payer.end(A), Ok(bytes(0)));
    assert_eq!(payer.deposit_left(), units(200));
    payer.refresh(&ChannelTerms { state: ChannelState::Closing { deadline: NOW }, ..terms(400) });
    assert_eq!(payer.begin(A, bytes(1)), Err(PayerError::ChannelNotOpen));
}

#[test]
fn callers_mistakes_are_named() {
    let mut payer = open(300, 0);
    payer.begin(A, bytes(10)).unwrap();
    assert_eq!(payer.begin(A, bytes(10)), Err(PayerError::DuplicateStream(A)));
    assert_eq!(payer.proved(B, bytes(1)), Err(PayerError::UnknownStream(B)));
    assert_eq!(payer.proved(A, bytes(11)), Err(PayerError::BeyondReservation { stream: A, left: bytes(10) }));
    assert_eq!(payer.end(B), Err(PayerError::UnknownStream(B)));
}

#[test]
fn credit_for_what_was_never_signed_is_a_lie() {
    let lie = PayerError::NeverSigned { accepted: units(1), signed: units(0) };
    assert_eq!(open(300, 0).credited(units(1), units(100)), Err(lie));
}

// r[verify channel.reconcile]
#[test]
fn a_lost_record_is_recovered_from_our_own_signature() {
    let mut payer = open(10_000, 100);
    let outcome = payer.reconcile(Some(voucher(700)), charge(700)).unwrap();
    assert_eq!(outcome, Reconciled { adopted: Some(units(700)), ..Reconciled::default() });
    assert_eq!((payer.signed(), payer.owes(), payer.due(true)), (units(700), charge(700), None));
}

// r[verify channel.reconcile]
#[test]
fn a_forged_or_foreign_watermark_is_misbehaviour() {
    let forged = SignedVoucher { signature: [3; 64], ..voucher(700) };
    let foreign = Voucher { channel: ChannelId::from_bytes([1; 32]), ..voucher(700).voucher }.sign(&agent());
    let stranger = voucher(700).voucher.sign(&SecretKey::from_bytes(&[8; 32]));
    for shown in [forged, foreign, stranger] {
        let mut payer = open(10_000, 100);
        assert_eq!(payer.reconcile(Some(shown), charge(700)), Err(ReconcileError::Misbehaved));
        assert_eq!(payer.signed(), units(100));
    }
}

// r[verify channel.reconcile]
#[test]
fn our_own_voucher_above_the_deposit_is_not_adopted() {
    let mut payer = open(699, 100);
    let above = ReconcileError::AboveDeposit { shown: units(700), deposit: units(699) };
    assert_eq!(payer.reconcile(Some(voucher(700)), charge(700)), Err(above));
    assert_eq!((payer.signed(), payer.accepted(), payer.owes()), (units(100), units(0), charge(100)));
    // The chain shows more by now.
    let mut grown = open(700, 100);
    assert_eq!(grown.reconcile(Some(voucher(700)), charge(700)).unwrap().adopted, Some(units(700)));
}

#[test]
fn a_voucher_that_the_node_lost_is_sent_again() {
    let mut payer = open(10_000, 700);
    let outcome = payer.reconcile(Some(voucher(600)), charge(700)).unwrap();
    assert_eq!(outcome, Reconciled { resend: Some(units(700)), ..Reconciled::default() });
    assert_eq!((payer.signed(), payer.accepted()), (units(700), units(600)));
}

// r[verify channel.reconcile]
#[test]
fn bytes_in_flight_at_a_break_are_conceded_up_to_a_total_bound() {
    let mut payer = open(10_000, 0);
    payer.begin(A, bytes(8 * MIB)).unwrap();
    payer.proved(A, bytes(MIB / 2)).unwrap();
    payer.end(A).unwrap();
    assert_eq!(payer.reconcile(None, charge(120)).unwrap().conceded, charge(70));
    assert_eq!((payer.owes(), due(&payer, true)), (charge(120), Some(120)));
    let overcharged = ReconcileError::Overcharged { claimed: units(151), own: units(120) };
    assert_eq!(payer.reconcile(None, charge(151)), Err(overcharged));
    assert_eq!(payer.reconcile(None, charge(150)).unwrap().conceded, charge(30));

    // A 16th of the 150 paid since is 9 more.
    let mut next_run = open(10_000, 150).with_conceded(payer.conceded());
    assert!(next_run.reconcile(None, charge(160)).is_err());
    assert_eq!(next_run.reconcile(None, charge(159)).unwrap().conceded, charge(9));
}

// r[verify channel.reconcile]
#[test]
fn after_a_crash_the_nodes_word_counts_once_and_up_to_what_it_lends() {
    // 2,000 paid lend 1,000: 10 MiB, of which 9 were proven or on their way when the agent died.
    let mut payer = open(10_000, 2_000).after_crash(true);
    assert_eq!(payer.reconcile(Some(voucher(2_000)), charge(2_900)).unwrap().conceded, charge(900));
    assert_eq!(payer.conceded(), Charge::ZERO, "a crash explains it");
    assert_eq!(due(&payer, true), Some(2_900));
    assert!(payer.reconcile(None, charge(3_900)).is_err(), "once");
    assert!(open(10_000, 2_000).reconcile(Some(voucher(2_000)), charge(2_900)).is_err(), "and not without a crash");

    // What goes beyond counts as ever.
    let mut payer = open(10_000, 2_000).after_crash(true);
    assert!(payer.clone().reconcile(None, charge(3_000 + 2_000)).is_err());
    let beyond = payer.reconcile(None, charge(3_000 + 100)).unwrap();
    assert_eq!((beyond.conceded, payer.conceded()), (charge(1_100), charge(100)));
    assert!(open(2_500, 2_000).after_crash(true).reconcile(None, charge(2_600)).is_err(), "above the deposit");
}

#[test]
fn an_absurd_claim_is_refused_without_overflow() {
    let claimed = Tariff { per_mib: u64::MAX }.charge(bytes(u64::MAX));
    let overcharged = ReconcileError::Overcharged { claimed: units(u64::MAX), own: units(0) };
    assert_eq!(open(10_000, 0).reconcile(None, claimed), Err(overcharged));
    assert!(open(50, 0).reconcile(None, charge(51)).is_err());
}

#[test]
fn a_restarted_agent_takes_the_nodes_lower_count_but_a_running_one_pays_what_it_proved() {
    let mut restarted = open(10_000, 500);
    restarted.reconcile(Some(voucher(500)), charge(450)).unwrap();
    assert_eq!(restarted.owes(), charge(450));

    let mut running = open(10_000, 0);
    running.begin(A, bytes(MIB)).unwrap();
    running.proved(A, bytes(MIB)).unwrap();
    running.reconcile(None, Charge::ZERO).unwrap();
    assert_eq!(running.owes(), charge(100));
}

#[test]
fn what_open_streams_may_still_bring_is_not_conceded() {
    let mut payer = open(10_000, 0);
    payer.begin(A, bytes(4 * MIB)).unwrap();
    payer.proved(A, bytes(MIB)).unwrap();
    assert_eq!(payer.reconcile(None, charge(400)), Ok(Reconciled::default()));
    assert_eq!(payer.owes(), charge(100));
}

fn open(deposit: u64, signed: u64) -> Payer {
    Payer::new(terms(deposit), TARIFF, units(signed), units(0))
}

fn due(payer: &Payer, flush: bool) -> Option<u64> {
    payer.due(flush).map(|due| due.cumulative.get())
}

fn charge(amount: u64) -> Charge {
    Charge::from_amount(units(amount))
}
