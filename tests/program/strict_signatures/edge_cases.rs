//! The twelve edge cases of Chalkias, Garillot and Nikolaenko, "Taming the many EdDSAs" (SSR 2020, eprint 2020/1244,
//! table 5), numbered as there.
//!
//! The published vectors sign messages of 32 bytes, and the program verifies nothing but vouchers of 50; so each case
//! is derived anew for a voucher, and shown to be what the paper says that it is (orders of both points, range of S,
//! which of the two equations hold) before the program is asked.

use curve25519_dalek::{
    constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION},
    edwards::{CompressedEdwardsY, EdwardsPoint},
    scalar::Scalar,
    traits::{Identity, IsIdentity},
};
use sha2::{Digest, Sha512};

use super::{
    bench::{Bench, Case},
    join, raise_s,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Small,
    Prime,
    Mixed,
}

/// One row of the paper's table, and whether a strict verifier accepts it.
struct Row {
    number: usize,
    case: Case,
    key: Order,
    r: Order,
    is_s_reduced: bool,
    is_key_canonical: bool,
    is_r_canonical: bool,
    /// 8SB = 8R + 8hA, with the challenge h over the bytes as they stand or over the points' canonical bytes.
    holds_with_cofactor: [bool; 2],
    /// SB = R + hA, likewise.
    holds_without: [bool; 2],
    is_strict: bool,
}

#[test]
// r[verify voucher.signature.strict]
fn the_published_edge_cases_are_judged_as_verify_strict_does() {
    let mut bench = Bench::new();
    let rows = rows(&bench);
    assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    for row in rows {
        row.assert_is_what_it_claims(&bench);
        assert_eq!(bench.accepts(&row.case), row.is_strict, "case {}", row.number);
    }
}

#[test]
// r[verify voucher.signature.strict]
fn no_pair_of_small_order_points_signs_however_it_is_spelled() {
    let mut bench = Bench::new();
    let all = small_order_spellings();
    assert_eq!(all.len(), 14);
    for key in &all {
        for r in &all {
            // S is zero: the equation is R + hA = 0, which some amount fulfils where the subgroup allows it.
            let fits = |amount| {
                let sum = point(r) + point(key) * challenge(&bench, r, key, amount);
                sum.is_identity()
            };
            let amount = (1..200).find(|amount| fits(*amount)).unwrap_or(1);
            let case = Case { key: *key, amount, signature: join(*r, Scalar::ZERO) };
            assert!(!bench.accepts(&case), "{case:02x?}");
        }
    }
}

fn rows(bench: &Bench) -> Vec<Row> {
    let (secret, nonce) = (Scalar::from(123_456_789u64), Scalar::from(987_654_321u64));
    let torsion = EIGHT_TORSION[1];
    let none = EdwardsPoint::identity();
    let (strong_key, strong_r) = (ED25519_BASEPOINT_POINT * secret, ED25519_BASEPOINT_POINT * nonce);
    let bytes = |point: EdwardsPoint| point.compress().to_bytes();
    let both = [true; 2];
    // Signs under key `secret B + t` and nonce `nonce B + u`, for the first amount that fits.
    let sign = |secret: Scalar, key: [u8; 32], nonce: Scalar, r: [u8; 32], fits: &dyn Fn(Scalar) -> bool| {
        let found = (1..10_000).find_map(|amount| {
            let h = challenge(bench, &r, &key, amount);
            fits(h).then(|| Case { key, amount, signature: join(r, nonce + h * secret) })
        });
        found.expect("an amount that fits")
    };
    let cancels = |r: EdwardsPoint, key: EdwardsPoint| move |h: Scalar| (r + key * h).is_identity();
    let plain = |number, case, key, r, without, is_strict| Row {
        number,
        case,
        key,
        r,
        is_s_reduced: true,
        is_key_canonical: true,
        is_r_canonical: true,
        holds_with_cofactor: both,
        holds_without: [without; 2],
        is_strict,
    };

    let (mixed_key, mixed_r) = (bytes(strong_key + torsion), bytes(strong_r + torsion));
    let small = bytes(torsion);
    let case0 = sign(Scalar::ZERO, small, Scalar::ZERO, small, &cancels(torsion, torsion));
    let case1 = sign(Scalar::ZERO, small, nonce, mixed_r, &cancels(torsion, torsion));
    let case2 = sign(secret, mixed_key, Scalar::ZERO, small, &cancels(torsion, torsion));
    let case3 = sign(secret, mixed_key, nonce, mixed_r, &cancels(torsion, torsion));
    let case4 = sign(secret, mixed_key, nonce, mixed_r, &|h| !cancels(torsion, torsion)(h));
    // A verifier that reduces 8h modulo the order before it multiplies A gets another point here.
    let lost = |h: Scalar| !cancels(none, torsion)(h) && !(torsion * (h * Scalar::from(8u64))).is_identity();
    let case5 = sign(secret, mixed_key, nonce, bytes(strong_r), &lost);
    let honest = sign(secret, bytes(strong_key), nonce, bytes(strong_r), &|_| true);
    let raised = |times| Case { signature: raise_s(honest.signature, times), ..honest.clone() };

    let mut rows = vec![
        plain(0, case0, Order::Small, Order::Small, true, false),
        plain(1, case1, Order::Small, Order::Mixed, true, false),
        plain(2, case2, Order::Mixed, Order::Small, true, false),
        plain(3, case3, Order::Mixed, Order::Mixed, true, true),
        plain(4, case4, Order::Mixed, Order::Mixed, false, false),
        plain(5, case5, Order::Mixed, Order::Prime, false, false),
        Row { is_s_reduced: false, ..plain(6, raised(1), Order::Prime, Order::Prime, true, false) },
        Row { is_s_reduced: false, ..plain(7, raised(13), Order::Prime, Order::Prime, true, false) },
    ];

    // -1 with a sign that zero does not have: the second spelling of the point of order two.
    let mut odd = bytes(EIGHT_TORSION[4]);
    let canonical = odd;
    odd[31] |= 0x80;
    let two = EIGHT_TORSION[4];
    // The challenge over one spelling cancels and over the other does not, for each in turn.
    let r_only = |given: &[u8; 32], other: &[u8; 32]| {
        let found = (1..10_000).find_map(|amount| {
            let h = challenge(bench, given, &mixed_two(), amount);
            let h_other = challenge(bench, other, &mixed_two(), amount);
            let fits = cancels(two, two)(h) && !cancels(two, two)(h_other);
            fits.then(|| Case { key: mixed_two(), amount, signature: join(odd, h * secret) })
        });
        found.expect("an amount that fits")
    };
    fn mixed_two() -> [u8; 32] {
        (ED25519_BASEPOINT_POINT * Scalar::from(123_456_789u64) + EIGHT_TORSION[4]).compress().to_bytes()
    }
    let (case8, case9) = (r_only(&odd, &canonical), r_only(&canonical, &odd));
    let key_only = |given: &[u8; 32], other: &[u8; 32]| {
        let r = bytes(strong_r + two);
        let found = (1..10_000).find_map(|amount| {
            let h = challenge(bench, &r, given, amount);
            let h_other = challenge(bench, &r, other, amount);
            let fits = cancels(two, two)(h) && !cancels(two, two)(h_other);
            fits.then(|| Case { key: odd, amount, signature: join(r, nonce) })
        });
        found.expect("an amount that fits")
    };
    let (case10, case11) = (key_only(&odd, &canonical), key_only(&canonical, &odd));
    let odd_r = |number, case, given| Row {
        is_r_canonical: false,
        holds_with_cofactor: [given, !given],
        holds_without: [given, !given],
        ..plain(number, case, Order::Mixed, Order::Small, true, false)
    };
    rows.extend([odd_r(8, case8, true), odd_r(9, case9, false)]);
    let odd_key = |number, case, given| Row {
        is_key_canonical: false,
        holds_without: [given, !given],
        ..plain(number, case, Order::Small, Order::Mixed, true, false)
    };
    rows.extend([odd_key(10, case10, true), odd_key(11, case11, false)]);
    rows
}

impl Row {
    fn assert_is_what_it_claims(&self, bench: &Bench) {
        let number = self.number;
        let Case { key, amount, signature } = &self.case;
        let r: [u8; 32] = signature[..32].try_into().unwrap();
        let s: [u8; 32] = signature[32..].try_into().unwrap();
        let (key_point, r_point) = (point(key), point(&r));
        assert_eq!((order(key_point), order(r_point)), (self.key, self.r), "case {number}");
        assert_eq!(
            Option::<Scalar>::from(Scalar::from_canonical_bytes(s)).is_some(),
            self.is_s_reduced,
            "case {number}"
        );
        assert_eq!(key_point.compress().to_bytes() == *key, self.is_key_canonical, "case {number}");
        assert_eq!(r_point.compress().to_bytes() == r, self.is_r_canonical, "case {number}");

        let s = Scalar::from_bytes_mod_order(s);
        let spellings = [(r, *key), (r_point.compress().to_bytes(), key_point.compress().to_bytes())];
        for (index, (r, key)) in spellings.into_iter().enumerate() {
            let h = challenge(bench, &r, &key, *amount);
            let rest = ED25519_BASEPOINT_POINT * s - r_point - key_point * h;
            assert_eq!(rest.is_small_order(), self.holds_with_cofactor[index], "case {number}, cofactored");
            assert_eq!(rest.is_identity(), self.holds_without[index], "case {number}, plain");
        }
    }
}

fn order(point: EdwardsPoint) -> Order {
    match (point.is_small_order(), point.is_torsion_free()) {
        (true, _) => Order::Small,
        (false, true) => Order::Prime,
        (false, false) => Order::Mixed,
    }
}

/// The eight points of small order as they are spelled, and the six other spellings that a lax decoder takes.
fn small_order_spellings() -> Vec<[u8; 32]> {
    let mut all: Vec<[u8; 32]> = EIGHT_TORSION.iter().map(|point| point.compress().to_bytes()).collect();
    let prime_and = |low: u8, top: u8| {
        let mut bytes = [0xff; 32];
        (bytes[0], bytes[31]) = (low, top);
        bytes
    };
    let mut one_with_sign = [0; 32];
    (one_with_sign[0], one_with_sign[31]) = (1, 0x80);
    // y of -1 with a sign; p and p + 1 for zero and one, each with and without a sign.
    all.extend([one_with_sign, prime_and(0xec, 0xff)]);
    all.extend([(0xed, 0x7f), (0xed, 0xff), (0xee, 0x7f), (0xee, 0xff)].map(|(low, top)| prime_and(low, top)));
    all
}

fn point(bytes: &[u8; 32]) -> EdwardsPoint {
    CompressedEdwardsY(*bytes).decompress().expect("a point in one spelling or another")
}

fn challenge(bench: &Bench, r: &[u8; 32], key: &[u8; 32], amount: u64) -> Scalar {
    let digest = Sha512::new().chain_update(r).chain_update(key).chain_update(bench.message(amount)).finalize();
    Scalar::from_bytes_mod_order_wide(&digest.into())
}
