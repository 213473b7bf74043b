//! A file as target: proven leaves queue up for a thread that writes them, each at its place.

use std::io;
use std::mem;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ScopedJoinHandle};

use aro_proto::ContentId;
use aro_proto::merkle::ByteRanges;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::Pair;
use super::coverage::Coverage;
use super::part::Part;
use super::writer::Writer;
use crate::error::FetchError;
use crate::fetch::account::Tally;

/// The queue's front end. Dropped, it lets the writer finish what is queued, and the part file stays for the next try,
/// unless nothing was taken.
pub(super) struct FileTarget {
    queue: Arc<Queue>,
    part: Arc<Part>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What a fetch to a file may take of the machine's memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::fetch) struct Memory {
    /// What waits for the disk.
    pub(in crate::fetch) queue_bytes: usize,
    /// What of a file may stay in the system's page cache; one that is expected to be larger goes past it.
    pub(in crate::fetch) cached_bytes: u64,
}

/// Leaves between the tasks that prove them and the thread that writes them.
struct Queue {
    state: Mutex<Queued>,
    /// For the writer: there is a batch, or an end.
    work: Condvar,
    /// For those who feed: a batch is written, or never will be.
    room: Notify,
    /// For those who wait for something else: nothing is written any more.
    broken: Notify,
    limit_bytes: usize,
}

struct Queued {
    coverage: Coverage,
    batch: Batch,
    /// The last size that went into a batch, and whether it is proven.
    noted: Option<(u64, bool)>,
    /// Bytes taken so far, and how many of them are written.
    taken: u64,
    written: u64,
    /// Somebody waits for what is queued.
    flushing: bool,
    /// Nothing more will come.
    ended: bool,
    failed: Option<Arc<io::Error>>,
}

#[derive(Default)]
struct Batch {
    /// Claimed or proven.
    sizes: Vec<(u64, bool)>,
    pairs: Vec<Pair>,
    leaves: Vec<Leaf>,
    bytes: usize,
}

struct Leaf {
    offset: u64,
    bytes: Bytes,
    tally: Option<Arc<Tally>>,
}

impl FileTarget {
    /// Takes up what an earlier fetch of this content left. Blocks on the disk.
    pub(super) fn open(
        path: &Path,
        content: ContentId,
        asked: &ByteRanges,
        resume: bool,
        memory: Memory,
    ) -> io::Result<Self> {
        let (part, coverage) = Part::open(path, content, asked, resume)?;
        Ok(Self::on(part, coverage, asked, memory))
    }

    /// Goes on with a part that holds what `coverage` says.
    pub(super) fn on(part: Part, coverage: Coverage, asked: &ByteRanges, memory: Memory) -> Self {
        let state = Queued {
            coverage,
            batch: Batch::default(),
            noted: None,
            taken: 0,
            written: 0,
            flushing: false,
            ended: false,
            failed: None,
        };
        let queue = Queue {
            state: Mutex::new(state),
            work: Condvar::new(),
            room: Notify::new(),
            broken: Notify::new(),
            limit_bytes: memory.queue_bytes,
        };
        let (queue, part) = (Arc::new(queue), Arc::new(part));
        let (feed, file, asked) = (Arc::clone(&queue), Arc::clone(&part), asked.clone());
        let writer = tokio::task::spawn_blocking(move || write_queued(&feed, &file, &asked, memory.cached_bytes));
        Self { queue, part, writer: Mutex::new(Some(writer)) }
    }

    /// A node claims this size. False if another is proven.
    pub(super) fn claim(&self, size: u64) -> bool {
        self.queue.lock().coverage.claim(size)
    }

    /// Queues a leaf, and then waits while the disk is behind. Whoever stops waiting has lost nothing.
    ///
    /// `pairs` are those above the leaf that came with it, `size` what its node claims. Both are noted only with a leaf, for
    /// a leaf binds them: its place and its depth in the tree leave no other place for the pairs above it, while pairs by
    /// themselves, under a lie about the size, would be put where others belong.
    pub(super) async fn push(
        &self,
        offset: u64,
        bytes: Bytes,
        pairs: Vec<Pair>,
        size: u64,
        tally: Option<&Arc<Tally>>,
    ) -> Result<(), FetchError> {
        let len = bytes.len();
        {
            let mut state = self.queue.lock();
            state.check()?;
            let is_proven = offset + len as u64 == size;
            if is_proven {
                state.coverage.prove_size(size);
            }
            if state.noted != Some((size, is_proven)) {
                state.noted = Some((size, is_proven));
                state.batch.sizes.push((size, is_proven));
            }
            state.batch.pairs.extend(pairs);
            if !state.coverage.add(offset..offset + len as u64) {
                drop(state);
                // Proven once more, and there already.
                tally.inspect(|tally| tally.safe(len as u64));
                return Ok(());
            }
            state.batch.leaves.push(Leaf { offset, bytes, tally: tally.cloned() });
            let before = state.batch.bytes;
            state.batch.bytes += len;
            state.taken += len as u64;
            if before / WRITE_BYTES < state.batch.bytes / WRITE_BYTES {
                self.queue.work.notify_one();
            }
            if !state.is_full(self.queue.limit_bytes) {
                return Ok(());
            }
        }
        self.queue.wait(|state| !state.is_full(self.queue.limit_bytes)).await
    }

    /// Waits for a failure of the disk. Whoever waits for bytes waits for this too: what is not written is not paid, and
    /// what is not paid for long enough brings no more bytes.
    pub(super) async fn failed(&self) -> FetchError {
        loop {
            // Made before the look, so that nothing is missed between the two.
            let news = self.queue.broken.notified();
            if let Err(error) = self.queue.lock().check() {
                return error;
            }
            news.await;
        }
    }

    /// Waits until everything that was pushed is written.
    pub(super) async fn flush(&self) -> Result<(), FetchError> {
        let target = self.queue.lock().taken;
        self.queue
            .wait(|state| {
                let is_written = state.written >= target;
                if !is_written {
                    // Again each time, for what others push meanwhile may be too little to be written by itself.
                    state.flushing = true;
                    self.queue.work.notify_one();
                }
                is_written
            })
            .await
    }

    /// All that was asked for is there: puts the file in place. Returns its length.
    pub(super) async fn commit(&self, asked: &ByteRanges) -> Result<u64, FetchError> {
        self.flush().await?;
        self.end();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            writer.await.map_err(io::Error::other)?;
        }
        self.queue.lock().check()?;
        let (part, asked, coverage) = (Arc::clone(&self.part), asked.clone(), self.coverage());
        let committed = tokio::task::spawn_blocking(move || part.commit(&asked, &coverage));
        Ok(committed.await.map_err(io::Error::other)??)
    }

    pub(super) fn coverage(&self) -> Coverage {
        self.queue.lock().coverage.clone()
    }

    fn end(&self) {
        self.queue.lock().ended = true;
        self.queue.work.notify_one();
    }
}

impl Drop for FileTarget {
    fn drop(&mut self) {
        if self.queue.lock().coverage.is_untouched() {
            self.part.remove();
        }
        self.end();
    }
}

impl Queue {
    async fn wait(&self, done: impl Fn(&mut Queued) -> bool) -> Result<(), FetchError> {
        loop {
            // Made before the look, so that nothing is missed between the two.
            let news = self.room.notified();
            {
                let mut state = self.lock();
                state.check()?;
                if done(&mut state) {
                    return Ok(());
                }
            }
            news.await;
        }
    }

    /// The next batch, once there is enough to write, or somebody waits for it. None at the end.
    fn next_batch(&self) -> Option<Batch> {
        let mut state = self.lock();
        loop {
            let is_due = state.flushing || state.ended || state.batch.bytes >= WRITE_BYTES;
            if is_due && !state.batch.is_empty() {
                state.flushing = false;
                return Some(mem::take(&mut state.batch));
            }
            if state.ended {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn written(&self, bytes: usize) {
        self.lock().written += bytes as u64;
        self.room.notify_waiters();
    }

    fn fail(&self, error: io::Error) {
        let mut state = self.lock();
        state.batch = Batch::default();
        state.failed = Some(Arc::new(error));
        drop(state);
        self.room.notify_waiters();
        self.broken.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Queued> {
        // Nothing in between can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queued {
    fn check(&self) -> Result<(), FetchError> {
        self.failed.as_ref().map_or(Ok(()), |error| Err(FetchError::Sink(Arc::clone(error))))
    }

    fn is_full(&self, limit_bytes: usize) -> bool {
        self.taken - self.written > limit_bytes.max(WRITE_BYTES) as u64
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.sizes.is_empty() && self.pairs.is_empty() && self.leaves.is_empty()
    }

    /// Proofs first, for they make the bytes worth having. What is written is counted: it survives the process.
    fn write(&mut self, part: &Part, writer: &mut Writer<'_>) -> io::Result<()> {
        for (size, is_proven) in self.sizes.drain(..) {
            part.claim(size, is_proven)?;
        }
        part.write_pairs(&mut self.pairs)?;
        writer.write(self.leaves.iter().map(|leaf| (leaf.offset, &leaf.bytes)))?;
        for leaf in self.leaves.drain(..) {
            let len = leaf.bytes.len() as u64;
            leaf.tally.inspect(|tally| tally.safe(len));
        }
        Ok(())
    }
}

/// Writes batches until the queue ends. A second thread syncs behind it every [`SYNC_BYTES`], so that the last sync is
/// short.
fn write_queued(queue: &Queue, part: &Part, asked: &ByteRanges, cached_bytes: u64) {
    let outcome = thread::scope(|scope| {
        let mut writer = None;
        let mut unsynced = 0;
        let mut syncing: Option<ScopedJoinHandle<'_, io::Result<()>>> = None;
        while let Some(mut batch) = queue.next_batch() {
            let writer = writer.get_or_insert_with(|| {
                let is_large = queue.lock().coverage.expected(asked) > cached_bytes;
                Writer::new(part, if is_large { 0 } else { cached_bytes })
            });
            batch.write(part, writer)?;
            let bytes = batch.bytes;
            unsynced += bytes;
            // Its buffers can be filled again.
            drop(batch);
            queue.written(bytes);
            if unsynced >= SYNC_BYTES && syncing.as_ref().is_none_or(ScopedJoinHandle::is_finished) {
                synced(syncing.take())?;
                syncing = Some(thread::Builder::new().spawn_scoped(scope, || part.sync())?);
                unsynced = 0;
            }
        }
        synced(syncing)
    });
    if let Err(error) = outcome {
        queue.fail(error);
    }
}

fn synced(syncing: Option<ScopedJoinHandle<'_, io::Result<()>>>) -> io::Result<()> {
    let panicked = |_| Err(io::Error::other("the thread that syncs panicked"));
    syncing.map_or(Ok(()), |thread| thread.join().unwrap_or_else(panicked))
}

/// Bytes that go to the system in one write.
const WRITE_BYTES: usize = 256 << 10;
/// Bytes written between two syncs: 64 MiB, enough that a disk is not kept seeking.
const SYNC_BYTES: usize = 64 << 20;
