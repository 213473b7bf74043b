//! Ed25519 keys, verified strictly everywhere: what one party accepts, node, operator and chain accept too.
//!
//! Signatures are made and checked by aws-lc, which TLS brings along and which is the fastest of those that need no
//! flags; it checks as RFC 8032 does without the cofactor. What makes that strict is added here: no point in a second
//! spelling, and none of small order. ed25519-dalek's `verify_strict`, which says the same, is held against it by tests.

use core::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use curve25519_dalek::edwards::CompressedEdwardsY;
use thiserror::Error;
use zeroize::Zeroizing;

use super::Signature;
use crate::ids::{AgentId, NodeId};

/// A secret key; wiped from memory when dropped, never printed.
#[derive(Clone)]
pub struct SecretKey {
    seed: Zeroizing<[u8; 32]>,
    /// Lies in aws-lc's own memory, which wipes what it frees.
    pair: Ed25519KeyPair,
}

impl SecretKey {
    /// From a 32-byte seed, which the caller has drawn from a secure random source or read from a key file.
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
        Self { seed: Zeroizing::new(*seed), pair }
    }

    /// The seed, for a key file.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        self.seed.clone()
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        let mut key = [0; 32];
        key.copy_from_slice(self.pair.public_key().as_ref());
        key
    }

    /// The public key as a node's id.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.public())
    }

    /// The public key as an agent's id.
    pub fn agent_id(&self) -> AgentId {
        AgentId::from_bytes(self.public())
    }

    /// Signs the message as it is, without hashing or prefix; the same message always gets the same signature.
    pub fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.node_id())
    }
}

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// The public key is not a canonical curve point, or is of small order.
    #[error("the public key is not a canonical ed25519 point of full order")]
    WeakKey,
    /// The signature does not verify strictly over this message.
    #[error("the signature does not verify")]
    Mismatch,
}

/// A public key that was found sound. Finding out costs about a tenth of a verification: who verifies often keeps this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyingKey([u8; 32]);

impl VerifyingKey {
    /// Looks a key over.
    ///
    /// # Errors
    /// [`SignatureError::WeakKey`] for keys that no honest signer has: not canonical, not on the curve, or of small
    /// order.
    pub fn from_bytes(key: &[u8; 32]) -> Result<Self, SignatureError> {
        let is_point = CompressedEdwardsY(*key).decompress().is_some();
        if is_point && !is_lax(key) { Ok(Self(*key)) } else { Err(SignatureError::WeakKey) }
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Verifies strictly (RFC 8032 cofactorless, canonical encodings, no small-order points), as the chain does.
    ///
    /// # Errors
    /// [`SignatureError::Mismatch`] if the signature is not this key's over this message, or in a lax encoding.
    // r[impl voucher.signature.strict]
    pub fn verify_strict(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        if is_signed(&self.0, message, signature) { Ok(()) } else { Err(SignatureError::Mismatch) }
    }
}

/// Verifies strictly with a key that was not looked over yet, as [`VerifyingKey::verify_strict`] does.
///
/// # Errors
/// [`SignatureError`]: the key's or the signature's fault.
pub fn verify_strict(key: &[u8; 32], message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
    // A verification decodes the key by itself: whether it is a point matters only where it fails.
    if !is_lax(key) && is_signed(key, message, signature) {
        return Ok(());
    }
    VerifyingKey::from_bytes(key)?;
    Err(SignatureError::Mismatch)
}

/// True for keys that no honest signer has: not canonical, not on the curve, or of small order.
pub fn is_weak_key(key: &[u8; 32]) -> bool {
    VerifyingKey::from_bytes(key).is_err()
}

/// Verifies under a key that is not lax. The first half of a signature is compared with the canonical spelling of the
/// point that it must be, so only its order is left to be looked at; S is refused if it is not reduced.
fn is_signed(key: &[u8; 32], message: &[u8], signature: &Signature) -> bool {
    let (r, _) = signature.split_first_chunk().expect("a signature has 64 bytes");
    !is_of_small_order(r) && UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
}

/// True for every spelling of a point that a strict verifier refuses although some decoder takes it.
fn is_lax(point: &[u8; 32]) -> bool {
    !is_canonical(point) || is_of_small_order(point)
}

/// True if the encoded y is below the field's prime 2^255 - 19; decoders may take any. The other lax spelling, a set
/// sign where x = 0, has only points of small order.
fn is_canonical(point: &[u8; 32]) -> bool {
    let [low, middle @ .., high] = point;
    *low < 0xed || high & 0x7f != 0x7f || middle.iter().any(|byte| *byte != 0xff)
}

/// True if the y is that of a point whose order divides eight, whatever the sign of x; of canonical spellings.
pub(super) fn is_of_small_order(point: &[u8; 32]) -> bool {
    let mut y = *point;
    y[31] &= 0x7f;
    SMALL_ORDER_Y.contains(&y)
}

/// The y of the eight points whose order divides eight, little-endian: of order 1, 2, 4 (two points) and 8 (four).
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
    ],
    [0; 32],
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use curve25519_dalek::constants::EIGHT_TORSION;
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    #[test]
    fn a_signature_counts_only_for_its_key_and_message() {
        let (key, other) = (SecretKey::from_bytes(&[7; 32]), SecretKey::from_bytes(&[8; 32]));
        let signature = key.sign(b"pay");
        assert_eq!(verify_strict(&key.public(), b"pay", &signature), Ok(()));
        assert_eq!(verify_strict(&key.public(), b"pax", &signature), Err(SignatureError::Mismatch));
        assert_eq!(verify_strict(&other.public(), b"pay", &signature), Err(SignatureError::Mismatch));
    }

    // r[verify voucher.signature.strict]
    #[test]
    fn weak_keys_are_refused_before_their_signatures() {
        let identity = {
            let mut y = [0; 32];
            y[0] = 1;
            y
        };
        let non_canonical = {
            let mut y = [0xff; 32];
            y[0] = 0xee;
            y[31] = 0x7f;
            y
        };
        for key in [[0; 32], identity, non_canonical] {
            assert!(is_weak_key(&key));
            assert_eq!(verify_strict(&key, b"", &[0; 64]), Err(SignatureError::WeakKey));
        }
    }

    #[test]
    fn only_spellings_that_come_back_the_same_are_canonical() {
        let lax = |low: u8, sign: u8| {
            let mut y = [0xff; 32];
            (y[0], y[31]) = (low, 0x7f | sign);
            y
        };
        // Around the prime, where y >= p begins, and what has a sign that x = 0 cannot have.
        let around = (0..=u8::MAX).flat_map(|low| [lax(low, 0), lax(low, 0x80)]);
        let mut minus_zero = [0; 32];
        (minus_zero[0], minus_zero[31]) = (1, 0x80);
        let sound = SecretKey::from_bytes(&[7; 32]).public();
        let mut decoded = 0;
        for key in around.chain([minus_zero, sound]) {
            let Ok(parsed) = ed25519_dalek::VerifyingKey::from_bytes(&key) else { continue };
            decoded += 1;
            let same = parsed.to_edwards().compress().to_bytes() == key;
            assert_eq!(is_weak_key(&key), !same || parsed.is_weak(), "{key:02x?}");
        }
        assert!(decoded > 100, "about half of all encodings are points: {decoded}");
    }

    #[test]
    fn small_orders_are_those_of_the_eight_points_that_eight_makes_nothing_of() {
        let derived: BTreeSet<[u8; 32]> = EIGHT_TORSION
            .map(|point| {
                let mut y = point.compress().to_bytes();
                y[31] &= 0x7f;
                y
            })
            .into();
        assert_eq!(derived, SMALL_ORDER_Y.into());
    }

    // r[verify voucher.signature.strict]
    #[test]
    fn signatures_are_those_of_any_other_signer_and_count_for_any_other_verifier() {
        for seed in 0..32 {
            let seed = [seed; 32];
            let (key, other) = (SecretKey::from_bytes(&seed), SigningKey::from_bytes(&seed));
            assert_eq!((key.public(), *key.to_bytes()), (other.verifying_key().to_bytes(), seed));
            for length in [0, 1, 50, 64, 127, 1_000] {
                let message = vec![7; length];
                let signature = key.sign(&message);
                assert_eq!(signature, other.sign(&message).to_bytes());
                assert_eq!(key.clone().sign(&message), signature);
                assert_eq!(verify_strict(&key.public(), &message, &signature), Ok(()));
            }
        }
    }
}
