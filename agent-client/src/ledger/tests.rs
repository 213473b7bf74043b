//! What can be wrong with a ledger's file, and with the clock.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;

fn opened(dir: &Path) -> Result<(), LedgerError> {
    Ledger::open(dir).map(drop)
}

/// A folder with a ledger that has a few hundred pages, all in its one file.
fn full() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    ledger
        .write::<_, LedgerError>(Durability::Synced, |tx| {
            for number in 0_i64..5_000 {
                let channel = [&number.to_le_bytes()[..], &[0; 24]].concat();
                tx.execute(
                    "INSERT INTO channels VALUES (?1, zeroblob(32), 1, 0, 0, 0, 0, 0, zeroblob(16))",
                    [channel],
                )?;
            }
            Ok(())
        })
        .unwrap();
    drop(ledger);
    let path = dir.path().join(FILE);
    (dir, path)
}

#[test]
fn garbage_empty_and_truncated_files_are_damage_and_stay_as_they_are() {
    let (dir, path) = full();
    opened(dir.path()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert!(whole.len() > 300_000, "{}", whole.len());
    let mut garbage = whole.clone();
    garbage[..100].fill(7);
    let mut torn = whole.clone();
    torn[8_192..16_384].fill(0xa5);
    let cuts = [0, 1, 99, 512, 4_096, whole.len() / 2, whole.len() - 4_096];
    let cut = cuts.into_iter().map(|len| whole[..len].to_vec());
    for bad in cut.chain([garbage, torn, b"not a ledger at all".to_vec()]) {
        std::fs::write(&path, &bad).unwrap();
        let refused = opened(dir.path()).unwrap_err();
        assert!(matches!(refused, LedgerError::Damaged { .. }), "{} bytes: {refused:?}", bad.len());
        assert!(!refused.is_retryable());
    }
    std::fs::write(&path, &whole).unwrap();
    opened(dir.path()).unwrap();
}

#[test]
fn foreign_newer_and_old_files_are_refused_each_in_its_words() {
    let (dir, path) = full();
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    assert!(matches!(opened(dir.path()), Err(LedgerError::Newer { found: 99, .. })));

    std::fs::remove_file(&path).unwrap();
    let db = Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE recipes (name TEXT)").unwrap();
    drop(db);
    assert!(matches!(opened(dir.path()), Err(LedgerError::Foreign { .. })));

    std::fs::remove_file(&path).unwrap();
    std::fs::write(dir.path().join(OLD_FILE), b"money").unwrap();
    assert!(matches!(opened(dir.path()), Err(LedgerError::Old { .. })));
    std::fs::remove_file(dir.path().join(OLD_FILE)).unwrap();
    opened(dir.path()).unwrap();
}

#[test]
fn many_open_a_new_ledger_at_once_and_all_have_the_same() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for number in 0..8_i64 {
            let dir = dir.path();
            scope.spawn(move || {
                let ledger = Ledger::open(dir).unwrap();
                ledger
                    .write::<_, LedgerError>(Durability::Synced, |tx| {
                        Ok(tx.execute("INSERT INTO flow VALUES (?1, 1)", [number])?)
                    })
                    .unwrap();
            });
        }
    });
    let ledger = Ledger::open(dir.path()).unwrap();
    let count: i64 = ledger
        .read::<_, LedgerError>(|tx| Ok(tx.query_row("SELECT COUNT(*) FROM flow", [], |row| row.get(0))?))
        .unwrap();
    assert_eq!(count, 8);
}

#[test]
fn time_never_goes_back_whatever_the_clock_does() {
    let dir = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicI64::new(1_000));
    let clock: Clock = {
        let time = Arc::clone(&time);
        Arc::new(move || time.load(Ordering::Relaxed))
    };
    let ledger = Ledger::open_with(dir.path(), clock).unwrap();
    let tick = || ledger.write::<_, LedgerError>(Durability::Written, |tx| ledger.tick(tx)).unwrap();
    assert_eq!(tick(), 1_000);
    for (set, seen) in [(2_000, 2_000), (500, 2_000), (2_001, 2_001), (i64::MIN, 2_001)] {
        time.store(set, Ordering::Relaxed);
        assert_eq!(tick(), seen);
    }
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    let failed = ledger.write::<(), LedgerError>(Durability::Synced, |tx| {
        tx.execute("INSERT INTO flow VALUES (1, 5)", [])?;
        Err(LedgerError::Impossible("a test"))
    });
    assert!(failed.is_err());
    let count: i64 = ledger
        .read::<_, LedgerError>(|tx| Ok(tx.query_row("SELECT COUNT(*) FROM flow", [], |row| row.get(0))?))
        .unwrap();
    assert_eq!(count, 0);
}

#[test]
fn a_name_is_held_once_and_shared_only_through_the_same_handle() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Holds::new(dir.path()), Holds::new(dir.path()));
    let hold = ours.share("channel").unwrap().unwrap();
    let shared = ours.share("channel").unwrap().unwrap();
    assert!(theirs.share("channel").unwrap().is_none());
    assert!(theirs.share("another").unwrap().is_some());
    drop(hold);
    assert!(theirs.share("channel").unwrap().is_none());
    drop(shared);
    assert!(theirs.share("channel").unwrap().is_some());
}
