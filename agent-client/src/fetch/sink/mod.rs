//! Where proven bytes go: a file, memory, or somebody who reads along. Only [`ProvenLeaf`]s get in, from any number of
//! tasks at once and in any order.
//!
//! Every task that receives has its own [`Feed`], which counts for its request what is safe: in a file, what is written.
//! What comes twice is recognised and counted, but kept once. Back-pressure comes after a leaf is taken, so that
//! whoever is cancelled while it waits has lost nothing.

#![allow(clippy::single_range_in_vec_init, reason = "one range of bytes is what is meant")]

mod coverage;
mod file;
mod ordered;
mod part;
#[cfg(test)]
mod tests;
mod uncached;
mod writer;

use std::mem;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aro_proto::ContentId;
use aro_proto::merkle::{ByteRanges, GroupSize, PAIR_LEN, ParentIndex, ProvenLeaf};
use bytes::Bytes;

use super::account::Tally;
use crate::error::FetchError;
use coverage::Coverage;
use file::FileTarget;
pub(super) use file::Memory;
use ordered::Ordered;
pub(crate) use ordered::{Next, Pieces};

/// Takes the proven bytes of one fetch and keeps those that were asked for. Clones share it.
#[derive(Clone)]
pub(super) struct Output {
    shared: Arc<Shared>,
}

struct Shared {
    content: ContentId,
    asked: ByteRanges,
    target: Target,
}

enum Target {
    File(FileTarget),
    Ordered(Arc<Ordered>),
}

/// What was written.
#[derive(Debug)]
pub(super) struct Written {
    /// Bytes delivered.
    pub(super) bytes: u64,
    /// The content's size: a fact if `size_proven`, else what a node claimed last.
    pub(super) size: u64,
    pub(super) size_proven: bool,
    /// The bytes themselves, if they went to memory.
    pub(super) memory: Vec<u8>,
}

impl Output {
    /// Into memory, as it comes: never by what a node claims. Sources may be `window_bytes` ahead of what is due.
    pub(super) fn memory(content: ContentId, asked: ByteRanges, window_bytes: usize) -> Self {
        let target = Target::Ordered(Arc::new(Ordered::memory(&asked, window_bytes)));
        Self { shared: Arc::new(Shared { content, asked, target }) }
    }

    /// To the caller, in order and piece by piece, in the task that feeds.
    pub(super) fn caller(
        content: ContentId,
        asked: ByteRanges,
        window_bytes: usize,
        take: impl FnMut(u64, Bytes) + Send + 'static,
    ) -> Self {
        let target = Target::Ordered(Arc::new(Ordered::caller(&asked, window_bytes, take)));
        Self { shared: Arc::new(Shared { content, asked, target }) }
    }

    /// To a reader, in order; sources may be `window_bytes` ahead of it.
    pub(super) fn reader(content: ContentId, asked: ByteRanges, window_bytes: usize) -> (Self, Pieces) {
        let (ordered, pieces) = Ordered::reader(&asked, window_bytes);
        let target = Target::Ordered(ordered);
        (Self { shared: Arc::new(Shared { content, asked, target }) }, pieces)
    }

    /// Into a file, within so much memory. With `resume`, what an earlier fetch of this content
    /// left beside the file is proven anew and need not be fetched again.
    pub(super) async fn file(
        path: PathBuf,
        content: ContentId,
        asked: ByteRanges,
        memory: Memory,
        resume: bool,
    ) -> Result<Self, FetchError> {
        let ranges = asked.clone();
        let opening = tokio::task::spawn_blocking(move || FileTarget::open(&path, content, &ranges, resume, memory));
        let target = Target::File(opening.await.map_err(std::io::Error::other)??);
        Ok(Self { shared: Arc::new(Shared { content, asked, target }) })
    }

    /// What still has to be fetched: at most 256 ranges at once, so ask again when they are there. None if nothing is
    /// missing.
    pub(super) fn missing(&self) -> Option<ByteRanges> {
        self.coverage().missing(&self.shared.asked)
    }

    /// How many of the asked bytes are there.
    pub(super) fn held_bytes(&self) -> u64 {
        self.coverage().held(&self.shared.asked)
    }

    /// The largest groups in which nothing is fetched again that is there.
    pub(super) fn group(&self, largest: GroupSize) -> GroupSize {
        if self.coverage().is_aligned(largest) { largest } else { GroupSize::KIB16 }
    }

    /// Where bytes begin to be too early: whoever pushes them waits until those before them are there. A file takes
    /// everything at once.
    pub(super) fn horizon(&self) -> u64 {
        match &self.shared.target {
            Target::File(_) => u64::MAX,
            Target::Ordered(ordered) => ordered.horizon(),
        }
    }

    /// The way in for one request, whose node claims a content of `size` bytes. None if another size is proven.
    pub(super) fn feed(&self, tally: Arc<Tally>, size: u64) -> Option<Feed> {
        let agrees = match &self.shared.target {
            Target::File(file) => file.claim(size),
            Target::Ordered(ordered) => ordered.claim(size),
        };
        agrees.then(|| Feed { output: self.clone(), tally, size, pairs: Mutex::default() })
    }

    /// All that was asked for has been pushed: makes it durable and puts it in place.
    pub(super) async fn finish(&self) -> Result<Written, FetchError> {
        let coverage = self.coverage();
        let (size, size_proven) = (coverage.claimed(), coverage.size().is_some());
        let (bytes, memory) = match &self.shared.target {
            Target::File(file) => (file.commit(&self.shared.asked).await?, Vec::new()),
            Target::Ordered(ordered) => {
                ordered.end(true);
                ordered.finish()
            }
        };
        Ok(Written { bytes, size, size_proven, memory })
    }

    fn coverage(&self) -> Coverage {
        match &self.shared.target {
            Target::File(file) => file.coverage(),
            Target::Ordered(ordered) => ordered.coverage(),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Target::Ordered(ordered) = &self.target {
            ordered.end(false);
        }
    }
}

/// One request's way into an [`Output`].
pub(super) struct Feed {
    output: Output,
    tally: Arc<Tally>,
    size: u64,
    /// Proven since the last leaf: those above the next.
    pairs: Mutex<Vec<Pair>>,
}

/// A pair of hashes and its place in the tree.
type Pair = (ParentIndex, [u8; PAIR_LEN]);

impl Feed {
    /// Keeps a proven pair of hashes, where the target is one that can be taken up again.
    pub(super) fn pair(&self, node: ParentIndex, pair: [u8; PAIR_LEN]) {
        if let Target::File(_) = &self.output.shared.target {
            self.lock_pairs().push((node, pair));
        }
    }

    /// Takes one proven leaf, counts it, and waits while the target is behind.
    // r[impl channel.pay_proven_only]
    pub(super) async fn push(&self, leaf: ProvenLeaf<Bytes>) -> Result<(), FetchError> {
        debug_assert_eq!(leaf.content(), self.output.shared.content, "a leaf of another content");
        let (offset, len) = (leaf.offset(), leaf.len());
        let bytes = leaf.into_bytes();
        match &self.output.shared.target {
            Target::File(file) => {
                self.tally.taken(len);
                let pairs = mem::take(&mut *self.lock_pairs());
                file.push(offset, bytes, pairs, self.size, Some(&self.tally)).await
            }
            Target::Ordered(ordered) => {
                self.tally.proved(len);
                let ends_at_size = (offset + len == self.size).then_some(self.size);
                ordered.push(offset, bytes, ends_at_size).await;
                Ok(())
            }
        }
    }

    fn lock_pairs(&self) -> MutexGuard<'_, Vec<Pair>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nothing can be pushed any more, which only a disk brings about.
    pub(super) async fn failed(&self) -> FetchError {
        match &self.output.shared.target {
            Target::File(file) => file.failed().await,
            Target::Ordered(_) => std::future::pending().await,
        }
    }

    /// Waits until everything that was pushed is safe, and counted as such.
    pub(super) async fn flush(&self) -> Result<(), FetchError> {
        match &self.output.shared.target {
            Target::File(file) => file.flush().await,
            Target::Ordered(_) => Ok(()),
        }
    }
}
