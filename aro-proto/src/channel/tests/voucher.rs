//! Could break: the signed bytes, their strict verification, the order and bounds of amounts, expiry.

use proptest::prelude::*;

use super::*;
use crate::error::RefusalCode;
use crate::ids::AgentId;
use crate::limits::SETTLE_MARGIN_S;

// r[verify voucher.bytes]
#[test]
fn vouchers_are_the_ecosystems_known_answers() {
    for (cumulative, expires_at, answer) in KNOWN_ANSWERS {
        let signed = Voucher { channel: CHANNEL, cumulative: units(cumulative), expires_at }.sign(&agent());
        assert_eq!(hex(&agent().public()), "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c");
        assert_eq!(hex(&signed.signature), answer);
        assert!(signed.verify(&agent().agent_id()).is_ok());
    }
}

// r[verify voucher.bytes]
// r[verify voucher.signature.strict]
#[test]
fn vectors_verify_or_are_refused_as_they_say() {
    let mut seen = [0, 0];
    for entry in std::fs::read_dir(VECTORS).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, body) = text.split_once("\n\n").unwrap();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        let body = unhex(&body.split_whitespace().collect::<String>());
        let (message, signature) = body.split_at(50);
        let voucher = Voucher {
            channel: ChannelId::from_bytes(unhex(field("channel:")).try_into().unwrap()),
            cumulative: units(field("cumulative:").parse().unwrap()),
            expires_at: field("expires_at:").parse().unwrap(),
        };
        assert_eq!(voucher.to_bytes(), message, "{path:?}");
        let signer = AgentId::from_bytes(unhex(field("signer:")).try_into().unwrap());
        let verified = SignedVoucher { voucher, signature: signature.try_into().unwrap() }.verify(&signer);
        match field("expect:") {
            "ok" => assert!(verified.is_ok(), "{path:?}"),
            "refused signature" => assert_eq!(verified, Err(VoucherError::BadSignature), "{path:?}"),
            other => panic!("{path:?} expects {other}"),
        }
        seen[usize::from(verified.is_ok())] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "both kinds of vector are there");
}

// r[verify voucher.signature.strict]
#[test]
fn any_flipped_bit_or_other_key_voids_the_signature() {
    let signed = voucher(42);
    let stranger = SecretKey::from_bytes(&[8; 32]).agent_id();
    assert_eq!(signed.verify(&stranger), Err(VoucherError::BadSignature));
    for place in 0..64 {
        let mut altered = signed;
        altered.signature[place] ^= 1;
        assert_eq!(altered.verify(&agent().agent_id()), Err(VoucherError::BadSignature), "byte {place}");
    }
    let raised = SignedVoucher { voucher: Voucher { cumulative: units(43), ..signed.voucher }, ..signed };
    assert_eq!(raised.verify(&agent().agent_id()), Err(VoucherError::BadSignature));
    let weak = AgentId::from_bytes([0; 32]);
    assert_eq!(SignedVoucher { signature: [0; 64], ..signed }.verify(&weak), Err(VoucherError::BadSignature));
}

// r[verify voucher.channel.bound]
#[test]
fn a_voucher_of_another_channel_is_refused() {
    let got = ChannelId::from_bytes([1; 32]);
    let foreign = Voucher { channel: got, cumulative: units(5), expires_at: 0 }.sign(&agent());
    let refusal = payee().offer(&foreign, NOW);
    assert_eq!(refusal, Err(VoucherError::WrongChannel { expected: CHANNEL, got }));
}

// r[verify voucher.amount.monotonic]
#[test]
fn amounts_only_rise_even_while_vouchers_wait_for_the_disk() {
    let mut payee = payee();
    let not_rising =
        |watermark, offered| Err(VoucherError::NotRising { watermark: units(watermark), offered: units(offered) });
    assert_eq!(payee.offer(&voucher(0), NOW), not_rising(0, 0));
    assert!(matches!(payee.offer(&voucher(50), NOW), Ok(Offer::Fresh(_))));
    assert_eq!(payee.offer(&voucher(49), NOW), not_rising(50, 49));
    payee.credit(durable(50));
    assert_eq!(payee.offer(&voucher(49), NOW), not_rising(50, 49));
    payee.refresh(&ChannelTerms { settled: units(70), ..terms(1_000) });
    assert_eq!(payee.offer(&voucher(70), NOW), not_rising(70, 70));
    assert!(matches!(payee.offer(&voucher(71), NOW), Ok(Offer::Fresh(_))));
}

// r[verify voucher.amount.equal]
#[test]
fn the_same_voucher_is_known_and_an_equal_amount_in_other_bytes_is_refused() {
    let mut payee = payee();
    let differs = Err(VoucherError::EqualDiffers { cumulative: units(50) });
    let other = Voucher { channel: CHANNEL, cumulative: units(50), expires_at: NOW + SETTLE_MARGIN_S }.sign(&agent());
    assert!(matches!(payee.offer(&voucher(50), NOW), Ok(Offer::Fresh(_))));
    for _ in ["pending", "durable"] {
        assert_eq!(payee.offer(&voucher(50), NOW), Ok(Offer::Known));
        assert_eq!(payee.offer(&other, NOW), differs);
        payee.credit(durable(50));
    }
}

// r[verify voucher.amount.deposit]
#[test]
fn a_voucher_may_pay_the_whole_deposit_and_no_unit_more() {
    let above = VoucherError::AboveDeposit { deposit: units(1_000), offered: units(1_001) };
    assert_eq!(payee().offer(&voucher(1_001), NOW), Err(above));
    assert!(payee().offer(&voucher(1_000), NOW).is_ok());
    let mut topped_up = payee();
    topped_up.refresh(&terms(1_001));
    assert!(topped_up.offer(&voucher(1_001), NOW).is_ok());
}

// r[verify voucher.expiry]
#[test]
fn expiry_is_never_or_far_enough_to_settle() {
    let offer = |expires_at| {
        let signed = Voucher { channel: CHANNEL, cumulative: units(5), expires_at }.sign(&agent());
        payee().offer(&signed, NOW).map(|_| ())
    };
    let earliest = NOW + SETTLE_MARGIN_S;
    for expires_at in [i64::MIN, -1, 1, NOW - 1, NOW] {
        assert_eq!(offer(expires_at), Err(VoucherError::Expired { expires_at, now: NOW }));
    }
    for expires_at in [NOW + 1, earliest - 1] {
        assert_eq!(offer(expires_at), Err(VoucherError::ExpiresTooSoon { expires_at, earliest }));
    }
    for expires_at in [0, earliest, i64::MAX] {
        assert_eq!(offer(expires_at), Ok(()));
    }
}

#[test]
fn a_closing_channel_takes_vouchers_before_its_deadline_and_not_at_it() {
    let with = |state| Payee::new(ChannelTerms { state, ..terms(1_000) }, TARIFF, None);
    let closing = ChannelState::Closing { deadline: NOW };
    assert!(with(closing).offer(&voucher(5), NOW - 1).is_ok());
    assert_eq!(with(closing).offer(&voucher(5), NOW), Err(VoucherError::ChannelClosed));
    assert_eq!(with(ChannelState::Closed).offer(&voucher(5), 0), Err(VoucherError::ChannelClosed));
}

#[test]
fn a_bad_signature_leaves_no_trace() {
    let mut payee = payee();
    let forged = SignedVoucher { signature: [3; 64], ..voucher(50) };
    assert_eq!(payee.offer(&forged, NOW), Err(VoucherError::BadSignature));
    assert!(matches!(payee.offer(&voucher(10), NOW), Ok(Offer::Fresh(_))));
}

#[test]
fn every_refused_voucher_has_its_code_and_amount() {
    let refusal = VoucherError::NotRising { watermark: units(5), offered: units(4) }.refusal();
    assert_eq!((refusal.code(), refusal.amount), (RefusalCode::VoucherNotRising, Some(units(5))));
    assert_eq!(VoucherError::ChannelClosed.refusal().code(), RefusalCode::ChannelUnusable);
    assert_eq!(VoucherError::Expired { expires_at: 1, now: 2 }.refusal_code().to_wire(), 54);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    // r[verify voucher.amount.monotonic]
    #[test]
    fn in_whatever_order_vouchers_come_the_highest_wins(order in Just((1..=8u64).collect::<Vec<_>>()).prop_shuffle()) {
        let mut payee = payee();
        let mut highest = 0;
        for amount in order {
            match payee.offer(&voucher(amount), NOW) {
                Ok(Offer::Fresh(verified)) => {
                    prop_assert!(amount > highest);
                    let batch = persist_all(&MemoryVouchers::default(), vec![verified]).unwrap();
                    prop_assert_eq!(payee.credit(batch[0]).cumulative, units(amount));
                    highest = amount;
                }
                refused => prop_assert_eq!(
                    refused,
                    Err(VoucherError::NotRising { watermark: units(highest), offered: units(amount) })
                ),
            }
        }
        prop_assert_eq!(payee.paid(), units(8));
    }
}

fn payee() -> Payee {
    Payee::new(terms(1_000), TARIFF, None)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|place| u8::from_str_radix(&text[place..place + 2], 16).unwrap()).collect()
}

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol-spec/vectors/voucher");

/// Amount, expiry, signature by key 07x32 on channel 09x32.
const KNOWN_ANSWERS: [(u64, i64, &str); 2] = [
    (
        42,
        1234,
        "0a0b08cbdce319accafe808ec4be3c46e467cb0b2e6c2b53d5b540ee5e355f0b\
         a3933aaaadb23d452c3193fe3db2336a55f98d534eda9f8b81ba4810c80c3f0e",
    ),
    (
        5000,
        0,
        "358809a80a20039e0b8c670fa601e6ace5c26cf56b629ab785bbeebe4ea7d0b7\
         7f1fde23fe0fb46967ce8529ee7ca62b0ea73fa39f194586e5db8d02e647e302",
    ),
];
