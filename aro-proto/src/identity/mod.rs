//! Keys, and signatures that hold for one connection and one stream only.
//!
//! A node is its ed25519 transport key: TLS proves it. An agent is its ed25519 key: each request carries its
//! signature over the TLS exporter, the stream id and the request, so that a request means nothing anywhere else. An
//! owner may let other keys pay for it, within bounds that it signs.

mod delegation;
mod keys;
mod signed;
mod spki;
mod verifier;

pub use delegation::{Beyond, Delegated, Delegation, DelegationError, SignedDelegation};
pub use keys::{SecretKey, SignatureError, VerifyingKey, is_weak_key, verify_strict};
pub use signed::{Binding, EnvelopeError, Signed, Verified};
pub use spki::{node_id_of_spki, pkcs8_der, spki_der};
pub use verifier::{Unverified, Verifier};

/// A raw ed25519 signature.
pub type Signature = [u8; 64];
