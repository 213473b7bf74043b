//! The tree by recursion, slow and obviously right: what the tests hold everything else against.

use blake3::CHUNK_LEN;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::geometry::GroupSize;
use super::ranges::ByteRanges;
use crate::ids::ContentId;

/// The content's id, chunk by chunk.
pub fn root(content: &[u8]) -> ContentId {
    ContentId::from_bytes(hash(content, 0, true))
}

/// All pairs of hashes down to whole groups, in pre-order.
pub fn outboard(content: &[u8], group: GroupSize) -> Vec<u8> {
    let mut out = Vec::new();
    write(content, 0, group, &|_, _| true, &mut |item| match item {
        Item::Pair(pair) => out.extend(pair),
        Item::Group(_) => {}
    });
    out
}

/// The response to a request for `ranges`.
pub fn encode(content: &[u8], ranges: &ByteRanges, group: GroupSize) -> Vec<u8> {
    items(content, ranges, group).concat()
}

/// The response's items, one by one.
pub fn items(content: &[u8], ranges: &ByteRanges, group: GroupSize) -> Vec<Vec<u8>> {
    let size = content.len() as u64;
    let is_asked = |start: u64, end: u64| {
        let is_last = end == size;
        ranges.iter().any(|range| (range.start < end && start < range.end) || (is_last && range.end >= size))
    };
    let mut out = Vec::new();
    write(content, 0, group, &is_asked, &mut |item| {
        out.push(match item {
            Item::Pair(pair) => pair.to_vec(),
            Item::Group(bytes) => bytes.to_vec(),
        });
    });
    out
}

/// What a response proves about a content of this claimed size: the leaves before the first wrong byte, each with its
/// offset, and whether it is the answer, the whole answer and nothing but the answer.
pub fn decode(
    root: ContentId,
    size: u64,
    ranges: &ByteRanges,
    group: GroupSize,
    response: &[u8],
) -> (Vec<(u64, Vec<u8>)>, bool) {
    let mut reading = Reading { size, ranges, group, rest: response, proven: Vec::new() };
    let is_right = reading.read(0, size, root.to_bytes(), true).is_some() && reading.rest.is_empty();
    (reading.proven, is_right)
}

struct Reading<'a> {
    size: u64,
    ranges: &'a ByteRanges,
    group: GroupSize,
    rest: &'a [u8],
    proven: Vec<(u64, Vec<u8>)>,
}

impl Reading<'_> {
    /// Reads the part of a subtree that is asked for; `None` at the first wrong or missing byte.
    fn read(&mut self, start: u64, len: u64, expected: ChainingValue, is_root: bool) -> Option<()> {
        let end = start + len;
        let is_last = end == self.size;
        let is_asked = |range: core::ops::Range<u64>| {
            (range.start < end && start < range.end) || (is_last && range.end >= self.size)
        };
        if !self.ranges.iter().any(is_asked) {
            return Some(());
        }
        if len <= self.group.bytes() {
            let (leaf, rest) = self.rest.split_at_checked(usize::try_from(len).ok()?)?;
            self.rest = rest;
            return (hash(leaf, start, is_root) == expected).then(|| self.proven.push((start, leaf.to_vec())));
        }
        let (pair, rest) = self.rest.split_at_checked(64)?;
        self.rest = rest;
        let (left, right) = (pair.first_chunk()?, pair.last_chunk()?);
        let merged = if is_root {
            *merge_subtrees_root(left, right, Mode::Hash).as_bytes()
        } else {
            merge_subtrees_non_root(left, right, Mode::Hash)
        };
        if merged != expected {
            return None;
        }
        let left_len = len.div_ceil(2).next_power_of_two();
        self.read(start, left_len, *left, false)?;
        self.read(start + left_len, len - left_len, *right, false)
    }
}

enum Item<'a> {
    Pair([u8; 64]),
    Group(&'a [u8]),
}

/// Writes the part of a subtree that is asked for; `is_asked` judges any run of bytes that is a whole subtree.
fn write(
    bytes: &[u8],
    start: u64,
    group: GroupSize,
    is_asked: &dyn Fn(u64, u64) -> bool,
    out: &mut dyn FnMut(Item<'_>),
) {
    if !is_asked(start, start + bytes.len() as u64) {
        return;
    }
    if bytes.len() as u64 <= group.bytes() {
        return out(Item::Group(bytes));
    }
    let (left, right) = halves(bytes);
    let middle = start + left.len() as u64;
    let mut pair = [0; 64];
    pair[..32].copy_from_slice(&hash(left, start, false));
    pair[32..].copy_from_slice(&hash(right, middle, false));
    out(Item::Pair(pair));
    write(left, start, group, is_asked, out);
    write(right, middle, group, is_asked, out);
}

fn hash(bytes: &[u8], start: u64, is_root: bool) -> ChainingValue {
    if bytes.len() <= CHUNK_LEN {
        let mut chunk = blake3::Hasher::new();
        chunk.set_input_offset(start).update(bytes);
        return if is_root { *chunk.finalize().as_bytes() } else { chunk.finalize_non_root() };
    }
    let (left, right) = halves(bytes);
    let (left, right) = (hash(left, start, false), hash(right, start + left.len() as u64, false));
    if is_root {
        *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
    } else {
        merge_subtrees_non_root(&left, &right, Mode::Hash)
    }
}

fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len().div_ceil(2).next_power_of_two())
}
