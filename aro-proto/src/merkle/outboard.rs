//! A content's hashes, kept beside it, so that serving reads and never hashes.

use thiserror::Error;

use super::builder::OutboardBuilder;
use super::geometry::{GroupSize, PAIR_LEN, ParentIndex, Subtree, boundary_of, in_memory};
use crate::ids::ContentId;

/// Where a node's pairs of hashes come from. Whoever reads a file by [`parent_offset`] implements it in a few lines.
pub trait Outboard {
    /// Why a pair cannot be had.
    type Error;
    /// Bytes of the content.
    fn size(&self) -> u64;
    /// The content's id.
    fn root(&self) -> ContentId;
    /// The pair of hashes at `node`, left then right.
    ///
    /// # Errors
    /// The pair cannot be read, or the content has none there.
    fn parent(&self, node: ParentIndex) -> Result<[u8; PAIR_LEN], Self::Error>;
}

/// Bytes of the outboard of a content of `size` bytes: 64 for each 16 KiB group but the first.
// r[impl content.outboard.layout]
pub fn outboard_len(size: u64) -> u64 {
    (GroupSize::STORED.count(size) - 1) * PAIR_LEN as u64
}

/// Where a pair's 64 bytes begin in the outboard of a content of `size` bytes; none if the content has no such pair.
///
/// An outboard is all pairs at 16 KiB groups in pre-order, with nothing before, between or after them: the `.obao4`
/// files of iroh-blobs.
// r[impl content.outboard.layout]
pub fn parent_offset(size: u64, node: ParentIndex) -> Option<u64> {
    let boundary = boundary_of(node, GroupSize::STORED)?;
    let mut subtree = Subtree::whole(size, GroupSize::STORED);
    if boundary >= subtree.end() {
        return None;
    }
    let mut pairs_before = 0;
    loop {
        // Not the content's first group and within it, so the boundary is met before a single group is left.
        let (left, right) = subtree.split()?;
        if boundary == right.start {
            return Some(pairs_before * PAIR_LEN as u64);
        }
        // The pair itself comes first, then the left side's pairs, one less than its groups.
        (pairs_before, subtree) =
            if boundary < right.start { (pairs_before + 1, left) } else { (pairs_before + left.groups, right) };
    }
}

/// An outboard in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreOrderOutboard<B> {
    root: ContentId,
    size: u64,
    bytes: B,
}

impl PreOrderOutboard<Vec<u8>> {
    /// Hashes a content in memory. Streams go through [`OutboardBuilder`].
    pub fn build(content: &[u8]) -> Self {
        let size = content.len() as u64;
        let mut bytes = vec![0; in_memory(outboard_len(size))];
        let mut builder = OutboardBuilder::new(size);
        builder.update(content, |offset, run| bytes[in_memory(offset)..][..run.len()].copy_from_slice(run));
        let root = builder.finish().expect("the content has its own length");
        Self { root, size, bytes }
    }
}

impl<B: AsRef<[u8]>> PreOrderOutboard<B> {
    /// Takes bytes in the layout of [`parent_offset`]. They are not checked: whoever receives them as proofs does that.
    ///
    /// # Errors
    /// A length that the size does not have.
    pub fn new(root: ContentId, size: u64, bytes: B) -> Result<Self, OutboardError> {
        let (expected, got) = (outboard_len(size), bytes.as_ref().len() as u64);
        if expected != got {
            return Err(OutboardError::WrongLength { expected, got });
        }
        Ok(Self { root, size, bytes })
    }

    /// The bytes, as kept in a file.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl<B: AsRef<[u8]>> Outboard for PreOrderOutboard<B> {
    type Error = OutboardError;

    fn size(&self) -> u64 {
        self.size
    }

    fn root(&self) -> ContentId {
        self.root
    }

    fn parent(&self, node: ParentIndex) -> Result<[u8; PAIR_LEN], OutboardError> {
        let offset = parent_offset(self.size, node).ok_or(OutboardError::NoSuchParent { node: node.get() })?;
        let pair = self.bytes()[in_memory(offset)..].first_chunk();
        pair.copied().ok_or(OutboardError::NoSuchParent { node: node.get() })
    }
}

/// Why an outboard in memory cannot serve.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OutboardError {
    /// A length that the size does not have.
    #[error("an outboard of {got} bytes where {expected} belong")]
    WrongLength {
        /// Bytes due.
        expected: u64,
        /// Bytes given.
        got: u64,
    },
    /// A pair that a content of this size does not have.
    #[error("the content has no pair of hashes {node}")]
    NoSuchParent {
        /// The pair's number.
        node: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::super::geometry::parent_at;
    use super::super::{ByteRanges, Encoder, Step};
    use super::*;

    // r[verify content.outboard.layout]
    #[test]
    fn offsets_count_up_along_the_preorder() {
        for groups in (1..70).chain([1000, 1025]) {
            let size = groups * GroupSize::STORED.bytes() - 5;
            let steps = Encoder::new(ByteRanges::all().answered(size, GroupSize::STORED));
            let offsets: Vec<_> = steps
                .filter_map(|step| match step {
                    Step::Parent(node) => Some(parent_offset(size, node)),
                    Step::Leaf { .. } => None,
                })
                .collect();
            assert_eq!(offsets, (0..groups - 1).map(|pair| Some(pair * 64)).collect::<Vec<_>>());
            assert_eq!(outboard_len(size), (groups - 1) * 64);
        }
    }

    #[test]
    fn a_pair_of_another_content_has_no_place() {
        let content = vec![1; 50_000];
        let outboard = PreOrderOutboard::build(&content);
        assert!(outboard.parent(parent_at(3, GroupSize::STORED)).is_ok());
        for boundary in [4, 5, 1 << 40] {
            let node = parent_at(boundary, GroupSize::STORED);
            assert_eq!(outboard.parent(node), Err(OutboardError::NoSuchParent { node: node.get() }));
        }
        let short = outboard.bytes()[1..].to_vec();
        let refused = PreOrderOutboard::new(outboard.root(), 50_000, short).unwrap_err();
        assert_eq!(refused, OutboardError::WrongLength { expected: 192, got: 191 });
        assert_eq!(PreOrderOutboard::new(outboard.root(), 50_000, outboard.bytes().to_vec()), Ok(outboard));
    }
}
