//! The names' file: one redb database of its own, so that a publisher's write never holds up a voucher's.
//!
//! ```text
//! names   publisher (32) | name -> the signed record, as it is sent
//! ```
//! Only the newest record of a name is kept. None is ever removed: a name that was forgotten could go back.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aro_proto::naming::{SignedNameRecord, Standing, VerifiedName};
use aro_proto::{AgentId, NameAddress};
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use thiserror::Error;

/// The newest record of each name, on disk.
#[derive(Debug)]
pub(super) struct NameStore {
    database: Database,
    per_publisher: usize,
    in_all: usize,
    /// Names of each publisher, counted when the file is opened. Held while a record is written.
    counts: Mutex<Counts>,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    /// It is durable, and what the name means; or was so before.
    Taken,
    /// A better one is known.
    Refused {
        /// How it stands against that.
        standing: Standing,
        /// The better one.
        current: Box<VerifiedName>,
    },
    /// It would be a name too many.
    Quota,
}

/// Why the names cannot be used.
#[derive(Debug, Error)]
pub enum NameStoreError {
    /// Another process has them open.
    #[error("the names {path} are in use by another process: is this node serving already?")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The database cannot be opened, read or written.
    #[error("the names cannot be used: {0}")]
    Database(Box<redb::Error>),
    /// A record has not the form, or not the signature, with which it was written.
    #[error("the record of {0} is damaged")]
    Damaged(NameAddress),
    /// A key is not one that was written.
    #[error("a name's key is damaged")]
    DamagedKey,
}

#[derive(Debug, Default)]
struct Counts {
    of: HashMap<AgentId, usize>,
    in_all: usize,
}

impl NameStore {
    /// Opens the names below `dir`, or begins them.
    pub(super) fn open(dir: &Path, per_publisher: usize, in_all: usize) -> Result<Self, NameStoreError> {
        let path = dir.join(FILE);
        match redb::Builder::new().set_cache_size(CACHE).create(&path) {
            Ok(database) => Self::over(database, per_publisher, in_all),
            Err(DatabaseError::DatabaseAlreadyOpen) => Err(NameStoreError::InUse { path }),
            Err(error) => Err(broken(error)),
        }
    }

    fn over(database: Database, per_publisher: usize, in_all: usize) -> Result<Self, NameStoreError> {
        let store = Self { database, per_publisher, in_all, counts: Mutex::default() };
        let begin = || -> Result<(), redb::Error> {
            let transaction = store.database.begin_write()?;
            transaction.open_table(NAMES)?;
            transaction.commit()?;
            Ok(())
        };
        begin().map_err(broken)?;
        let mut counts = Counts::default();
        for publisher in store.publishers()? {
            *counts.of.entry(publisher).or_default() += 1;
            counts.in_all += 1;
        }
        Ok(Self { counts: Mutex::new(counts), ..store })
    }

    /// The newest record of a name.
    pub(super) fn get(&self, name: &NameAddress) -> Result<Option<VerifiedName>, NameStoreError> {
        let row = || -> Result<Option<Vec<u8>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(NAMES)?;
            Ok(table.get(&*key(name))?.map(|row| row.value().to_vec()))
        };
        row().map_err(broken)?.map(|row| decode(name, &row)).transpose()
    }

    /// Takes a record if it is newer, within the quotas. When this returns, it is on disk.
    // r[impl name.durable]
    pub(super) fn take(&self, record: &VerifiedName) -> Result<Taking, NameStoreError> {
        let name = record.record().address();
        // Whoever takes the lock is the only writer, from the look at the old record to the sync of the new one.
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.get(&name)?;
        match (record.against(current.as_ref()), current) {
            (Standing::Newer, current) => {
                let is_new = current.is_none();
                if is_new && !counts.have_room(&name.publisher, self.per_publisher, self.in_all) {
                    return Ok(Taking::Quota);
                }
                self.put(&name, record)?;
                if is_new {
                    *counts.of.entry(name.publisher).or_default() += 1;
                    counts.in_all += 1;
                }
                Ok(Taking::Taken)
            }
            (Standing::Same, _) => Ok(Taking::Taken),
            (standing, Some(current)) => Ok(Taking::Refused { standing, current: Box::new(current) }),
            (Standing::NotRising | Standing::EqualDiffers, None) => Err(NameStoreError::Damaged(name)),
        }
    }

    fn put(&self, name: &NameAddress, record: &VerifiedName) -> Result<(), NameStoreError> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.open_table(NAMES)?.insert(&*key(name), &*record.signed().to_bytes())?;
            transaction.commit()?;
            Ok(())
        };
        write().map_err(broken)
    }

    /// The publisher of each name.
    fn publishers(&self) -> Result<Vec<AgentId>, NameStoreError> {
        let keys = || -> Result<Vec<Option<AgentId>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(NAMES)?;
            let publisher = |key: &[u8]| key.first_chunk::<32>().map(|bytes| AgentId::from_bytes(*bytes));
            table.iter()?.map(|row| Ok(publisher(row?.0.value()))).collect()
        };
        keys().map_err(broken)?.into_iter().map(|publisher| publisher.ok_or(NameStoreError::DamagedKey)).collect()
    }
}

impl Counts {
    // r[impl name.quota]
    fn have_room(&self, publisher: &AgentId, per_publisher: usize, in_all: usize) -> bool {
        self.in_all < in_all && self.of.get(publisher).is_none_or(|count| *count < per_publisher)
    }
}

fn key(name: &NameAddress) -> Vec<u8> {
    [name.publisher.as_bytes(), name.name.as_str().as_bytes()].concat()
}

/// What is on the disk is believed no more than what came over the net.
fn decode(name: &NameAddress, row: &[u8]) -> Result<VerifiedName, NameStoreError> {
    let read = SignedNameRecord::from_bytes(row).filter(|signed| signed.record.address() == *name);
    read.and_then(|signed| signed.verify().ok()).ok_or_else(|| NameStoreError::Damaged(name.clone()))
}

fn broken(error: impl Into<redb::Error>) -> NameStoreError {
    NameStoreError::Database(Box::new(error.into()))
}

/// The file below the node's folder.
const FILE: &str = "names.redb";
const NAMES: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("names");
/// Bytes of the file that are kept in memory.
const CACHE: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use aro_proto::naming::{NameRecord, TargetKind};
    use aro_proto::{ContentId, SecretKey};
    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;

    use super::*;

    fn record(publisher: u8, name: &str, sequence: u64, target: &[u8]) -> VerifiedName {
        let key = SecretKey::from_bytes(&[publisher; 32]);
        let record = NameRecord {
            publisher: key.agent_id(),
            name: name.parse().unwrap(),
            sequence,
            target: ContentId::of(target),
            kind: TargetKind::Content,
            issued_at: 0,
            valid_until: None,
        };
        record.sign(&key)
    }

    // r[verify name.durable]
    // r[verify name.never_back]
    #[test]
    fn the_newest_record_survives_reopening_and_none_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = NameStore::open(dir.path(), 10, 10).unwrap();
        for sequence in [1, 2, 5] {
            assert_eq!(store.take(&record(1, "site", sequence, b"x")).unwrap(), Taking::Taken);
        }
        assert!(matches!(NameStore::open(dir.path(), 1, 1), Err(NameStoreError::InUse { .. })));
        drop(store);

        let store = NameStore::open(dir.path(), 10, 10).unwrap();
        let newest = record(1, "site", 5, b"x");
        assert_eq!(store.get(&newest.record().address()).unwrap(), Some(newest.clone()));
        assert_eq!(store.take(&newest).unwrap(), Taking::Taken, "the same again is no news");
        for (sequence, target, standing) in [(4, b"x", Standing::NotRising), (5, b"y", Standing::EqualDiffers)] {
            let current = Box::new(newest.clone());
            assert_eq!(
                store.take(&record(1, "site", sequence, target)).unwrap(),
                Taking::Refused { standing, current }
            );
        }
        assert_eq!(store.take(&record(1, "site", 6, b"y")).unwrap(), Taking::Taken);
    }

    // r[verify name.quota]
    #[test]
    fn names_are_bounded_for_each_and_for_all_also_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let store = NameStore::open(dir.path(), 2, 3).unwrap();
        let take = |store: &NameStore, publisher, name| store.take(&record(publisher, name, 1, b"x")).unwrap();
        assert_eq!([take(&store, 1, "a"), take(&store, 1, "b")], [Taking::Taken, Taking::Taken]);
        assert_eq!(take(&store, 1, "c"), Taking::Quota);
        assert_eq!(take(&store, 2, "a"), Taking::Taken);
        drop(store);
        let store = NameStore::open(dir.path(), 2, 3).unwrap();
        assert_eq!([take(&store, 1, "c"), take(&store, 3, "a")], [Taking::Quota, Taking::Quota]);
        // What is there may go on.
        assert_eq!(store.take(&record(1, "a", 2, b"y")).unwrap(), Taking::Taken);
    }

    #[test]
    fn a_row_that_was_altered_is_an_error_and_never_an_answer() {
        let newest = record(1, "site", 5, b"x");
        let (name, bytes) = (newest.record().address(), newest.signed().to_bytes());
        assert_eq!(decode(&name, &bytes).unwrap(), newest);
        for place in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[place] ^= 1;
            assert!(matches!(decode(&name, &altered), Err(NameStoreError::Damaged(_))), "byte {place}");
        }
        assert!(decode(&record(1, "other", 5, b"x").record().address(), &bytes).is_err());
    }

    /// A disk whose syncs fail while it is told so.
    #[derive(Debug)]
    struct Failing(InMemoryBackend, Arc<AtomicBool>);

    impl StorageBackend for Failing {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            if self.1.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { self.0.sync_data() }
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
    }

    // r[verify name.durable]
    #[test]
    fn what_cannot_be_synced_is_not_taken() {
        let fails = Arc::new(AtomicBool::new(false));
        let backend = Failing(InMemoryBackend::new(), Arc::clone(&fails));
        let store = NameStore::over(Database::builder().create_with_backend(backend).unwrap(), 10, 10).unwrap();
        let (first, second) = (record(1, "site", 1, b"x"), record(1, "site", 2, b"y"));
        assert_eq!(store.take(&first).unwrap(), Taking::Taken);
        fails.store(true, Ordering::SeqCst);
        assert!(matches!(store.take(&second), Err(NameStoreError::Database(_))));
        assert!(matches!(store.take(&record(2, "a", 1, b"x")), Err(NameStoreError::Database(_))));
        assert_eq!(store.counts.lock().unwrap().in_all, 1, "a name that was not taken takes no place");
    }
}
