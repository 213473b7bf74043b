//! Strict verification for keys that sign again and again, as those of agents that pay do.
//!
//! Half of a verification's work is to multiply the signer's key. Once a key has signed often enough, its multiples are
//! kept, and a verification becomes some hundred additions: about twice as fast, and still the same predicate.
//!
//! ```text
//!  S·B - k·A = R     k = SHA-512(R | A | message)
//!  \_/   \_/
//!   |     one of the kept multiples of -A for each 4 bits of k, in signed digits
//!   one of those of B for each 8 bits of S
//! ```

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA512};
use curve25519_dalek::EdwardsPoint;
use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;

use super::Signature;
use super::keys::{SignatureError, VerifyingKey, is_of_small_order};

/// Verifies strictly, faster for keys whose signatures it has often seen to be good.
///
/// What it remembers is bounded, whoever signs: the multiples of [`MAX_WARM`] keys, 83,200 bytes each (21 MB), and how
/// often each of [`MAX_COUNTED`] others has signed.
#[derive(Default)]
pub struct Verifier {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    warm: HashMap<[u8; 32], Warm>,
    /// Good signatures of keys that are not warm.
    counts: HashMap<[u8; 32], u8>,
    /// Counts uses, to tell which key's is the longest ago.
    uses: u64,
}

struct Warm {
    multiples: Arc<Multiples<4>>,
    last_use: u64,
}

impl Verifier {
    /// As [`VerifyingKey::verify_strict`].
    ///
    /// # Errors
    /// [`SignatureError::Mismatch`] if the signature is not this key's over this message, or in a lax encoding.
    // r[impl voucher.signature.strict]
    pub fn verify_strict(
        &self,
        key: &VerifyingKey,
        message: &[u8],
        signature: &Signature,
    ) -> Result<(), SignatureError> {
        if let Some(multiples) = self.multiples_of(key) {
            let is_signed = is_signed(key, &multiples, message, signature);
            return if is_signed { Ok(()) } else { Err(SignatureError::Mismatch) };
        }
        key.verify_strict(message, signature)?;
        if self.is_often_used(key) {
            self.warm(key);
        }
        Ok(())
    }

    /// Keeps a key's multiples from now on, without waiting for its signatures; the key that was used the longest ago
    /// may have to go.
    pub fn warm(&self, key: &VerifyingKey) {
        // Outside the lock: others verify meanwhile.
        let multiples = Multiples::of_negative(key);
        self.keep(key, multiples);
    }

    fn multiples_of(&self, key: &VerifyingKey) -> Option<Arc<Multiples<4>>> {
        let mut state = self.lock();
        state.uses += 1;
        let last_use = state.uses;
        let warm = state.warm.get_mut(key.as_bytes())?;
        warm.last_use = last_use;
        Some(Arc::clone(&warm.multiples))
    }

    /// Counts a good signature; true for the one that makes the multiples worth their making.
    fn is_often_used(&self, key: &VerifyingKey) -> bool {
        let counts = &mut self.lock().counts;
        if counts.len() >= MAX_COUNTED && !counts.contains_key(key.as_bytes()) {
            counts.clear();
        }
        let count = counts.entry(*key.as_bytes()).or_default();
        *count += 1;
        let is_often_used = *count >= WARM_FROM;
        if is_often_used {
            counts.remove(key.as_bytes());
        }
        is_often_used
    }

    fn keep(&self, key: &VerifyingKey, multiples: Multiples<4>) {
        let mut state = self.lock();
        if state.warm.len() >= MAX_WARM {
            let coldest = state.warm.iter().min_by_key(|(_, warm)| warm.last_use).map(|(key, _)| *key);
            coldest.map(|key| state.warm.remove(&key));
        }
        let warm = Warm { multiples: Arc::new(multiples), last_use: state.uses };
        state.warm.insert(*key.as_bytes(), warm);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each step leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} warm keys)", self.lock().warm.len())
    }
}

/// Keys whose multiples are kept at most.
pub const MAX_WARM: usize = 256;
/// Keys whose signatures are counted at most.
pub const MAX_COUNTED: usize = 4_096;
/// The good signature that makes a key warm. Multiples take as long to make as three or four verifications, so whoever
/// crowds the warm keys out of memory with many others has each verification cost a fifth more, not more.
const WARM_FROM: u8 = 16;

/// The multiples of a point that every multiple of it is the sum of: for each digit of `WIDTH` bits, one row of the
/// point times 1 to 2^(WIDTH-1), and the next row of 2^WIDTH times that point.
struct Multiples<const WIDTH: usize> {
    rows: Vec<EdwardsPoint>,
}

/// Those of the base point, which half of each verification multiplies: 655,360 bytes.
static BASE: LazyLock<Multiples<8>> = LazyLock::new(|| Multiples::of(ED25519_BASEPOINT_POINT));

impl<const WIDTH: usize> Multiples<WIDTH> {
    const HALF: usize = 1 << (WIDTH - 1);

    fn of(point: EdwardsPoint) -> Self {
        let mut rows = Vec::with_capacity(256 / WIDTH * Self::HALF);
        let mut first = point;
        for _ in 0..256 / WIDTH {
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
    fn add_to(&self, mut sum: EdwardsPoint, scalar: &Scalar) -> EdwardsPoint {
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

impl Multiples<4> {
    fn of_negative(key: &VerifyingKey) -> Self {
        let point = CompressedEdwardsY(*key.as_bytes()).decompress();
        Self::of(-point.expect("a key that was looked over is a point"))
    }
}

/// A reduced scalar's digits to the base 2^`WIDTH`, the lowest first, from 1 - 2^(`WIDTH`-1) to 2^(`WIDTH`-1). A
/// reduced one is below 2^253, so that nothing is carried out of the last.
fn digits<const WIDTH: usize>(scalar: &Scalar) -> impl Iterator<Item = i16> {
    const { assert!(WIDTH == 4 || WIDTH == 8, "digits do not cross bytes") };
    let unsigned = scalar
        .to_bytes()
        .into_iter()
        .flat_map(|byte| (0..8 / WIDTH).map(move |place| i16::from(byte) >> (place * WIDTH) & ((1 << WIDTH) - 1)));
    unsigned.scan(0, |carry, digit| {
        let digit = digit + *carry;
        *carry = i16::from(digit > 1 << (WIDTH - 1));
        Some(digit - (*carry << WIDTH))
    })
}

/// The predicate of [`VerifyingKey::verify_strict`], with the key's multiples at hand.
fn is_signed(key: &VerifyingKey, negative: &Multiples<4>, message: &[u8], signature: &Signature) -> bool {
    let (r, s) = signature.split_first_chunk::<32>().expect("a signature has 64 bytes");
    let s = <[u8; 32]>::try_from(s).expect("the other half has as many");
    let Some(s) = Scalar::from_canonical_bytes(s).into_option() else { return false };
    let mut hash = Context::new(&SHA512);
    for part in [&r[..], key.as_bytes(), message] {
        hash.update(part);
    }
    let hash = hash.finish();
    let k = Scalar::from_bytes_mod_order_wide(hash.as_ref().try_into().expect("SHA-512 gives 64 bytes"));
    let expected = negative.add_to(BASE.add_to(EdwardsPoint::identity(), &s), &k);
    // What is compressed is canonical, so another spelling of the same point is not the same.
    !is_of_small_order(r) && expected.compress().as_bytes() == r
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;
    use proptest::prelude::*;

    use super::*;
    use crate::identity::SecretKey;

    fn key(seed: u8) -> (SecretKey, VerifyingKey) {
        let secret = SecretKey::from_bytes(&[seed; 32]);
        let public = VerifyingKey::from_bytes(&secret.public()).unwrap();
        (secret, public)
    }

    fn warm_up(verifier: &Verifier, secret: &SecretKey, public: &VerifyingKey) {
        for turn in 0..WARM_FROM {
            assert!(verifier.multiples_of(public).is_none(), "warm after {turn}");
            assert_eq!(verifier.verify_strict(public, &[turn], &secret.sign(&[turn])), Ok(()));
        }
        assert!(verifier.multiples_of(public).is_some());
    }

    // r[verify voucher.signature.strict]
    #[test]
    fn a_warm_key_s_signatures_count_as_a_cold_one_s() {
        let (verifier, (secret, public)) = (Verifier::default(), key(7));
        warm_up(&verifier, &secret, &public);
        for length in [0, 1, 50, 111, 112, 128, 1_000] {
            let message = vec![9; length];
            let signature = secret.sign(&message);
            assert_eq!(verifier.verify_strict(&public, &message, &signature), Ok(()));
            assert_eq!(verifier.verify_strict(&public, b"other", &signature), Err(SignatureError::Mismatch));
            for bit in 0..signature.len() * 8 {
                let mut broken = signature;
                broken[bit / 8] ^= 1 << (bit % 8);
                let verified = verifier.verify_strict(&public, &message, &broken);
                assert_eq!(verified, Err(SignatureError::Mismatch), "bit {bit}");
            }
        }
    }

    #[test]
    fn bad_signatures_warm_nothing() {
        let (verifier, (_, public)) = (Verifier::default(), key(7));
        for _ in 0..100 {
            assert_eq!(verifier.verify_strict(&public, b"pay", &[3; 64]), Err(SignatureError::Mismatch));
        }
        assert!(verifier.lock().counts.is_empty() && verifier.lock().warm.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_key_in_use_stays() {
        let (verifier, (secret, public)) = (Verifier::default(), key(7));
        warm_up(&verifier, &secret, &public);
        for seed in 0..u16::try_from(MAX_WARM).unwrap() + 10 {
            let [low, high] = seed.to_le_bytes();
            let mut seed = [high; 32];
            seed[0] = low;
            let public = VerifyingKey::from_bytes(&SecretKey::from_bytes(&seed).public()).unwrap();
            verifier.keep(&public, Multiples { rows: Vec::new() });
            assert!(verifier.multiples_of(&key(7).1).is_some());
        }
        assert_eq!(verifier.lock().warm.len(), MAX_WARM);
        for turn in 0..2 * MAX_COUNTED {
            let mut seed = [1; 32];
            seed[..8].copy_from_slice(&turn.to_le_bytes());
            verifier.is_often_used(&VerifyingKey::from_bytes(&public_of(&seed)).unwrap());
            assert!(verifier.lock().counts.len() <= MAX_COUNTED);
        }
    }

    /// Some public key for each seed, without the cost of a signing key.
    fn public_of(seed: &[u8; 32]) -> [u8; 32] {
        (ED25519_BASEPOINT_POINT * Scalar::from_bytes_mod_order(*seed)).compress().to_bytes()
    }

    /// A point of small order added to the key or to R changes the answer of lax verifiers only sometimes.
    // r[verify voucher.signature.strict]
    #[test]
    fn points_of_mixed_order_count_as_dalek_counts_them() {
        let scalar = Scalar::from(5_u64);
        for torsion in EIGHT_TORSION {
            let point = ED25519_BASEPOINT_POINT * scalar + torsion;
            let public = VerifyingKey::from_bytes(&point.compress().to_bytes()).unwrap();
            let strict = ed25519_dalek::VerifyingKey::from_bytes(public.as_bytes()).unwrap();
            let multiples = Multiples::of_negative(&public);
            let mut accepted = 0;
            for (turn, added) in EIGHT_TORSION.iter().cycle().enumerate().take(64) {
                let nonce = Scalar::from(u64::try_from(turn).unwrap() + 2);
                let r = (ED25519_BASEPOINT_POINT * nonce + added).compress().to_bytes();
                let mut hash = Context::new(&SHA512);
                for part in [&r[..], public.as_bytes(), b"pay"] {
                    hash.update(part);
                }
                let k = Scalar::from_bytes_mod_order_wide(hash.finish().as_ref().try_into().unwrap());
                let mut signature = [0; 64];
                signature[..32].copy_from_slice(&r);
                signature[32..].copy_from_slice((nonce + k * scalar).as_bytes());
                let here = is_signed(&public, &multiples, b"pay", &signature);
                let there = strict.verify_strict(b"pay", &ed25519_dalek::Signature::from_bytes(&signature));
                assert_eq!(here, there.is_ok());
                accepted += u32::from(here);
            }
            assert!(accepted > 0 && accepted < 64, "{accepted}");
        }
    }

    proptest! {
        #[test]
        fn digits_sum_up_to_their_scalar(bytes: [u8; 32]) {
            let scalar = Scalar::from_bytes_mod_order(bytes);
            for wide in [digits::<4>(&scalar).collect::<Vec<_>>(), digits::<8>(&scalar).collect()] {
                let base = Scalar::from(1_u64 << (256 / wide.len()));
                let sum = wide.iter().rev().fold(Scalar::ZERO, |sum, digit| {
                    let size = Scalar::from(u64::from(digit.unsigned_abs()));
                    sum * base + if *digit < 0 { -size } else { size }
                });
                prop_assert_eq!(sum, scalar);
            }
        }

        #[test]
        fn multiples_add_up_to_the_product(bytes: [u8; 32], seed: [u8; 32]) {
            let scalar = Scalar::from_bytes_mod_order(bytes);
            let point = ED25519_BASEPOINT_POINT * Scalar::from_bytes_mod_order(seed);
            let sum = Multiples::<4>::of(point).add_to(ED25519_BASEPOINT_POINT, &scalar);
            prop_assert_eq!(sum, ED25519_BASEPOINT_POINT + point * scalar);
            prop_assert_eq!(BASE.add_to(EdwardsPoint::identity(), &scalar), ED25519_BASEPOINT_POINT * scalar);
        }
    }
}
