//! Byte for byte what bao-tree writes at the same group size.

use std::io::Cursor;

use bao_tree::io::BaoContentItem;
use bao_tree::io::outboard::PreOrderMemOutboard;
use bao_tree::io::sync::{DecodeResponseIter, encode_ranges_validated};
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};

use super::*;

// r[verify content.outboard.layout]
#[test]
fn outboards_are_the_same_cases() {
    for size in NASTY_SIZES {
        let content = content(size);
        let theirs = PreOrderMemOutboard::create(&content, block_size(GroupSize::STORED));
        let ours = PreOrderOutboard::build(&content);
        assert_eq!(ours.root().as_bytes(), theirs.root.as_bytes(), "{size}");
        assert_eq!(ours.bytes(), theirs.data, "{size}");
        assert_eq!(outboard_len(size as u64), theirs.tree.outboard_size(), "{size}");
    }
}

// r[verify content.encoding.preorder]
#[test]
fn responses_are_the_same_cases() {
    for size in NASTY_SIZES {
        let content = content(size);
        for group in GROUPS {
            for ranges in nasty_ranges(size) {
                check_same(&content, &ranges, group);
            }
        }
    }
}

fn check_same(content: &[u8], ranges: &ByteRanges, group: GroupSize) {
    let size = content.len() as u64;
    let place = format!("{size} {ranges:?} {group:?}");
    let answered = ranges.answered(size, group);
    let chunks = chunk_ranges(&answered);
    let theirs = PreOrderMemOutboard::create(content, block_size(group));
    let mut encoded = Vec::new();
    encode_ranges_validated(content, &theirs, &chunks, &mut encoded).unwrap();

    // Cut from the 16 KiB outboard, whatever the group size of the response.
    let ours = PreOrderOutboard::build(content);
    let items = respond(content, &ours, answered.clone());
    assert_eq!(items.concat(), encoded, "{place}");

    let mut decoder = Decoder::new(ours.root(), answered).unwrap();
    let (proven, outcome) = receive_stream(&mut decoder, &encoded);
    assert_eq!(outcome, Ok(()), "{place}");
    let tree = BaoTree::new(size, block_size(group));
    let their_leaves: Vec<_> = DecodeResponseIter::new(theirs.root, tree, Cursor::new(items.concat()), &chunks)
        .filter_map(|item| match item.unwrap() {
            BaoContentItem::Leaf(leaf) => Some((leaf.offset, leaf.data.to_vec())),
            BaoContentItem::Parent(_) => None,
        })
        .collect();
    assert_eq!(proven, their_leaves, "{place}");
}

fn block_size(group: GroupSize) -> BlockSize {
    BlockSize::from_chunk_log(group.log2())
}

fn chunk_ranges(answered: &AnsweredRanges) -> ChunkRanges {
    let mut chunks = ChunkRanges::empty();
    for range in answered.iter() {
        let start = ChunkNum::full_chunks(range.start);
        chunks |= if range.end == answered.size() {
            ChunkRanges::from(start..)
        } else {
            ChunkRanges::from(start..ChunkNum::full_chunks(range.end))
        };
    }
    chunks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn responses_are_the_same_proptest((size, ranges, group) in any_request()) {
        check_same(&content(size), &ranges, group);
    }
}
