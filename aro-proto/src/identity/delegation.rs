//! A delegation: an owner lets another key pay for it, at these nodes, up to this amount, until then.
//!
//! ```text
//!  "aro/1 delegation\0" | postcard(Delegation)   signed by the owner
//! ```
//!
//! It says what a session key may do; what it *can* do the chain bounds: vouchers count only on channels that name the
//! session key as their signer, and only up to their deposits, which the owner chose.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{SecretKey, Signature, SignatureError, is_weak_key, verify_strict};
use crate::amount::Amount;
use crate::ids::{AgentId, NodeId, OwnerId};
use crate::limits::MAX_DELEGATED_NODES;
use crate::message::{ChainIds, from_postcard, signature_field, to_postcard};

/// What an owner lets a session key do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// Where the money is.
    pub chain: ChainIds,
    /// Whose money it is.
    pub owner: OwnerId,
    /// The key that may sign.
    pub session: AgentId,
    /// The nodes that may be paid, rising, at least one and at most [`MAX_DELEGATED_NODES`].
    pub nodes: Vec<NodeId>,
    /// The most that may be signed away, over all channels of the session key together, in base units.
    pub cap: Amount,
    /// Unix second from which on nothing may be signed any more.
    pub expires_at: i64,
}

/// A delegation as it is kept and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedDelegation {
    delegation: Delegation,
    #[serde(with = "signature_field")]
    signature: Signature,
}

/// A delegation whose signature holds. Only [`SignedDelegation::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegated(Delegation);

/// Why a delegation is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DelegationError {
    /// The bytes are no delegation, or not written as one is.
    #[error("the delegation cannot be read")]
    Malformed,
    /// The nodes are none, too many, or not in rising order.
    #[error("the delegation's nodes are not 1 to {MAX_DELEGATED_NODES} in rising order")]
    Scope,
    /// The session key is weak, or the owner's own.
    #[error("the delegation's session key cannot be one")]
    SessionKey,
    /// Not signed by the owner that it names.
    #[error("the delegation is not signed by its owner: {0}")]
    Signature(#[from] SignatureError),
}

/// What a delegation does not cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Beyond {
    /// A node that it does not name.
    #[error("the delegation does not cover node {node}")]
    Scope {
        /// The node.
        node: NodeId,
    },
    /// More than its cap.
    #[error("{asked} $ARO are above the delegation's cap of {cap} $ARO")]
    Cap {
        /// What would be signed away in all, in base units.
        asked: Amount,
        /// What may be, in base units.
        cap: Amount,
    },
    /// After its end.
    #[error("the delegation expired at unix second {expires_at}, it is {now}")]
    Expired {
        /// From when on nothing may be signed.
        expires_at: i64,
        /// The time, in unix seconds.
        now: i64,
    },
}

impl Delegation {
    /// Signs with the owner's key.
    ///
    /// # Errors
    /// What a reader would refuse: the scope, the session key, or a key that is not the owner's.
    pub fn sign(self, owner: &SecretKey) -> Result<SignedDelegation, DelegationError> {
        let signature = owner.sign(&self.signed_bytes());
        let signed = SignedDelegation { delegation: self, signature };
        signed.verify().map(|_| signed)
    }

    fn signed_bytes(&self) -> Vec<u8> {
        [DOMAIN, &to_postcard(self)].concat()
    }

    fn check(&self) -> Result<(), DelegationError> {
        let count = self.nodes.len();
        if !(1..=MAX_DELEGATED_NODES).contains(&count) || !self.nodes.is_sorted_by(|a, b| a < b) {
            return Err(DelegationError::Scope);
        }
        if is_weak_key(self.session.as_bytes()) || self.session.as_bytes() == self.owner.as_bytes() {
            return Err(DelegationError::SessionKey);
        }
        Ok(())
    }
}

impl SignedDelegation {
    /// The bytes of its file.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_postcard(self)
    }

    /// Reads the bytes of its file: there is one way to write it, and nothing may follow.
    ///
    /// # Errors
    /// [`DelegationError::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DelegationError> {
        if bytes.len() > MAX_BYTES {
            return Err(DelegationError::Malformed);
        }
        let (signed, rest): (Self, _) = from_postcard(bytes, "Delegation").map_err(|_| DelegationError::Malformed)?;
        if rest.is_empty() && signed.to_bytes() == bytes { Ok(signed) } else { Err(DelegationError::Malformed) }
    }

    /// The delegation, if its owner signed it strictly and it is well formed.
    ///
    /// # Errors
    /// See [`DelegationError`].
    // r[impl identity.delegation.signed]
    pub fn verify(&self) -> Result<Delegated, DelegationError> {
        self.delegation.check()?;
        verify_strict(self.delegation.owner.as_bytes(), &self.delegation.signed_bytes(), &self.signature)?;
        Ok(Delegated(self.delegation.clone()))
    }
}

impl Delegated {
    /// What was delegated.
    pub fn delegation(&self) -> &Delegation {
        &self.0
    }

    /// Whether a voucher may be signed for a node at `now` (unix seconds), after which `signed` base units are signed
    /// away in all.
    ///
    /// # Errors
    /// What it does not cover.
    // r[impl identity.delegation.bounds]
    pub fn allows(&self, node: NodeId, signed: Amount, now: i64) -> Result<(), Beyond> {
        let Delegation { nodes, cap, expires_at, .. } = &self.0;
        if nodes.binary_search(&node).is_err() {
            return Err(Beyond::Scope { node });
        }
        if signed > *cap {
            return Err(Beyond::Cap { asked: signed, cap: *cap });
        }
        if now >= *expires_at {
            return Err(Beyond::Expired { expires_at: *expires_at, now });
        }
        Ok(())
    }
}

/// Keeps these signatures apart from requests, quotes, receipts and transactions.
const DOMAIN: &[u8] = b"aro/1 delegation\0";
/// More than the longest delegation has: 3 + 2 ids of 32 bytes, the nodes, two numbers, a signature.
const MAX_BYTES: usize = 32 * (5 + MAX_DELEGATED_NODES) + 2 * 10 + 1 + 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> SecretKey {
        SecretKey::from_bytes(&[7; 32])
    }

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 32])
    }

    fn delegation() -> Delegation {
        Delegation {
            chain: ChainIds { genesis_hash: [1; 32], program: [2; 32], mint: [3; 32] },
            owner: OwnerId::from_bytes(owner().public()),
            session: SecretKey::from_bytes(&[8; 32]).agent_id(),
            nodes: vec![node(4), node(6)],
            cap: Amount::new(100),
            expires_at: 1_000,
        }
    }

    // r[verify identity.delegation.signed]
    #[test]
    fn it_counts_only_from_its_owner_and_unaltered() {
        let signed = delegation().sign(&owner()).unwrap();
        assert_eq!(signed.verify().unwrap().delegation(), &delegation());
        let bytes = signed.to_bytes();
        assert_eq!(SignedDelegation::from_bytes(&bytes), Ok(signed));
        for place in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[place] ^= 0x10;
            let read = SignedDelegation::from_bytes(&altered).and_then(|signed| signed.verify());
            assert!(read.is_err(), "byte {place}");
        }
        for cut in 0..bytes.len() {
            assert_eq!(SignedDelegation::from_bytes(&bytes[..cut]), Err(DelegationError::Malformed));
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(SignedDelegation::from_bytes(&longer), Err(DelegationError::Malformed));
        let foreign = delegation().sign(&SecretKey::from_bytes(&[9; 32]));
        assert!(matches!(foreign, Err(DelegationError::Signature(_))));
    }

    #[test]
    fn scopes_and_keys_that_make_no_sense_are_not_signed() {
        let many = |count: u8| (0..count).map(node).collect::<Vec<_>>();
        for nodes in [vec![], vec![node(6), node(4)], vec![node(4), node(4)], many(MAX_DELEGATED_NODES as u8 + 1)] {
            let unsound = Delegation { nodes, ..delegation() }.sign(&owner());
            assert_eq!(unsound, Err(DelegationError::Scope));
        }
        let widest = Delegation { nodes: many(MAX_DELEGATED_NODES as u8), cap: Amount::new(u64::MAX), ..delegation() };
        let bytes = Delegation { expires_at: i64::MIN, ..widest }.sign(&owner()).unwrap().to_bytes();
        assert!(SignedDelegation::from_bytes(&bytes).is_ok() && bytes.len() <= MAX_BYTES, "{} bytes", bytes.len());
        for session in [owner().agent_id(), AgentId::from_bytes([0; 32])] {
            let unsound = Delegation { session, ..delegation() }.sign(&owner());
            assert_eq!(unsound, Err(DelegationError::SessionKey));
        }
    }

    // r[verify identity.delegation.bounds]
    #[test]
    fn it_covers_its_nodes_up_to_its_cap_and_before_its_end() {
        let delegated = delegation().sign(&owner()).unwrap().verify().unwrap();
        let allows = |byte, signed, now| delegated.allows(node(byte), Amount::new(signed), now);
        assert_eq!(allows(4, 100, 999), Ok(()));
        assert_eq!(allows(6, 0, i64::MIN), Ok(()));
        assert_eq!(allows(5, 0, 0), Err(Beyond::Scope { node: node(5) }));
        assert_eq!(allows(4, 101, 0), Err(Beyond::Cap { asked: Amount::new(101), cap: Amount::new(100) }));
        assert_eq!(allows(4, 1, 1_000), Err(Beyond::Expired { expires_at: 1_000, now: 1_000 }));
    }
}
