//! The signed list: `SignedManifest` is what arrived, `Manifest` is what may be acted on.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::entry_name::{EntryName, EntryNameError};
use super::media_type::{MediaType, MediaTypeError};
use super::tree::Tree;
use crate::identity::{SecretKey, Signature, SignatureError, verify_strict};
use crate::ids::{AgentId, ContentId};
use crate::limits::{MAX_CONTENT_SIZE, MAX_MANIFEST_BYTES, MAX_MANIFEST_ENTRIES};

/// One named content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it goes, below the folder that the tree is written to.
    pub name: EntryName,
    /// The content.
    pub content: ContentId,
    /// Its bytes, as the publisher claims: a hint until the content's end is proven.
    pub size: u64,
    /// What it is, if the publisher says so.
    pub media_type: Option<MediaType>,
    /// Whether it is a program.
    pub executable: bool,
}

/// A list that its publisher signed, in the one order and without conflicts. Only [`SignedManifest::verify`] and
/// [`SignedManifest::sign`] make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    publisher: AgentId,
    entries: Vec<Entry>,
}

/// A manifest's bytes, signature and entries not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedManifest {
    publisher: AgentId,
    signature: Signature,
    body: Vec<u8>,
}

/// Why bytes are not a manifest, or a list cannot be one. The publisher's fault, for only it can have signed them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// They do not begin as a manifest does.
    #[error("these bytes are not a manifest")]
    NotAManifest,
    /// More bytes than a manifest may have.
    #[error("a manifest of {0} bytes, at most {MAX_MANIFEST_BYTES} are allowed")]
    TooLong(usize),
    /// The publisher's signature does not hold.
    #[error("the manifest's signature does not hold: {0}")]
    Signature(#[from] SignatureError),
    /// More entries than a manifest may have.
    #[error("a manifest of {0} entries, at most {MAX_MANIFEST_ENTRIES} are allowed")]
    TooManyEntries(u64),
    /// An entry ends early or holds a value that it cannot have, or bytes follow the last one.
    #[error("the manifest cannot be read at entry {0}")]
    Malformed(usize),
    /// The same list, written another way.
    #[error("the manifest is not written in its one form")]
    NotCanonical,
    /// An entry's name is not one.
    #[error("entry {at} of the manifest: {error}")]
    Name {
        /// Which entry, from 0.
        at: usize,
        /// What is wrong with it.
        error: EntryNameError,
    },
    /// An entry's media type is not one.
    #[error("entry {at} of the manifest: {error}")]
    MediaType {
        /// Which entry, from 0.
        at: usize,
        /// What is wrong with it.
        error: MediaTypeError,
    },
    /// An entry claims a size that no content has.
    #[error("{name} claims {size} bytes, which no content has")]
    Size {
        /// The entry.
        name: EntryName,
        /// What it claims, in bytes.
        size: u64,
    },
    /// Names do not rise strictly.
    #[error("{0} is out of order or listed twice")]
    Order(EntryName),
    /// Two names are one place where cases are not told apart, or a file and a folder at once.
    #[error("{0} cannot stand beside another entry on every file system")]
    Conflict(EntryName),
}

impl SignedManifest {
    /// Puts entries into their order, checks them, and signs the list.
    ///
    /// # Errors
    /// They cannot be a manifest.
    pub fn sign(mut entries: Vec<Entry>, key: &SecretKey) -> Result<Self, ManifestError> {
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        check_entries(&entries)?;
        let body = encode(&entries);
        if HEAD_LEN + body.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLong(HEAD_LEN + body.len()));
        }
        let publisher = key.agent_id();
        let signature = key.sign(&signed_bytes(&publisher, &body));
        Ok(Self { publisher, signature, body })
    }

    /// Reads a content's bytes as a manifest, as far as its key and signature.
    ///
    /// # Errors
    /// They are too many, or not a manifest.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLong(bytes.len()));
        }
        let rest = bytes.strip_prefix(DOMAIN).ok_or(ManifestError::NotAManifest)?;
        let (publisher, rest) = rest.split_first_chunk::<32>().ok_or(ManifestError::NotAManifest)?;
        let (signature, body) = rest.split_first_chunk::<64>().ok_or(ManifestError::NotAManifest)?;
        Ok(Self { publisher: AgentId::from_bytes(*publisher), signature: *signature, body: body.to_vec() })
    }

    /// The manifest as a content.
    pub fn to_bytes(&self) -> Vec<u8> {
        [DOMAIN, self.publisher.as_bytes(), &self.signature, &self.body].concat()
    }

    /// Its content id.
    pub fn content_id(&self) -> ContentId {
        ContentId::of(&self.to_bytes())
    }

    /// Who claims to have signed it.
    pub fn claimed_publisher(&self) -> AgentId {
        self.publisher
    }

    /// The list, if its publisher signed it and it is one. Nothing is decoded before it is verified.
    ///
    /// # Errors
    /// The signature does not hold, or what was signed is no manifest.
    // r[impl manifest.signature]
    pub fn verify(&self) -> Result<Manifest, ManifestError> {
        verify_strict(self.publisher.as_bytes(), &signed_bytes(&self.publisher, &self.body), &self.signature)?;
        let entries = decode(&self.body)?;
        check_entries(&entries)?;
        // r[impl manifest.canonical]
        if encode(&entries) != self.body {
            return Err(ManifestError::NotCanonical);
        }
        Ok(Manifest { publisher: self.publisher, entries })
    }
}

impl Manifest {
    /// The key that signed it.
    pub fn publisher(&self) -> AgentId {
        self.publisher
    }

    /// The entries, names rising.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What all entries claim together, in bytes.
    pub fn claimed_bytes(&self) -> u64 {
        // At most 2^16 entries of 2^44 bytes.
        self.entries.iter().map(|entry| entry.size).sum()
    }
}

/// An entry as it is written.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    name: &'a str,
    content: ContentId,
    size: u64,
    media_type: Option<&'a str>,
    executable: bool,
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut body = crate::message::to_postcard(&(entries.len() as u64));
    for Entry { name, content, size, media_type, executable } in entries {
        let media_type = media_type.as_ref().map(MediaType::as_str);
        let wire = Wire { name: name.as_str(), content: *content, size: *size, media_type, executable: *executable };
        body.extend(crate::message::to_postcard(&wire));
    }
    body
}

fn decode(body: &[u8]) -> Result<Vec<Entry>, ManifestError> {
    let (count, mut rest) = postcard::take_from_bytes::<u64>(body).map_err(|_| ManifestError::Malformed(0))?;
    // r[impl manifest.bounds]
    let within = usize::try_from(count).ok().filter(|count| *count <= MAX_MANIFEST_ENTRIES);
    let count = within.ok_or(ManifestError::TooManyEntries(count))?;
    let mut entries = Vec::new();
    for at in 0..count {
        let (wire, later) = postcard::take_from_bytes::<Wire<'_>>(rest).map_err(|_| ManifestError::Malformed(at))?;
        rest = later;
        let name = wire.name.parse().map_err(|error| ManifestError::Name { at, error })?;
        let media_type = wire.media_type.map(str::parse).transpose();
        let media_type = media_type.map_err(|error| ManifestError::MediaType { at, error })?;
        let Wire { content, size, executable, .. } = wire;
        entries.push(Entry { name, content, size, media_type, executable });
    }
    if rest.is_empty() { Ok(entries) } else { Err(ManifestError::Malformed(count)) }
}

/// Whether entries can be a manifest: sorted, bounded and free of conflicts. [`SignedManifest`] checks it by itself.
///
/// # Errors
/// Why they cannot.
// r[impl manifest.entries]
pub fn check_entries(entries: &[Entry]) -> Result<(), ManifestError> {
    if entries.len() > MAX_MANIFEST_ENTRIES {
        return Err(ManifestError::TooManyEntries(entries.len() as u64));
    }
    let mut tree = Tree::default();
    let mut last: Option<&EntryName> = None;
    for Entry { name, size, .. } in entries {
        if *size > MAX_CONTENT_SIZE {
            return Err(ManifestError::Size { name: name.clone(), size: *size });
        }
        if last.is_some_and(|last| last >= name) {
            return Err(ManifestError::Order(name.clone()));
        }
        if !tree.add(name) {
            return Err(ManifestError::Conflict(name.clone()));
        }
        last = Some(name);
    }
    Ok(())
}

fn signed_bytes(publisher: &AgentId, body: &[u8]) -> Vec<u8> {
    [DOMAIN, publisher.as_bytes(), body].concat()
}

/// What a manifest begins with, and what keeps its signature apart from all others.
const DOMAIN: &[u8] = b"aro/1 manifest\0";
/// Bytes before the entries.
const HEAD_LEN: usize = DOMAIN.len() + 32 + 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> SecretKey {
        SecretKey::from_bytes(&[7; 32])
    }

    fn entry(name: &str) -> Entry {
        let (content, media_type) = (ContentId::of(name.as_bytes()), Some("text/plain".parse().unwrap()));
        Entry { name: name.parse().unwrap(), content, size: 5, media_type, executable: false }
    }

    /// Signs a body as it is, as only a hostile publisher would.
    fn sign_raw(body: Vec<u8>) -> SignedManifest {
        let publisher = key().agent_id();
        let signature = key().sign(&signed_bytes(&publisher, &body));
        SignedManifest { publisher, signature, body }
    }

    fn refused(entries: &[Entry]) -> ManifestError {
        sign_raw(encode(entries)).verify().unwrap_err()
    }

    // r[verify manifest.canonical]
    #[test]
    fn a_manifest_reads_back_in_its_order_whatever_order_it_was_made_in() {
        let made = SignedManifest::sign(vec![entry("b"), entry("a/c"), entry("a/b")], &key()).unwrap();
        let read = SignedManifest::from_bytes(&made.to_bytes()).unwrap();
        let manifest = read.verify().unwrap();
        assert_eq!(manifest.entries(), [entry("a/b"), entry("a/c"), entry("b")]);
        assert_eq!((manifest.publisher(), manifest.claimed_bytes()), (key().agent_id(), 15));
        assert_eq!(read.content_id(), ContentId::of(&made.to_bytes()));
        assert!(SignedManifest::sign(Vec::new(), &key()).unwrap().verify().unwrap().entries().is_empty());
    }

    // r[verify manifest.signature]
    #[test]
    fn any_flipped_bit_and_any_cut_is_refused() {
        let bytes = SignedManifest::sign(vec![entry("a"), entry("b")], &key()).unwrap().to_bytes();
        for place in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[place] ^= 0x10;
            assert!(SignedManifest::from_bytes(&altered).and_then(|read| read.verify()).is_err(), "byte {place}");
            assert!(SignedManifest::from_bytes(&bytes[..place]).and_then(|read| read.verify()).is_err());
        }
    }

    // r[verify manifest.entries]
    // r[verify manifest.conflicts]
    #[test]
    fn what_a_hostile_publisher_signs_is_refused_with_its_cause() {
        assert_eq!(refused(&[entry("b"), entry("a")]), ManifestError::Order("a".parse().unwrap()));
        assert_eq!(refused(&[entry("a"), entry("a")]), ManifestError::Order("a".parse().unwrap()));
        assert_eq!(refused(&[entry("A"), entry("a")]), ManifestError::Conflict("a".parse().unwrap()));
        assert_eq!(refused(&[entry("a"), entry("a/b")]), ManifestError::Conflict("a/b".parse().unwrap()));
        let huge = Entry { size: MAX_CONTENT_SIZE + 1, ..entry("a") };
        assert!(matches!(refused(&[huge]), ManifestError::Size { .. }));

        let mut trailing = encode(&[entry("a")]);
        trailing.push(0);
        assert_eq!(sign_raw(trailing).verify(), Err(ManifestError::Malformed(1)));
        let climbing = {
            let mut body = encode(&[entry("aa/b")]);
            body[2..4].copy_from_slice(b"..");
            body
        };
        let error = EntryNameError::Dots;
        assert_eq!(sign_raw(climbing).verify(), Err(ManifestError::Name { at: 0, error }));
        // One entry, its count in two bytes.
        let lax = [&[0x81, 0x00], &encode(&[entry("a")])[1..]].concat();
        assert_eq!(sign_raw(lax).verify(), Err(ManifestError::NotCanonical));
    }

    // r[verify manifest.bounds]
    #[test]
    fn counts_and_lengths_are_bounded_before_anything_is_held() {
        let many = crate::message::to_postcard(&u64::MAX);
        assert_eq!(sign_raw(many).verify(), Err(ManifestError::TooManyEntries(u64::MAX)));
        let long = vec![0; MAX_MANIFEST_BYTES + 1];
        assert_eq!(SignedManifest::from_bytes(&long), Err(ManifestError::TooLong(MAX_MANIFEST_BYTES + 1)));
        let entries = (0..=MAX_MANIFEST_ENTRIES).map(|at| entry(&format!("{at}"))).collect();
        let count = MAX_MANIFEST_ENTRIES as u64 + 1;
        assert_eq!(SignedManifest::sign(entries, &key()), Err(ManifestError::TooManyEntries(count)));
        // Long names reach the bound on bytes before the one on entries.
        let wide = |at| entry(&format!("{}{at:05}/{}", "x".repeat(240), "y".repeat(240)));
        assert!(matches!(
            SignedManifest::sign((0..40_000).map(wide).collect(), &key()),
            Err(ManifestError::TooLong(_))
        ));
    }

    proptest! {
        // r[verify manifest.canonical]
        #[test]
        fn whatever_is_signed_reads_back_or_is_refused(names in prop::collection::vec("[ab/A]{1,5}", 0..6), executable: bool) {
            let entries: Vec<Entry> = names.iter().filter_map(|name| {
                Some(Entry { name: name.parse().ok()?, executable, ..entry("x") })
            }).collect();
            if let Ok(made) = SignedManifest::sign(entries, &key()) {
                let read = SignedManifest::from_bytes(&made.to_bytes()).unwrap().verify().unwrap();
                prop_assert!(read.entries().windows(2).all(|pair| pair[0].name < pair[1].name));
                prop_assert_eq!(&encode(read.entries()), &made.body);
            }
        }

        #[test]
        fn signed_garbage_is_an_error_never_a_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(manifest) = sign_raw(body.clone()).verify() {
                prop_assert_eq!(&encode(manifest.entries()), &body);
            }
            let _ = SignedManifest::from_bytes(&body).and_then(|read| read.verify());
        }
    }
}
