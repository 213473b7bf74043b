//! Where an uploaded content comes from: a file, hashed before it is sent; a stream that is kept in one; or a stream that
//! is hashed while it is sent.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread;

use aro_proto::ContentId;
use aro_proto::limits::MAX_CONTENT_SIZE;
use aro_proto::merkle::{OutboardBuilder, ParentIndex, outboard_len, parent_offset};
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
    /// Reads a file through. Blocks on the disk; memory is 1 MiB or less.
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
        let mut data = spool.into_std().await;
        blocking(move || {
            data.rewind().map_err(source)?;
            Self::hash(data, size, source)
        })
        .await
    }

    fn hash(data: File, size: u64, named: impl Fn(io::Error) -> FetchError) -> Result<Self, FetchError> {
        if size > MAX_CONTENT_SIZE {
            return Err(FetchError::TooLarge { size, limit: MAX_CONTENT_SIZE });
        }
        let outboard = tempfile::tempfile().map_err(source)?;
        outboard.set_len(outboard_len(size)).map_err(source)?;
        let mut builder = OutboardBuilder::new(size);
        read_through(&data, size, &named, |bytes| {
            let mut written = Ok(());
            builder.update(bytes, |offset, run| {
                if written.is_ok() {
                    written = outboard.write_all_at(run, offset);
                }
            });
            written.map_err(source)
        })?;
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

/// Reads a file to its end, piece by piece. A large one is read by a thread of its own, so that what was read is taken
/// meanwhile.
fn read_through(
    data: &File,
    size: u64,
    named: impl Fn(io::Error) -> FetchError,
    mut take: impl FnMut(&[u8]) -> Result<(), FetchError>,
) -> Result<(), FetchError> {
    if size < AHEAD_FROM {
        let mut buffer = vec![0; READ_BUFFER];
        loop {
            match read_some(data, &mut buffer).map_err(&named)? {
                0 => return Ok(()),
                read => take(&buffer[..read])?,
            }
        }
    }
    thread::scope(|scope| {
        let (full, to_take) = mpsc::sync_channel(BUFFERS);
        let (empty, taken) = mpsc::channel::<Vec<u8>>();
        for _ in 0..BUFFERS {
            let _ = empty.send(vec![0; READ_BUFFER]);
        }
        let reader = thread::Builder::new().name("publish-read".into());
        let reading = reader.spawn_scoped(scope, move || {
            for mut buffer in taken {
                let read = read_some(data, &mut buffer);
                let goes_on = matches!(read, Ok(1..));
                // Whoever takes has gone after an error of its own.
                if full.send((buffer, read)).is_err() || !goes_on {
                    break;
                }
            }
        });
        reading.map_err(source)?;
        for (buffer, read) in to_take {
            take(&buffer[..read.map_err(&named)?])?;
            let _ = empty.send(buffer);
        }
        Ok(())
    })
}

/// Reads what one read brings, 0 bytes at the end.
fn read_some(mut data: &File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match data.read(buffer) {
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

/// Bytes read at once: long enough for BLAKE3 to run at full speed, short enough to stay near the cores.
const READ_BUFFER: usize = 256 << 10;
/// Buffers that are read while another is hashed.
const BUFFERS: usize = 3;
/// Bytes of a file from which on it is read by a thread of its own: below, starting one costs more than it gains.
const AHEAD_FROM: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_way_a_file_is_read_its_id_is_that_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for size in [0, 1, READ_BUFFER, AHEAD_FROM as usize - 1, AHEAD_FROM as usize, AHEAD_FROM as usize + 70_001] {
            let bytes: Vec<u8> = (0..size).map(|place| (place / 3 % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let hashed = HashedFile::open(&path).unwrap();
            assert_eq!((hashed.content, hashed.size), (ContentId::of(&bytes), size as u64));
        }
    }

    #[test]
    fn a_file_that_is_not_as_long_as_it_was_is_no_content() {
        for announced in [9, 11, AHEAD_FROM] {
            let mut file = tempfile::tempfile().unwrap();
            io::Write::write_all(&mut file, b"ten bytes.").unwrap();
            file.rewind().unwrap();
            assert!(matches!(HashedFile::hash(file, announced, source), Err(FetchError::Source(_))), "{announced}");
        }
    }

    #[test]
    fn what_goes_wrong_behind_the_reader_ends_it() {
        let zeros = File::open("/dev/zero").unwrap();
        let mut left = 20;
        let outcome = read_through(&zeros, u64::MAX, source, |bytes| {
            assert_eq!(bytes.len(), READ_BUFFER);
            left -= 1;
            if left == 0 { Err(source(io::ErrorKind::StorageFull.into())) } else { Ok(()) }
        });
        assert!(matches!(outcome, Err(FetchError::Source(error)) if error.kind() == io::ErrorKind::StorageFull));
        let folder = File::open(tempfile::tempdir().unwrap().path()).unwrap();
        assert!(matches!(read_through(&folder, u64::MAX, source, |_| Ok(())), Err(FetchError::Source(_))));
    }
}
