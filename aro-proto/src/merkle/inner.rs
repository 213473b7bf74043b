//! The pairs of hashes inside one chunk group: they do not travel, and are kept all the same.

use blake3::hazmat::{ChainingValue, HasherExt};

use super::decode::merge;
use super::geometry::{GroupSize, PAIR_LEN, ParentIndex, Subtree, parent_at};

/// Hashes a proven chunk group at `offset` into the pairs below it, down to the size at which outboards are kept: one
/// less than its 16 KiB parts. With the pairs that came on the wire they are the whole outboard.
///
/// `offset` must be that of a chunk group of any size, `bytes` all its bytes.
// r[impl content.outboard.layout]
pub fn inner_pairs(offset: u64, bytes: &[u8], mut sink: impl FnMut(ParentIndex, [u8; PAIR_LEN])) {
    let part = GroupSize::STORED.bytes();
    let subtree = Subtree { start: offset / part, groups: GroupSize::STORED.count(bytes.len() as u64) };
    if let Some((left, right)) = subtree.split() {
        pair(left, right, offset, bytes, &mut sink);
    }
}

/// Gives the pair over `left` and `right`, and those below it.
fn pair(
    left: Subtree,
    right: Subtree,
    offset: u64,
    bytes: &[u8],
    sink: &mut impl FnMut(ParentIndex, [u8; PAIR_LEN]),
) -> [u8; PAIR_LEN] {
    let boundary = usize::try_from(left.groups * GroupSize::STORED.bytes()).expect("a group has at most 64 KiB");
    let (first, second) = bytes.split_at(boundary);
    let mut both = [0; PAIR_LEN];
    both[..32].copy_from_slice(&hash(left, offset, first, sink));
    both[32..].copy_from_slice(&hash(right, offset + boundary as u64, second, sink));
    sink(parent_at(right.start, GroupSize::STORED), both);
    both
}

fn hash(
    subtree: Subtree,
    offset: u64,
    bytes: &[u8],
    sink: &mut impl FnMut(ParentIndex, [u8; PAIR_LEN]),
) -> ChainingValue {
    let Some((left, right)) = subtree.split() else {
        return blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root();
    };
    let both = pair(left, right, offset, bytes, sink);
    let (mut first, mut second) = ([0; 32], [0; 32]);
    first.copy_from_slice(&both[..32]);
    second.copy_from_slice(&both[32..]);
    merge(&first, &second, false)
}

#[cfg(test)]
mod tests {
    use super::super::{ByteRanges, Encoder, Outboard, PreOrderOutboard, Step, outboard_len};
    use super::*;

    #[test]
    fn pairs_of_the_wire_and_pairs_inside_are_the_whole_outboard_cases() {
        for size in [0, 1, 16_384, 16_385, 32_769, 49_153, 65_536, 65_537, 100_000, 131_072, 1_000_003] {
            let content: Vec<u8> = (0..size).map(|i| (i / 3 % 251) as u8).collect();
            let outboard = PreOrderOutboard::build(&content);
            for group in [GroupSize::KIB16, GroupSize::KIB32, GroupSize::KIB64] {
                let mut pairs = 0;
                for step in Encoder::new(ByteRanges::all().answered(size as u64, group)) {
                    let Step::Leaf { offset, len } = step else {
                        pairs += 1;
                        continue;
                    };
                    inner_pairs(offset, &content[offset as usize..][..len as usize], |node, pair| {
                        assert_eq!(outboard.parent(node).unwrap(), pair, "{size} {group:?} {node:?}");
                        pairs += 1;
                    });
                }
                assert_eq!(pairs * PAIR_LEN as u64, outboard_len(size as u64), "{size} {group:?}");
            }
        }
    }
}
