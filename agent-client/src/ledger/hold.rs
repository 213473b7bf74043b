//! What only one process may have at a time: a locked file, which the system lets go when the process dies.

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::LedgerError;

/// A name of a wallet's folder, held until dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    /// Locked; its end is the lock's.
    _file: File,
    path: PathBuf,
}

/// The names that this handle on the folder holds, so that its own tasks share them.
#[derive(Debug)]
pub(crate) struct Holds {
    dir: PathBuf,
    held: Mutex<HashMap<String, Weak<Hold>>>,
}

impl Hold {
    /// Takes a name; none if another handle has it.
    pub(crate) fn take(dir: &Path, name: &str) -> Result<Option<Self>, LedgerError> {
        let path = dir.join(LOCKS).join(name);
        let failed = |source| LedgerError::File { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(dir.join(LOCKS)).map_err(failed)?;
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file, path })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Takes the name out of the world too: only for names that nobody takes twice.
    pub(crate) fn remove(self) {
        // What stays is an empty file that nobody asks for again.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Holds {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), held: Mutex::default() }
    }

    /// Takes a name, or shares it with whoever has it through this same handle; none if another handle has it.
    pub(crate) fn share(&self, name: &str) -> Result<Option<Arc<Hold>>, LedgerError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hold) = held.get(name).and_then(Weak::upgrade) {
            return Ok(Some(hold));
        }
        let Some(hold) = Hold::take(&self.dir, name)?.map(Arc::new) else { return Ok(None) };
        held.retain(|_, hold| hold.strong_count() > 0);
        held.insert(name.to_owned(), Arc::downgrade(&hold));
        Ok(Some(hold))
    }
}

/// The folder of the locked files.
const LOCKS: &str = "locks";
