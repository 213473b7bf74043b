//! The program and aro-proto accept exactly the signatures that ed25519-dalek's `verify_strict` accepts.

mod bench;
mod edge_cases;
mod random;

use curve25519_dalek::{
    constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION},
    edwards::EdwardsPoint,
    scalar::Scalar,
    traits::Identity,
};
use settlement_chain::Address;
use sha2::{Digest, Sha512};

use self::bench::{Bench, Case, SIGNER_OFFSET, is_strictly_signed};
use crate::{instructions as ix, ledger::Voucher, seed::Chance};

/// The order of the base point, little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

impl Bench {
    fn challenge(&self, r: &[u8; 32], key: &[u8; 32], amount: u64) -> Scalar {
        let digest = Sha512::new().chain_update(r).chain_update(key).chain_update(self.message(amount)).finalize();
        Scalar::from_bytes_mod_order_wide(&digest.into())
    }

    /// A signature by `secret` under a key and a nonce point that each carry a torsion part, for an amount whose
    /// challenge makes the key's torsion vanish.
    fn twisted(&self, secret: Scalar, key_torsion: EdwardsPoint, r_torsion: EdwardsPoint) -> Case {
        let key_point = ED25519_BASEPOINT_POINT * secret + key_torsion;
        let nonce = Scalar::from(987_654_321u64);
        let r_point = ED25519_BASEPOINT_POINT * nonce + r_torsion;
        let (key, r) = (key_point.compress().to_bytes(), r_point.compress().to_bytes());
        for amount in 1..1_000 {
            let challenge = self.challenge(&r, &key, amount);
            if key_torsion * challenge == EdwardsPoint::identity() {
                return Case { key, amount, signature: join(r, nonce + challenge * secret) };
            }
        }
        unreachable!("one challenge in eight is a multiple of eight");
    }
}

fn join(r: [u8; 32], s: Scalar) -> [u8; 64] {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&r);
    signature[32..].copy_from_slice(s.as_bytes());
    signature
}

/// The same S, `times` the order higher.
fn raise_s(mut signature: [u8; 64], times: u32) -> [u8; 64] {
    for _ in 0..times {
        let mut carry = 0u16;
        for (byte, order) in signature[32..].iter_mut().zip(ORDER) {
            carry += u16::from(*byte) + u16::from(order);
            *byte = carry as u8;
            carry >>= 8;
        }
        assert_eq!(carry, 0, "S no longer fits");
    }
    signature
}

#[test]
// r[verify voucher.signature.strict]
fn an_honest_signature_is_accepted_and_every_flipped_bit_refused() {
    let mut bench = Bench::new();
    let honest = bench.honest();
    assert!(bench.accepts(&honest));
    for bit in (0..512).step_by(13) {
        let mut case = bench.honest();
        case.signature[bit / 8] ^= 1 << (bit % 8);
        assert!(!bench.accepts(&case), "bit {bit}");
    }
}

#[test]
// r[verify voucher.signature.strict]
fn s_must_be_reduced() {
    let mut bench = Bench::new();
    let mut case = bench.honest();
    case.signature = raise_s(case.signature, 1);
    assert!(!bench.accepts(&case));
}

#[test]
// r[verify voucher.signature.strict]
fn a_key_of_small_order_signs_nothing() {
    let mut bench = Bench::new();
    for torsion in EIGHT_TORSION {
        // With the torsion gone, the equation holds: only strictness refuses.
        let case = bench.twisted(Scalar::ZERO, torsion, EdwardsPoint::identity());
        assert!(!bench.accepts(&case));
    }
}

#[test]
// r[verify voucher.signature.strict]
fn a_nonce_point_of_small_order_is_refused() {
    let mut bench = Bench::new();
    let secret = Scalar::from(123_456_789u64);
    let key = (ED25519_BASEPOINT_POINT * secret).compress().to_bytes();
    for torsion in EIGHT_TORSION {
        let r = torsion.compress().to_bytes();
        let signature = join(r, bench.challenge(&r, &key, 10) * secret);
        assert!(!bench.accepts(&Case { key, amount: 10, signature }));
    }
}

#[test]
// r[verify voucher.signature.strict]
fn mixed_order_keys_count_only_where_the_plain_equation_holds() {
    let mut bench = Bench::new();
    let secret = Scalar::from(123_456_789u64);
    let identity = EdwardsPoint::identity();
    for torsion in EIGHT_TORSION.into_iter().skip(1) {
        let (on_key, on_nonce) = (bench.twisted(secret, torsion, identity), bench.twisted(secret, identity, torsion));
        assert!(bench.accepts(&on_key));
        assert!(!bench.accepts(&on_nonce));
    }
}

#[test]
// r[verify voucher.signature.strict]
fn aro_proto_and_verify_strict_agree_on_keys_and_nonces_of_every_order() {
    let mut chance = Chance::new(1);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..4_096_usize {
        let [secret, nonce] = [(); 2].map(|()| Scalar::from_bytes_mod_order(chance.bytes()));
        let (on_key, on_nonce) = (EIGHT_TORSION[round % 8], EIGHT_TORSION[round / 8 % 8]);
        let key = (ED25519_BASEPOINT_POINT * secret + on_key).compress().to_bytes();
        let r = (ED25519_BASEPOINT_POINT * nonce + on_nonce).compress().to_bytes();
        let message = chance.bytes::<50>();
        let digest = Sha512::new().chain_update(r).chain_update(key).chain_update(message).finalize();
        let challenge = Scalar::from_bytes_mod_order_wide(&digest.into());
        // With the cofactor all of them hold; without it one in eight.
        let case = Case { key, amount: 0, signature: join(r, nonce + challenge * secret) };
        let holds = on_nonce + on_key * challenge == EdwardsPoint::identity();
        assert_eq!(is_strictly_signed(&case, &message), holds, "{case:02x?}");
        *if holds { &mut accepted } else { &mut refused } += 1;
    }
    assert!(accepted > 400 && refused > 3_000, "{accepted} of {refused}");
}

#[test]
// r[verify voucher.signature.strict]
fn second_spellings_of_points_are_refused() {
    let mut bench = Bench::new();
    for (y, top) in (0u8..19).flat_map(|y| [(y, 0x7f), (y, 0xff)]) {
        let mut alias = [0xff; 32];
        (alias[0], alias[31]) = (0xed + y, top);
        let mut case = bench.honest();
        case.key = alias;
        assert!(!bench.accepts(&case));
        let mut case = bench.honest();
        case.signature[..32].copy_from_slice(&alias);
        assert!(!bench.accepts(&case));
    }
}

#[test]
// r[verify voucher.bytes]
fn the_known_answers_of_the_ecosystem_settle() {
    let mut bench = Bench::new();
    // Secret 07 x 32 signs for the channel at address 09 x 32.
    let channel = Address::new_from_array([9; 32]);
    let mut forged = bench.world.svm.get_account(&bench.channels[0]).unwrap();
    forged.data[SIGNER_OFFSET..SIGNER_OFFSET + 32]
        .copy_from_slice(&hex("ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c"));
    bench.world.svm.set_account(channel, forged).unwrap();
    bench.world.set_time(1_233);
    for (cumulative, expires_at, signature) in [
        (
            42,
            1_234,
            "0a0b08cbdce319accafe808ec4be3c46e467cb0b2e6c2b53d5b540ee5e355f0b\
             a3933aaaadb23d452c3193fe3db2336a55f98d534eda9f8b81ba4810c80c3f0e",
        ),
        (
            5_000,
            0,
            "358809a80a20039e0b8c670fa601e6ace5c26cf56b629ab785bbeebe4ea7d0b7\
             7f1fde23fe0fb46967ce8529ee7ca62b0ea73fa39f194586e5db8d02e647e302",
        ),
    ] {
        let signature = hex(signature).try_into().unwrap();
        let voucher = Voucher { cumulative, signature, expires_at };
        bench.world.send(&[ix::settle_batch(&bench.node, &[(channel, voucher)])], &[]).unwrap();
        assert_eq!(bench.world.read_channel(&channel).settled, cumulative);
    }
}

fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
