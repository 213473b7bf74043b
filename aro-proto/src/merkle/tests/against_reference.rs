//! The streaming code agrees with the recursion, at every size, for every request.

use super::*;

// r[verify content.root]
// r[verify content.outboard.layout]
#[test]
fn ids_and_outboards_cases() {
    for size in NASTY_SIZES {
        let content = content(size);
        let outboard = PreOrderOutboard::build(&content);
        assert_eq!(outboard.root(), reference::root(&content), "{size}");
        assert_eq!(outboard.root(), hash_all(&content), "{size}");
        assert_eq!(outboard.bytes(), reference::outboard(&content, GroupSize::STORED), "{size}");
    }
}

#[test]
fn an_outboard_does_not_depend_on_how_the_bytes_are_cut() {
    let content = content(200_000);
    let whole = PreOrderOutboard::build(&content);
    for cut in [1, 1000, 1024, 16_383, 16_384, 16_385, 199_999] {
        let mut builder = OutboardBuilder::new(content.len() as u64);
        let mut bytes = vec![0; whole.bytes().len()];
        for slice in content.chunks(cut) {
            builder.update(slice, |offset, run| bytes[offset as usize..][..run.len()].copy_from_slice(run));
        }
        assert_eq!(builder.finish(), Ok(whole.root()), "{cut}");
        assert_eq!(bytes, whole.bytes(), "{cut}");
    }
}

#[test]
fn groups_that_are_hashed_elsewhere_make_the_same_outboard_and_only_in_order_cases() {
    for size in NASTY_SIZES.into_iter().filter(|size| *size > 0) {
        let (content, len) = (content(size), size as u64);
        let whole = PreOrderOutboard::build(&content);
        for groups in [1, 2, 7] {
            let mut builder = OutboardBuilder::new(len);
            let mut bytes = vec![0; whole.bytes().len()];
            let mut sink = |offset: u64, run: &[u8]| bytes[offset as usize..][..run.len()].copy_from_slice(run);
            for (number, stretch) in content.chunks(groups * 16_384).enumerate() {
                let offset = (number * groups * 16_384) as u64;
                let hashed = GroupHashes::new(len, offset, stretch).unwrap();
                // Every third one in the usual way.
                if number % 3 == 2 {
                    builder.update(stretch, &mut sink);
                } else {
                    builder.update_hashed(&hashed, &mut sink).unwrap();
                }
                let end = offset + stretch.len() as u64;
                let refused = builder.update_hashed(&hashed, &mut sink);
                assert_eq!(refused, Err(NotNext { expected: end, got: offset }));
            }
            assert_eq!(builder.finish(), Ok(whole.root()), "{size} {groups}");
            assert_eq!(bytes, whole.bytes(), "{size} {groups}");
        }
    }
    let longer = GroupHashes::new(40_001, 0, &[0; 16_384]).unwrap();
    assert!(OutboardBuilder::new(40_000).update_hashed(&longer, |_, _| {}).is_err());
    for (offset, len) in [(0, 0), (1, 16_384), (0, 16_383), (32_768, 16_384), (u64::MAX - 16_383, 16_384)] {
        assert!(GroupHashes::new(40_000, offset, &vec![0; len]).is_none(), "{offset} {len}");
    }
    assert!(GroupHashes::new(40_000, 32_768, &[0; 40_000 - 32_768]).is_some());
}

#[test]
fn a_large_outboard_comes_in_long_stretches_that_fill_it_once() {
    // Two full stretches and a bit: 32 MiB and three groups.
    let content = content((32 << 20) + 40_000);
    let len = outboard_len(content.len() as u64) as usize;
    let (mut bytes, mut written, mut calls) = (vec![0; len], vec![false; len], 0);
    let mut builder = OutboardBuilder::new(content.len() as u64);
    for slice in content.chunks(1 << 20) {
        builder.update(slice, |offset, run| {
            calls += 1;
            let place = offset as usize..offset as usize + run.len();
            assert!(run.len().is_multiple_of(PAIR_LEN) && run.len() <= 64 * 1024);
            assert!(written[place.clone()].iter().all(|written| !written));
            written[place.clone()].fill(true);
            bytes[place].copy_from_slice(run);
        });
    }
    let root = builder.finish().unwrap();
    assert!(written.iter().all(|written| *written));
    // Three stretches, and the two pairs above them.
    assert_eq!(calls, 5);
    assert_eq!(root, hash_all(&content));
    let outboard = PreOrderOutboard::new(root, content.len() as u64, bytes).unwrap();
    let answered = ByteRanges::all().answered(content.len() as u64, GroupSize::KIB64);
    let items = respond(&content, &outboard, answered.clone());
    let (proven, outcome) = receive(&mut Decoder::new(root, answered).unwrap(), &items);
    assert_eq!(outcome, Ok(()));
    assert_eq!(proven.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), content.len());
}

#[test]
fn a_content_of_another_length_gets_no_id() {
    for (announced, fed) in [(0, 1), (1, 0), (16_384, 16_385), (16_385, 16_384), (50_000, 100_000), (u64::MAX, 20_000)]
    {
        let mut builder = OutboardBuilder::new(announced);
        for slice in content(fed).chunks(10_000) {
            builder.update(slice, |_, _| {});
        }
        assert_eq!(builder.finish(), Err(SizeMismatch { expected: announced, got: fed as u64 }));
    }
}

// r[verify content.encoding.preorder]
// r[verify content.ranges.rounding]
#[test]
fn responses_cases() {
    for size in NASTY_SIZES {
        let content = content(size);
        let outboard = PreOrderOutboard::build(&content);
        for group in GROUPS {
            for ranges in nasty_ranges(size) {
                check_response(&content, &outboard, &ranges, group);
            }
        }
    }
}

fn check_response(content: &[u8], outboard: &PreOrderOutboard<Vec<u8>>, ranges: &ByteRanges, group: GroupSize) {
    let size = content.len() as u64;
    let place = format!("{size} {ranges:?} {group:?}");
    let answered = ranges.answered(size, group);
    let items = respond(content, outboard, answered.clone());
    assert_eq!(items, reference::items(content, ranges, group), "{place}");
    let encoded_len: usize = items.iter().map(Vec::len).sum();
    assert_eq!(answered.encoded_len(), encoded_len as u64, "{place}");
    assert_eq!(Encoder::new(answered.clone()).encoded_len(), encoded_len as u64, "{place}");

    let mut decoder = Decoder::new(outboard.root(), answered.clone()).unwrap();
    let (proven, outcome) = receive_stream(&mut decoder, &items.concat());
    assert_eq!(outcome, Ok(()), "{place}");
    assert!(decoder.is_complete());
    assert_eq!(decoder.expects(), None);
    assert_eq!(decoder.proven_bytes(), answered.content_bytes(), "{place}");
    assert_eq!(decoder.size_is_proven(), answered.proves_size(), "{place}");
    assert_eq!(decoder.proven_size(), answered.proves_size().then_some(size));
    let asked: Vec<u8> =
        answered.iter().flat_map(|range| &content[range.start as usize..range.end as usize]).copied().collect();
    assert_eq!(proven.iter().flat_map(|(_, bytes)| bytes).copied().collect::<Vec<_>>(), asked, "{place}");
    assert_all_true(&proven, content);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn responses_proptest((size, ranges, group) in any_request()) {
        let content = content(size);
        check_response(&content, &PreOrderOutboard::build(&content), &ranges, group);
    }
}
