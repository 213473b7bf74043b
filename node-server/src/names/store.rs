//! The names' file: one redb database of its own, so that a publisher's write never holds up a voucher's.
//!
//! ```text
//! names   publisher (32) | name -> the signed record, as it is sent
//! ```
//! Only the newest record of a name is kept. None is ever removed: a name that was forgotten could go back. So a name that is
//! withdrawn makes room for another one, but not without end.

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
    /// Of each publisher, counted when the file is opened. Held while a record is written.
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
    of: HashMap<AgentId, Has>,
    in_all: usize,
}

/// The names of one publisher.
#[derive(Clone, Copy, Debug, Default)]
struct Has {
    living: usize,
    withdrawn: usize,
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
        for (publisher, is_withdrawn) in store.all()? {
            counts.add(publisher, is_withdrawn);
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
                let (before, after) =
                    (current.map(|known| known.record().is_withdrawn()), record.record().is_withdrawn());
                if !counts.have_room(&name.publisher, before, after, (self.per_publisher, self.in_all)) {
                    return Ok(Taking::Quota);
                }
                self.put(&name, record)?;
                if let Some(before) = before {
                    counts.remove(name.publisher, before);
                }
                counts.add(name.publisher, after);
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

    /// The publisher of each name, and whether it is withdrawn. A record that cannot be read counts as one that lives.
    fn all(&self) -> Result<Vec<(AgentId, bool)>, NameStoreError> {
        let rows = || -> Result<Vec<Option<(AgentId, bool)>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(NAMES)?;
            let publisher = |key: &[u8]| key.first_chunk::<32>().map(|bytes| AgentId::from_bytes(*bytes));
            let is_withdrawn =
                |row: &[u8]| SignedNameRecord::from_bytes(row).is_some_and(|signed| signed.record.is_withdrawn());
            let read = |(key, row): (redb::AccessGuard<'_, &[u8]>, redb::AccessGuard<'_, &[u8]>)| {
                publisher(key.value()).map(|publisher| (publisher, is_withdrawn(row.value())))
            };
            table.iter()?.map(|row| Ok(read(row?))).collect()
        };
        rows().map_err(broken)?.into_iter().map(|row| row.ok_or(NameStoreError::DamagedKey)).collect()
    }
}

impl Counts {
    /// Whether a name may become withdrawn or not, which it was before, if it was there. One may always be withdrawn.
    // r[impl name.quota]
    // r[impl name.withdrawn.bounded]
    fn have_room(
        &self,
        publisher: &AgentId,
        before: Option<bool>,
        is_withdrawn: bool,
        (per_publisher, in_all): (usize, usize),
    ) -> bool {
        let has = self.of.get(publisher).copied().unwrap_or_default();
        let may_live = is_withdrawn || before == Some(false) || has.living < per_publisher;
        let names = has.living + has.withdrawn;
        let may_be_new = self.in_all < in_all && names < per_publisher.saturating_mul(EVER_PER_LIVING);
        may_live && (before.is_some() || may_be_new)
    }

    fn add(&mut self, publisher: AgentId, is_withdrawn: bool) {
        *self.of.entry(publisher).or_default().count(is_withdrawn) += 1;
        self.in_all += 1;
    }

    fn remove(&mut self, publisher: AgentId, is_withdrawn: bool) {
        let count = self.of.entry(publisher).or_default().count(is_withdrawn);
        *count = count.saturating_sub(1);
        self.in_all = self.in_all.saturating_sub(1);
    }
}

impl Has {
    fn count(&mut self, is_withdrawn: bool) -> &mut usize {
        if is_withdrawn { &mut self.withdrawn } else { &mut self.living }
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

/// Names that a publisher may ever have had, withdrawn ones included, for each that it may have at once.
const EVER_PER_LIVING: usize = 4;
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

    // r[verify name.withdrawn]
    // r[verify name.withdrawn.bounded]
    #[test]
    fn a_withdrawn_name_makes_room_never_goes_back_and_there_is_an_end_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let open = || NameStore::open(dir.path(), 2, 100).unwrap();
        let gone = |name: &str, sequence| {
            let key = SecretKey::from_bytes(&[1; 32]);
            let name = NameAddress { publisher: key.agent_id(), name: name.parse().unwrap() };
            NameRecord::withdrawn(name, sequence, 0).sign(&key)
        };
        let store = open();
        let take = |store: &NameStore, record: VerifiedName| store.take(&record).unwrap();
        for name in ["a", "b"] {
            assert_eq!(take(&store, record(1, name, 1, b"x")), Taking::Taken);
        }
        assert_eq!(take(&store, record(1, "c", 1, b"x")), Taking::Quota);
        assert_eq!(take(&store, gone("a", 2)), Taking::Taken);
        assert!(matches!(take(&store, record(1, "a", 1, b"x")), Taking::Refused { .. }));
        assert_eq!(take(&store, record(1, "c", 1, b"x")), Taking::Taken);
        assert_eq!(take(&store, record(1, "a", 3, b"x")), Taking::Quota, "it would live again, as the third");
        drop(store);

        // Counted anew they are the same: two live, one is withdrawn.
        let store = open();
        assert_eq!(take(&store, record(1, "a", 3, b"x")), Taking::Quota);
        assert_eq!(take(&store, gone("a", 3)), Taking::Taken);
        for name in ["b", "d", "e", "f", "g", "h", "i"] {
            let is_room =
                take(&store, record(1, name, 1, b"x")) == Taking::Taken && take(&store, gone(name, 2)) == Taking::Taken;
            assert_eq!(is_room, name != "i", "{name}");
        }
        // None of it is in another's way, and one may live again.
        assert_eq!(take(&store, record(2, "a", 1, b"x")), Taking::Taken);
        assert_eq!(take(&store, record(1, "d", 3, b"x")), Taking::Taken);
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
