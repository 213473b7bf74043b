//! Hashing a content as it streams by, once, when it enters.

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt};
use thiserror::Error;

use super::decode::merge;
use super::geometry::{GroupSize, PAIR_LEN, Subtree, in_memory, parent_at};
use super::inner::hash_group;
use super::outboard::parent_offset;
use crate::ids::ContentId;

/// Makes a content's id and outboard from its bytes, in one pass.
///
/// Memory: 64 KiB and one entry per tree level. Feed slices of 16 KiB or more: it then runs about as fast as BLAKE3
/// alone; slices of 4 KiB take twice as long.
#[derive(Clone, Debug)]
pub struct OutboardBuilder {
    size: u64,
    fed: u64,
    groups: u64,
    done: u64,
    hasher: Hasher,
    /// Finished subtrees by their first group, left to right.
    finished: Vec<(u64, ChainingValue)>,
    run: Run,
}

/// The pairs of the subtree of up to `RUN_GROUPS` groups that is being hashed: one stretch of the outboard.
#[derive(Clone, Debug, Default)]
struct Run {
    start: u64,
    offset: u64,
    bytes: Vec<u8>,
}

impl OutboardBuilder {
    /// For a content of `size` bytes, all of which are then fed.
    pub fn new(size: u64) -> Self {
        let groups = GroupSize::STORED.count(size);
        let run = Run::starting_at(0, size, groups);
        Self { size, fed: 0, groups, done: 0, hasher: Hasher::new(), finished: Vec::new(), run }
    }

    /// Takes the next bytes. Calls `sink` with stretches of the outboard: where one begins, and its bytes, a whole
    /// number of pairs, at most 64 KiB. They come in no order, never overlap and fill the outboard in the end.
    // r[impl content.outboard.layout]
    pub fn update(&mut self, bytes: &[u8], mut sink: impl FnMut(u64, &[u8])) {
        let mut offset = self.fed;
        self.fed = self.fed.saturating_add(bytes.len() as u64);
        let mut rest = bytes;
        while !rest.is_empty() && offset < self.size {
            let group_end = ((self.done + 1) * GroupSize::STORED.bytes()).min(self.size);
            let take = usize::try_from(group_end - offset).map_or(rest.len(), |left| left.min(rest.len()));
            let (now, later) = rest.split_at(take);
            self.hasher.update(now);
            offset += take as u64;
            rest = later;
            if offset == group_end {
                self.finish_group(&mut sink);
            }
        }
    }

    /// Takes the next bytes by the hashes of their groups.
    ///
    /// # Errors
    /// They are those of other bytes than the next, or of a content of another size. Nothing is taken then.
    pub fn update_hashed(&mut self, hashed: &GroupHashes, mut sink: impl FnMut(u64, &[u8])) -> Result<(), NotNext> {
        if (hashed.size, hashed.offset) != (self.size, self.fed) {
            return Err(NotNext { expected: self.fed, got: hashed.offset });
        }
        self.fed += hashed.len;
        for hash in &hashed.hashes {
            self.join(*hash, &mut sink);
        }
        self.begin_group();
        Ok(())
    }

    /// The id, once every byte was fed.
    ///
    /// # Errors
    /// Fewer or more bytes were fed than announced; what went to the sink is then of no use.
    // r[impl content.root]
    pub fn finish(self) -> Result<ContentId, SizeMismatch> {
        if self.fed != self.size {
            return Err(SizeMismatch { expected: self.size, got: self.fed });
        }
        Ok(ContentId::from_bytes(match self.finished.first() {
            Some((_, root)) => *root,
            None => *self.hasher.finalize().as_bytes(),
        }))
    }

    fn finish_group(&mut self, sink: &mut impl FnMut(u64, &[u8])) {
        let hash = if self.groups == 1 { *self.hasher.finalize().as_bytes() } else { self.hasher.finalize_non_root() };
        self.join(hash, sink);
        self.begin_group();
    }

    fn begin_group(&mut self) {
        if self.done < self.groups {
            self.hasher = Hasher::new();
            self.hasher.set_input_offset(self.done * GroupSize::STORED.bytes());
        }
    }

    /// Takes the next group's hash.
    fn join(&mut self, hash: ChainingValue, sink: &mut impl FnMut(u64, &[u8])) {
        self.finished.push((self.done, hash));
        self.done += 1;
        let is_last = self.done == self.groups;
        // Equal neighbours join, as in counting in binary; at the end all do.
        let merges = if is_last { self.finished.len() - 1 } else { self.done.trailing_zeros() as usize };
        for _ in 0..merges {
            self.merge_last_two(is_last, sink);
        }
        if is_last || self.done.is_multiple_of(RUN_GROUPS) {
            if !self.run.bytes.is_empty() {
                sink(self.run.offset, &self.run.bytes);
            }
            if !is_last {
                self.run = Run::starting_at(self.done, self.size, self.groups);
            }
        }
    }

    fn merge_last_two(&mut self, is_last: bool, sink: &mut impl FnMut(u64, &[u8])) {
        let (Some((boundary, right)), Some((start, left))) = (self.finished.pop(), self.finished.pop()) else { return };
        let is_root = is_last && start == 0;
        self.finished.push((start, merge(&left, &right, is_root)));
        let mut pair = [0; PAIR_LEN];
        pair[..32].copy_from_slice(&left);
        pair[32..].copy_from_slice(&right);
        let offset = parent_offset(self.size, parent_at(boundary, GroupSize::STORED))
            .expect("a boundary between finished groups");
        if start >= self.run.start {
            self.run.bytes[in_memory(offset - self.run.offset)..][..PAIR_LEN].copy_from_slice(&pair);
        } else {
            sink(offset, &pair);
        }
    }
}

/// The hashes of 16 KiB groups that lie side by side. They need nothing of what lies around them, so that several stretches
/// of one content can be hashed at once while one [`OutboardBuilder`] takes them in order.
#[derive(Clone, Debug)]
pub struct GroupHashes {
    size: u64,
    offset: u64,
    len: u64,
    hashes: Vec<ChainingValue>,
}

impl GroupHashes {
    /// Hashes what lies at `offset` of a content of `size` bytes. None unless these are whole groups, but for the content's
    /// last, and at least one.
    pub fn new(size: u64, offset: u64, bytes: &[u8]) -> Option<Self> {
        let (group, len) = (GroupSize::STORED.bytes(), bytes.len() as u64);
        let end = offset.checked_add(len).filter(|end| *end <= size)?;
        if len == 0 || !offset.is_multiple_of(group) || (!end.is_multiple_of(group) && end != size) {
            return None;
        }
        let starts = (offset..end).step_by(in_memory(group));
        let groups = starts.zip(bytes.chunks(in_memory(group)));
        let hashes = groups.map(|(start, bytes)| hash_group(bytes, start, size <= group)).collect();
        Some(Self { size, offset, len, hashes })
    }
}

impl Run {
    fn starting_at(start: u64, size: u64, groups: u64) -> Self {
        let subtree = Subtree { start, groups: (groups - start).min(RUN_GROUPS) };
        let bytes = vec![0; in_memory(subtree.groups - 1) * PAIR_LEN];
        let offset = subtree
            .split()
            .and_then(|(_, right)| parent_offset(size, parent_at(right.start, GroupSize::STORED)))
            .unwrap_or_default();
        Self { start, offset, bytes }
    }
}

/// The content has not the length that was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{got} bytes where {expected} were announced: the content changed while it was read")]
pub struct SizeMismatch {
    /// Bytes announced.
    pub expected: u64,
    /// Bytes fed.
    pub got: u64,
}

/// Hashes were not those of the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("hashes of the bytes at {got} where those at {expected} belong")]
pub struct NotNext {
    /// Where the next bytes begin.
    pub expected: u64,
    /// Where the hashed ones begin.
    pub got: u64,
}

/// Groups whose pairs are gathered into one stretch: 16 MiB of content, 64 KiB of outboard.
const RUN_GROUPS: u64 = 1024;
