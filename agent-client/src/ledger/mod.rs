//! The ledger: one database for what a wallet must never forget, used by several tasks and processes at once.
//!
//! It holds the channels with their watermarks, what the budget has let go and to whom leave is given, and receipts. What
//! must survive is written in one transaction with one sync ([`Durability::Synced`]); what dies with its process anyway
//! is written without one. Its clock never goes back.
//!
//! ```text
//! wallet folder
//! +-- wallet.db        SQLite in WAL mode: the tables of `schema.rs`
//! +-- budget.json      the caps, if there are any
//! +-- locks/           empty files that a living process holds locked: one for each channel in use and each budget guard
//! ```

mod error;
mod hold;
mod schema;
mod values;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

pub use error::LedgerError;
pub(crate) use hold::{Hold, Holds};
pub(crate) use values::{amount_from, amount_to, bytes32, count_from, count_to};

/// The database. Clones share one connection, so that the tasks of a process wait for each other and not on the file.
#[derive(Clone)]
pub(crate) struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    path: PathBuf,
    clock: Clock,
    writer: Mutex<Writer>,
}

struct Writer {
    db: Connection,
    durability: Durability,
}

/// Unix seconds by some clock.
pub(crate) type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What a transaction has survived once it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// A loss of power.
    Synced,
    /// The end of this process; a loss of power may undo it, and then also all that came after it.
    Written,
}

impl Ledger {
    /// Opens a folder's ledger, made if there is none.
    pub(crate) fn open(dir: &Path) -> Result<Self, LedgerError> {
        Self::open_with(dir, Arc::new(system_clock))
    }

    /// The same under a clock of the caller's.
    pub(crate) fn open_with(dir: &Path, clock: Clock) -> Result<Self, LedgerError> {
        let path = dir.join(FILE);
        let old = dir.join(OLD_FILE);
        if old.exists() {
            return Err(LedgerError::Old { path: old });
        }
        if !path.exists() {
            make_once(dir, &path)?;
        }
        let db = connect(&path)?;
        schema::bring_up(&db, &path)?;
        let writer = Mutex::new(Writer { db, durability: Durability::Synced });
        Ok(Self { inner: Arc::new(Inner { dir: dir.to_owned(), path, clock, writer }) })
    }

    /// The wallet's folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// Whether both are the same handle, so that one transaction can change what both stand for.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Reads and changes in one transaction, which is undone if `work` fails. Waits for other processes' transactions, and
    /// with [`Durability::Synced`] for the disk.
    pub(crate) fn write<T, E: From<LedgerError>>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = self.lock();
        writer.set(durability).map_err(|error| self.failed(error))?;
        let begun = writer.db.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(|error| self.failed(error))?;
        let done = work(&transaction)?;
        transaction.commit().map_err(|error| self.failed(error))?;
        Ok(done)
    }

    /// Reads one state of the database.
    pub(crate) fn read<T, E: From<LedgerError>>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = self.lock();
        let begun = writer.db.transaction_with_behavior(TransactionBehavior::Deferred);
        let transaction = begun.map_err(|error| self.failed(error))?;
        work(&transaction)
    }

    /// A connection of its own that only reads, for what takes long.
    pub(crate) fn reader(&self) -> Result<Connection, LedgerError> {
        let db = connect(&self.inner.path)?;
        db.pragma_update(None, "query_only", true).map_err(|error| self.failed(error))?;
        Ok(db)
    }

    /// Unix seconds by the clock alone, for what only tells when something was.
    pub(crate) fn clock(&self) -> i64 {
        (self.inner.clock)()
    }

    /// Unix seconds: the system's time, but never before what the ledger has seen.
    pub(crate) fn now(&self, transaction: &Transaction<'_>) -> Result<i64, LedgerError> {
        let mut statement = transaction.prepare_cached("SELECT latest FROM clock")?;
        let latest: i64 = statement.query_row([], |row| row.get(0))?;
        Ok((self.inner.clock)().max(latest))
    }

    /// The same, and from now on it is never before this.
    pub(crate) fn tick(&self, transaction: &Transaction<'_>) -> Result<i64, LedgerError> {
        let now = self.now(transaction)?;
        transaction.prepare_cached("UPDATE clock SET latest = ?1 WHERE latest < ?1")?.execute([now])?;
        Ok(now)
    }

    fn failed(&self, error: rusqlite::Error) -> LedgerError {
        LedgerError::at(&self.inner.path, error)
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // A transaction that is cut off by a panic is undone when it is dropped.
        self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    fn set(&mut self, durability: Durability) -> rusqlite::Result<()> {
        if self.durability != durability {
            let level = match durability {
                Durability::Synced => "FULL",
                Durability::Written => "NORMAL",
            };
            self.db.pragma_update(None, "synchronous", level)?;
            self.durability = durability;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

/// Only one process makes it; the others wait for that, and find it.
fn make_once(dir: &Path, path: &Path) -> Result<(), LedgerError> {
    let mut tries = 0;
    let making = loop {
        match Hold::take(dir, MAKING)? {
            Some(hold) => break hold,
            None if wait(tries) => tries += 1,
            None => return Err(LedgerError::Busy { path: path.to_owned() }),
        }
    };
    let made = if path.exists() { Ok(()) } else { make(dir, path) };
    drop(making);
    made
}

/// Makes an empty ledger beside its place and moves it there whole: a file at its place is never half made, so an empty
/// or odd one is damage.
fn make(dir: &Path, path: &Path) -> Result<(), LedgerError> {
    let io = |source| LedgerError::File { path: path.to_owned(), source };
    let draft = tempfile::Builder::new().prefix(".wallet-").suffix(".db").tempfile_in(dir).map_err(io)?;
    let db = Connection::open(draft.path()).map_err(|error| LedgerError::at(path, error))?;
    schema::make(&db).map_err(|error| LedgerError::at(path, error))?;
    db.close().map_err(|(_, error)| LedgerError::at(path, error))?;
    draft.as_file().sync_all().map_err(io)?;
    for ending in ["-wal", "-shm"] {
        // Beside a ledger that somebody has moved away; it must not be taken for the new one's.
        match std::fs::remove_file(dir.join(format!("{FILE}{ending}"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
    }
    draft.persist_noclobber(path).map_err(|error| io(error.error))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

fn connect(path: &Path) -> Result<Connection, LedgerError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let set_up = || {
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_handler(Some(wait))?;
        db.pragma_update(None, "cell_size_check", true)?;
        db.pragma_update(None, "trusted_schema", false)?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(db)
    };
    set_up().map_err(|error| LedgerError::at(path, error))
}

/// Another process writes: its sync takes milliseconds, so look again soon. False gives up.
fn wait(tries: i32) -> bool {
    std::thread::sleep(BUSY_STEP);
    tries < BUSY_TRIES
}

fn system_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The database's file in a wallet's folder.
const FILE: &str = "wallet.db";
/// What an earlier form of the wallet wrote.
const OLD_FILE: &str = "wallet.redb";
/// Held by the process that makes the file.
const MAKING: &str = "making";
/// Between looks at a file that another process writes.
const BUSY_STEP: Duration = Duration::from_millis(1);
/// After so many looks it is given up: 10 s at the least.
const BUSY_TRIES: i32 = 10_000;
/// Statements kept compiled.
const STATEMENTS: usize = 64;

#[cfg(test)]
mod tests;
