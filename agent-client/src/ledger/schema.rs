//! The tables, and how an older file comes to have them.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::LedgerError;

/// Lays the tables into an empty file.
pub(super) fn make(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "application_id", APPLICATION)?;
    db.execute_batch(&format!("BEGIN; {} COMMIT;", STEPS.concat()))?;
    db.pragma_update(None, "user_version", VERSION)
}

/// Checks that the file is ours and whole, and brings it up to this version.
pub(super) fn bring_up(db: &Connection, path: &Path) -> Result<(), LedgerError> {
    let failed = |error| LedgerError::at(path, error);
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    if pragma("application_id")? != APPLICATION {
        let is_empty = pragma("page_count")? == 0;
        // Our own files are never empty, for they come to their place whole.
        let why = || LedgerError::Damaged { path: path.to_owned(), why: "it is empty".to_owned() };
        return Err(if is_empty { why() } else { LedgerError::Foreign { path: path.to_owned() } });
    }
    let found = pragma("user_version")?;
    if found > VERSION {
        return Err(LedgerError::Newer { path: path.to_owned(), found, known: VERSION });
    }
    db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())).map_err(failed)?;
    if found < VERSION {
        upgrade(db).map_err(failed)?;
    }
    for table in MONEY {
        let verdict: String =
            db.query_row(&format!("PRAGMA quick_check('{table}')"), [], |row| row.get(0)).map_err(failed)?;
        if verdict != "ok" {
            return Err(LedgerError::Damaged { path: path.to_owned(), why: verdict });
        }
    }
    Ok(())
}

fn upgrade(db: &Connection) -> rusqlite::Result<()> {
    let transaction = rusqlite::Transaction::new_unchecked(db, TransactionBehavior::Immediate)?;
    // Another process may have done it in the meantime.
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or_default()) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// `ARO1`, so that another program's file is not taken for ours.
const APPLICATION: i64 = 0x4152_4f31;

/// The tables that must be whole before anything is signed.
const MONEY: [&str; 7] = ["channels", "spent", "flow", "deposits", "leases", "clock", "facts"];

/// One step for each version; steps are never changed, only added.
const STEPS: [&str; 2] = [
    "
-- What the chain said last of each channel, and the highest amount ever signed.
CREATE TABLE channels (
    channel BLOB PRIMARY KEY, node BLOB NOT NULL, deposit INTEGER NOT NULL, settled INTEGER NOT NULL,
    status INTEGER NOT NULL, deadline INTEGER NOT NULL, nonce INTEGER NOT NULL, signed INTEGER NOT NULL,
    conceded BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Base units let go for good: vouchers (kind 0), and what is locked in channels (kind 1).
CREATE TABLE spent (
    kind INTEGER NOT NULL, node BLOB NOT NULL, class TEXT NOT NULL, amount INTEGER NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (kind, node, class)
) STRICT, WITHOUT ROWID;

-- Vouchers by the minute in which they were signed.
CREATE TABLE flow (minute INTEGER PRIMARY KEY, amount INTEGER NOT NULL CHECK (amount >= 0)) STRICT;

-- What of the locked money lies in which channel.
CREATE TABLE deposits (
    channel BLOB PRIMARY KEY, node BLOB NOT NULL, amount INTEGER NOT NULL CHECK (amount >= 0)
) STRICT, WITHOUT ROWID;

-- Budget guards that may be alive: each holds the file of its name in locks/ locked.
CREATE TABLE holders (holder INTEGER PRIMARY KEY, lock TEXT NOT NULL) STRICT;

-- Base units that a guard may set aside without asking again.
CREATE TABLE leases (
    holder INTEGER NOT NULL, kind INTEGER NOT NULL, node BLOB NOT NULL, class TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (holder, kind, node, class)
) STRICT, WITHOUT ROWID;

-- The latest time that the ledger has seen, in unix seconds.
CREATE TABLE clock (latest INTEGER NOT NULL) STRICT;
INSERT INTO clock VALUES (0);

-- What nodes have signed, as it came: receipts for deliveries (kind 0) and for uploads (kind 1).
CREATE TABLE receipts (
    receipt INTEGER PRIMARY KEY, kind INTEGER NOT NULL, node BLOB NOT NULL, body BLOB NOT NULL
) STRICT;

-- Every request that brought or took something, whether or not its node signed for it.
CREATE TABLE entries (
    entry INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind INTEGER NOT NULL, node BLOB NOT NULL, channel BLOB,
    content BLOB NOT NULL, contents INTEGER NOT NULL, ranges BLOB, bytes INTEGER NOT NULL, amount INTEGER NOT NULL,
    class TEXT NOT NULL, receipt INTEGER, state INTEGER NOT NULL
) STRICT;
CREATE INDEX entries_at ON entries (at);
",
    "
-- Transactions on their way, by node, and when channels were last used.
CREATE TABLE facts (name BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
",
];
const VERSION: i64 = STEPS.len() as i64;
