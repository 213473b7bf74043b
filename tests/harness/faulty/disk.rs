//! A disk under redb that fills up, and that forgets at a power cut what nobody has synced.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Database, DatabaseError, StorageBackend};

use super::dice::Dice;
use super::fuse::Fuse;

/// The disk itself, which outlives processes.
#[derive(Clone, Default)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What a reader sees.
    now: Vec<u8>,
    /// What survives a power cut for certain.
    synced: Vec<u8>,
    /// What has been done since; the disk may have got to any of it.
    unsynced: Vec<Change>,
    is_full: bool,
    /// Processes so far: what an earlier one does has no effect.
    processes: u64,
}

#[derive(Clone)]
enum Change {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

impl Disk {
    /// A disk with an empty database on it: operators make theirs under another name, and rename it once it is whole.
    #[must_use]
    pub fn with_database() -> Self {
        let disk = Self::default();
        let database = disk.process(&Fuse::endless())().expect("there is room");
        drop(database);
        disk
    }

    /// Opens the database on this disk, for a process that dies with the fuse. Every write and every sync burns it.
    /// The database may be opened again and again, by this process only.
    pub fn process(&self, fuse: &Arc<Fuse>) -> impl Fn() -> Result<Database, DatabaseError> + Send + Sync + 'static {
        let mut state = self.lock();
        state.processes += 1;
        let number = state.processes;
        let (disk, fuse) = (self.clone(), Arc::clone(fuse));
        move || {
            let handle = Handle { disk: disk.clone(), fuse: Arc::clone(&fuse), number };
            Database::builder().create_with_backend(handle)
        }
    }

    /// Whether nothing more can be written.
    pub fn set_full(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    /// The power is gone: of what was not synced, chance decides by the seed what is there, change by change.
    pub fn lose_power(&self, seed: u64) {
        let mut state = self.lock();
        state.processes += 1;
        let mut dice = Dice::new(seed);
        let mut left = std::mem::take(&mut state.synced);
        for change in std::mem::take(&mut state.unsynced) {
            if dice.strikes(50) {
                change.apply(&mut left);
            }
        }
        state.now.clone_from(&left);
        state.synced = left;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Bytes(offset, data) => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
        }
    }
}

/// The disk as one process has it open.
struct Handle {
    disk: Disk,
    fuse: Arc<Fuse>,
    number: u64,
}

impl Handle {
    fn alive(&self) -> Result<MutexGuard<'_, State>, io::Error> {
        let state = self.disk.lock();
        if self.fuse.is_blown() || state.processes != self.number {
            return Err(io::Error::other("the process is gone"));
        }
        Ok(state)
    }

    fn change(&self, change: Change) -> Result<(), io::Error> {
        let mut state = self.alive()?;
        let grows = match &change {
            Change::Length(length) => *length > state.now.len(),
            Change::Bytes(..) => true,
        };
        if state.is_full && grows {
            return Err(io::ErrorKind::StorageFull.into());
        }
        change.apply(&mut state.now);
        state.unsynced.push(change);
        drop(state);
        self.fuse.burn();
        Ok(())
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.alive()?.now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let state = self.alive()?;
        let start = position(offset)?;
        let found = start.checked_add(out.len()).and_then(|end| state.now.get(start..end));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.change(Change::Length(position(len)?))
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        let mut state = self.alive()?;
        if state.is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.synced = state.now.clone();
        state.unsynced.clear();
        drop(state);
        self.fuse.burn();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.change(Change::Bytes(position(offset)?, data.to_vec()))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("number", &self.number).finish_non_exhaustive()
    }
}

fn position(offset: u64) -> Result<usize, io::Error> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use redb::{ReadableDatabase, TableDefinition};

    use super::*;

    const TABLE: TableDefinition<u64, u64> = TableDefinition::new("table");

    fn put(database: &Database, key: u64) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?.insert(key, key)?;
        Ok(transaction.commit()?)
    }

    fn has(database: &Database, key: u64) -> bool {
        database.begin_read().unwrap().open_table(TABLE).unwrap().get(key).unwrap().is_some()
    }

    #[test]
    fn what_was_committed_survives_a_power_cut_and_a_full_disk_takes_nothing() {
        let disk = Disk::default();
        let database = disk.process(&Fuse::endless())().unwrap();
        put(&database, 1).unwrap();
        disk.set_full(true);
        assert!(put(&database, 2).is_err());
        disk.set_full(false);
        for seed in 0..20 {
            disk.lose_power(seed);
            let after = disk.process(&Fuse::endless())().unwrap();
            assert!(has(&after, 1) && !has(&after, 2));
        }
        assert!(put(&database, 3).is_err(), "a process that has lost its power writes nothing");
    }
}
