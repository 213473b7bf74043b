//! What goes on the wire, step by step; the caller reads the bytes and sends them in batches.

use super::answered::AnsweredRanges;
use super::geometry::ParentIndex;
use super::walk::{Visit, Walk};

/// The steps of one response, in wire order: an iterator that reads nothing and holds one entry per tree level.
#[derive(Clone, Debug)]
pub struct Encoder {
    walk: Walk,
}

/// One item of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A pair of hashes, 64 bytes, from the outboard.
    Parent(ParentIndex),
    /// A chunk group, from the content.
    Leaf {
        /// Its first byte in the content.
        offset: u64,
        /// Its bytes: a full group but for the content's last, and 0 only for an empty content.
        len: u32,
    },
}

impl Encoder {
    /// The steps for `answered`.
    pub fn new(answered: AnsweredRanges) -> Self {
        Self { walk: Walk::new(answered) }
    }

    /// Bytes of the whole response, whatever was taken of it.
    pub fn encoded_len(&self) -> u64 {
        self.walk.answered().encoded_len()
    }
}

impl Iterator for Encoder {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        Some(match self.walk.next()? {
            Visit::Parent { index, .. } => Step::Parent(index),
            Visit::Leaf { offset, len, .. } => Step::Leaf { offset, len },
        })
    }
}
