//! An operator's memory in one redb file. Every write is synced before it returns; writes that wait together share
//! one sync.

mod binding;
mod journal;
mod leases;
mod records;
mod tables;
mod vouchers;
mod writer;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, WriteTransaction};
use tokio::sync::mpsc;

use super::{Owner, StoreError};
use tables::database_error;
use writer::{Task, Writer};

/// The operator's file. One process at a time.
#[derive(Debug)]
pub struct RedbStore {
    shelf: Arc<Shelf>,
    writer: Writer,
    /// Commits of wishes to close, by this process: no other has the file.
    wishes: AtomicU64,
}

/// The open database; nothing while it is opened anew after a failed write.
pub(super) struct Shelf {
    database: RwLock<Option<Database>>,
    open: Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>,
}

impl RedbStore {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process, or another part of this one, has it open.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_file(path, None).await
    }

    /// The same for an owner: a file that belongs to somebody else is left as it is.
    ///
    /// # Errors
    /// As [`Self::open`]; and [`StoreError::Other`].
    // r[impl settlement.database.bound]
    pub async fn open_as(path: &Path, owner: &Owner) -> Result<Self, StoreError> {
        Self::open_file(path, Some(*owner)).await
    }

    async fn open_file(path: &Path, owner: Option<Owner>) -> Result<Self, StoreError> {
        let file: PathBuf = path.to_owned();
        let fresh = file.clone();
        blocking(move || create_whole(&fresh)).await?;
        let store = Self::prepare(move || Database::create(&file), owner).await?;
        // A new file is only as durable as its name.
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(file_error)?;
        }
        Ok(store)
    }

    /// Opens a database wherever `open` finds it. It is asked again after a write has failed, for then redb must be
    /// opened anew.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(
        open: impl Fn() -> Result<Database, DatabaseError> + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Self::prepare(open, None).await
    }

    async fn prepare(
        open: impl Fn() -> Result<Database, DatabaseError> + Send + Sync + 'static,
        owner: Option<Owner>,
    ) -> Result<Self, StoreError> {
        let shelf = Arc::new(Shelf { database: RwLock::new(None), open: Box::new(open) });
        let prepared = Arc::clone(&shelf);
        blocking(move || {
            prepared.reopen()?;
            prepared.write(|transaction| {
                // Where it fails nothing is committed.
                if let Some(owner) = owner {
                    binding::check(transaction, &owner)?;
                }
                tables::create(transaction)?;
                // The file's lock is ours, so whoever held a lease is gone.
                leases::lapse_all(transaction)
            })
        })
        .await?;
        let writer = Writer::start(Arc::clone(&shelf))?;
        Ok(Self { shelf, writer, wishes: AtomicU64::new(0) })
    }

    /// Carries a change out in a transaction, perhaps together with others, and returns when it is durable. It may be
    /// tried more than once; only its last result counts.
    async fn write<T, F>(&self, change: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnMut(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        let (task, answer) = Task::new(change);
        self.writer.send(task).await?;
        // The writer answers every task, unless it is gone: then nobody knows, and nothing may be acknowledged.
        answer.await.unwrap_or_else(|_| Err(interrupted()))
    }

    async fn read<T, F>(&self, look: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        let shelf = Arc::clone(&self.shelf);
        blocking(move || shelf.read(look)).await
    }
}

impl Shelf {
    fn read<T>(&self, look: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        // Who only reads must not wait for somebody to write: where nothing can be read, nothing new is written.
        self.ensure_open()?;
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(reopening)?;
        look(&database.begin_read().map_err(database_error)?)
    }

    /// One synced transaction.
    fn write<T>(&self, change: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let transaction = database.as_ref().ok_or_else(reopening)?.begin_write().map_err(database_error)?;
        let value = change(&transaction)?;
        transaction.commit().map_err(database_error)?;
        Ok(value)
    }

    /// Opens the database if it could not be opened again after a failed write.
    fn ensure_open(&self) -> Result<(), StoreError> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            *database = Some(self.open_anew()?);
        }
        Ok(())
    }

    /// Closes the database, when nobody reads any more, and opens it again.
    fn reopen(&self) -> Result<(), StoreError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *database = None;
        *database = Some(self.open_anew()?);
        Ok(())
    }

    fn open_anew(&self) -> Result<Database, StoreError> {
        (self.open)().map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse,
            other => database_error(other),
        })
    }
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}

/// Makes the file if there is none, under another name until it is one: a database that loses its power while it is
/// created could not be opened again.
fn create_whole(path: &Path) -> Result<(), StoreError> {
    if path.exists() {
        return Ok(());
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let created = match Database::create(&unfinished) {
        Ok(database) => Ok(database),
        Err(DatabaseError::DatabaseAlreadyOpen) => return Err(StoreError::InUse),
        // Left behind by a process that was cut off.
        Err(_) if unfinished.exists() => {
            std::fs::remove_file(&unfinished).map_err(file_error)?;
            Database::create(&unfinished)
        }
        Err(error) => Err(error),
    };
    drop(created.map_err(database_error)?);
    std::fs::rename(&unfinished, path).map_err(file_error)
}

fn file_error(error: io::Error) -> StoreError {
    database_error(redb::Error::Io(error))
}

/// Runs what waits for the disk on a thread that may wait.
async fn blocking<T, F>(call: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StoreError> + Send + 'static,
{
    // The call panicked, or the runtime is going down: what it did is unknown, so it counts as not done.
    tokio::task::spawn_blocking(call).await.unwrap_or_else(|_| Err(interrupted()))
}

fn interrupted() -> StoreError {
    StoreError::Unavailable("the call was interrupted".into())
}

fn reopening() -> StoreError {
    StoreError::Unavailable("the file is being opened anew after a failed write".into())
}

/// Where changes wait for the thread that writes.
type Queue = mpsc::Sender<Task>;
