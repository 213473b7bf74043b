//! Strict verification for keys that sign again and again, as those of agents that pay do.
//!
//! Half of a verification's work is to multiply the signer's key. Once a key has signed often enough, its multiples are
//! kept, and a verification becomes 75 additions: about twice as fast, and still the same predicate.
//!
//! ```text
//!  S·B - k·A = R     k = SHA-512(R | A | message)
//!  \_/   \_/
//!   |     one of the kept multiples of -A for each 6 bits of k, in signed digits
//!   one of those of B for each 8 bits of S
//! ```
//!
//! The sum is compared with R in its encoding, which takes one division of field elements, a quarter of the whole. Many
//! signatures at once share one: each is still judged for itself, and as it would be alone.

mod multiples;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA512};
use curve25519_dalek::EdwardsPoint;
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::Identity;

use self::multiples::{BASE, OfKey};
use super::Signature;
use super::keys::{SignatureError, VerifyingKey, is_of_small_order};

/// Verifies strictly, faster for keys whose signatures it has often seen to be good.
///
/// What it remembers is bounded, whoever signs: the multiples of [`MAX_WARM`] keys, 220,160 bytes each (28 MB), and how
/// often each of [`MAX_COUNTED`] others has signed.
#[derive(Default)]
pub struct Verifier {
    state: Mutex<State>,
}

/// A signature that is to be verified.
#[derive(Clone, Copy, Debug)]
pub struct Unverified<'a> {
    /// The key that is said to have signed.
    pub key: &'a VerifyingKey,
    /// What it is said to have signed.
    pub message: &'a [u8],
    /// The signature.
    pub signature: &'a Signature,
}

impl Unverified<'_> {
    /// R and S.
    fn halves(&self) -> (&[u8; 32], &[u8; 32]) {
        let (r, s) = self.signature.split_first_chunk().expect("a signature has 64 bytes");
        (r, s.first_chunk().expect("the other half has as many"))
    }
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
    multiples: Arc<OfKey>,
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
        let signature = Unverified { key, message, signature };
        let Some(multiples) = self.multiples_of(key) else { return self.verify_cold(&signature) };
        let is_signed = expected_r(&signature, &multiples).is_some_and(|r| is_spelled(&signature, &r.compress()));
        if is_signed { Ok(()) } else { Err(SignatureError::Mismatch) }
    }

    /// The same for many at once, in their order and whatever their keys: a quarter faster for keys that sign often.
    // r[impl voucher.signature.strict]
    pub fn verify_all(&self, signatures: &[Unverified<'_>]) -> Vec<Result<(), SignatureError>> {
        let mut verified = vec![Err(SignatureError::Mismatch); signatures.len()];
        let (mut warm, mut expected) = (Vec::new(), Vec::new());
        for (verified, signature) in verified.iter_mut().zip(signatures) {
            match self.multiples_of(signature.key) {
                None => *verified = self.verify_cold(signature),
                Some(multiples) => {
                    if let Some(r) = expected_r(signature, &multiples) {
                        expected.push(r);
                        warm.push((verified, signature));
                    }
                }
            }
        }
        if expected.is_empty() {
            return verified;
        }
        for ((verified, signature), r) in warm.into_iter().zip(EdwardsPoint::compress_batch_alloc(&expected)) {
            if is_spelled(signature, &r) {
                *verified = Ok(());
            }
        }
        verified
    }

    fn verify_cold(&self, Unverified { key, message, signature }: &Unverified<'_>) -> Result<(), SignatureError> {
        key.verify_strict(message, signature)?;
        if self.is_often_used(key) && self.has_room() {
            self.warm(key);
        }
        Ok(())
    }

    /// Keeps a key's multiples from now on, without waiting for its signatures; the key that was used the longest ago
    /// may have to go.
    pub fn warm(&self, key: &VerifyingKey) {
        // Outside the lock: others verify meanwhile.
        let multiples = OfKey::of_negative(key);
        self.keep(key, multiples);
    }

    fn multiples_of(&self, key: &VerifyingKey) -> Option<Arc<OfKey>> {
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

    /// Whether a key can become warm without another's having to go that is in use: more of them than can be kept, by
    /// turns, would each be forgotten before it is worth its making.
    fn has_room(&self) -> bool {
        let state = self.lock();
        let coldest = state.warm.values().map(|warm| warm.last_use).min();
        state.warm.len() < MAX_WARM || coldest.is_some_and(|last| state.uses.saturating_sub(last) >= IN_USE_FOR)
    }

    fn keep(&self, key: &VerifyingKey, multiples: OfKey) {
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
pub const MAX_WARM: usize = 128;
/// Keys whose signatures are counted at most.
pub const MAX_COUNTED: usize = 4_096;
/// Verifications after which a warm key whose none of them was may have to go.
const IN_USE_FOR: u64 = 4_096;
/// The good signature that makes a key warm. Multiples take as long to make as some ten verifications, so whoever waits
/// until none of the warm keys is in use, and crowds them out, has each verification cost a third more.
const WARM_FROM: u8 = 32;

/// The R that a good signature of this key over this message has; none if S is not reduced or R of small order. With
/// [`is_spelled`] this is the predicate of [`VerifyingKey::verify_strict`].
fn expected_r(signature: &Unverified<'_>, negative: &OfKey) -> Option<EdwardsPoint> {
    let Unverified { key, message, .. } = signature;
    let (r, s) = signature.halves();
    let s = Scalar::from_canonical_bytes(*s).into_option().filter(|_| !is_of_small_order(r))?;
    let mut hash = Context::new(&SHA512);
    for part in [&r[..], key.as_bytes(), message] {
        hash.update(part);
    }
    let hash = hash.finish();
    let k = Scalar::from_bytes_mod_order_wide(hash.as_ref().try_into().expect("SHA-512 gives 64 bytes"));
    Some(negative.add_to(BASE.add_to(EdwardsPoint::identity(), &s), &k))
}

/// True if the signature has this R. What is compressed is canonical, so another spelling of the same point is not the
/// same.
fn is_spelled(signature: &Unverified<'_>, expected: &CompressedEdwardsY) -> bool {
    signature.halves().0 == expected.as_bytes()
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};

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

    // r[verify voucher.signature.strict]
    #[test]
    fn each_of_many_counts_as_it_does_alone() {
        let (verifier, keys) = (Verifier::default(), [7, 8, 9].map(key));
        keys[..2].iter().for_each(|(_, public)| verifier.warm(public));
        let messages: Vec<[u8; 1]> = (0..60).map(|turn| [turn]).collect();
        let mut signatures: Vec<Signature> =
            messages.iter().zip(keys.iter().cycle()).map(|(message, (secret, _))| secret.sign(message)).collect();
        let (zero, unreduced) = ([0; 64], [0xff; 64]);
        for (place, signature) in signatures.iter_mut().enumerate() {
            match place % 7 {
                1 => signature[place % 64] ^= 1,
                2 => signature[32..].copy_from_slice(&unreduced[32..]),
                3 => *signature = zero,
                _ => {}
            }
        }
        let unverified = signatures.iter().zip(&messages).zip(keys.iter().cycle());
        let unverified = unverified.map(|((signature, message), (_, key))| Unverified { key, message, signature });
        let unverified: Vec<_> = unverified.collect();
        let alone = |one: &Unverified<'_>| one.key.verify_strict(one.message, one.signature);
        let expected: Vec<_> = unverified.iter().map(alone).collect();
        assert!(expected.iter().any(Result::is_ok) && expected.iter().any(Result::is_err));
        assert_eq!(verifier.verify_all(&unverified), expected);
        assert_eq!(verifier.verify_all(&[]), []);
        // The third key has signed eleven of them well, and becomes warm on the way.
        assert!(verifier.multiples_of(&keys[2].1).is_none());
        for _ in 0..2 {
            assert_eq!(verifier.verify_all(&unverified), expected);
        }
        assert!(verifier.multiples_of(&keys[2].1).is_some());
    }

    #[test]
    fn a_key_that_is_in_use_is_not_given_up_for_another() {
        let (verifier, (secret, public)) = (Verifier::default(), key(7));
        for number in 0..MAX_WARM {
            let mut seed = [1; 32];
            seed[..8].copy_from_slice(&number.to_le_bytes());
            verifier.keep(&VerifyingKey::from_bytes(&public_of(&seed)).unwrap(), OfKey::none());
        }
        let often = |times: u64| {
            for _ in 0..times {
                assert_eq!(verifier.verify_strict(&public, b"pay", &secret.sign(b"pay")), Ok(()));
            }
            verifier.lock().warm.contains_key(public.as_bytes())
        };
        assert!(!often(2 * u64::from(WARM_FROM)));
        verifier.lock().uses += IN_USE_FOR;
        assert!(often(u64::from(WARM_FROM)));
        assert_eq!(verifier.lock().warm.len(), MAX_WARM);
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
            verifier.keep(&public, OfKey::none());
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
            let verifier = Verifier::default();
            verifier.warm(&public);
            let (mut signatures, mut accepted) = (Vec::new(), Vec::new());
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
                let alone = verifier.verify_strict(&public, b"pay", &signature).is_ok();
                let there = strict.verify_strict(b"pay", &ed25519_dalek::Signature::from_bytes(&signature));
                assert_eq!(alone, there.is_ok());
                signatures.push(signature);
                accepted.push(alone);
            }
            assert!(accepted.contains(&true) && accepted.contains(&false), "{accepted:?}");
            let unverified = |signature| Unverified { key: &public, message: b"pay", signature };
            let together = verifier.verify_all(&signatures.iter().map(unverified).collect::<Vec<_>>());
            assert_eq!(together.iter().map(Result::is_ok).collect::<Vec<_>>(), accepted);
        }
    }
}
