//! What a name means: signed, numbered, and compared so that it never goes back.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::name::{Name, NameAddress};
use crate::identity::{SecretKey, SignatureError, verify_strict};
use crate::ids::{AgentId, ContentId};
use crate::message::{signature_field, to_postcard};

/// What a name points to. Numbers are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
#[repr(u8)]
pub enum TargetKind {
    /// Bytes that are what they are.
    Content = 0,
    /// A [manifest](crate::manifest): a tree of contents.
    Manifest = 1,
}

/// A number that is no kind of target in this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} is no kind of target")]
pub struct UnknownTargetKind(u8);

/// What a name means from this sequence number on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord {
    /// Whose name it is.
    pub publisher: AgentId,
    /// The name.
    pub name: Name,
    /// Rises with each record of the name, from 1; the highest counts.
    pub sequence: u64,
    /// What the name points to; zeros once it is withdrawn.
    pub target: ContentId,
    /// How to read it.
    pub kind: TargetKind,
    /// Unix seconds at which it was signed, by the publisher's clock. For people: nothing depends on it.
    pub issued_at: i64,
    /// Unix seconds after which the publisher no longer stands by it; none for ever.
    pub valid_until: Option<i64>,
}

/// A record as it travels, signature not looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedNameRecord {
    /// The record.
    pub record: NameRecord,
    /// The publisher's signature over `"aro/1 name\0"` and the record's postcard bytes.
    #[serde(with = "signature_field")]
    pub signature: [u8; 64],
}

/// A record that its publisher signed. Only [`SignedNameRecord::verify`] and [`NameRecord::sign`] make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedName(SignedNameRecord);

/// How a record stands against the best one that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is newer, or the first: it counts from now on.
    Newer,
    /// It says the same under the same number.
    Same,
    /// Its number is below the known one.
    NotRising,
    /// It says something else under the same number: its publisher has signed two.
    EqualDiffers,
}

impl NameRecord {
    /// Signs with the publisher's key; the record's publisher becomes that key.
    pub fn sign(self, key: &SecretKey) -> VerifiedName {
        let record = Self { publisher: key.agent_id(), ..self };
        let signature = key.sign(&record.signed_bytes());
        VerifiedName(SignedNameRecord { record, signature })
    }

    /// A record that takes back what the name meant before: it points nowhere, and was valid at no time that matters, so
    /// that a reader which knows of no withdrawing refuses it as out of date.
    // r[impl name.withdrawn]
    pub fn withdrawn(name: NameAddress, sequence: u64, issued_at: i64) -> Self {
        let NameAddress { publisher, name } = name;
        let kind = TargetKind::Content;
        Self { publisher, name, sequence, target: NOWHERE, kind, issued_at, valid_until: Some(0) }
    }

    /// Whether it takes back what the name meant before.
    pub fn is_withdrawn(&self) -> bool {
        self.target == NOWHERE && self.kind == TargetKind::Content && self.valid_until == Some(0)
    }

    /// The name with its publisher.
    pub fn address(&self) -> NameAddress {
        NameAddress { publisher: self.publisher, name: self.name.clone() }
    }

    /// Whether its publisher still stands by it at `now`, in unix seconds.
    pub fn is_valid_at(&self, now: i64) -> bool {
        self.valid_until.is_none_or(|until| now <= until)
    }

    fn signed_bytes(&self) -> Vec<u8> {
        [DOMAIN, &to_postcard(self)].concat()
    }
}

impl SignedNameRecord {
    /// The record, if its publisher signed it.
    ///
    /// # Errors
    /// The signature does not hold.
    // r[impl name.signature]
    pub fn verify(&self) -> Result<VerifiedName, SignatureError> {
        verify_strict(self.record.publisher.as_bytes(), &self.record.signed_bytes(), &self.signature)?;
        Ok(VerifiedName(self.clone()))
    }

    /// The record as it is stored.
    pub fn to_bytes(&self) -> Vec<u8> {
        to_postcard(self)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, all of it; `None` if it is anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (record, rest) = postcard::take_from_bytes::<Self>(bytes).ok()?;
        (rest.is_empty() && record.is_within_bounds()).then_some(record)
    }

    // r[impl name.sequence]
    pub(crate) fn is_within_bounds(&self) -> bool {
        self.record.sequence > 0
    }
}

impl VerifiedName {
    /// What was signed.
    pub fn record(&self) -> &NameRecord {
        &self.0.record
    }

    /// The record with its signature.
    pub fn signed(&self) -> &SignedNameRecord {
        &self.0
    }

    /// Compares with the best record of the same name that is known, if any.
    // r[impl name.never_back]
    pub fn against(&self, known: Option<&Self>) -> Standing {
        let Some(known) = known else { return Standing::Newer };
        debug_assert_eq!(known.record().address(), self.record().address());
        match self.record().sequence.cmp(&known.record().sequence) {
            core::cmp::Ordering::Greater => Standing::Newer,
            core::cmp::Ordering::Less => Standing::NotRising,
            core::cmp::Ordering::Equal if self.record() == known.record() => Standing::Same,
            core::cmp::Ordering::Equal => Standing::EqualDiffers,
        }
    }
}

impl From<TargetKind> for u8 {
    fn from(kind: TargetKind) -> Self {
        kind as Self
    }
}

impl TryFrom<u8> for TargetKind {
    type Error = UnknownTargetKind;
    fn try_from(number: u8) -> Result<Self, UnknownTargetKind> {
        match number {
            0 => Ok(Self::Content),
            1 => Ok(Self::Manifest),
            other => Err(UnknownTargetKind(other)),
        }
    }
}

/// Keeps these signatures apart from all others.
/// The target of a name that is withdrawn.
const NOWHERE: ContentId = ContentId::from_bytes([0; 32]);
const DOMAIN: &[u8] = b"aro/1 name\0";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[7; 32])
    }

    fn record(sequence: u64, target: &[u8]) -> NameRecord {
        NameRecord {
            publisher: key().agent_id(),
            name: "site".parse().unwrap(),
            sequence,
            target: ContentId::of(target),
            kind: TargetKind::Manifest,
            issued_at: 1_800_000_000,
            valid_until: None,
        }
    }

    // r[verify name.signature]
    #[test]
    fn a_record_counts_only_from_its_publisher_and_unaltered() {
        let verified = record(1, b"x").sign(&key());
        assert_eq!(verified.signed().verify(), Ok(verified.clone()));
        let bytes = verified.signed().to_bytes();
        assert_eq!(SignedNameRecord::from_bytes(&bytes).unwrap(), *verified.signed());
        for place in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[place] ^= 1;
            let read = SignedNameRecord::from_bytes(&altered);
            assert!(read.is_none_or(|read| read.verify().is_err()), "byte {place}");
            assert!(SignedNameRecord::from_bytes(&bytes[..place]).is_none());
        }
        // Signed by another key, it is that key's name.
        let other = record(1, b"x").sign(&SecretKey::from_bytes(&[8; 32]));
        assert_ne!(other.record().publisher, key().agent_id());
    }

    // r[verify name.never_back]
    // r[verify name.sequence]
    #[test]
    fn the_highest_number_counts_and_no_number_means_two_things() {
        let known = record(5, b"x").sign(&key());
        let against = |sequence, target: &[u8]| record(sequence, target).sign(&key()).against(Some(&known));
        assert_eq!(record(1, b"x").sign(&key()).against(None), Standing::Newer);
        assert_eq!(against(6, b"y"), Standing::Newer);
        assert_eq!(against(5, b"x"), Standing::Same);
        assert_eq!(against(5, b"y"), Standing::EqualDiffers);
        assert_eq!(against(4, b"x"), Standing::NotRising);
        assert_eq!(SignedNameRecord::from_bytes(&record(0, b"x").sign(&key()).signed().to_bytes()), None);
    }

    // r[verify name.withdrawn]
    #[test]
    fn a_withdrawn_name_is_told_by_all_its_fields_and_out_of_date_for_everybody_else() {
        let gone = NameRecord::withdrawn(record(1, b"x").address(), 4, 1_800_000_000);
        let signed = gone.clone().sign(&key());
        let read = SignedNameRecord::from_bytes(&signed.signed().to_bytes()).unwrap();
        assert!(read.verify().unwrap().record().is_withdrawn() && !gone.is_valid_at(1));
        assert_eq!(record(3, b"x").sign(&key()).against(Some(&signed)), Standing::NotRising);
        for other in [
            NameRecord { target: ContentId::of(b"x"), ..gone.clone() },
            NameRecord { valid_until: Some(1), ..gone.clone() },
            NameRecord { valid_until: None, ..gone.clone() },
            NameRecord { kind: TargetKind::Manifest, ..gone },
        ] {
            assert!(!other.is_withdrawn(), "{other:?}");
        }
    }

    #[test]
    fn validity_ends_after_its_last_second() {
        let record = NameRecord { valid_until: Some(60), ..record(1, b"x") };
        assert!(record.is_valid_at(60) && !record.is_valid_at(61));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(read) = SignedNameRecord::from_bytes(&bytes) {
                let _ = read.verify();
            }
        }
    }
}
