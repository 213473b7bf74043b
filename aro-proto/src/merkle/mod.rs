//! Proofs: which bytes were asked for, how they travel, and how each is checked before anyone sees it.
//!
//! A content is a BLAKE3 tree, its id the root. A response is the tree's asked part in pre-order (bao): pairs of child
//! hashes, 64 bytes each, and chunk groups, with nothing in between. One request has exactly one right answer, so the
//! first wrong byte shows within its chunk group, and no byte leaves [`Decoder`] unproven.
//!
//! | asking                       | serving                                   | checking            |
//! |------------------------------|-------------------------------------------|---------------------|
//! | [`ByteRanges`] -> [`AnsweredRanges`] | [`OutboardBuilder`], [`Outboard`], [`Encoder`] | [`Decoder`] -> [`ProvenLeaf`] |
//!
//! ```
//! use aro_proto::merkle::{ByteRanges, Decoder, Encoder, GroupSize, Outboard, PreOrderOutboard, Step};
//!
//! let content = vec![7; 100_000];
//! let outboard = PreOrderOutboard::build(&content);
//! let answered = ByteRanges::single(20_000, 40_000)?.answered(outboard.size(), GroupSize::KIB16);
//! assert_eq!(answered.iter().collect::<Vec<_>>(), [16_384..49_152]);
//!
//! let mut decoder = Decoder::new(outboard.root(), answered.clone())?;
//! let mut proven = Vec::new();
//! for step in Encoder::new(answered) {
//!     let leaf = match step {
//!         Step::Parent(node) => decoder.accept(outboard.parent(node)?.to_vec())?,
//!         Step::Leaf { offset, len } => decoder.accept(content[offset as usize..][..len as usize].to_vec())?,
//!     };
//!     proven.extend(leaf.map(|leaf| leaf.into_bytes()).unwrap_or_default());
//! }
//! decoder.finish()?;
//! assert_eq!(proven, content[16_384..49_152]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![allow(clippy::single_range_in_vec_init, reason = "one range of bytes is what is meant")]

mod answered;
mod builder;
mod decode;
mod encode;
mod geometry;
mod hasher;
mod held;
mod inner;
mod outboard;
mod ranges;
#[doc(hidden)]
pub mod reference;
#[cfg(test)]
mod tests;
mod walk;

pub use answered::AnsweredRanges;
pub use builder::{GroupHashes, NotNext, OutboardBuilder, SizeMismatch};
pub use decode::{Decoder, ProvenLeaf, SizeTooLarge, VerifyError};
pub use encode::{Encoder, Step};
pub use geometry::{GroupIndex, GroupSize, GroupSizeError, PAIR_LEN, ParentIndex};
pub use hasher::ContentHasher;
pub use held::{HeldStore, held};
pub use inner::PlacedPair;
pub use outboard::{Outboard, OutboardError, PreOrderOutboard, outboard_len, parent_offset};
pub use ranges::{ByteRanges, RangesError};

use crate::ids::ContentId;

/// The id of bytes in memory. Streams go through [`OutboardBuilder`].
pub fn hash_all(bytes: &[u8]) -> ContentId {
    ContentId::of(bytes)
}
