//! Where proven bytes go: a file written by its own thread, memory, or the caller. Only [`ProvenLeaf`]s get in.
//!
//! A file appears under its name only when it is whole, proven and on disk.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Write};
use std::mem;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};

use aro_proto::merkle::{ByteRanges, ProvenLeaf};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::FetchError;

/// Takes the proven bytes of one fetch, in order, and keeps those that were asked for.
pub(super) struct Output<'a> {
    asked: Vec<Range<u64>>,
    delivered: u64,
    target: Target<'a>,
}

/// What was written.
pub(super) struct Written {
    /// Bytes delivered.
    pub(super) bytes: u64,
    /// The bytes themselves, if they went to memory.
    pub(super) memory: Vec<u8>,
}

enum Target<'a> {
    File(FileTarget),
    Memory(Vec<u8>),
    Caller(Box<dyn FnMut(u64, Bytes) + Send + 'a>),
}

impl<'a> Output<'a> {
    /// To the caller, piece by piece.
    pub(super) fn caller(ranges: ByteRanges, take: impl FnMut(u64, Bytes) + Send + 'a) -> Self {
        Self { asked: ranges.iter().collect(), delivered: 0, target: Target::Caller(Box::new(take)) }
    }

    /// Into memory, as it comes: never by what the node claims.
    pub(super) fn memory(ranges: ByteRanges) -> Self {
        Self { asked: ranges.iter().collect(), delivered: 0, target: Target::Memory(Vec::new()) }
    }

    /// Into a file; at most about `queue_bytes` wait for the disk.
    pub(super) fn file(path: &Path, ranges: ByteRanges, queue_bytes: usize) -> Result<Self, FetchError> {
        let target = Target::File(FileTarget::create(path, queue_bytes)?);
        Ok(Self { asked: ranges.iter().collect(), delivered: 0, target })
    }

    /// Takes one proven leaf; waits while the disk is behind.
    pub(super) async fn push(&mut self, leaf: ProvenLeaf<Bytes>) -> Result<(), FetchError> {
        let offset = leaf.offset();
        let bytes = leaf.into_bytes();
        for range in &self.asked {
            let Some(wanted) = overlap(range, offset, bytes.len()) else { continue };
            let at = offset + wanted.start as u64;
            let piece = bytes.slice(wanted);
            self.delivered += piece.len() as u64;
            match &mut self.target {
                Target::Memory(memory) => memory.extend_from_slice(&piece),
                Target::File(file) => file.push(piece).await?,
                Target::Caller(take) => take(at, piece),
            }
        }
        Ok(())
    }

    /// All is proven: makes it durable and puts it in place.
    pub(super) async fn finish(self) -> Result<Written, FetchError> {
        let memory = match self.target {
            Target::Memory(memory) => memory,
            Target::File(file) => {
                file.commit().await?;
                Vec::new()
            }
            Target::Caller(_) => Vec::new(),
        };
        Ok(Written { bytes: self.delivered, memory })
    }
}

/// The part of a leaf that lies in an asked range.
fn overlap(range: &Range<u64>, offset: u64, len: usize) -> Option<Range<usize>> {
    let start = range.start.saturating_sub(offset);
    let end = range.end.saturating_sub(offset);
    // Both are cut at the leaf's length first, so they fit.
    let cut = |at: u64| usize::try_from(at).unwrap_or(len).min(len);
    let (start, end) = (cut(start), cut(end));
    (start < end).then_some(start..end)
}

struct FileTarget {
    part: PartFile,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    queue: mpsc::Sender<Vec<Bytes>>,
    writer: JoinHandle<io::Result<()>>,
}

impl FileTarget {
    fn create(path: &Path, queue_bytes: usize) -> io::Result<Self> {
        let part = PartFile::create(path)?;
        let (queue, batches) = mpsc::channel((queue_bytes / WRITE_BYTES).max(1));
        let file = Arc::clone(&part.file);
        let writer = tokio::task::spawn_blocking(move || write_batches(&file, batches, SYNC_BYTES));
        Ok(Self { part, batch: Vec::new(), batch_bytes: 0, queue, writer })
    }

    async fn push(&mut self, piece: Bytes) -> Result<(), FetchError> {
        self.batch_bytes += piece.len();
        self.batch.push(piece);
        if self.batch_bytes < WRITE_BYTES {
            return Ok(());
        }
        self.batch_bytes = 0;
        if self.queue.send(mem::take(&mut self.batch)).await.is_ok() {
            return Ok(());
        }
        // The writer went away, so it has an error to tell.
        Err(joined((&mut self.writer).await).err().unwrap_or_else(|| io::Error::other("the writer stopped")).into())
    }

    async fn commit(self) -> Result<(), FetchError> {
        let Self { part, batch, queue, writer, .. } = self;
        // If it fails, the writer's own error follows.
        let _ = queue.send(batch).await;
        drop(queue);
        joined(writer.await)?;
        joined(tokio::task::spawn_blocking(move || part.commit()).await)?;
        Ok(())
    }
}

/// Writes whole batches until the queue closes. A second thread syncs behind it every `sync_bytes`, so that the last
/// sync is short.
fn write_batches(file: &File, mut batches: mpsc::Receiver<Vec<Bytes>>, sync_bytes: usize) -> io::Result<()> {
    thread::scope(|scope| {
        let mut unsynced = 0;
        let mut syncing: Option<ScopedJoinHandle<'_, io::Result<()>>> = None;
        while let Some(batch) = batches.blocking_recv() {
            unsynced += write_batch(file, &batch)?;
            if unsynced >= sync_bytes && syncing.as_ref().is_none_or(ScopedJoinHandle::is_finished) {
                synced(syncing.take())?;
                syncing = Some(thread::Builder::new().spawn_scoped(scope, || file.sync_data())?);
                unsynced = 0;
            }
        }
        synced(syncing)
    })
}

fn write_batch(mut file: &File, batch: &[Bytes]) -> io::Result<usize> {
    let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(batch.iter().map(Bytes::len).sum())
}

fn synced(syncing: Option<ScopedJoinHandle<'_, io::Result<()>>>) -> io::Result<()> {
    let panicked = |_| Err(io::Error::other("the thread that syncs panicked"));
    syncing.map_or(Ok(()), |thread| thread.join().unwrap_or_else(panicked))
}

/// The file before it has its name. Dropped before [`commit`](Self::commit), it is gone.
struct PartFile {
    file: Arc<File>,
    part: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl PartFile {
    fn create(target: &Path) -> io::Result<Self> {
        let name = target
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the output path names no file"))?;
        if target.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "the output path is a folder"));
        }
        let mut part_name = name.to_owned();
        part_name.push(".aro-part");
        let part = target.with_file_name(part_name);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&part)?;
        // What a crash left behind is unlocked and may go; what another fetch writes is not touched.
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another fetch is writing to the same file"),
            TryLockError::Error(error) => error,
        })?;
        file.set_len(0)?;
        Ok(Self { file: Arc::new(file), part, target: target.to_owned(), committed: false })
    }

    fn commit(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.part, &self.target)?;
        self.committed = true;
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = fs::remove_file(&self.part)
        {
            tracing::debug!(%error, "a part file stays behind");
        }
    }
}

fn joined(result: Result<io::Result<()>, tokio::task::JoinError>) -> io::Result<()> {
    result.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Bytes that go to the system in one write.
const WRITE_BYTES: usize = 256 << 10;
/// Bytes written between two syncs: 64 MiB, enough that a disk is not kept seeking.
const SYNC_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_asked_part_of_a_leaf_is_kept() {
        assert_eq!(overlap(&(0..u64::MAX), 100, 10), Some(0..10));
        assert_eq!(overlap(&(105..u64::MAX), 100, 10), Some(5..10));
        assert_eq!(overlap(&(0..103), 100, 10), Some(0..3));
        assert_eq!(overlap(&(102..104), 100, 10), Some(2..4));
        assert_eq!(overlap(&(110..120), 100, 10), None);
        assert_eq!(overlap(&(0..100), 100, 10), None);
        assert_eq!(overlap(&(0..u64::MAX), 0, 0), None);
    }

    #[tokio::test]
    async fn a_file_has_its_name_only_after_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fs::write(&path, b"before").unwrap();
        let mut target = FileTarget::create(&path, 1 << 20).unwrap();
        target.push(Bytes::from_static(b"new ")).await.unwrap();
        assert!(FileTarget::create(&path, 1 << 20).is_err(), "a second writer");
        drop(target);
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        let mut target = FileTarget::create(&path, 1 << 20).unwrap();
        for _ in 0..40_000 {
            target.push(Bytes::from_static(b"0123456789abcdef")).await.unwrap();
        }
        target.commit().await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"0123456789abcdef".repeat(40_000));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn syncs_behind_the_writer_change_nothing_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let (queue, batches) = mpsc::channel(100);
        for number in 0..100 {
            queue.try_send(vec![Bytes::from(vec![number; 100]), Bytes::from_static(b"|")]).unwrap();
        }
        drop(queue);
        write_batches(&File::create(&path).unwrap(), batches, 1_000).unwrap();
        let expected = (0..100).flat_map(|number| [vec![number; 100], vec![b'|']].concat()).collect::<Vec<u8>>();
        assert_eq!(fs::read(&path).unwrap(), expected);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_write_or_a_sync_that_fails_ends_the_writer_with_its_error() {
        // A full disk takes no byte; a device without storage takes all and cannot sync.
        for (device, expected) in
            [("/dev/full", io::ErrorKind::StorageFull), ("/dev/null", io::ErrorKind::InvalidInput)]
        {
            let file = OpenOptions::new().write(true).open(device).unwrap();
            let (queue, batches) = mpsc::channel(1);
            queue.try_send(vec![Bytes::from_static(b"x")]).unwrap();
            drop(queue);
            assert_eq!(write_batches(&file, batches, 1).unwrap_err().kind(), expected, "{device}");
        }
    }

    #[test]
    fn a_folder_or_nameless_path_is_refused_before_anything_is_fetched() {
        let dir = tempfile::tempdir().unwrap();
        assert!(PartFile::create(dir.path()).is_err());
        assert!(PartFile::create(&dir.path().join("missing").join("out")).is_err());
        assert!(PartFile::create(Path::new("/")).is_err());
    }
}
