//! A node may send anything: what comes out is the content or an error at the right place, never a wrong byte.

use super::*;

/// Every item of a response, once with a bit flipped in its first, a middle and its last byte.
// r[verify content.verify.first_error]
// r[verify content.verify.unproven]
#[test]
fn a_flipped_bit_is_found_in_its_item_and_nothing_follows() {
    let content = content(7 * 16_384 + 100);
    let outboard = PreOrderOutboard::build(&content);
    for (group, ranges) in [
        (GroupSize::KIB16, ByteRanges::all()),
        (GroupSize::KIB64, ByteRanges::all()),
        (GroupSize::KIB16, ByteRanges::new([20_000..20_001, 90_000..u64::MAX]).unwrap()),
    ] {
        let answered = ranges.answered(content.len() as u64, group);
        let items = respond(&content, &outboard, answered.clone());
        let steps: Vec<_> = Encoder::new(answered.clone()).collect();
        for (index, step) in steps.iter().enumerate() {
            let before = steps[..index].iter().filter(|step| matches!(step, Step::Leaf { .. })).count();
            for (byte, bit) in flips(items[index].len()) {
                let mut items = items.clone();
                items[index][byte] ^= 1 << bit;
                let mut decoder = Decoder::new(outboard.root(), answered.clone()).unwrap();
                let (proven, outcome) = receive(&mut decoder, &items);
                assert_eq!(outcome, Err(expected_error(step, &steps[index..], &answered)), "item {index}");
                assert_eq!(proven.len(), before);
                assert_all_true(&proven, &content);
                assert_dead(&mut decoder, &items[index..]);
                assert!(!decoder.size_is_proven());
                assert_eq!(decoder.proven_bytes(), proven.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
            }
        }
    }
}

fn flips(len: usize) -> Vec<(usize, u32)> {
    vec![(0, 0), (len / 2, 3), (len - 1, 7)]
}

/// The error of a wrong `step`: it names the group that comes next, and for hashes what they were over.
fn expected_error(step: &Step, from_here: &[Step], answered: &AnsweredRanges) -> VerifyError {
    let next_leaf = from_here.iter().find_map(|step| match step {
        Step::Leaf { offset, .. } => Some(*offset),
        Step::Parent(_) => None,
    });
    let group = GroupIndex(next_leaf.unwrap() / answered.group().bytes());
    match *step {
        Step::Parent(node) => VerifyError::ParentMismatch { group, covers: node.covers(answered.size()) },
        Step::Leaf { offset, len } => VerifyError::LeafMismatch { group, offset, len },
    }
}

fn assert_dead(decoder: &mut Decoder, items: &[Vec<u8>]) {
    assert_eq!((decoder.expects(), decoder.next_covers(), decoder.is_complete()), (None, None, false));
    assert_eq!(decoder.finish(), Err(VerifyError::AfterError));
    for item in items {
        assert_eq!(decoder.accept(&item[..]), Err(VerifyError::AfterError));
    }
}

#[test]
fn true_items_in_the_wrong_place_are_refused() {
    let content = vec![9; 6 * 16_384];
    let outboard = PreOrderOutboard::build(&content);
    let answered = ByteRanges::all().answered(content.len() as u64, GroupSize::KIB16);
    let items = respond(&content, &outboard, answered.clone());
    // All groups hold the same bytes, so leaves may swap; their pairs may not, for a hash knows its place.
    for (a, b) in [(0, 1), (1, 2), (2, 5), (1, 8)] {
        let mut items = items.clone();
        items.swap(a, b);
        let mut decoder = Decoder::new(outboard.root(), answered.clone()).unwrap();
        let (proven, outcome) = receive(&mut decoder, &items);
        assert!(outcome.is_err(), "{a} {b}");
        assert_all_true(&proven, &content);
    }
}

#[test]
fn another_contents_response_proves_nothing() {
    for size in [0, 1, 16_384, 100_000] {
        let other = content(size + 1);
        let answered = ByteRanges::all().answered(size as u64 + 1, GroupSize::KIB16);
        let items = respond(&other, &PreOrderOutboard::build(&other), answered.clone());
        let mut decoder = Decoder::new(hash_all(&content(size)), answered).unwrap();
        let (proven, outcome) = receive(&mut decoder, &items);
        assert!(outcome.is_err());
        assert_eq!((proven.len(), decoder.proven_bytes()), (0, 0));
    }
}

#[test]
fn a_response_cut_off_anywhere_is_incomplete() {
    let content = content(80_000);
    let outboard = PreOrderOutboard::build(&content);
    let answered = ByteRanges::all().answered(80_000, GroupSize::KIB16);
    let stream = respond(&content, &outboard, answered.clone()).concat();
    for len in [0, 1, 63, 64, 65, 192, 191, 20_000, stream.len() - 1] {
        let mut decoder = Decoder::new(outboard.root(), answered.clone()).unwrap();
        let (proven, outcome) = receive_stream(&mut decoder, &stream[..len]);
        let group = GroupIndex(proven.len() as u64);
        assert_eq!(outcome, Err(VerifyError::Truncated { group }), "{len}");
        assert!(!decoder.is_complete() && !decoder.size_is_proven());
        assert_all_true(&proven, &content);
    }
    // An empty content is one empty leaf, which has to come, too.
    let mut decoder = Decoder::new(hash_all(&[]), ByteRanges::all().answered(0, GroupSize::KIB64)).unwrap();
    assert_eq!(decoder.finish(), Err(VerifyError::Truncated { group: GroupIndex(0) }));
    assert_eq!(decoder.expects(), Some(0));
    assert!(decoder.accept([]).unwrap().is_some_and(|leaf| leaf.is_empty()));
    assert_eq!((decoder.finish(), decoder.proven_size()), (Ok(()), Some(0)));
}

#[test]
fn bytes_after_the_answer_and_items_cut_wrongly_are_errors() {
    let content = content(40_000);
    let outboard = PreOrderOutboard::build(&content);
    let answered = ByteRanges::single(0, 1).unwrap().answered(40_000, GroupSize::KIB16);
    let items = respond(&content, &outboard, answered.clone());

    let mut decoder = Decoder::new(outboard.root(), answered.clone()).unwrap();
    let (proven, outcome) = receive_stream(&mut decoder, &[items.concat(), vec![0; 3]].concat());
    assert_eq!(outcome, Err(VerifyError::TrailingBytes { len: 3 }));
    assert_eq!(proven, [(0, content[..16_384].to_vec())]);

    for (index, expected) in [(0, 64), (1, 64), (2, 16_384)] {
        for got in [0, expected - 1, expected + 1] {
            let mut items = items.clone();
            items[index].resize(got, 0);
            let mut decoder = Decoder::new(outboard.root(), answered.clone()).unwrap();
            let error = VerifyError::WrongLength { group: GroupIndex(0), expected, got };
            assert_eq!(receive(&mut decoder, &items), (vec![], Err(error)));
            assert_dead(&mut decoder, &items);
        }
    }
}

/// A lying node makes the best response it can for its lie: the true hashes and bytes, padded or cut to fit.
// r[verify content.size.hint]
// r[verify content.size.proof]
#[test]
fn a_wrong_size_is_refused_by_the_time_the_last_group_is_due() {
    for size in [0, 1, 1024, 16_384, 16_385, 65_536, 65_537, 100_000, 131_072, 200_000] {
        let content = content(size);
        let outboard = PreOrderOutboard::build(&content);
        let size = size as u64;
        let lies = [size + 1, size + 1024, size + 16_384, size * 2 + 1, size + 70_000, 1 << 40, 1 << 44];
        let shorter = [1, 1024, 16_384, 50_000].map(|less| size.saturating_sub(less));
        for claimed in lies.into_iter().chain(shorter).filter(|claimed| *claimed != size) {
            for group in GROUPS {
                for ranges in [ByteRanges::all(), ByteRanges::single(1 << 60, u64::MAX).unwrap()] {
                    let mut decoder = Decoder::new(outboard.root(), ranges.answered(claimed, group)).unwrap();
                    let (proven, error) = lie(&mut decoder, &content, &outboard);
                    assert!(error.is_some(), "{size} claimed {claimed} {group:?} {ranges:?}");
                    assert!(!decoder.size_is_proven());
                    assert_all_true(&proven, &content);
                }
            }
        }
    }
}

fn lie(
    decoder: &mut Decoder,
    content: &[u8],
    outboard: &PreOrderOutboard<Vec<u8>>,
) -> (Vec<(u64, Vec<u8>)>, Option<VerifyError>) {
    let mut proven = Vec::new();
    let steps = Encoder::new(decoder.answered().clone());
    for step in steps {
        let item = match step {
            Step::Parent(node) => outboard.parent(node).unwrap_or([0; PAIR_LEN]).to_vec(),
            Step::Leaf { offset, len } => {
                let mut leaf = content.get(offset as usize..).unwrap_or_default().to_vec();
                leaf.resize(len as usize, 0);
                leaf
            }
        };
        match decoder.accept(&item[..]) {
            Ok(leaf) => proven.extend(leaf.map(|leaf| (leaf.offset(), leaf.bytes().to_vec()))),
            Err(error) => return (proven, Some(error)),
        }
    }
    (proven, None)
}

#[test]
fn a_proven_range_of_a_wrongly_sized_content_is_still_the_contents_own() {
    // 5 and 8 groups look alike from the first: the bytes are proven, the size is not.
    let content = content(5 * 16_384);
    let outboard = PreOrderOutboard::build(&content);
    let answered = ByteRanges::single(0, 1).unwrap().answered(8 * 16_384, GroupSize::KIB16);
    let items = respond(&content, &outboard, answered.clone());
    let mut decoder = Decoder::new(outboard.root(), answered).unwrap();
    let (proven, outcome) = receive(&mut decoder, &items);
    assert_eq!((proven, outcome), (vec![(0, content[..16_384].to_vec())], Ok(())));
    assert_eq!((decoder.size_is_proven(), decoder.proven_size()), (false, None));
}

#[test]
fn a_size_beyond_the_limit_is_refused_at_once() {
    let root = hash_all(b"");
    for size in [(1 << 44) + 1, u64::MAX - 1, u64::MAX] {
        for group in GROUPS {
            let refused = Decoder::new(root, ByteRanges::all().answered(size, group)).unwrap_err();
            assert_eq!(refused, SizeTooLarge { size });
        }
    }
    assert!(Decoder::new(root, ByteRanges::all().answered(1 << 44, GroupSize::KIB16)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_damaged_stream_yields_only_true_bytes_proptest(
        (size, ranges, group) in any_request(),
        claimed_more in prop_oneof![3 => Just(0u64), 1 => 1u64..100_000],
        damage in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..3),
        keep in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let content = content(size);
        let outboard = PreOrderOutboard::build(&content);
        let truth = respond(&content, &outboard, ranges.answered(size as u64, group)).concat();
        let mut stream = truth.clone();
        if !stream.is_empty() {
            for (at, flip) in damage {
                let at = at.index(stream.len());
                stream[at] ^= flip;
            }
            stream.truncate(keep.map_or(stream.len(), |keep| keep.index(stream.len())));
        }
        let answered = ranges.answered(size as u64 + claimed_more, group);
        let mut decoder = Decoder::new(outboard.root(), answered.clone()).unwrap();
        let (proven, outcome) = receive_stream(&mut decoder, &stream);
        assert_all_true(&proven, &content);
        if claimed_more == 0 {
            prop_assert_eq!(outcome.is_ok(), stream == truth);
        } else {
            prop_assert!(!decoder.size_is_proven());
            prop_assert!(outcome.is_err() || !answered.proves_size());
        }
    }
}
