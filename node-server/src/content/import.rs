//! A file enters: copied and hashed in one pass, durable before it has a name.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use aro_proto::ContentId;
use aro_proto::limits::MAX_CONTENT_SIZE;
use aro_proto::merkle::{OutboardBuilder, outboard_len};

use super::store::{DATA, OUTBOARD, StoreError};

/// A content that the store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its id.
    pub id: ContentId,
    /// Its bytes.
    pub size: u64,
}

/// See [`ContentStore::add_file`](super::ContentStore::add_file).
pub(super) fn add_file(contents: &Path, path: &Path) -> Result<Stored, StoreError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| StoreError::Io { path, source }
    };
    let source = File::open(path).map_err(at(path))?;
    let meta = source.metadata().map_err(at(path))?;
    if !meta.is_file() {
        return Err(StoreError::NotAFile { path: path.to_owned() });
    }
    let size = meta.len();
    if size > MAX_CONTENT_SIZE {
        return Err(StoreError::TooLarge { path: path.to_owned(), size });
    }

    let incoming = Incoming::create(contents)?;
    let data = File::create_new(incoming.path.join(DATA)).map_err(at(&incoming.path))?;
    // Held until the rename, so that a starting node does not clear it away.
    data.lock().map_err(at(&incoming.path))?;
    let outboard = File::create_new(incoming.path.join(OUTBOARD)).map_err(at(&incoming.path))?;
    outboard.set_len(outboard_len(size)).map_err(at(&incoming.path))?;

    let id = copy_and_hash(source, size, path, &data, &outboard, &incoming.path)?;
    sync_together(&data, &[&outboard]).map_err(at(&incoming.path))?;
    sync_folder(&incoming.path)?;
    incoming.name_as(contents, id)?;
    Ok(Stored { id, size })
}

fn copy_and_hash(
    source: File,
    size: u64,
    path: &Path,
    data: &File,
    outboard: &File,
    target: &Path,
) -> Result<ContentId, StoreError> {
    let copy = Copy { source, size, path, outboard, target };
    let at_target = |source| StoreError::Io { path: target.to_owned(), source };
    if size < BEHIND_FROM {
        let mut data = data;
        return copy.run(|bytes, len| data.write_all(&bytes[..len]).map(|()| bytes));
    }
    thread::scope(|scope| {
        let (full, to_write) = mpsc::sync_channel(BUFFERS);
        let (empty, written) = mpsc::channel();
        for _ in 0..BUFFERS {
            let _ = empty.send(vec![0; COPY_BUFFER]);
        }
        let writer = thread::Builder::new().name("store-import".into());
        let writer = writer.spawn_scoped(scope, move || write_behind(data, &to_write, &empty)).map_err(at_target)?;
        // Both ends of these go only with the writer, which then has an error to tell.
        let stopped = || io::Error::other("the writer stopped");
        let copied = copy.run(|bytes, len| {
            full.send((bytes, len)).map_err(|_| stopped())?;
            written.recv().map_err(|_| stopped())
        });
        drop(full);
        let done = writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer panicked")));
        done.map_err(at_target)?;
        copied
    })
}

/// A file on its way into the store.
struct Copy<'a> {
    source: File,
    size: u64,
    path: &'a Path,
    outboard: &'a File,
    target: &'a Path,
}

impl Copy<'_> {
    /// Reads and hashes; `write` takes each buffer with its count of bytes, and gives one back.
    fn run(mut self, mut write: impl FnMut(Vec<u8>, usize) -> io::Result<Vec<u8>>) -> Result<ContentId, StoreError> {
        let Self { size, path, outboard, target, .. } = self;
        let at_target = |source| StoreError::Io { path: target.to_owned(), source };
        let mut builder = OutboardBuilder::new(size);
        let mut buffer = vec![0; COPY_BUFFER];
        let mut written = Ok(());
        loop {
            let read = match self.source.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(StoreError::Io { path: path.to_owned(), source }),
            };
            builder.update(&buffer[..read], |offset, run| {
                if written.is_ok() {
                    written = outboard.write_all_at(run, offset);
                }
            });
            std::mem::replace(&mut written, Ok(())).map_err(at_target)?;
            buffer = write(buffer, read).map_err(at_target)?;
        }
        builder.finish().map_err(|mismatch| StoreError::Changed {
            path: path.to_owned(),
            expected: mismatch.expected,
            got: mismatch.got,
        })
    }
}

/// Writes what has been hashed while the next is read and hashed, and syncs behind that, so that the last sync is short.
fn write_behind(
    mut data: &File,
    to_write: &mpsc::Receiver<(Vec<u8>, usize)>,
    empty: &mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let joined = |syncing: Option<ScopedJoinHandle<'_, io::Result<()>>>| {
        let panicked = |_| Err(io::Error::other("the thread that syncs panicked"));
        syncing.map_or(Ok(()), |thread| thread.join().unwrap_or_else(panicked))
    };
    thread::scope(|scope| {
        let (mut unsynced, mut syncing) = (0, None::<ScopedJoinHandle<'_, io::Result<()>>>);
        for (bytes, len) in to_write {
            data.write_all(&bytes[..len])?;
            // Whoever reads has gone if it failed.
            let _ = empty.send(bytes);
            unsynced += len;
            if unsynced >= SYNC_BYTES && syncing.as_ref().is_none_or(ScopedJoinHandle::is_finished) {
                joined(syncing.take())?;
                syncing = Some(thread::Builder::new().spawn_scoped(scope, || data.sync_data())?);
                unsynced = 0;
            }
        }
        joined(syncing)
    })
}

/// A folder without a name yet; gone when dropped.
struct Incoming {
    path: PathBuf,
}

impl Incoming {
    fn create(contents: &Path) -> Result<Self, StoreError> {
        // Unique among all adds, also those of other processes: the process id is, and the count within it.
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        loop {
            let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let path = contents.join(format!("{INCOMING}{}-{count}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                // Left by a dead process that had the same id.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(StoreError::Io { path, source }),
            }
        }
    }

    fn name_as(self, contents: &Path, id: ContentId) -> Result<(), StoreError> {
        let target = contents.join(id.to_string());
        match fs::rename(&self.path, &target) {
            Ok(()) => {
                std::mem::forget(self);
                sync_folder(contents)
            }
            // The same content was there before, or came from another add at the same time.
            Err(_) if target.join(DATA).is_file() => Ok(()),
            Err(source) => Err(StoreError::Io { path: target, source }),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what interrupted adds left: older than `age`, and locked by nobody.
pub(super) fn clear_leftovers(contents: &Path, age: Duration) -> Result<(), StoreError> {
    let io_error = |source| StoreError::Io { path: contents.to_owned(), source };
    for entry in fs::read_dir(contents).map_err(io_error)? {
        let path = entry.map_err(io_error)?.path();
        let is_incoming =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(INCOMING));
        if is_incoming && is_dead(&path, age) {
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

fn is_dead(incoming: &Path, age: Duration) -> bool {
    let data = incoming.join(DATA);
    let touched = fs::metadata(&data).or_else(|_| fs::metadata(incoming)).and_then(|meta| meta.modified());
    let is_old = touched.is_ok_and(|at| at.elapsed().is_ok_and(|since| since >= age));
    is_old && File::open(&data).map_or(true, |file| file.try_lock().is_ok())
}

/// Syncs files side by side, so that the system writes its journal once for all of them.
pub(super) fn sync_together(first: &File, others: &[&File]) -> io::Result<()> {
    thread::scope(|scope| {
        let mut beside = Vec::with_capacity(others.len());
        for file in others {
            beside.push(thread::Builder::new().spawn_scoped(scope, move || file.sync_all())?);
        }
        let panicked = |_| Err(io::Error::other("a thread that syncs panicked"));
        let others = beside.into_iter().map(|thread| thread.join().unwrap_or_else(panicked));
        first.sync_all().and(others.collect())
    })
}

pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| StoreError::Io { path: path.to_owned(), source })
}

/// Prefix of folders that are being filled; no base58 id begins with a dot.
const INCOMING: &str = ".incoming-";
/// Bytes read at once: long enough for BLAKE3 to run at full speed.
const COPY_BUFFER: usize = 1 << 20;
/// Buffers that are written while another is read and hashed.
const BUFFERS: usize = 2;
/// Bytes of a file from which on it is written by a thread of its own: below, starting one costs more than it gains.
const BEHIND_FROM: u64 = 8 << 20;
/// Bytes written between two syncs.
const SYNC_BYTES: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::ContentStore;

    #[test]
    fn a_failed_add_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        assert!(matches!(store.add_file(&dir.path().join("none")), Err(StoreError::Io { .. })));
        assert!(matches!(store.add_file(dir.path()), Err(StoreError::NotAFile { .. })));
        assert_eq!(fs::read_dir(dir.path().join("contents")).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_grows_meanwhile_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, [1; 100]).unwrap();
        let (data, outboard) =
            (File::create(dir.path().join("d")).unwrap(), File::create(dir.path().join("o")).unwrap());
        let outcome = copy_and_hash(File::open(&path).unwrap(), 99, &path, &data, &outboard, dir.path());
        assert!(matches!(outcome, Err(StoreError::Changed { expected: 99, got: 100, .. })));
    }

    #[test]
    fn a_file_that_is_written_behind_is_the_same_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let path = dir.path().join("file");
        for size in [BEHIND_FROM as usize - 1, BEHIND_FROM as usize, SYNC_BYTES + COPY_BUFFER + 7] {
            let bytes: Vec<u8> = (0..size).map(|place| (place / 3 % 251) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            let stored = store.add_file(&path).unwrap();
            assert_eq!((stored.id, stored.size), (ContentId::of(&bytes), size as u64));
            let data = dir.path().join("contents").join(stored.id.to_string()).join(DATA);
            assert!(fs::read(data).unwrap() == bytes, "{size}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_disk_that_fills_up_behind_the_reader_is_its_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let size = BEHIND_FROM + 1;
        File::create(&path).unwrap().set_len(size).unwrap();
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let outboard = File::create(dir.path().join("o")).unwrap();
        let outcome = copy_and_hash(File::open(&path).unwrap(), size, &path, &full, &outboard, dir.path());
        let Err(StoreError::Io { source, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn only_dead_adds_are_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let (dead, alive) = (dir.path().join(".incoming-1-0"), dir.path().join(".incoming-2-0"));
        for path in [&dead, &alive] {
            fs::create_dir(path).unwrap();
            fs::write(path.join(DATA), b"x").unwrap();
        }
        let held = File::open(alive.join(DATA)).unwrap();
        held.lock().unwrap();
        clear_leftovers(dir.path(), Duration::from_secs(60)).unwrap();
        assert!(dead.exists() && alive.exists());
        clear_leftovers(dir.path(), Duration::ZERO).unwrap();
        assert!(!dead.exists() && alive.exists());
    }
}
