//! Ed25519 keys, verified strictly everywhere: what one party accepts, node, operator and chain accept too.

use core::fmt;

use ed25519_dalek::{Signer, SigningKey};
use thiserror::Error;

use super::Signature;
use crate::ids::{AgentId, NodeId};

/// A secret key; wiped from memory when dropped, never printed.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// From a 32-byte seed, which the caller has drawn from a secure random source or read from a key file.
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, for a key file.
    pub fn to_bytes(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes())
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The public key as a node's id.
    pub fn node_id(&self) -> NodeId {
        NodeId::from_bytes(self.public())
    }

    /// The public key as an agent's id.
    pub fn agent_id(&self) -> AgentId {
        AgentId::from_bytes(self.public())
    }

    /// Signs the message as it is, without hashing or prefix.
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message).to_bytes()
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

/// A public key, decoded and found sound. Decoding costs about a fifth of a verification: who verifies often keeps this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// Decodes a key.
    ///
    /// # Errors
    /// [`SignatureError::WeakKey`] for keys that no honest signer has: not canonical, not on the curve, or of small
    /// order.
    pub fn from_bytes(key: &[u8; 32]) -> Result<Self, SignatureError> {
        let parsed = ed25519_dalek::VerifyingKey::from_bytes(key).map_err(|_| SignatureError::WeakKey)?;
        if is_canonical(key) && !parsed.is_weak() { Ok(Self(parsed)) } else { Err(SignatureError::WeakKey) }
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Verifies strictly (RFC 8032 cofactorless, canonical encodings, no small-order points), as the chain does.
    ///
    /// # Errors
    /// [`SignatureError::Mismatch`] if the signature is not this key's over this message, or in a lax encoding.
    // r[impl voucher.signature.strict]
    pub fn verify_strict(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        self.0.verify_strict(message, &signature).map_err(|_| SignatureError::Mismatch)
    }
}

/// Verifies strictly with a key that is not decoded yet, as [`VerifyingKey::verify_strict`] does.
///
/// # Errors
/// [`SignatureError`]: the key's or the signature's fault.
pub fn verify_strict(key: &[u8; 32], message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
    VerifyingKey::from_bytes(key)?.verify_strict(message, signature)
}

/// True for keys that no honest signer has: not canonical, not on the curve, or of small order.
pub fn is_weak_key(key: &[u8; 32]) -> bool {
    VerifyingKey::from_bytes(key).is_err()
}

/// True if the encoded y is below the field's prime 2^255 - 19; decoding takes any. The other lax spelling, a set sign
/// where x = 0, has only points of small order.
fn is_canonical(key: &[u8; 32]) -> bool {
    let [low, middle @ .., high] = key;
    *low < 0xed || high & 0x7f != 0x7f || middle.iter().any(|byte| *byte != 0xff)
}

#[cfg(test)]
mod tests {
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
}
