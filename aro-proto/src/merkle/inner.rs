//! The pairs of hashes inside one chunk group: they do not travel, and are kept all the same.

use blake3::hazmat::{ChainingValue, HasherExt};

use super::decode::merge;
use super::geometry::{GroupSize, PAIR_LEN, ParentIndex, Subtree, parent_at};

/// A pair of hashes and its place in the tree.
pub type PlacedPair = (ParentIndex, [u8; PAIR_LEN]);

/// The hash of a chunk group at `offset`, and, appended to `pairs`, those below it, down to the size at which outboards
/// are kept: one less than its 16 KiB parts. Every byte is hashed once.
///
/// `offset` must be that of a chunk group of any size, `bytes` all its bytes.
// r[impl content.outboard.layout]
pub(super) fn hash_with_pairs(offset: u64, bytes: &[u8], is_root: bool, pairs: &mut Vec<PlacedPair>) -> ChainingValue {
    let part = GroupSize::STORED.bytes();
    let subtree = Subtree { start: offset / part, groups: GroupSize::STORED.count(bytes.len() as u64) };
    hash(subtree, offset, bytes, is_root, pairs)
}

fn hash(subtree: Subtree, offset: u64, bytes: &[u8], is_root: bool, pairs: &mut Vec<PlacedPair>) -> ChainingValue {
    let Some((left, right)) = subtree.split() else {
        return hash_group(bytes, offset, is_root);
    };
    let boundary = usize::try_from(left.groups * GroupSize::STORED.bytes()).expect("a group has at most 64 KiB");
    let (first, second) = bytes.split_at(boundary);
    let first = hash(left, offset, first, false, pairs);
    let second = hash(right, offset + boundary as u64, second, false, pairs);
    let mut pair = [0; PAIR_LEN];
    pair[..32].copy_from_slice(&first);
    pair[32..].copy_from_slice(&second);
    pairs.push((parent_at(right.start, GroupSize::STORED), pair));
    merge(&first, &second, is_root)
}

/// The hash of a chunk group at `offset`; a content of one group is its own root.
pub(super) fn hash_group(bytes: &[u8], offset: u64, is_root: bool) -> ChainingValue {
    if is_root {
        *blake3::hash(bytes).as_bytes()
    } else {
        blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ByteRanges, Decoder, Encoder, Outboard, PreOrderOutboard, Step, outboard_len};
    use super::*;

    #[test]
    fn pairs_of_the_wire_and_pairs_inside_are_the_whole_outboard_cases() {
        for size in [0, 1, 16_384, 16_385, 32_769, 49_153, 65_536, 65_537, 100_000, 131_072, 1_000_003] {
            let content: Vec<u8> = (0..size).map(|i| (i / 3 % 251) as u8).collect();
            let outboard = PreOrderOutboard::build(&content);
            for group in [GroupSize::KIB16, GroupSize::KIB32, GroupSize::KIB64] {
                let answered = ByteRanges::all().answered(size as u64, group);
                let mut decoder = Decoder::new(outboard.root(), answered.clone()).unwrap();
                let (mut on_wire, mut inside) = (0, Vec::new());
                for step in Encoder::new(answered) {
                    let item = match step {
                        Step::Parent(node) => {
                            on_wire += 1;
                            &outboard.parent(node).unwrap()[..]
                        }
                        Step::Leaf { offset, len } => &content[offset as usize..][..len as usize],
                    };
                    decoder.accept_with_pairs(item, &mut inside).unwrap();
                }
                decoder.finish().unwrap();
                for (node, pair) in &inside {
                    assert_eq!(outboard.parent(*node).unwrap(), *pair, "{size} {group:?} {node:?}");
                }
                assert_eq!((on_wire + inside.len()) * PAIR_LEN, outboard_len(size as u64) as usize, "{size} {group:?}");
            }
        }
    }

    // r[verify content.verify.unproven]
    #[test]
    fn a_wrong_group_gives_no_pairs() {
        let content = vec![7; 200_000];
        let outboard = PreOrderOutboard::build(&content);
        let answered = ByteRanges::single(0, 1).unwrap().answered(200_000, GroupSize::KIB64);
        let mut decoder = Decoder::new(outboard.root(), answered.clone()).unwrap();
        let mut inside = Vec::new();
        for step in Encoder::new(answered) {
            match step {
                Step::Parent(node) => {
                    assert!(decoder.accept_with_pairs(outboard.parent(node).unwrap(), &mut inside).unwrap().is_none());
                }
                Step::Leaf { len, .. } => {
                    let mut wrong = content[..len as usize].to_vec();
                    wrong[20_000] ^= 1;
                    assert!(decoder.accept_with_pairs(wrong, &mut inside).is_err());
                }
            }
        }
        assert!(inside.is_empty());
    }
}
