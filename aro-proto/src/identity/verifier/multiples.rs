//! Multiples of a point, kept so that any product with it is a sum of a few of them.

use std::sync::LazyLock;

use curve25519_dalek::EdwardsPoint;
use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::scalar::Scalar;

use super::super::keys::VerifyingKey;

/// The multiples of a point that every multiple of it is the sum of: for each digit of `WIDTH` bits, one row of the
/// point times 1 to 2^(WIDTH-1), and the next row of 2^WIDTH times that point.
pub(super) struct Multiples<const WIDTH: usize> {
    rows: Vec<EdwardsPoint>,
}

/// Those of a key: 220,160 bytes. One bit more would be 1.7 times as many, for a fifteenth of a verification.
pub(super) type OfKey = Multiples<6>;

/// Those of the base point, which half of each verification multiplies: 655,360 bytes.
pub(super) static BASE: LazyLock<Multiples<8>> = LazyLock::new(|| Multiples::of(ED25519_BASEPOINT_POINT));

impl<const WIDTH: usize> Multiples<WIDTH> {
    const HALF: usize = 1 << (WIDTH - 1);

    fn of(point: EdwardsPoint) -> Self {
        let mut rows = Vec::with_capacity(count_digits(WIDTH) * Self::HALF);
        let mut first = point;
        for _ in 0..count_digits(WIDTH) {
            let mut multiple = first;
            rows.push(multiple);
            for _ in 1..Self::HALF {
                multiple += first;
                rows.push(multiple);
            }
            first = multiple + multiple;
        }
        Self { rows }
    }

    /// Adds `scalar`, which is reduced, times the point to `sum`. Takes more or less time for other scalars: those of a
    /// verification are known to everybody.
    pub(super) fn add_to(&self, mut sum: EdwardsPoint, scalar: &Scalar) -> EdwardsPoint {
        for (row, digit) in self.rows.chunks_exact(Self::HALF).zip(digits::<WIDTH>(scalar)) {
            match digit {
                0 => {}
                1.. => sum += &row[usize::from(digit.unsigned_abs()) - 1],
                ..0 => sum -= &row[usize::from(digit.unsigned_abs()) - 1],
            }
        }
        sum
    }
}

impl OfKey {
    pub(super) fn of_negative(key: &VerifyingKey) -> Self {
        let point = CompressedEdwardsY(*key.as_bytes()).decompress();
        Self::of(-point.expect("a key that was looked over is a point"))
    }

    /// Of no key, for tests of what is kept.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self { rows: Vec::new() }
    }
}

/// A reduced scalar's digits to the base 2^`WIDTH`, the lowest first, from 1 - 2^(`WIDTH`-1) to 2^(`WIDTH`-1).
fn digits<const WIDTH: usize>(scalar: &Scalar) -> impl Iterator<Item = i16> {
    const { assert!(WIDTH <= 8, "a digit lies within two bytes") };
    const { assert!(count_digits(WIDTH) * WIDTH > SCALAR_BITS, "nothing is carried out of the last digit") };
    let bytes = scalar.to_bytes();
    let byte = move |at: usize| u16::from(bytes.get(at).copied().unwrap_or(0));
    let mut carry = 0;
    (0..count_digits(WIDTH)).map(move |digit| {
        let first_bit = digit * WIDTH;
        let two_bytes = byte(first_bit / 8) | byte(first_bit / 8 + 1) << 8;
        let unsigned = two_bytes >> (first_bit % 8) & ((1 << WIDTH) - 1);
        // At most 2^8.
        let digit = unsigned.cast_signed() + carry;
        carry = i16::from(digit > 1 << (WIDTH - 1));
        digit - (carry << WIDTH)
    })
}

/// Digits of `width` bits in a reduced scalar, with room for a carry.
const fn count_digits(width: usize) -> usize {
    (SCALAR_BITS + 1).div_ceil(width)
}

/// A reduced scalar is below 2^253.
const SCALAR_BITS: usize = 253;

#[cfg(test)]
mod tests {
    use curve25519_dalek::traits::Identity;
    use proptest::prelude::*;

    use super::*;

    fn sum_of_digits<const WIDTH: usize>(scalar: &Scalar) -> Scalar {
        let base = Scalar::from(1_u64 << WIDTH);
        let digits: Vec<i16> = digits::<WIDTH>(scalar).collect();
        assert!(digits.iter().all(|digit| digit.unsigned_abs() <= 1 << (WIDTH - 1)), "{digits:?}");
        digits.iter().rev().fold(Scalar::ZERO, |sum, digit| {
            let size = Scalar::from(u64::from(digit.unsigned_abs()));
            sum * base + if *digit < 0 { -size } else { size }
        })
    }

    #[test]
    fn largest_scalar_carries_nothing_out() {
        for scalar in [-Scalar::ONE, Scalar::ZERO, Scalar::ONE] {
            assert_eq!([sum_of_digits::<6>(&scalar), sum_of_digits::<8>(&scalar)], [scalar; 2]);
        }
    }

    proptest! {
        #[test]
        fn digits_sum_up_to_their_scalar(bytes: [u8; 32]) {
            let scalar = Scalar::from_bytes_mod_order(bytes);
            prop_assert_eq!([sum_of_digits::<6>(&scalar), sum_of_digits::<8>(&scalar)], [scalar; 2]);
        }

        #[test]
        fn multiples_add_up_to_the_product(bytes: [u8; 32], seed: [u8; 32]) {
            let scalar = Scalar::from_bytes_mod_order(bytes);
            let point = ED25519_BASEPOINT_POINT * Scalar::from_bytes_mod_order(seed);
            let sum = OfKey::of(point).add_to(ED25519_BASEPOINT_POINT, &scalar);
            prop_assert_eq!(sum, ED25519_BASEPOINT_POINT + point * scalar);
            prop_assert_eq!(BASE.add_to(EdwardsPoint::identity(), &scalar), ED25519_BASEPOINT_POINT * scalar);
        }
    }
}
