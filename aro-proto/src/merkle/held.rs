//! What a store holds of a content, whatever part of it and in whatever state: proven anew from its id, and from nothing
//! that the store says.

use core::ops::Range;

use blake3::hazmat::ChainingValue;

use super::decode::merge;
use super::geometry::{GroupSize, PAIR_LEN, ParentIndex, Subtree, byte_range, parent_at};
use super::inner::hash_group;
use crate::ids::ContentId;
use crate::limits::MAX_CONTENT_SIZE;

/// Bytes and pairs of hashes that may be those of a content. Nothing of it is believed.
pub trait HeldStore {
    /// Why the store cannot be read.
    type Error;

    /// The pair of hashes at `node`, if there may be one.
    ///
    /// # Errors
    /// The store cannot be read.
    fn pair(&mut self, node: ParentIndex) -> Result<Option<[u8; PAIR_LEN]>, Self::Error>;

    /// Fills `bytes` with what lies at `offset`. False if there is less.
    ///
    /// # Errors
    /// The store cannot be read.
    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<bool, Self::Error>;
}

/// The ranges of a content of `size` bytes that `store` holds, rising and joined: each hashed, and its hash followed up to
/// `root` through the store's pairs. Where the pairs end nothing is read. Memory: one group and one entry per tree level.
///
/// The size is proven too if the last range ends with it; of an empty content, if one empty range comes back.
///
/// # Errors
/// The store cannot be read.
pub fn held<S: HeldStore>(root: ContentId, size: u64, store: &mut S) -> Result<Vec<Range<u64>>, S::Error> {
    let mut found: Vec<Range<u64>> = Vec::new();
    if size > MAX_CONTENT_SIZE {
        return Ok(found);
    }
    let unit = GroupSize::STORED;
    let most = GroupSize::KIB64.bytes() / unit.bytes();
    let whole = Subtree::whole(size, unit);
    let mut group = Vec::new();
    let mut pending: Vec<(Subtree, ChainingValue)> = vec![(whole, root.to_bytes())];
    while let Some((subtree, hash)) = pending.pop() {
        let bytes = byte_range(subtree.start..subtree.end(), size, unit);
        if subtree.groups <= most {
            group.resize(usize::try_from(bytes.end - bytes.start).expect("a group has at most 64 KiB"), 0);
            if store.read(bytes.start, &mut group)? && hash_group(&group, bytes.start, subtree == whole) == hash {
                match found.last_mut() {
                    Some(last) if last.end == bytes.start => last.end = bytes.end,
                    _ => found.push(bytes),
                }
                continue;
            }
        }
        let Some((left, right)) = subtree.split() else { continue };
        let Some(pair) = store.pair(parent_at(right.start, unit))? else { continue };
        let (mut left_hash, mut right_hash) = ([0; 32], [0; 32]);
        left_hash.copy_from_slice(&pair[..32]);
        right_hash.copy_from_slice(&pair[32..]);
        if merge(&left_hash, &right_hash, subtree == whole) == hash {
            pending.extend([(right, right_hash), (left, left_hash)]);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::{ByteRanges, Encoder, Outboard, PreOrderOutboard, Step};
    use super::*;

    /// Everything as an attacker or a crash may have left it.
    struct Memory {
        pairs: HashMap<ParentIndex, [u8; PAIR_LEN]>,
        bytes: Vec<u8>,
    }

    impl HeldStore for Memory {
        type Error = core::convert::Infallible;
        fn pair(&mut self, node: ParentIndex) -> Result<Option<[u8; PAIR_LEN]>, Self::Error> {
            Ok(self.pairs.get(&node).copied())
        }
        fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<bool, Self::Error> {
            let from = self.bytes.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
            let len = from.len().min(bytes.len());
            bytes[..len].copy_from_slice(&from[..len]);
            Ok(len == bytes.len())
        }
    }

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i / 3 % 251) as u8 + 1).collect()
    }

    /// What receiving `asked` in groups of `group` leaves behind, and what of the content that is.
    fn received(content: &[u8], asked: &[Range<u64>], group: GroupSize) -> (Memory, Vec<Range<u64>>) {
        let outboard = PreOrderOutboard::build(content);
        let mut memory = Memory { pairs: HashMap::new(), bytes: vec![0; content.len()] };
        let Ok(ranges) = ByteRanges::new(asked.iter().cloned()) else { return (memory, Vec::new()) };
        let answered = ranges.answered(content.len() as u64, group);
        for step in Encoder::new(answered.clone()) {
            match step {
                Step::Parent(node) => drop(memory.pairs.insert(node, outboard.parent(node).unwrap())),
                Step::Leaf { offset, len } => {
                    let leaf = offset as usize..offset as usize + len as usize;
                    memory.bytes[leaf.clone()].copy_from_slice(&content[leaf]);
                }
            }
        }
        (memory, answered.iter().collect())
    }

    #[test]
    fn all_that_was_received_proves_cases() {
        for size in
            [0, 1, 1023, 1024, 1025, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 100_000, 131_073, 1_000_003]
        {
            let bytes = content(size);
            let size = size as u64;
            for group in [GroupSize::KIB16, GroupSize::KIB32, GroupSize::KIB64] {
                for asked in [0..u64::MAX, 0..1, size / 2..size / 2 + 1, size.saturating_sub(1)..u64::MAX] {
                    let (mut memory, expected) = received(&bytes, std::slice::from_ref(&asked), group);
                    let found = held(ContentId::of(&bytes), size, &mut memory).unwrap();
                    assert_eq!(found, expected, "{size} {group:?} {asked:?}");
                }
            }
        }
    }

    #[test]
    fn a_size_that_is_a_lie_proves_no_byte_that_is_not_the_contents() {
        let bytes = content(200_000);
        let (mut memory, _) = received(&bytes, &[0..u64::MAX], GroupSize::KIB64);
        memory.bytes.resize(300_000, 7);
        for claimed in [0, 1, 65_536, 131_072, 199_999, 200_001, 262_144, 300_000, MAX_CONTENT_SIZE, u64::MAX] {
            for range in held(ContentId::of(&bytes), claimed, &mut memory).unwrap() {
                assert!(!range.is_empty() && range.end <= 200_000, "{claimed}: {range:?}");
            }
        }
    }

    proptest! {
        // Nothing that is not the content's is ever taken for it, and what is untouched still counts.
        #[test]
        fn damage_costs_its_own_group_and_nothing_is_believed_proptest(
            size in 0_usize..400_000,
            starts in prop::collection::vec((0_u64..400_000, 1_u64..100_000), 1..4),
            damage in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..4),
            cut in prop::option::of(0_usize..400_000),
            lost in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let bytes = content(size);
            let asked: Vec<_> = starts.iter().map(|(start, len)| *start..start + len).collect();
            let (mut memory, expected) = received(&bytes, &asked, GroupSize::KIB16);
            for (at, flip) in &damage {
                if size > 0 {
                    let at = at.index(size);
                    memory.bytes[at] ^= flip;
                }
            }
            memory.bytes.truncate(cut.unwrap_or(usize::MAX));
            if let Some(lost) = lost.filter(|_| !memory.pairs.is_empty()) {
                let mut nodes: Vec<_> = memory.pairs.keys().copied().collect();
                nodes.sort_unstable();
                memory.pairs.remove(lost.get(&nodes));
            }
            let found = held(ContentId::of(&bytes), size as u64, &mut memory).unwrap();
            for range in &found {
                let range = range.start as usize..range.end as usize;
                prop_assert_eq!(&memory.bytes[range.clone()], &bytes[range]);
            }
            if damage.is_empty() && cut.is_none() && lost.is_none() {
                prop_assert_eq!(found, expected);
            }
        }
    }
}
