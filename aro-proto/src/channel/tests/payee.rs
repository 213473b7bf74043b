//! Could break: the window, the reservation, settling a cancelled stream, following the chain.

use settlement_interface::accounts::Channel;

use super::*;
use crate::channel::window::counting_allowance;
use crate::limits::STREAM_WINDOW;
use crate::tariff::Charge;

const A: StreamKey = StreamKey(4);
const B: StreamKey = StreamKey(8);

// r[verify channel.window]
#[test]
fn unpaid_bytes_fill_the_window_exactly_and_payment_opens_it() {
    let mut payee = open(10_000);
    payee.begin(A, bytes(8 * MIB)).unwrap();
    for _ in 0..4 {
        assert_eq!(payee.may_send(A, bytes(BATCH_BYTES)), Ok(Permit::Granted));
    }
    assert_eq!(payee.owed(), charge(100));
    assert_eq!(payee.may_send(A, bytes(1)), Ok(Permit::Wait));
    assert_eq!(payee.owed(), charge(100));
    payee.credit(durable(25));
    assert_eq!(payee.may_send(A, bytes(BATCH_BYTES)), Ok(Permit::Granted));
    assert_eq!(payee.may_send(A, bytes(1)), Ok(Permit::Wait));
}

#[test]
fn the_window_grows_with_what_is_paid() {
    let mut payee = open(10_000);
    payee.begin(A, bytes(80 * MIB)).unwrap();
    payee.credit(durable(1_000));
    assert_eq!(sent_until_wait(&mut payee, A), 15 * MIB);
}

#[test]
fn streams_share_one_window() {
    let mut payee = open(10_000);
    payee.begin(A, bytes(MIB)).unwrap();
    payee.begin(B, bytes(MIB)).unwrap();
    let sent = sent_until_wait(&mut payee, A) + sent_until_wait(&mut payee, B);
    assert_eq!(sent, MIB);
}

// r[verify channel.batch]
#[test]
fn batches_are_at_most_a_quarter_quantum() {
    let mut payee = open(10_000);
    payee.begin(A, bytes(8 * MIB)).unwrap();
    let large = bytes(BATCH_BYTES + 1);
    assert_eq!(payee.may_send(A, large), Err(SendError::BatchTooLarge(large)));
}

// r[verify channel.reserve]
#[test]
fn open_requests_reserve_the_deposit_to_the_last_unit() {
    let mut payee = open(300);
    payee.begin(A, bytes(2 * MIB)).unwrap();
    let missing = BeginError::DepositExhausted { missing: units(1) };
    assert_eq!(payee.begin(B, bytes(MIB + 1)), Err(missing));
    assert_eq!(payee.begin(B, bytes(MIB)), Ok(()));
    assert_eq!(payee.deposit_left(), units(0));
    payee.refresh(&terms(301));
    assert_eq!(payee.deposit_left(), units(1));
    assert!(payee.end(A, None).is_some());
    assert_eq!(payee.deposit_left(), units(201));
    assert_eq!(missing.refusal().amount, Some(units(1)));
}

#[test]
fn a_stream_sends_no_more_than_it_reserved() {
    let mut payee = open(300);
    payee.begin(A, bytes(1000)).unwrap();
    payee.may_send(A, bytes(999)).unwrap();
    assert_eq!(payee.may_send(A, bytes(2)), Err(SendError::BeyondReservation { stream: A, left: bytes(1) }));
    assert_eq!(payee.may_send(B, bytes(1)), Err(SendError::UnknownStream(B)));
    assert_eq!(payee.begin(A, bytes(1)), Err(BeginError::DuplicateStream(A)));
}

#[test]
fn an_absurd_request_is_refused_without_overflow() {
    let mut payee = Payee::new(terms(u64::MAX), Tariff { per_mib: u64::MAX }, None);
    let missing = BeginError::DepositExhausted { missing: units(u64::MAX) };
    assert_eq!(payee.begin(A, bytes(u64::MAX)), Err(missing));
    payee.begin(A, bytes(MIB)).unwrap();
    assert_eq!(payee.may_send(A, bytes(BATCH_BYTES)), Ok(Permit::Granted));
}

#[test]
fn a_free_tariff_needs_no_payment() {
    let mut payee = Payee::new(terms(0), Tariff { per_mib: 0 }, None);
    payee.begin(A, bytes(64 * MIB)).unwrap();
    for _ in 0..256 {
        assert_eq!(payee.may_send(A, bytes(BATCH_BYTES)), Ok(Permit::Granted));
    }
    assert_eq!(payee.owed(), Charge::ZERO);
}

// r[verify channel.cancel.settle]
#[test]
fn bytes_that_never_arrived_are_not_owed_until_the_allowance_is_used_up() {
    let mut payee = open(10_000);
    payee.begin(A, bytes(8 * MIB)).unwrap();
    sent_until_wait(&mut payee, A);
    let settled = payee.end(A, Some(bytes(MIB / 4))).unwrap();
    assert_eq!((settled.forgiven, settled.disputed), (charge(75), Charge::ZERO));
    assert_eq!((payee.owed(), payee.deposit_left()), (charge(25), units(9_975)));

    payee.begin(B, bytes(8 * MIB)).unwrap();
    assert_eq!(sent_until_wait(&mut payee, B), MIB * 3 / 4);
    let settled = payee.end(B, Some(bytes(0))).unwrap();
    assert_eq!((settled.forgiven, settled.disputed), (charge(25), charge(50)));
    assert_eq!((payee.owed(), payee.disputed()), (charge(75), charge(50)));

    let unpaid = BeginError::Unpaid { owed: units(75) };
    assert_eq!(payee.begin(A, bytes(MIB)), Err(unpaid));
    assert_eq!(unpaid.refusal().amount, Some(units(75)));
    payee.credit(durable(75));
    assert_eq!((payee.disputed(), payee.begin(A, bytes(MIB))), (Charge::ZERO, Ok(())));
}

// r[verify channel.cancel.settle]
// r[verify channel.reconcile]
#[test]
fn a_cancel_with_a_full_pipe_leaves_the_channel_usable_on_both_sides() {
    let in_flight = u64::from(STREAM_WINDOW) + BATCH_BYTES;
    let price = in_flight * 100 / MIB;
    let mut payee = open(100_000);
    payee.begin(A, bytes(32 * MIB)).unwrap();
    send(&mut payee, A, 16 * MIB);
    let bill = payee.billed().to_amount().unwrap();
    payee.credit(durable(bill.get()));
    assert_eq!(bill, units(1_600));
    send(&mut payee, A, in_flight);
    assert_eq!(payee.owed(), charge(price));
    let settled = payee.end(A, Some(bytes(16 * MIB))).unwrap();
    assert_eq!((settled.forgiven, settled.disputed), (charge(price), Charge::ZERO));
    assert_eq!((payee.owed(), payee.begin(B, bytes(MIB))), (Charge::ZERO, Ok(())));
    payee.end(B, None).unwrap();

    // The end of the next one is lost with the connection: the node bills all, and a fresh payer makes it good.
    payee.begin(A, bytes(8 * MIB)).unwrap();
    send(&mut payee, A, in_flight);
    payee.end(A, None).unwrap();
    let mut payer = Payer::new(terms(100_000), TARIFF, units(1_600), units(0));
    let shown = payee.watermark().map(|best| *best.signed());
    assert_eq!(payer.reconcile(shown, payee.billed()).unwrap().conceded, charge(price));
    let due = payer.due(true).unwrap().cumulative;
    assert_eq!(due, units(1_600 + price));
    payer.record_signed(due);
    payee.credit(durable(due.get()));
    assert_eq!((payer.begin(A, bytes(MIB)), payee.begin(A, bytes(MIB))), (Ok(()), Ok(())));
    assert_eq!(payee.owed(), Charge::ZERO);
}

// r[verify channel.cancel.settle]
#[test]
fn an_agent_that_denies_everything_is_cut_off_within_the_allowance_and_one_window() {
    for paid in [0, 100, 800, 1_600, 20_000] {
        let mut payee = open(1_000_000);
        if paid > 0 {
            payee.credit(durable(paid));
        }
        payee = Payee::new(*payee.terms(), TARIFF, payee.watermark().copied());
        let (mut stolen, mut forgiven) = (0, Charge::ZERO);
        while payee.begin(A, bytes(8 * MIB)).is_ok() {
            stolen += sent_until_wait(&mut payee, A);
            let settled = payee.end(A, Some(bytes(0))).unwrap();
            forgiven = forgiven.checked_add(settled.forgiven).unwrap();
        }
        let allowed = counting_allowance(units(paid), &TARIFF);
        assert_eq!(forgiven, allowed, "{paid} paid");
        let most = allowed.checked_add(Charge::from_amount(payee.window())).unwrap();
        assert!(TARIFF.charge(bytes(stolen)) <= most, "{paid} paid");
        assert!(matches!(payee.begin(A, bytes(1)), Err(BeginError::Unpaid { .. })));
    }
}

/// Paid for 16 MiB of a stream of 32, and sent as much more of it as the window takes: 8 MiB.
fn with_a_full_window() -> Payee {
    let mut payee = open(100_000);
    payee.begin(A, bytes(32 * MIB)).unwrap();
    send(&mut payee, A, 16 * MIB);
    let bill = payee.billed().to_amount().unwrap();
    payee.credit(durable(bill.get()));
    assert_eq!(sent_until_wait(&mut payee, A), 8 * MIB);
    payee
}

fn in_flight(acknowledged: u64, unsent: u64) -> InFlight {
    InFlight { acknowledged: bytes(acknowledged), unsent: bytes(unsent) }
}

fn off(payee: &mut Payee, stream: StreamKey, seen: InFlight) -> Option<Charge> {
    payee.lost(stream, seen).map(|lost| lost.off)
}

// r[verify channel.lost.settle]
#[test]
fn of_a_lost_stream_what_arrived_stays_billed_and_what_never_left_is_not_owed() {
    let mut payee = with_a_full_window();
    assert_eq!(off(&mut payee, A, in_flight(18 * MIB, 3 * MIB)), Some(charge(600)));
    assert_eq!((payee.owed(), payee.lent(), payee.disputed()), (charge(200), Charge::ZERO, Charge::ZERO));
    assert_eq!((payee.deposit_left(), off(&mut payee, A, InFlight::default())), (units(98_200), None));
    // What is owed is no reason to refuse.
    assert_eq!(payee.begin(A, bytes(8 * MIB)), Ok(()));
    assert_eq!(sent_until_wait(&mut payee, A), 6 * MIB);
    // Claims that do not fit take off no more than what was sent.
    assert_eq!(off(&mut payee, A, in_flight(7 * MIB, u64::MAX)), Some(Charge::ZERO));
    payee.credit(durable(2_400));
    payee.begin(B, bytes(MIB)).unwrap();
    send(&mut payee, B, MIB);
    assert_eq!(off(&mut payee, B, in_flight(0, u64::MAX)), Some(charge(100)));
    assert_eq!(payee.billed(), charge(2_400));
}

// r[verify channel.lost.settle]
#[test]
fn beyond_the_allowance_what_was_on_its_way_takes_up_the_window_until_paying_restores_it() {
    let mut payee = with_a_full_window();
    let allowance = counting_allowance(units(1_600), &TARIFF);
    assert_eq!(allowance, charge(325));
    assert_eq!(off(&mut payee, A, in_flight(16 * MIB, 0)), Some(charge(800)));
    assert_eq!((payee.owed(), payee.lent()), (Charge::ZERO, charge(475)));
    payee.begin(B, bytes(128 * MIB)).unwrap();
    assert_eq!(sent_until_wait(&mut payee, B), (325 * MIB / 100) / BATCH_BYTES * BATCH_BYTES);
    let lent = payee.lent();
    send(&mut payee, B, 4 * MIB);
    assert!(payee.lent() < lent);
    send(&mut payee, B, 80 * MIB);
    assert_eq!(payee.lent(), Charge::ZERO);
}

// r[verify channel.lost.settle]
// r[verify channel.window]
#[test]
fn an_agent_that_dies_again_and_again_gains_no_more_than_the_allowance_and_one_window() {
    for paid in [0, 100, 800, 1_600, 20_000] {
        for acknowledged in [0, BATCH_BYTES] {
            let best = (paid > 0).then(|| durable(paid));
            let mut payee = Payee::new(terms(1_000_000), TARIFF, best);
            let mut taken = 0;
            let window = Charge::from_amount(payee.window());
            for _ in 0..100 {
                payee.begin(A, bytes(8 * MIB)).unwrap();
                taken += sent_until_wait(&mut payee, A);
                payee.lost(A, in_flight(acknowledged, 0)).unwrap();
                assert!(payee.owed().checked_add(payee.lent()).unwrap() <= window, "{paid} paid");
            }
            let most = counting_allowance(units(paid), &TARIFF).checked_add(window).unwrap();
            assert!(TARIFF.charge(bytes(taken)) <= most, "{taken} bytes for nothing, {paid} paid");
        }
    }
}

// r[verify channel.window]
// r[verify channel.stream.price]
#[test]
fn what_is_lent_takes_up_the_window_of_every_price_but_for_a_quantum() {
    for (paid, per_mib) in
        [1_600, 8_000, 20_000, 51_200].into_iter().flat_map(|paid| [25, 100, 400].map(|of| (paid, of)))
    {
        let mut payee = Payee::new(terms(1_000_000), TARIFF, Some(durable(paid)));
        for _ in 0..4 {
            payee.begin(A, bytes(128 * MIB)).unwrap();
            sent_until_wait(&mut payee, A);
            payee.lost(A, in_flight(0, 0)).unwrap();
        }
        payee.credit(durable(payee.billed().to_amount().unwrap().get().max(paid)));
        let (tariff, lent) = (Tariff { per_mib }, payee.lent());
        assert!(lent > Charge::ZERO && payee.owed() == Charge::ZERO);
        payee.begin_at(B, tariff, bytes(256 * MIB)).unwrap();
        sent_until_wait(&mut payee, B);
        let window = Charge::from_amount(credit_window(payee.paid(), &tariff));
        let a_quantum_beside_it = lent.checked_add(tariff.charge(bytes(MIB))).unwrap();
        let at_risk = payee.owed().checked_add(lent).unwrap();
        assert!(at_risk <= window.max(a_quantum_beside_it), "{paid} paid, {tariff:?}: {at_risk:?}");
        assert!(payee.owed() > Charge::ZERO, "{paid} paid, {tariff:?}: no room at all");
    }
}

#[test]
fn a_claim_to_have_proven_more_than_was_sent_changes_nothing() {
    let mut payee = open(10_000);
    payee.begin(A, bytes(MIB)).unwrap();
    payee.may_send(A, bytes(1000)).unwrap();
    let owed = payee.owed();
    assert_eq!(payee.end(A, Some(bytes(u64::MAX))).unwrap().forgiven, Charge::ZERO);
    assert_eq!(payee.owed(), owed);
    assert_eq!(payee.end(A, None), None);
}

#[test]
fn a_restarted_payee_begins_at_the_higher_watermark() {
    let settled = ChannelTerms { settled: units(500), ..terms(10_000) };
    for (terms, best, paid) in [(terms(10_000), Some(durable(400)), 400), (settled, Some(durable(400)), 500)] {
        let payee = Payee::new(terms, TARIFF, best);
        assert_eq!((payee.paid(), payee.billed()), (units(paid), charge(paid)));
        assert_eq!(payee.owed(), Charge::ZERO);
    }
}

#[test]
fn the_chains_news_only_raises_and_only_moves_forward() {
    let mut payee = open(1_000);
    let closing = ChannelState::Closing { deadline: NOW };
    payee.begin(A, bytes(MIB)).unwrap();
    payee.refresh(&ChannelTerms { settled: units(50), state: closing, ..terms(2_000) });
    payee.refresh(&terms(500));
    let expected = ChannelTerms { settled: units(50), state: closing, ..terms(2_000) };
    assert_eq!(payee.terms(), &expected);
    assert_eq!(payee.begin(B, bytes(1)), Err(BeginError::ChannelClosing));
    assert_eq!(payee.may_send(A, bytes(1)), Ok(Permit::Granted));
    payee.refresh(&ChannelTerms { state: ChannelState::Closed, ..terms(1) });
    assert_eq!(payee.may_send(A, bytes(1)), Err(SendError::ChannelClosed));
    payee.refresh(&ChannelTerms { channel: ChannelId::from_bytes([1; 32]), ..terms(9_000) });
    assert_eq!(payee.terms().deposit, units(2_000));
}

#[test]
fn terms_are_what_the_account_says() {
    let mut account = Channel::from_bytes(&[0; Channel::LEN]);
    (account.signer, account.deposit, account.settled) = (agent().public(), 1_000, 50);
    let open = ChannelTerms { settled: units(50), ..terms(1_000) };
    assert_eq!(ChannelTerms::from_account(CHANNEL, &account), Ok(open));
    (account.status, account.deadline) = (1, NOW);
    let closing = ChannelTerms { state: ChannelState::Closing { deadline: NOW }, ..open };
    assert_eq!(ChannelTerms::from_account(CHANNEL, &account), Ok(closing));
    account.status = 3;
    assert_eq!(ChannelTerms::from_account(CHANNEL, &account), Err(TermsError::UnknownStatus(3)));
}

fn open(deposit: u64) -> Payee {
    Payee::new(terms(deposit), TARIFF, None)
}

fn charge(amount: u64) -> Charge {
    Charge::from_amount(units(amount))
}

/// Sends so much, and pays all that is owed whenever the window is full.
fn send(payee: &mut Payee, stream: StreamKey, count: u64) {
    let mut left = count;
    while left > 0 {
        match payee.may_send(stream, bytes(BATCH_BYTES)).unwrap() {
            Permit::Granted => left -= BATCH_BYTES,
            Permit::Wait => {
                let bill = payee.billed().to_amount().unwrap();
                payee.credit(durable(bill.get()));
            }
        }
    }
}

fn sent_until_wait(payee: &mut Payee, stream: StreamKey) -> u64 {
    let mut sent = 0;
    while payee.may_send(stream, bytes(BATCH_BYTES)) == Ok(Permit::Granted) {
        sent += BATCH_BYTES;
    }
    sent
}
