//! Where an uploaded content comes from: a file, hashed before it is sent; a stream that is kept in one; or a stream that
//! is hashed while it is sent.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aro_proto::ContentId;
use aro_proto::channel::BATCH_BYTES;
use aro_proto::limits::MAX_CONTENT_SIZE;
use aro_proto::merkle::{AnsweredRanges, Encoder, OutboardBuilder, PAIR_LEN, Step, outboard_len, parent_offset};
use bytes::Bytes;
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

/// Reads an encoding batch by batch.
pub(super) struct Encoding {
    file: Arc<HashedFile>,
    steps: std::iter::Peekable<Encoder>,
}

/// A stretch of an encoding.
pub(super) struct Batch {
    pub(super) wire: Bytes,
    /// Content bytes in it.
    pub(super) content_bytes: u64,
}

impl HashedFile {
    /// Reads a file through. Blocks on the disk; memory is 1 MiB.
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

    fn hash(mut data: File, size: u64, named: impl Fn(io::Error) -> FetchError) -> Result<Self, FetchError> {
        if size > MAX_CONTENT_SIZE {
            return Err(FetchError::TooLarge { size, limit: MAX_CONTENT_SIZE });
        }
        let outboard = tempfile::tempfile().map_err(source)?;
        outboard.set_len(outboard_len(size)).map_err(source)?;
        let (mut builder, mut buffer, mut written) = (OutboardBuilder::new(size), vec![0; READ_BUFFER], Ok(()));
        loop {
            let read = match data.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(named(error)),
            };
            builder.update(&buffer[..read], |offset, run| {
                if written.is_ok() {
                    written = outboard.write_all_at(run, offset);
                }
            });
            std::mem::replace(&mut written, Ok(())).map_err(source)?;
        }
        let content = builder.finish().map_err(|error| named(io::Error::other(error)))?;
        Ok(Self { content, size, data, outboard })
    }
}

impl Encoding {
    pub(super) fn new(file: Arc<HashedFile>, answered: AnsweredRanges) -> Self {
        Self { file, steps: Encoder::new(answered).peekable() }
    }

    /// The next batch of at most 256 KiB of content; `None` after the last. Blocks on the disk.
    pub(super) fn next_batch(&mut self) -> io::Result<Option<Batch>> {
        if self.steps.peek().is_none() {
            return Ok(None);
        }
        let (mut wire, mut content_bytes) = (Vec::with_capacity(BATCH_CAPACITY), 0);
        let fits = |content: u64, step: &Step| match step {
            Step::Parent(_) => content < BATCH_BYTES,
            Step::Leaf { len, .. } => content + u64::from(*len) <= BATCH_BYTES,
        };
        while let Some(step) = self.steps.next_if(|step| fits(content_bytes, step)) {
            let start = wire.len();
            match step {
                Step::Parent(node) => {
                    let offset = parent_offset(self.file.size, node).ok_or(io::ErrorKind::InvalidInput)?;
                    wire.resize(start + PAIR_LEN, 0);
                    self.file.outboard.read_exact_at(&mut wire[start..], offset)?;
                }
                Step::Leaf { offset, len } => {
                    wire.resize(start + len as usize, 0);
                    self.file.data.read_exact_at(&mut wire[start..], offset)?;
                    content_bytes += u64::from(len);
                }
            }
        }
        Ok(Some(Batch { wire: wire.into(), content_bytes }))
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

/// Bytes read at once: long enough for BLAKE3 to run at full speed.
const READ_BUFFER: usize = 1 << 20;
/// A batch and the pairs that may stand in it.
const BATCH_CAPACITY: usize = BATCH_BYTES as usize + 4096;
