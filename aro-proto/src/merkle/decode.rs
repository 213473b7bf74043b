//! Checking a response, item by item: unproven bytes go in, proven bytes come out, nothing else does.

use core::ops::Range;

use blake3::hazmat::{ChainingValue, Mode, merge_subtrees_non_root, merge_subtrees_root};
use thiserror::Error;

use super::answered::AnsweredRanges;
use super::geometry::{GroupIndex, PAIR_LEN, ParentIndex, Subtree};
use super::inner::{PlacedPair, hash_group, hash_with_pairs};
use super::walk::{Visit, Walk};
use crate::ids::ContentId;
use crate::limits::MAX_CONTENT_SIZE;

/// Checks one response against a content id. Memory: two entries per tree level, never by the claimed size.
///
/// Feed it what [`expects`](Self::expects) asks for, then [`finish`](Self::finish). After the first error it takes
/// nothing more: what follows a wrong item hangs below hashes that nobody vouches for.
#[derive(Clone, Debug)]
pub struct Decoder {
    root: ContentId,
    walk: Walk,
    next: Option<Visit>,
    /// Hashes that are proven, their subtrees not yet; the next one's on top.
    proven_hashes: Vec<ChainingValue>,
    proven_bytes: u64,
    size_is_proven: bool,
    failed: bool,
}

impl Decoder {
    /// A decoder for the content `root`; `answered` comes from the request's ranges and the size that the node claims.
    ///
    /// # Errors
    /// A claimed size beyond what any content may have.
    // r[impl content.size.hint]
    pub fn new(root: ContentId, answered: AnsweredRanges) -> Result<Self, SizeTooLarge> {
        if answered.size() > MAX_CONTENT_SIZE {
            return Err(SizeTooLarge { size: answered.size() });
        }
        let mut walk = Walk::new(answered);
        let next = walk.next();
        Ok(Self {
            root,
            walk,
            next,
            proven_hashes: vec![root.to_bytes()],
            proven_bytes: 0,
            size_is_proven: false,
            failed: false,
        })
    }

    /// Bytes of the next item; none when the response is complete or has failed. 0 only for an empty content's leaf.
    pub fn expects(&self) -> Option<usize> {
        if self.failed { None } else { self.next.as_ref().map(item_len) }
    }

    /// Checks the next item. A leaf comes back with its proof; a pair of hashes gives nothing to the caller.
    ///
    /// # Errors
    /// The item is wrong, of the wrong length, or one too many. The decoder is then dead.
    // r[impl content.verify.first_error]
    // r[impl content.verify.unproven]
    pub fn accept<B: AsRef<[u8]>>(&mut self, item: B) -> Result<Option<ProvenLeaf<B>>, VerifyError> {
        self.accept_and(item, None)
    }

    /// The same, and appends the pairs of hashes inside a leaf, down to the size at which outboards are kept, which costs
    /// no second pass over it. Only those of a proven leaf are.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    // r[impl content.verify.unproven]
    pub fn accept_with_pairs<B: AsRef<[u8]>>(
        &mut self,
        item: B,
        pairs: &mut Vec<PlacedPair>,
    ) -> Result<Option<ProvenLeaf<B>>, VerifyError> {
        self.accept_and(item, Some(pairs))
    }

    fn accept_and<B: AsRef<[u8]>>(
        &mut self,
        item: B,
        pairs: Option<&mut Vec<PlacedPair>>,
    ) -> Result<Option<ProvenLeaf<B>>, VerifyError> {
        if self.failed {
            return Err(VerifyError::AfterError);
        }
        match self.check(item.as_ref(), pairs) {
            Ok(Some(offset)) => Ok(Some(ProvenLeaf { content: self.root, offset, bytes: item })),
            Ok(None) => Ok(None),
            Err(error) => {
                self.failed = true;
                self.proven_hashes.clear();
                Err(error)
            }
        }
    }

    /// Says that no more bytes come.
    ///
    /// # Errors
    /// The response is incomplete, or has failed before.
    pub fn finish(&self) -> Result<(), VerifyError> {
        if self.failed {
            return Err(VerifyError::AfterError);
        }
        match &self.next {
            None => Ok(()),
            Some(next) => Err(VerifyError::Truncated { group: self.due(next) }),
        }
    }

    /// Whether every answered byte is proven.
    pub fn is_complete(&self) -> bool {
        !self.failed && self.next.is_none()
    }

    /// Content bytes proven so far: what may be paid for.
    pub fn proven_bytes(&self) -> u64 {
        self.proven_bytes
    }

    /// Whether the claimed size has become a fact.
    pub fn size_is_proven(&self) -> bool {
        self.size_is_proven
    }

    /// The content's size, once it is a fact.
    pub fn proven_size(&self) -> Option<u64> {
        self.size_is_proven.then(|| self.answered().size())
    }

    /// What the response has to hold.
    pub fn answered(&self) -> &AnsweredRanges {
        self.walk.answered()
    }

    /// The content bytes of the next item: a pair's whole subtree or a leaf. None as in [`expects`](Self::expects).
    pub fn next_covers(&self) -> Option<Range<u64>> {
        match self.next.as_ref().filter(|_| !self.failed)? {
            Visit::Parent { index, .. } => Some(index.covers(self.answered().size())),
            Visit::Leaf { offset, len, .. } => Some(*offset..offset + u64::from(*len)),
        }
    }

    /// The next item's place in the tree, if it is a pair of hashes: for those who keep proven pairs.
    pub fn next_parent(&self) -> Option<ParentIndex> {
        match self.next.as_ref().filter(|_| !self.failed)? {
            Visit::Parent { index, .. } => Some(*index),
            Visit::Leaf { .. } => None,
        }
    }

    /// Checks the item and moves on; a leaf gives its offset.
    fn check(&mut self, item: &[u8], pairs: Option<&mut Vec<PlacedPair>>) -> Result<Option<u64>, VerifyError> {
        let Some(next) = self.next.clone() else {
            return Err(VerifyError::TrailingBytes { len: item.len() });
        };
        if item.len() != item_len(&next) {
            let (expected, got) = (item_len(&next), item.len());
            return Err(VerifyError::WrongLength { group: self.due(&next), expected, got });
        }
        let expected = self.proven_hashes.pop().expect("the walk and the hashes hold the same subtrees");
        let leaf = match next {
            Visit::Parent { index, subtree, left, right } => {
                self.check_pair(item, &expected, index, subtree, left, right)?;
                None
            }
            Visit::Leaf { group, offset, .. } => {
                self.check_leaf(item, &expected, group, offset, pairs)?;
                Some(offset)
            }
        };
        self.next = self.walk.next();
        Ok(leaf)
    }

    fn check_pair(
        &mut self,
        item: &[u8],
        expected: &ChainingValue,
        index: ParentIndex,
        subtree: Subtree,
        left: bool,
        right: bool,
    ) -> Result<(), VerifyError> {
        let (mut left_hash, mut right_hash) = ([0; 32], [0; 32]);
        left_hash.copy_from_slice(&item[..32]);
        right_hash.copy_from_slice(&item[32..]);
        let is_root = subtree == Subtree::whole(self.answered().size(), self.answered().group());
        if merge(&left_hash, &right_hash, is_root) != *expected {
            let covers = index.covers(self.answered().size());
            let group = self.answered().next_group(subtree.start).unwrap_or(GroupIndex(subtree.start));
            return Err(VerifyError::ParentMismatch { group, covers });
        }
        self.proven_hashes.extend(right.then_some(right_hash));
        self.proven_hashes.extend(left.then_some(left_hash));
        Ok(())
    }

    // r[impl content.size.proof]
    fn check_leaf(
        &mut self,
        item: &[u8],
        expected: &ChainingValue,
        group: GroupIndex,
        offset: u64,
        pairs: Option<&mut Vec<PlacedPair>>,
    ) -> Result<(), VerifyError> {
        let last = self.answered().group().count(self.answered().size()) - 1;
        let is_right = match pairs {
            None => hash_group(item, offset, last == 0) == *expected,
            Some(pairs) => {
                let before = pairs.len();
                let is_right = hash_with_pairs(offset, item, last == 0, pairs) == *expected;
                if !is_right {
                    pairs.truncate(before);
                }
                is_right
            }
        };
        let len = u32::try_from(item.len()).expect("a group has at most 64 KiB");
        if !is_right {
            return Err(VerifyError::LeafMismatch { group, offset, len });
        }
        self.proven_bytes += u64::from(len);
        self.size_is_proven |= group.0 == last;
        Ok(())
    }

    /// The group that the next item leads to.
    fn due(&self, next: &Visit) -> GroupIndex {
        match next {
            Visit::Parent { subtree, .. } => {
                self.answered().next_group(subtree.start).unwrap_or(GroupIndex(subtree.start))
            }
            Visit::Leaf { group, .. } => *group,
        }
    }
}

/// Proven bytes: at this offset, the content holds exactly these. Only [`Decoder`] makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvenLeaf<B> {
    content: ContentId,
    offset: u64,
    bytes: B,
}

impl<B: AsRef<[u8]>> ProvenLeaf<B> {
    /// Whose bytes they are.
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// The first byte's place in the content.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// How many bytes; 0 only for an empty content.
    pub fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    /// Whether this is the leaf of an empty content.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Gives the bytes back, without the proof.
    pub fn into_bytes(self) -> B {
        self.bytes
    }
}

/// Why a response is not the answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VerifyError {
    /// A pair of hashes that its content does not have.
    #[error("{group}: the hashes over bytes {covers:?} are not the content's")]
    ParentMismatch {
        /// The first group that the pair was to prove.
        group: GroupIndex,
        /// The content bytes below the pair.
        covers: Range<u64>,
    },
    /// A chunk group that its content does not have.
    #[error("{group}: the {len} bytes at {offset} are not the content's")]
    LeafMismatch {
        /// Which group.
        group: GroupIndex,
        /// Its first byte in the content.
        offset: u64,
        /// Its bytes.
        len: u32,
    },
    /// An item that was cut wrongly.
    #[error("{group}: an item of {got} bytes where {expected} belong")]
    WrongLength {
        /// The group that the item leads to.
        group: GroupIndex,
        /// Bytes due.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// The response ends before all is proven.
    #[error("{group}: the response ends before it")]
    Truncated {
        /// The first group that is missing.
        group: GroupIndex,
    },
    /// More bytes than the answer has.
    #[error("{len} bytes after the end of the answer")]
    TrailingBytes {
        /// Bytes given, at least.
        len: usize,
    },
    /// The decoder has failed before and proves nothing more.
    #[error("the response has failed before")]
    AfterError,
}

/// A claimed size beyond what any content may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a content of {size} bytes: at most {MAX_CONTENT_SIZE}")]
pub struct SizeTooLarge {
    /// Bytes claimed.
    pub size: u64,
}

/// The hash of two subtrees' parent.
pub(super) fn merge(left: &ChainingValue, right: &ChainingValue, is_root: bool) -> ChainingValue {
    if is_root {
        *merge_subtrees_root(left, right, Mode::Hash).as_bytes()
    } else {
        merge_subtrees_non_root(left, right, Mode::Hash)
    }
}

fn item_len(visit: &Visit) -> usize {
    match visit {
        Visit::Parent { .. } => PAIR_LEN,
        Visit::Leaf { len, .. } => *len as usize,
    }
}
