//! What takes the whole module: agreement with the reference and with bao-tree, and no faith in any response.

#![allow(clippy::cast_possible_truncation, reason = "contents in memory")]

mod against_bao_tree;
mod against_reference;
mod against_slow_decoder;
mod hostile_responses;

use core::ops::Range;

use proptest::prelude::*;

use super::*;

/// Sizes around every boundary that the tree has.
const NASTY_SIZES: [usize; 19] = [
    0,
    1,
    1023,
    1024,
    1025,
    16_383,
    16_384,
    16_385,
    32_768,
    49_153,
    65_535,
    65_536,
    65_537,
    131_072,
    200_000,
    327_681,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 1,
];

const GROUPS: [GroupSize; 3] = [GroupSize::KIB16, GroupSize::KIB32, GroupSize::KIB64];

/// Bytes of which no two chunks are alike.
fn content(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(b"content").finalize_xof().fill(&mut bytes);
    bytes
}

/// Requests that a content of `size` bytes may get, sensible and not.
fn nasty_ranges(size: usize) -> Vec<ByteRanges> {
    let size = size as u64;
    let middle = size / 2;
    let mut sets = vec![ByteRanges::all()];
    let mut add = |ranges: &[Range<u64>]| sets.push(ByteRanges::new(ranges.iter().cloned()).unwrap());
    add(&[0..1]);
    add(&[middle..middle + 1]);
    add(&[0..1, middle + 1..middle + 2, size + 10..size + 11]);
    add(&[0..size.max(1)]);
    add(&[size.saturating_sub(1)..size.max(1)]);
    add(&[size..size + 1]);
    add(&[1 << 60..u64::MAX]);
    add(&[size.saturating_sub(1)..u64::MAX]);
    add(&[16_383..16_385, 65_535..65_537]);
    add(&[0..16_384, 32_768..49_152, 98_304..163_840]);
    let every_other: Vec<_> = (0..40).map(|i| i * 32_768..i * 32_768 + 1).collect();
    add(&every_other);
    sets
}

fn any_ranges(size: usize) -> impl Strategy<Value = ByteRanges> {
    let edge = 0..size as u64 + 40_000;
    let range = (edge, prop_oneof![1u64..3, 1u64..70_000, Just(u64::MAX)]);
    prop::collection::vec(range, 1..6).prop_map(|ranges| {
        ByteRanges::new(ranges.into_iter().map(|(start, len)| start..start.saturating_add(len))).unwrap()
    })
}

fn any_request() -> impl Strategy<Value = (usize, ByteRanges, GroupSize)> {
    (0usize..600_000).prop_flat_map(|size| (Just(size), any_ranges(size), prop::sample::select(&GROUPS)))
}

/// The response as a node makes it: the steps, filled from an outboard and the content.
fn respond(content: &[u8], outboard: &impl Outboard<Error = OutboardError>, answered: AnsweredRanges) -> Vec<Vec<u8>> {
    Encoder::new(answered)
        .map(|step| match step {
            Step::Parent(node) => outboard.parent(node).unwrap().to_vec(),
            Step::Leaf { offset, len } => content[offset as usize..][..len as usize].to_vec(),
        })
        .collect()
}

/// What was proven, by offset, and how the response ended.
type Received = (Vec<(u64, Vec<u8>)>, Result<(), VerifyError>);

/// Feeds items until the first error or the last one; what was proven until then comes back with the outcome.
fn receive(decoder: &mut Decoder, items: &[Vec<u8>]) -> Received {
    let mut proven = Vec::new();
    for item in items {
        match decoder.accept(&item[..]) {
            Ok(leaf) => proven.extend(leaf.map(|leaf| (leaf.offset(), leaf.bytes().to_vec()))),
            Err(error) => return (proven, Err(error)),
        }
    }
    (proven, decoder.finish())
}

/// Cuts a stream of bytes as the decoder asks for them, as a receiver does; a short rest comes as it is.
fn receive_stream(decoder: &mut Decoder, mut stream: &[u8]) -> Received {
    let mut items = Vec::new();
    let mut probe = decoder.clone();
    while let Some(len) = probe.expects() {
        let Some((item, rest)) = stream.split_at_checked(len) else { break };
        items.push(item.to_vec());
        stream = rest;
        if probe.accept(item).is_err() {
            break;
        }
    }
    if probe.is_complete() && !stream.is_empty() {
        items.push(stream.to_vec());
    }
    receive(decoder, &items)
}

fn assert_all_true(proven: &[(u64, Vec<u8>)], content: &[u8]) {
    for (offset, bytes) in proven {
        assert_eq!(content.get(*offset as usize..*offset as usize + bytes.len()), Some(&bytes[..]), "at {offset}");
    }
}
