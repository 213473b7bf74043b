//! The target on disk.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;
use tokio::time::timeout;

use super::*;

fn open(path: &Path, bytes: &[u8]) -> FileTarget {
    FileTarget::open(path, ContentId::of(bytes), &ByteRanges::all(), true, MEMORY).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const NASTY: [usize; 14] =
    [0, 1, 1023, 1024, 1025, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 131_073, 262_145, 700_001];

#[tokio::test]
async fn a_file_has_its_name_only_after_it_is_whole_cases() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    fs::write(&path, b"before").unwrap();
    let mut before = b"before".to_vec();
    for size in NASTY {
        let bytes = content(size);
        let file = open(&path, &bytes);
        answer(&bytes, &ByteRanges::all(), GroupSize::KIB64).push_all(&file).await;
        file.flush().await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), before, "{size}");
        assert_eq!(file.coverage().missing(&ByteRanges::all()), None, "{size}");
        assert_eq!(file.commit(&ByteRanges::all()).await.unwrap(), size as u64);
        assert_eq!(fs::read(&path).unwrap(), bytes, "{size}");
        drop(file);
        assert_eq!(names(dir.path()), ["out"]);
        before = bytes;
    }
}

#[tokio::test]
async fn what_was_written_is_taken_up_whatever_the_size_and_where_it_broke_off() {
    let dir = tempfile::tempdir().unwrap();
    for size in NASTY {
        let bytes = content(size);
        let all = answer(&bytes, &ByteRanges::all(), GroupSize::KIB64);
        for taken in 0..=all.leaves.len() {
            let path = dir.path().join(format!("{size}-{taken}"));
            let file = open(&path, &bytes);
            let part = Proven { leaves: all.leaves[..taken].to_vec(), ..all };
            part.push_all(&file).await;
            // As if it had died here: nobody flushes, nobody commits.
            drop(file);
            let again = open(&path, &bytes);
            let held: u64 = part.leaves.iter().map(Leaf::len).sum();
            assert_eq!(again.coverage().bytes(), held, "{size}, {taken} leaves");
            if let Some(missing) = again.coverage().missing(&ByteRanges::all()) {
                let rest = answer(&bytes, &missing, GroupSize::KIB64);
                assert_eq!(rest.leaves.len(), all.leaves.len() - taken, "{size}, {taken} leaves");
                rest.push_all(&again).await;
            }
            again.commit(&ByteRanges::all()).await.unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }
    assert!(names(dir.path()).iter().all(|name| !name.contains("aro")), "{:?}", names(dir.path()));
}

#[tokio::test]
async fn cut_or_damaged_anywhere_nothing_unproven_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(65_536 * 2 + 20_000);
    let original = dir.path().join("original");
    let file = open(&original, &bytes);
    let all = answer(&bytes, &ByteRanges::all(), GroupSize::KIB16);
    all.push_all(&file).await;
    drop(file);
    // Waits for the lock, and so for what is being written.
    drop(open(&original, &bytes));
    let beside = |ending: &str| dir.path().join(format!("original.{ending}"));
    let (data, proof) = (fs::read(beside("aro-part")).unwrap(), fs::read(beside("aro-proof")).unwrap());
    assert_eq!(data, bytes);

    let path = dir.path().join("out");
    let held = |data: &[u8], proof: &[u8]| {
        fs::write(dir.path().join("out.aro-part"), data).unwrap();
        fs::write(dir.path().join("out.aro-proof"), proof).unwrap();
        let (_part, coverage) = part::Part::open(&path, ContentId::of(&bytes), &ByteRanges::all(), true).unwrap();
        let now = fs::read(dir.path().join("out.aro-part")).unwrap();
        for range in coverage.held_ranges() {
            let range = range.start as usize..range.end as usize;
            assert_eq!(now[range.clone()], bytes[range], "held, but not the content");
        }
        coverage.bytes()
    };
    let whole = bytes.len() as u64;
    assert_eq!(held(&data, &proof), whole);
    for at in 0..proof.len() {
        held(&data, &proof[..at]);
        let mut damaged = proof.clone();
        damaged[at] ^= 0x10;
        held(&data, &damaged);
    }
    for at in (0..data.len()).step_by(1_009).chain([data.len() - 1]) {
        assert!(held(&data[..at], &proof) <= at as u64);
        let mut damaged = data.clone();
        damaged[at] ^= 1;
        let lost = whole - held(&damaged, &proof);
        assert!((1..=16_384).contains(&lost), "a damaged byte costs its own group, not {lost} bytes");
    }
    // Longer than the content, too.
    assert_eq!(held(&[&data[..], b"more"].concat(), &proof), whole);
}

#[tokio::test]
async fn another_content_or_a_fresh_start_replaces_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let (bytes, other) = (content(200_000), content(100_000));
    let file = open(&path, &bytes);
    answer(&bytes, &ByteRanges::single(0, 100_000).unwrap(), GroupSize::KIB64).push_all(&file).await;
    drop(file);
    let file = open(&path, &bytes);
    assert_eq!(file.coverage().bytes(), 131_072);
    drop(file);
    let file = FileTarget::open(&path, ContentId::of(&bytes), &ByteRanges::all(), false, MEMORY).unwrap();
    assert_eq!(file.coverage().bytes(), 0, "not to be taken up");
    answer(&bytes, &ByteRanges::all(), GroupSize::KIB64).push_all(&file).await;
    drop(file);
    let file = open(&path, &other);
    assert_eq!(file.coverage().bytes(), 0, "another content's");
    answer(&other, &ByteRanges::all(), GroupSize::KIB64).push_all(&file).await;
    file.commit(&ByteRanges::all()).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), other);
}

#[tokio::test]
async fn two_fetches_to_one_file_exclude_each_other_and_nothing_stays_of_one_that_took_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let bytes = content(100_000);
    let file = open(&path, &bytes);
    let second = FileTarget::open(&path, ContentId::of(&bytes), &ByteRanges::all(), true, MEMORY).err().unwrap();
    assert_eq!(second.kind(), std::io::ErrorKind::ResourceBusy);
    drop(file);
    assert!(names(dir.path()).is_empty());
    for nowhere in [dir.path().to_owned(), dir.path().join("missing").join("out"), "/".into()] {
        assert!(
            FileTarget::open(&nowhere, ContentId::of(&bytes), &ByteRanges::all(), true, MEMORY).is_err(),
            "{nowhere:?}"
        );
    }
}

#[tokio::test]
async fn a_size_that_contradicts_the_proven_one_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let bytes = content(100_000);
    let file = open(&path, &bytes);
    assert!(file.claim(7) && file.claim(100_000));
    answer(&bytes, &ByteRanges::single(99_999, 100_000).unwrap(), GroupSize::KIB16).push_all(&file).await;
    assert!(!file.claim(100_001) && file.claim(100_000));
    drop(file);
    let file = open(&path, &bytes);
    assert!(!file.claim(100_001), "and it is still known after a restart");
}

#[tokio::test]
async fn lies_about_the_size_take_nothing_away_from_what_is_proven() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let bytes = content(700_001);
    let all = answer(&bytes, &ByteRanges::all(), GroupSize::KIB64);
    let (first, _) = all.leaves.split_at(9);
    let file = open(&path, &bytes);
    Proven { leaves: first.to_vec(), size: all.size }.push_all(&file).await;
    drop(file);
    // Under each of them the same leaf proves, for the trees have the same shape there.
    for lie in [700_000, 700_002, 720_000, 657_000, 719_999] {
        let file = open(&path, &bytes);
        assert_eq!(file.coverage().bytes(), 9 * 65_536, "{lie}");
        assert!(file.claim(lie));
        first[1].push(&file, lie).await.unwrap();
        drop(file);
    }
    // Nor if the lie came first, and the truth was told beside it.
    let path = dir.path().join("other");
    let file = open(&path, &bytes);
    assert!(file.claim(720_000));
    first[0].push(&file, 720_000).await.unwrap();
    Proven { leaves: first.to_vec(), size: all.size }.push_all(&file).await;
    drop(file);
    let file = open(&path, &bytes);
    assert_eq!(file.coverage().bytes(), 9 * 65_536);
    answer(&bytes, &file.coverage().missing(&ByteRanges::all()).unwrap(), GroupSize::KIB64).push_all(&file).await;
    drop(file);
    let file = open(&path, &bytes);
    assert!(!file.claim(720_000), "the truth is proven");
    assert_eq!(file.coverage().missing(&ByteRanges::all()), None);
}

#[tokio::test]
async fn a_file_that_has_its_name_already_is_whole_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    for size in [0, 1, 100_000, 3 << 20] {
        let bytes = content(size);
        fs::write(&path, &bytes).unwrap();
        let file = open(&path, &bytes);
        assert_eq!(file.coverage().missing(&ByteRanges::all()), None, "{size}");
        assert_eq!(file.commit(&ByteRanges::all()).await.unwrap(), size as u64);
        drop(file);
        assert_eq!((names(dir.path()), fs::read(&path).unwrap()), (vec!["out".to_owned()], bytes.clone()));
        let fresh = FileTarget::open(&path, ContentId::of(&bytes), &ByteRanges::all(), false, MEMORY).unwrap();
        assert!(fresh.coverage().missing(&ByteRanges::all()).is_some(), "not to be taken up");
        drop(fresh);
        fs::write(&path, [&bytes[..], b"x"].concat()).unwrap();
        assert!(open(&path, &bytes).coverage().missing(&ByteRanges::all()).is_some(), "another content");
    }
}

#[tokio::test]
async fn ranges_lie_one_behind_the_other_and_are_taken_up_too() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(700_001);
    for asked in [
        &[0..1][..],
        &[0..100_000],
        &[5..6, 70_000..70_001, 300_000..500_000, 699_999..u64::MAX],
        &[123_456..400_000],
        &[700_000..u64::MAX],
        &[800_000..900_000],
    ] {
        let asked = ByteRanges::new(asked.iter().cloned()).unwrap();
        let path = dir.path().join("out");
        let file = open(&path, &bytes);
        let mut all = answer(&bytes, &asked, GroupSize::KIB16);
        let later = all.leaves.split_off(all.leaves.len() / 2);
        all.push_all(&file).await;
        drop(file);
        let file = open(&path, &bytes);
        let missing = file.coverage().missing(&asked).expect("half is missing");
        let rest = answer(&bytes, &missing, GroupSize::KIB16);
        let offsets = |leaves: &[Leaf]| leaves.iter().map(|leaf| leaf.offset).collect::<Vec<_>>();
        assert_eq!(offsets(&rest.leaves), offsets(&later), "{asked:?}");
        rest.push_all(&file).await;
        assert_eq!(file.commit(&asked).await.unwrap(), delivered(&bytes, &asked).len() as u64);
        assert_eq!(fs::read(&path).unwrap(), delivered(&bytes, &asked), "{asked:?}");
        drop(file);
        assert_eq!(names(dir.path()), ["out"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_tasks_feed_one_file_and_a_slow_disk_holds_them_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let bytes = content(9_000_000);
    let file = Arc::new(open(&path, &bytes));
    let all = Arc::new(answer(&bytes, &ByteRanges::all(), GroupSize::KIB64));
    assert!(file.claim(all.size));
    let tasks = (0..4).map(|task| {
        let (file, all) = (Arc::clone(&file), Arc::clone(&all));
        tokio::spawn(async move {
            // Each its own quarter, from behind, and the first quarter as well.
            let quarters = all.leaves.chunks(all.leaves.len().div_ceil(4));
            let (own, first) = (quarters.clone().nth(task).unwrap(), quarters.clone().next().unwrap());
            for leaf in own.iter().rev().chain(first) {
                leaf.push(&file, all.size).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(file.coverage().bytes(), bytes.len() as u64);
    file.commit(&ByteRanges::all()).await.unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_fails_whoever_feeds_and_keeps_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let bytes = content(900_000);
    let all = answer(&bytes, &ByteRanges::all(), GroupSize::KIB64);
    let (first, rest) = all.leaves.split_at(4);
    let file = open(&path, &bytes);
    Proven { leaves: first.to_vec(), size: all.size }.push_all(&file).await;
    file.flush().await.unwrap();
    drop(file);

    // The same part, on a disk that takes no byte more.
    let (part, coverage) = part::Part::open(&path, ContentId::of(&bytes), &ByteRanges::all(), true).unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let file = FileTarget::on(part.with_data(full), coverage, &ByteRanges::all(), MEMORY);
    let feeding = async {
        for leaf in rest {
            if leaf.push(&file, all.size).await.is_err() {
                break;
            }
        }
    };
    let (failure, ()) = tokio::join!(timeout(PATIENCE, file.failed()), feeding);
    assert!(matches!(failure.unwrap(), FetchError::Sink(_)), "whoever waits for bytes hears of it");
    let error = timeout(PATIENCE, file.flush()).await.unwrap().unwrap_err();
    let FetchError::Sink(cause) = &error else { panic!("{error}") };
    assert_eq!(cause.kind(), std::io::ErrorKind::StorageFull);
    assert!(error.next_step().contains("make room"), "{}", error.next_step());
    assert!(rest[0].push(&file, all.size).await.is_err(), "it stays so");
    assert!(file.commit(&ByteRanges::all()).await.is_err());
    drop(file);
    assert!(!path.exists());

    let file = open(&path, &bytes);
    assert_eq!(file.coverage().bytes(), 4 * 65_536);
    answer(&bytes, &file.coverage().missing(&ByteRanges::all()).unwrap(), GroupSize::KIB64).push_all(&file).await;
    file.commit(&ByteRanges::all()).await.unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
}

#[tokio::test]
async fn a_part_that_was_renamed_before_it_was_locked_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let bytes = content(1_000);
    let first = open(&path, &bytes);
    let (again, id) = (path.clone(), ContentId::of(&bytes));
    // Waits for the lock on what is the finished file when it gets it.
    let second = tokio::task::spawn_blocking(move || FileTarget::open(&again, id, &ByteRanges::all(), false, MEMORY));
    answer(&bytes, &ByteRanges::all(), GroupSize::KIB16).push_all(&first).await;
    first.commit(&ByteRanges::all()).await.unwrap();
    drop(first);
    let second = second.await.unwrap().unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes, "neither emptied nor touched");
    assert_eq!(second.coverage().bytes(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // Fetched in part, killed, damaged, and again: never more than the disk has, and in the end the content.
    #[test]
    fn kills_and_damage_in_any_order_end_with_the_content_proptest(
        size in 1_usize..500_000,
        kills in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<u64>(), prop::option::of(any::<prop::sample::Index>()), 0_u8..4),
            0..5,
        ),
    ) {
        let bytes = content(size);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for (until, seed, damage, kind) in &kills {
                let file = open(&path, &bytes);
                let Some(missing) = file.coverage().missing(&ByteRanges::all()) else { break };
                // From any group on, as several sources would.
                let groups = answer(&bytes, &missing, GroupSize::KIB64).leaves;
                let from = groups[(*seed % groups.len() as u64) as usize].offset;
                let asked = missing.iter().filter(|range| range.end > from);
                let asked = ByteRanges::new(asked.map(|range| range.start.max(from)..range.end)).unwrap();
                let mut rest = answer(&bytes, &asked, GroupSize::KIB64);
                rest.leaves.truncate(until.index(rest.leaves.len() + 1));
                let held = file.coverage().bytes() + rest.leaves.iter().map(Leaf::len).sum::<u64>();
                rest.push_all(&file).await;
                drop(file);
                let (part, coverage) = part::Part::open(&path, ContentId::of(&bytes), &ByteRanges::all(), true).unwrap();
                // Pairs that an earlier damage took come back with later leaves, and then more proves than was counted.
                let found = coverage.bytes();
                assert!((held..=size as u64).contains(&found), "{found} of {held}: nothing is lost without damage");
                drop(part);
                let Some(damage) = damage else { continue };
                let name = if *kind < 2 { "out.aro-part" } else { "out.aro-proof" };
                let victim = OpenOptions::new().read(true).write(true).open(dir.path().join(name)).unwrap();
                let len = victim.metadata().unwrap().len();
                let at = damage.index(usize::try_from(len).unwrap().max(1)) as u64;
                if kind % 2 == 0 {
                    victim.set_len(at).unwrap();
                } else if at < len {
                    let mut byte = [0];
                    victim.read_exact_at(&mut byte, at).unwrap();
                    victim.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
                }
            }
            let file = open(&path, &bytes);
            if let Some(missing) = file.coverage().missing(&ByteRanges::all()) {
                answer(&bytes, &missing, GroupSize::KIB64).push_all(&file).await;
            }
            file.commit(&ByteRanges::all()).await.unwrap();
        });
        prop_assert!(fs::read(&path).unwrap() == bytes);
    }
}

/// Most of what a test writes goes past the page cache.
const MEMORY: Memory = Memory { queue_bytes: 1 << 20, cached_bytes: 100_000 };
