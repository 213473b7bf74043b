//! The shape of a content's tree: a function of its size alone, so that both sides draw the same one.

use core::fmt;
use core::ops::Range;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How many bytes are proven at once: the unit of leaves in a response.
///
/// The root does not depend on it. Small groups waste less on small ranges, large ones carry fewer hashes: 0.4 % of the
/// content at 16 KiB, 0.1 % at 64 KiB.
// r[impl content.group.size]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct GroupSize(u8);

impl GroupSize {
    /// 16 chunks: for small ranges.
    pub const KIB16: Self = Self(4);
    /// 32 chunks.
    pub const KIB32: Self = Self(5);
    /// 64 chunks: for bulk.
    pub const KIB64: Self = Self(6);
    /// The group size at which outboards are kept, the smallest, so that any response can be cut from one.
    pub const STORED: Self = Self::KIB16;

    /// Takes the binary logarithm of the group's chunks (of 1,024 bytes), as it travels on the wire.
    ///
    /// # Errors
    /// Outside 4..=6.
    pub const fn from_log2(chunks_log2: u8) -> Result<Self, GroupSizeError> {
        match chunks_log2 {
            4..=6 => Ok(Self(chunks_log2)),
            _ => Err(GroupSizeError(chunks_log2)),
        }
    }

    /// The binary logarithm of the group's chunks, as it travels on the wire.
    pub const fn log2(self) -> u8 {
        self.0
    }

    /// Bytes of a full group.
    pub const fn bytes(self) -> u64 {
        CHUNK << self.0
    }

    /// Groups of a content of `size` bytes; an empty content has one empty group.
    pub const fn count(self, size: u64) -> u64 {
        let groups = size.div_ceil(self.bytes());
        if groups == 0 { 1 } else { groups }
    }
}

impl TryFrom<u8> for GroupSize {
    type Error = GroupSizeError;
    fn try_from(chunks_log2: u8) -> Result<Self, GroupSizeError> {
        Self::from_log2(chunks_log2)
    }
}

impl From<GroupSize> for u8 {
    fn from(group: GroupSize) -> u8 {
        group.0
    }
}

/// A group size that this protocol does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("group size of 2^{0} chunks: expected 4 (16 KiB) to 6 (64 KiB)")]
pub struct GroupSizeError(pub u8);

/// A chunk group of a content, counted from 0 in the group size of its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIndex(pub(super) u64);

impl GroupIndex {
    /// The count of groups before this one.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for GroupIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}", self.0)
    }
}

/// A pair of child hashes in a content's tree, named by the boundary between the two: it holds at every group size.
///
/// The number is that of an in-order walk over a tree of chunks: the first chunk right of the boundary, less one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParentIndex(u64);

impl ParentIndex {
    /// The pair's number in an in-order walk over a tree of chunks.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The bytes below the pair in a content of `size` bytes.
    pub fn covers(self, size: u64) -> Range<u64> {
        let boundary = self.0 + 1;
        let half = 1 << boundary.trailing_zeros();
        (boundary - half) * CHUNK..(boundary + half).saturating_mul(CHUNK).min(size)
    }
}

/// A run of groups that hangs below one hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Subtree {
    pub(super) start: u64,
    pub(super) groups: u64,
}

impl Subtree {
    /// All of a content.
    pub(super) fn whole(size: u64, group: GroupSize) -> Self {
        Self { start: 0, groups: group.count(size) }
    }

    pub(super) fn end(self) -> u64 {
        self.start + self.groups
    }

    /// The two below: left is the largest power of two that leaves something for the right. None for a single group.
    pub(super) fn split(self) -> Option<(Self, Self)> {
        (self.groups > 1).then(|| {
            let left = self.groups.div_ceil(2).next_power_of_two();
            (Self { start: self.start, groups: left }, Self { start: self.start + left, groups: self.groups - left })
        })
    }
}

/// The pair whose right half begins with the group `boundary`, which is never the first.
pub(super) fn parent_at(boundary: u64, group: GroupSize) -> ParentIndex {
    ParentIndex((boundary << group.0) - 1)
}

/// The group of size `group` with which the pair's right half begins; none if the boundary lies inside a group.
pub(super) fn boundary_of(node: ParentIndex, group: GroupSize) -> Option<u64> {
    let boundary = node.0 + 1;
    (boundary.trailing_zeros() >= u32::from(group.0)).then_some(boundary >> group.0)
}

/// The bytes of a run of groups, cut at the content's end.
pub(super) fn byte_range(groups: Range<u64>, size: u64, group: GroupSize) -> Range<u64> {
    let bytes = |groups: u64| groups.saturating_mul(group.bytes()).min(size);
    bytes(groups.start)..bytes(groups.end)
}

/// A place in bytes that are in memory.
pub(super) fn in_memory(offset: u64) -> usize {
    usize::try_from(offset).expect("memory holds no more than its addresses")
}

/// Bytes of a pair of hashes.
pub const PAIR_LEN: usize = 64;
/// Bytes of a BLAKE3 chunk.
const CHUNK: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    // r[verify content.group.size]
    #[test]
    fn only_16_to_64_kib_are_group_sizes() {
        for log2 in 0..=u8::MAX {
            assert_eq!(GroupSize::from_log2(log2).is_ok(), (4..=6).contains(&log2), "{log2}");
        }
        assert_eq!(GroupSize::KIB16.bytes(), 16 * 1024);
        assert_eq!(GroupSize::KIB64.bytes(), 64 * 1024);
    }

    #[test]
    fn a_subtree_splits_at_the_largest_power_of_two_below_it() {
        let whole = |groups| Subtree { start: 0, groups };
        assert_eq!(whole(1).split(), None);
        for (groups, left) in [(2, 1), (3, 2), (4, 2), (5, 4), (8, 4), (9, 8), ((1 << 50) + 1, 1 << 50)] {
            let (l, r) = whole(groups).split().unwrap();
            assert_eq!((l.groups, r.start, r.end()), (left, left, groups));
        }
    }

    #[test]
    fn a_parent_names_the_bytes_below_it_whatever_the_size() {
        let root_of_five = parent_at(4, GroupSize::KIB16);
        assert_eq!(root_of_five, parent_at(1, GroupSize::KIB64));
        assert_eq!(root_of_five.covers(70_000), 0..70_000);
        assert_eq!(parent_at(6, GroupSize::KIB16).covers(u64::MAX), 4 * 16384..8 * 16384);
        let last = GroupSize::KIB16.count(u64::MAX) - 1;
        assert_eq!(parent_at(last, GroupSize::KIB16).covers(u64::MAX).end, u64::MAX);
    }
}
