//! Could break: what a channel serves and hands over while the chain closes it, denies it or changes its mind.

use aro_proto::SecretKey;
use aro_proto::channel::{MemoryVouchers, Voucher, persist_all};
use aro_proto::limits::{CLOSING_MARGIN_S, MAX_WINDOW_BYTES};

use super::*;

// r[verify settlement.close.best_voucher]
#[test]
fn closing_channel_is_handed_over_to_be_closed_only_once_its_streams_have_ended() {
    let signer = SecretKey::from_bytes(&[7; 32]);
    let channel = ChannelId::from_bytes([3; 32]);
    let open = ChannelTerms {
        channel,
        signer: signer.agent_id(),
        deposit: Amount::new(1_000_000),
        settled: Amount::ZERO,
        state: ChannelState::Open,
    };
    let voucher = Voucher { channel, cumulative: Amount::new(900), expires_at: 0 };
    let verified = voucher.sign(&signer).verify(&signer.agent_id()).unwrap();
    let best = persist_all(&MemoryVouchers::default(), vec![verified]).unwrap()[0];
    let paid = paid_channel(Payee::new(open, Tariff::default(), Some(best)), Tariff::default());
    let stream = paid.begin(Tariff::default(), ByteCount::new(1_000)).unwrap();
    paid.refresh(&ChannelTerms { state: ChannelState::Closing { deadline: i64::MAX }, ..open });

    let (id, now) = (NodeId::from_bytes([1; 32]), Instant::now());
    let taker = Taker { id, may_close: true, now, again_after: Duration::from_secs(3_600) };
    let early = paid.unhanded(&taker).unwrap();
    assert!(!early.close, "what the stream still earns belongs in the last voucher");
    paid.mark_handed(id, Handed { cumulative: early.voucher.voucher.cumulative, close: early.close });
    assert!(paid.unhanded(&taker).is_none());
    paid.end(stream, None);
    assert!(paid.unhanded(&taker).unwrap().close);
}

fn paid_channel(payee: Payee, tariff: Tariff) -> PaidChannel {
    PaidChannel::new(payee, tariff, 900, tab(tariff), None)
}

/// One window's worth.
fn tab(tariff: Tariff) -> Arc<OwnerTab> {
    Arc::new(OwnerTab::new(tariff.charge(ByteCount::new(MAX_WINDOW_BYTES))))
}

/// What channels cost here, in base units.
const TARIFF: Tariff = Tariff { per_mib: 1 };

fn channel_at(state: ChannelState) -> (Arc<PaidChannel>, ChannelTerms, SecretKey) {
    let signer = SecretKey::from_bytes(&[7; 32]);
    let channel = ChannelId::from_bytes([3; 32]);
    let deposit = Amount::new(1_000_000);
    let terms = ChannelTerms { channel, signer: signer.agent_id(), deposit, settled: Amount::ZERO, state };
    let verified =
        Voucher { channel, cumulative: Amount::new(900), expires_at: 0 }.sign(&signer).verify(&terms.signer).unwrap();
    let best = persist_all(&MemoryVouchers::default(), vec![verified]).unwrap()[0];
    (Arc::new(paid_channel(Payee::new(terms, TARIFF, Some(best)), TARIFF)), terms, signer)
}

#[test]
fn closing_channel_takes_and_serves_nothing_shortly_before_its_deadline() {
    let now = unix_now();
    let (paid, terms, signer) = channel_at(ChannelState::Open);
    let stream = paid.begin(TARIFF, ByteCount::new(1_000)).unwrap();
    let voucher = |cumulative| {
        Voucher { channel: terms.channel, cumulative: Amount::new(cumulative), expires_at: 0 }.sign(&signer)
    };
    let deadline = now + 10_000;
    paid.refresh(&ChannelTerms { state: ChannelState::Closing { deadline }, ..terms });
    assert_eq!(paid.may_send(stream, ByteCount::new(10)), Ok(Permit::Granted));
    assert!(paid.offer(&voucher(910), deadline - CLOSING_MARGIN_S - 1).is_ok());
    assert_eq!(paid.offer(&voucher(920), deadline - CLOSING_MARGIN_S), Err(VoucherError::ChannelClosed));

    let (paid, terms, _) = channel_at(ChannelState::Open);
    let stream = paid.begin(TARIFF, ByteCount::new(1_000)).unwrap();
    let state = ChannelState::Closing { deadline: now + CLOSING_MARGIN_S };
    paid.refresh(&ChannelTerms { state, ..terms });
    assert_eq!(paid.may_send(stream, ByteCount::new(10)), Err(SendError::ChannelClosed));
}

// r[verify settlement.servers.each]
#[test]
fn close_that_one_server_shows_is_heeded_while_it_shows_it_and_no_longer() {
    let now = unix_now();
    let (paid, terms, _) = channel_at(ChannelState::Open);
    let stream = paid.begin(TARIFF, ByteCount::new(1_000)).unwrap();
    let closing = ChannelTerms { state: ChannelState::Closing { deadline: now + CLOSING_MARGIN_S }, ..terms };
    let send = || paid.may_send(stream, ByteCount::new(10));
    // It may be the only honest one: what is believed shows a channel that is open and settled in full.
    paid.refresh(&ChannelTerms { settled: Amount::new(900), ..terms });
    paid.see_otherwise(vec![closing]);
    assert_eq!(send(), Err(SendError::ChannelClosed), "near the deadline nothing is lent");
    let shown: Vec<_> = paid.unsettled_by_any().iter().map(|it| (it.state, it.amount)).collect();
    assert_eq!(shown, [(closing.state, Amount::new(900))]);
    paid.see_otherwise(vec![]);
    assert_eq!((send(), paid.unsettled_by_any().len()), (Ok(Permit::Granted), 0));
    paid.refresh(&terms);
    paid.see_otherwise(vec![ChannelTerms { state: ChannelState::Closed, ..terms }]);
    assert_eq!(paid.unsettled().unwrap().amount, Amount::new(900), "one that calls it closed hides nothing");
    assert_eq!(send(), Err(SendError::ChannelClosed), "and nothing is lent while it does");
}

#[test]
fn voucher_is_worthless_only_once_it_can_settle_nothing_more() {
    let (open, terms, _) = channel_at(ChannelState::Open);
    assert!(!open.is_worthless(i64::MAX));
    open.refresh(&ChannelTerms { settled: Amount::new(900), ..terms });
    assert!(open.is_worthless(0));
    let (closing, ..) = channel_at(ChannelState::Closing { deadline: 500 });
    assert!(!closing.is_worthless(499));
    assert!(closing.is_worthless(500));
    assert!(channel_at(ChannelState::Closed).0.is_worthless(0));
}

#[test]
fn channel_that_is_gone_serves_nothing_and_only_a_missing_one_comes_back() {
    let (paid, terms, signer) = channel_at(ChannelState::Open);
    let stream = paid.begin(TARIFF, ByteCount::new(1_000)).unwrap();
    let voucher = Voucher { channel: terms.channel, cumulative: Amount::new(910), expires_at: 0 }.sign(&signer);
    let refuses = || {
        paid.begin(TARIFF, ByteCount::new(1)) == Err(BeginError::ChannelClosing)
            && paid.may_send(stream, ByteCount::new(1)) == Err(SendError::ChannelClosed)
            && paid.offer(&voucher, 0) == Err(VoucherError::ChannelClosed)
    };
    paid.mark_missing(5);
    assert!(refuses() && paid.unsettled().is_none());
    assert_eq!(paid.missing_since(), Some(5));
    paid.refresh(&terms);
    assert_eq!(paid.may_send(stream, ByteCount::new(1)), Ok(Permit::Granted));
    paid.mark_forgotten();
    paid.refresh(&terms);
    assert!(refuses());
}

#[test]
fn what_a_fork_takes_back_is_unsettled_again() {
    let (paid, terms, _) = channel_at(ChannelState::Open);
    assert_eq!(paid.unsettled().unwrap().amount, Amount::new(900));
    paid.refresh(&ChannelTerms { settled: Amount::new(900), ..terms });
    assert!(paid.unsettled().is_none());
    paid.refresh(&ChannelTerms { settled: Amount::new(300), ..terms });
    assert_eq!(paid.unsettled().unwrap().amount, Amount::new(600));
    // Whoever paid once is never asked to pay again.
    assert_eq!(paid.standing().cumulative, Amount::new(900));
}

#[test]
fn chain_is_read_for_announced_deposits_by_one_task_at_a_time() {
    let (paid, terms, _) = channel_at(ChannelState::Open);
    let first = paid.await_deposit(Amount::new(2_000_000)).unwrap();
    assert!(paid.await_deposit(Amount::new(3_000_000)).is_none());
    paid.refresh(&ChannelTerms { deposit: Amount::new(2_000_000), ..terms });
    assert!(!first.has_come());
    paid.refresh(&ChannelTerms { deposit: Amount::new(3_000_000), ..terms });
    assert!(first.has_come());
    drop(first);
    assert!(paid.await_deposit(Amount::new(4_000_000)).is_some());
}

// r[verify settlement.servers.each]
#[test]
fn a_lie_that_a_channel_has_ended_loses_no_voucher_once_the_chain_shows_it_again() {
    let (paid, terms, _) = channel_at(ChannelState::Open);
    let deadline = unix_now() + 10_000;
    let (id, now) = (NodeId::from_bytes([1; 32]), Instant::now());
    let taker = Taker { id, may_close: true, now, again_after: Duration::from_secs(3_600) };
    paid.refresh(&ChannelTerms { state: ChannelState::Closed, ..terms });
    assert!(paid.unsettled().is_none() && paid.unhanded(&taker).is_none());
    paid.refresh(&terms);
    assert_eq!(paid.unsettled().unwrap().state, ChannelState::Open);
    paid.refresh(&ChannelTerms { state: ChannelState::Closing { deadline }, ..terms });
    assert_eq!(paid.unsettled().unwrap().state, ChannelState::Closing { deadline });
    assert!(paid.is_closing() && paid.unhanded(&taker).unwrap().close);
    // What was once called ended is not served all the same.
    assert_eq!(paid.begin(TARIFF, ByteCount::new(1)), Err(BeginError::ChannelClosing));
}
