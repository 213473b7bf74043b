//! Targets in their order: memory, the caller and a reader.

use std::task::{Context, Waker};

use proptest::prelude::*;
use tokio::time::timeout;

use super::*;

#[tokio::test]
async fn whoever_is_too_far_ahead_waits_for_those_behind_and_loses_nothing_by_being_cancelled() {
    let bytes = content(4 << 20);
    let all = answer(&bytes, &ByteRanges::all(), GroupSize::KIB64);
    let ordered = Ordered::memory(&ByteRanges::all(), 1 << 20);
    assert_eq!(ordered.horizon(), 1 << 20);
    let (ahead, early) = (&all.leaves[40], &all.leaves[10]);
    assert!(timeout(SHORT, ordered.push(ahead.offset, ahead.bytes.clone(), None)).await.is_err(), "beyond the window");
    timeout(PATIENCE, ordered.push(early.offset, early.bytes.clone(), None)).await.expect("within the window");
    for leaf in &all.leaves {
        let taken = ordered.push(leaf.offset, leaf.bytes.clone(), all.ends_at_size(leaf));
        timeout(PATIENCE, taken).await.expect("what is due never waits");
    }
    let (len, memory) = ordered.finish();
    assert_eq!((len, memory == bytes), (bytes.len() as u64, true));
    assert_eq!(ordered.coverage().size(), Some(bytes.len() as u64));
}

#[tokio::test]
async fn what_waited_is_delivered_in_steps_that_hold_nobody_up_and_whoever_stops_is_relieved() {
    let bytes = content(8 << 20);
    let all = answer(&bytes, &ByteRanges::all(), GroupSize::KIB64);
    let push = |ordered: &Arc<Ordered>, number: usize| {
        let (ordered, leaf) = (Arc::clone(ordered), all.leaves[number].clone());
        Box::pin(async move { ordered.push(leaf.offset, leaf.bytes, None).await })
    };
    let mut context = Context::from_waker(Waker::noop());
    for is_cancelled in [false, true] {
        let ordered = Arc::new(Ordered::memory(&ByteRanges::all(), bytes.len()));
        let (last, early) = (all.leaves.len() - 1, 1..all.leaves.len() - 1);
        for number in early {
            assert!(push(&ordered, number).as_mut().poll(&mut context).is_ready());
        }
        let mut due = push(&ordered, 0);
        assert!(due.as_mut().poll(&mut context).is_pending(), "there is more than a step");
        let delivered = || ordered.horizon() - bytes.len() as u64;
        let first_step = delivered();
        assert!(first_step < 1 << 20, "{first_step} at once");
        if is_cancelled {
            drop(due);
        } else {
            timeout(PATIENCE, due).await.expect("it ends");
            assert_eq!(delivered(), all.leaves[last].offset);
        }
        assert!(push(&ordered, last).as_mut().poll(&mut context).is_ready(), "another source is not held up");
        assert!(delivered() > first_step, "whoever comes next goes on");
        let (len, memory) = ordered.finish();
        assert_eq!((len, memory == bytes), (bytes.len() as u64, true));
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_fetch_back_and_one_that_goes_lets_it_run() {
    let bytes = content(4 << 20);
    let all = answer(&bytes, &ByteRanges::all(), GroupSize::KIB64);
    let (ordered, mut pieces) = Ordered::reader(&ByteRanges::all(), 1 << 20);
    let mut taken = 0;
    for leaf in &all.leaves {
        taken += 1;
        if timeout(SHORT, ordered.push(leaf.offset, leaf.bytes.clone(), None)).await.is_err() {
            break;
        }
    }
    assert_eq!(taken, 17, "a window, and the leaf that went beyond it");
    let mut read = Vec::new();
    for _ in 0..taken {
        let Next::Piece(piece) = std::future::poll_fn(|context| pieces.poll_next(context)).await else { panic!() };
        read.extend_from_slice(&piece);
    }
    assert!(read == bytes[..taken << 16]);
    drop(pieces);
    for leaf in &all.leaves[taken..] {
        timeout(PATIENCE, ordered.push(leaf.offset, leaf.bytes.clone(), None)).await.expect("nobody reads any more");
    }
    assert_eq!(ordered.finish().0, bytes.len() as u64);
}

#[tokio::test]
async fn a_reader_learns_whether_all_is_there() {
    for is_whole in [true, false] {
        let (ordered, mut pieces) = Ordered::reader(&ByteRanges::all(), 1 << 20);
        ordered.push(0, Bytes::from_static(b"abc"), None).await;
        let reading = tokio::spawn(async move {
            let mut came = Vec::new();
            for _ in 0..2 {
                came.push(std::future::poll_fn(|context| pieces.poll_next(context)).await);
            }
            came
        });
        tokio::task::yield_now().await;
        ordered.end(is_whole);
        ordered.end(!is_whole);
        let end = if is_whole { Next::Whole } else { Next::Broken };
        assert_eq!(reading.await.unwrap(), [Next::Piece(Bytes::from_static(b"abc")), end]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // Leaves in any order and any number of times, of several requests with several group sizes.
    #[test]
    fn whatever_the_order_the_asked_bytes_come_out_proptest(
        size in 0_usize..600_000,
        asked in prop::collection::vec((0_u64..600_000, 1_u64..200_000), 1..4),
        seed in any::<u64>(),
    ) {
        let bytes = content(size);
        let asked = ByteRanges::new(asked.iter().map(|(start, len)| *start..start + len)).unwrap();
        let mut leaves: Vec<Leaf> = Vec::new();
        for group in [GroupSize::KIB16, GroupSize::KIB64] {
            leaves.extend(answer(&bytes, &asked, group).leaves);
        }
        let mut state = seed | 1;
        leaves.sort_by_cached_key(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (log, memory) = runtime.block_on(async {
            let log = Arc::new(Mutex::new(Vec::new()));
            let taken = Arc::clone(&log);
            let caller = Ordered::caller(&asked, 1 << 20, move |offset, piece| taken.lock().unwrap().push((offset, piece)));
            let memory = Ordered::memory(&asked, 1 << 20);
            for leaf in &leaves {
                caller.push(leaf.offset, leaf.bytes.clone(), None).await;
                memory.push(leaf.offset, leaf.bytes.clone(), None).await;
            }
            (log, memory.finish())
        });
        let expected = delivered(&bytes, &asked);
        prop_assert!(memory == (expected.len() as u64, expected.clone()));
        let pieces = log.lock().unwrap();
        prop_assert!(pieces.is_sorted_by_key(|(offset, _)| *offset));
        prop_assert!(pieces.iter().flat_map(|(_, piece)| piece.iter().copied()).eq(expected));
        prop_assert!(pieces.iter().all(|(offset, piece)| bytes[*offset as usize..].starts_with(piece)));
    }
}
