//! Where an uploaded content comes from: a file, hashed before it is sent; a stream that is kept in one; or a stream that
//! is hashed while it is sent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread;

use aro_proto::ContentId;
use aro_proto::limits::MAX_CONTENT_SIZE;
use aro_proto::merkle::{GroupHashes, OutboardBuilder, ParentIndex, outboard_len, parent_offset};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use crate::error::FetchError;

/// What is to be published. More kinds come with manifests.
#[non_exhaustive]
pub enum PublishSource {
    /// A file. It is read twice, once for its id, and must not change meanwhile.
    File(PathBuf),
    /// Bytes to their end, which nobody knows beforehand, kept in a nameless temporary file and then sent as one: where the
    /// upload breaks off it goes on, and so does the next one that brings the same bytes.
    Spool(Box<dyn AsyncRead + Send + Unpin>),
    /// The same, sent as they come: nothing is kept, so such an upload cannot be resumed.
    Stream(Box<dyn AsyncRead + Send + Unpin>),
}

/// A stream that knows whether anybody has begun to read it.
pub(super) struct Unread {
    bytes: Box<dyn AsyncRead + Send + Unpin>,
    has_begun: bool,
}

impl Unread {
    pub(super) fn new(bytes: Box<dyn AsyncRead + Send + Unpin>) -> Self {
        Self { bytes, has_begun: false }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }
}

impl AsyncRead for Unread {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.has_begun = true;
        Pin::new(&mut self.bytes).poll_read(context, buffer)
    }
}

impl PublishSource {
    /// Reads to the end of `bytes`, and then sends what the node lacks of them.
    pub fn spool(bytes: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self::Spool(Box::new(bytes))
    }

    /// Reads to the end of `bytes`, and sends them meanwhile.
    pub fn stream(bytes: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self::Stream(Box::new(bytes))
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for PublishSource {
    fn from(path: &P) -> Self {
        Self::File(path.as_ref().to_owned())
    }
}

/// A file with its id and hashes. The hashes lie in a nameless temporary file, 0.4 % of the content's size.
#[derive(Debug)]
pub(super) struct HashedFile {
    pub(super) content: ContentId,
    pub(super) size: u64,
    data: File,
    outboard: File,
}

impl HashedFile {
    /// Reads a file through. Blocks on the disk; memory is 256 KiB for each thread.
    pub(super) fn open(path: &Path) -> Result<Self, FetchError> {
        let named = |error: io::Error| source(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
        let data = File::open(path).map_err(named)?;
        let meta = data.metadata().map_err(named)?;
        if !meta.is_file() {
            return Err(named(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        Self::hash(data, meta.len(), named)
    }

    /// Keeps all that `bytes` bring, at most `limit`. The file has no name, and is gone with the last handle on it.
    pub(super) async fn spool(bytes: &mut (dyn AsyncRead + Send + Unpin), limit: u64) -> Result<Self, FetchError> {
        let spool = blocking(|| tempfile::tempfile().map_err(source)).await?;
        let mut spool = tokio::fs::File::from_std(spool);
        // One byte more tells that there is more.
        let size = tokio::io::copy(&mut bytes.take(limit.saturating_add(1)), &mut spool).await.map_err(source)?;
        spool.flush().await.map_err(source)?;
        if size > limit {
            return Err(FetchError::TooLarge { size, limit });
        }
        let data = spool.into_std().await;
        blocking(move || Self::hash(data, size, source)).await
    }

    fn hash(data: File, size: u64, named: impl Fn(io::Error) -> FetchError) -> Result<Self, FetchError> {
        if size > MAX_CONTENT_SIZE {
            return Err(FetchError::TooLarge { size, limit: MAX_CONTENT_SIZE });
        }
        let outboard = tempfile::tempfile().map_err(source)?;
        outboard.set_len(outboard_len(size)).map_err(source)?;
        let mut builder = OutboardBuilder::new(size);
        hash_stretches(&data, size, |hashed| {
            let mut written = Ok(());
            let next = builder.update_hashed(&hashed.map_err(&named)?, |offset, run| {
                if written.is_ok() {
                    written = outboard.write_all_at(run, offset);
                }
            });
            next.map_err(|error| source(io::Error::other(error)))?;
            written.map_err(source)
        })?;
        if read_some(&data, &mut [0], size).map_err(&named)? > 0 {
            return Err(named(io::Error::other("it grew while it was read")));
        }
        let content = builder.finish().map_err(|error| named(io::Error::other(error)))?;
        Ok(Self { content, size, data, outboard })
    }

    /// Reads what lies in the file from `offset` on.
    pub(super) fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.data.read_exact_at(bytes, offset)
    }

    /// Reads a pair of hashes.
    pub(super) fn read_pair(&self, pair: &mut [u8], node: ParentIndex) -> io::Result<()> {
        let offset = parent_offset(self.size, node).ok_or(io::ErrorKind::InvalidInput)?;
        self.outboard.read_exact_at(pair, offset)
    }
}

/// Hashes a file stretch by stretch, which are then taken in order. A large one is hashed by several threads, each of which
/// reads for itself.
fn hash_stretches(
    data: &File,
    size: u64,
    mut take: impl FnMut(io::Result<GroupHashes>) -> Result<(), FetchError>,
) -> Result<(), FetchError> {
    let starts = (0..size).step_by(STRETCH);
    if size < SPREAD_FROM {
        let mut buffer = Vec::new();
        return starts.into_iter().try_for_each(|offset| take(hash_stretch(data, size, offset, &mut buffer)));
    }
    let threads = thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    thread::scope(|scope| {
        let mut all = Vec::with_capacity(threads);
        for first in 0..threads {
            let (hashed, to_take) = mpsc::sync_channel(AHEAD);
            let starts = starts.clone().skip(first).step_by(threads);
            let hasher = thread::Builder::new().name("publish-hash".into());
            let hashing = hasher.spawn_scoped(scope, move || {
                let mut buffer = Vec::new();
                for offset in starts {
                    // Whoever takes has gone after an error.
                    if hashed.send(hash_stretch(data, size, offset, &mut buffer)).is_err() {
                        break;
                    }
                }
            });
            hashing.map_err(source)?;
            all.push(to_take);
        }
        for (_, to_take) in starts.zip(all.iter().cycle()) {
            take(to_take.recv().map_err(|_| source(io::Error::other("a thread that hashes stopped")))?)?;
        }
        Ok(())
    })
}

fn hash_stretch(data: &File, size: u64, offset: u64, buffer: &mut Vec<u8>) -> io::Result<GroupHashes> {
    let len = usize::try_from(size - offset).map_or(STRETCH, |left| left.min(STRETCH));
    buffer.resize(len, 0);
    data.read_exact_at(buffer, offset)?;
    GroupHashes::new(size, offset, buffer).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Reads what one read brings, 0 bytes at the end.
fn read_some(data: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match data.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| source(io::Error::other(error)))?
}

pub(super) fn source(error: io::Error) -> FetchError {
    FetchError::Source(Arc::new(error))
}

/// Bytes that are read and hashed at once: long enough for BLAKE3 to run at full speed, short enough to stay near a core.
const STRETCH: usize = 256 << 10;
/// Stretches that a thread may be ahead of the one that takes them.
const AHEAD: usize = 8;
/// Threads that hash one file. What four hash in a second no network takes.
const MAX_THREADS: usize = 4;
/// Bytes of a file from which on several threads hash it: below, starting them costs more than it gains.
const SPREAD_FROM: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_hash_a_file_its_id_is_that_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let spread = SPREAD_FROM as usize;
        for size in [0, 1, STRETCH, STRETCH + 1, spread - 1, spread, spread + 70_001, 3 * spread + 16_384] {
            let bytes: Vec<u8> = (0..size).map(|place| (place / 3 % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let hashed = HashedFile::open(&path).unwrap();
            assert_eq!((hashed.content, hashed.size), (ContentId::of(&bytes), size as u64));
        }
    }

    #[test]
    fn a_file_that_is_not_as_long_as_it_was_is_no_content() {
        for announced in [9, 11, SPREAD_FROM] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(b"ten bytes.", 0).unwrap();
            assert!(matches!(HashedFile::hash(file, announced, source), Err(FetchError::Source(_))), "{announced}");
        }
    }

    #[test]
    fn an_error_ends_all_threads_that_hash() {
        let zeros = File::open("/dev/zero").unwrap();
        let mut left = 20;
        let outcome = hash_stretches(&zeros, MAX_CONTENT_SIZE, |hashed| {
            assert!(hashed.is_ok());
            left -= 1;
            if left == 0 { Err(source(io::ErrorKind::StorageFull.into())) } else { Ok(()) }
        });
        assert!(matches!(outcome, Err(FetchError::Source(error)) if error.kind() == io::ErrorKind::StorageFull));
    }
}
