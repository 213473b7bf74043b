//! Could break: credit before the disk, a lost voucher after a failed write, a damaged store trusted.

use std::cell::Cell;

use super::*;

/// The faulty twin: fails as many writes as it is told, whole.
#[derive(Default)]
pub(super) struct FaultyVouchers {
    pub(super) kept: MemoryVouchers,
    pub(super) failures_left: Cell<u32>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct DiskFull;

impl VoucherStore for FaultyVouchers {
    type Error = DiskFull;

    fn persist(&self, batch: &[VerifiedVoucher]) -> Result<(), DiskFull> {
        match self.failures_left.get().checked_sub(1) {
            Some(left) => {
                self.failures_left.set(left);
                Err(DiskFull)
            }
            None => self.kept.persist(batch).map_err(|never| match never {}),
        }
    }

    fn load(&self, channel: ChannelId) -> Result<Option<SignedVoucher>, DiskFull> {
        self.kept.load(channel).map_err(|never| match never {})
    }
}

// r[verify channel.persist_before_credit]
#[test]
fn an_offered_voucher_gives_no_credit_until_the_store_has_it() {
    let store = FaultyVouchers { failures_left: Cell::new(1), ..FaultyVouchers::default() };
    let mut payee = Payee::new(terms(1_000), TARIFF, None);
    let Ok(Offer::Fresh(verified)) = payee.offer(&voucher(400), NOW) else { panic!("fresh") };
    assert_eq!((payee.paid(), payee.window()), (units(0), units(100)));

    assert_eq!(persist_all(&store, vec![verified]), Err(DiskFull));
    payee.persist_failed(units(400));
    assert_eq!((payee.paid(), payee.window()), (units(0), units(100)));

    let Ok(Offer::Fresh(verified)) = payee.offer(&voucher(400), NOW) else { panic!("fresh again") };
    let batch = persist_all(&store, vec![verified]).unwrap();
    assert_eq!(payee.credit(batch[0]), Credit { cumulative: units(400), window: units(200) });
}

#[test]
fn a_failed_write_of_a_lower_voucher_keeps_the_higher_one_pending() {
    let mut payee = Payee::new(terms(1_000), TARIFF, None);
    payee.offer(&voucher(10), NOW).unwrap();
    payee.offer(&voucher(20), NOW).unwrap();
    payee.persist_failed(units(10));
    assert_eq!(payee.offer(&voucher(20), NOW), Ok(Offer::Known));
}

#[test]
fn durable_vouchers_may_come_back_in_any_order() {
    let mut payee = Payee::new(terms(1_000), TARIFF, None);
    payee.credit(durable(20));
    assert_eq!(payee.credit(durable(10)).cumulative, units(20));
    assert_eq!(payee.watermark(), Some(&durable(20)));
}

#[test]
fn a_store_keeps_the_highest_voucher_of_a_batch() {
    let store = MemoryVouchers::default();
    let signer = agent().agent_id();
    let batch = [20, 30, 10].map(|amount| voucher(amount).verify(&signer).unwrap());
    persist_all(&store, batch.to_vec()).unwrap();
    assert_eq!(restore(&store, CHANNEL, &signer), Ok(Some(durable(30))));
    assert_eq!(restore(&store, ChannelId::from_bytes([1; 32]), &signer), Ok(None));
}

#[test]
fn a_stored_voucher_is_verified_again_when_it_is_read() {
    struct Damaged;
    impl VoucherStore for Damaged {
        type Error = DiskFull;
        fn persist(&self, _: &[VerifiedVoucher]) -> Result<(), DiskFull> {
            Err(DiskFull)
        }
        fn load(&self, _: ChannelId) -> Result<Option<SignedVoucher>, DiskFull> {
            Ok(Some(SignedVoucher { signature: [1; 64], ..voucher(20) }))
        }
    }
    let damaged = |channel| Err(RestoreError::Damaged { channel });
    assert_eq!(restore(&Damaged, CHANNEL, &agent().agent_id()), damaged(CHANNEL));
    let elsewhere = ChannelId::from_bytes([1; 32]);
    assert_eq!(restore(&Damaged, elsewhere, &agent().agent_id()), damaged(elsewhere));
}

#[test]
fn an_empty_batch_does_not_touch_the_disk() {
    let store = FaultyVouchers { failures_left: Cell::new(1), ..FaultyVouchers::default() };
    assert_eq!(persist_all(&store, vec![]), Ok(vec![]));
}

#[test]
fn a_payee_takes_nothing_of_another_channel_or_signer() {
    let stranger = ChannelTerms { signer: SecretKey::from_bytes(&[8; 32]).agent_id(), ..terms(1_000) };
    let elsewhere = ChannelTerms { channel: ChannelId::from_bytes([1; 32]), ..terms(1_000) };
    for terms in [stranger, elsewhere] {
        let mut payee = Payee::new(terms, TARIFF, Some(durable(500)));
        assert_eq!(payee.paid(), units(0));
        assert_eq!(payee.credit(durable(500)).cumulative, units(0));
    }
}
