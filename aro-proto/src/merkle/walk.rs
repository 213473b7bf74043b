//! The one order in which a response travels; the encoder and the decoder both follow it.

use super::answered::AnsweredRanges;
use super::geometry::{GroupIndex, ParentIndex, Subtree, byte_range, parent_at};

/// A pre-order walk over the answered part of a tree. Memory: one entry per level.
// r[impl content.encoding.preorder]
#[derive(Clone, Debug)]
pub(super) struct Walk {
    answered: AnsweredRanges,
    /// Subtrees still to visit, the next on top; each holds an answered group.
    pending: Vec<Subtree>,
}

/// What the walk comes by.
#[derive(Clone, Debug)]
pub(super) enum Visit {
    /// A pair of hashes, and which of the two are walked into.
    Parent { index: ParentIndex, subtree: Subtree, left: bool, right: bool },
    /// A chunk group.
    Leaf { group: GroupIndex, offset: u64, len: u32 },
}

impl Walk {
    pub(super) fn new(answered: AnsweredRanges) -> Self {
        let whole = Subtree::whole(answered.size(), answered.group());
        Self { answered, pending: vec![whole] }
    }

    pub(super) fn answered(&self) -> &AnsweredRanges {
        &self.answered
    }
}

impl Iterator for Walk {
    type Item = Visit;

    fn next(&mut self) -> Option<Visit> {
        let subtree = self.pending.pop()?;
        let Some((left, right)) = subtree.split() else {
            let bytes = byte_range(subtree.start..subtree.end(), self.answered.size(), self.answered.group());
            let len = u32::try_from(bytes.end - bytes.start).expect("a group has at most 64 KiB");
            return Some(Visit::Leaf { group: GroupIndex(subtree.start), offset: bytes.start, len });
        };
        let (into_left, into_right) = (self.answered.touches(left), self.answered.touches(right));
        self.pending.extend(into_right.then_some(right));
        self.pending.extend(into_left.then_some(left));
        let index = parent_at(right.start, self.answered.group());
        Some(Visit::Parent { index, subtree, left: into_left, right: into_right })
    }
}
