//! Targets that take the asked bytes in their order: memory, and whoever reads along. What comes too early waits in a
//! bounded window.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aro_proto::merkle::ByteRanges;
use bytes::Bytes;
use tokio::sync::Notify;

use super::coverage::Coverage;

/// The way from those who prove to the one who reads.
pub(super) struct Ordered {
    state: Mutex<State>,
    /// For those who feed: something was delivered or read.
    room: Notify,
    /// For the reader: something was delivered, or nothing more will be.
    news: Notify,
    window_bytes: u64,
}

struct State {
    coverage: Coverage,
    /// What is still to be delivered, rising.
    asked: VecDeque<Range<u64>>,
    /// What came before its turn, by offset; already cut to asked ranges.
    early: BTreeMap<u64, Bytes>,
    delivered: u64,
    to: Recipient,
}

enum Recipient {
    Memory(Vec<u8>),
    Caller(Box<dyn FnMut(u64, Bytes) + Send>),
    /// Delivered and not yet read.
    Reader {
        pieces: VecDeque<(u64, Bytes)>,
        bytes: u64,
        ended: bool,
        gone: bool,
    },
}

/// The reading end. Dropped, it lets whoever feeds run on without it.
pub(crate) struct Pieces {
    from: Arc<Ordered>,
}

impl Ordered {
    /// Into memory, as it comes: never by what a node claims.
    pub(super) fn memory(asked: &ByteRanges, window_bytes: usize) -> Self {
        Self::new(asked, window_bytes, Recipient::Memory(Vec::new()))
    }

    /// To the caller, piece by piece, in the task that feeds.
    pub(super) fn caller(
        asked: &ByteRanges,
        window_bytes: usize,
        take: impl FnMut(u64, Bytes) + Send + 'static,
    ) -> Self {
        Self::new(asked, window_bytes, Recipient::Caller(Box::new(take)))
    }

    /// To a reader, at most about `window_bytes` ahead of it.
    pub(super) fn reader(asked: &ByteRanges, window_bytes: usize) -> (Arc<Self>, Pieces) {
        let to = Recipient::Reader { pieces: VecDeque::new(), bytes: 0, ended: false, gone: false };
        let ordered = Arc::new(Self::new(asked, window_bytes, to));
        (Arc::clone(&ordered), Pieces { from: ordered })
    }

    fn new(asked: &ByteRanges, window_bytes: usize, to: Recipient) -> Self {
        let asked = asked.iter().collect();
        let state = State { coverage: Coverage::default(), asked, early: BTreeMap::new(), delivered: 0, to };
        let window_bytes = (window_bytes as u64).max(LEAST_WINDOW);
        Self { state: Mutex::new(state), room: Notify::new(), news: Notify::new(), window_bytes }
    }

    /// A node claims this size. False if another is proven.
    pub(super) fn claim(&self, size: u64) -> bool {
        self.lock().coverage.claim(size)
    }

    /// Takes a leaf, and then waits while the reader is behind, or the leaf too far ahead of what is due. Whoever stops
    /// waiting has lost nothing.
    pub(super) async fn push(&self, offset: u64, bytes: Bytes, ends_at_size: Option<u64>) {
        {
            let mut state = self.lock();
            if let Some(size) = ends_at_size {
                state.coverage.prove_size(size);
            }
            if state.coverage.add(offset..offset + bytes.len() as u64) && state.take(offset, &bytes) {
                self.news.notify_one();
                self.room.notify_waiters();
            }
            if state.has_room(offset, self.window_bytes) {
                return;
            }
        }
        loop {
            // Made before the look, so that nothing is missed between the two.
            let room = self.room.notified();
            if self.lock().has_room(offset, self.window_bytes) {
                return;
            }
            room.await;
        }
    }

    /// Where bytes begin to be too early to be taken without waiting.
    pub(super) fn horizon(&self) -> u64 {
        self.lock().due().saturating_add(self.window_bytes)
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        if let Recipient::Reader { ended, .. } = &mut self.lock().to {
            *ended = true;
        }
        self.news.notify_one();
    }

    /// What was delivered, and the bytes, if they went to memory.
    pub(super) fn finish(&self) -> (u64, Vec<u8>) {
        let mut state = self.lock();
        let memory = match &mut state.to {
            Recipient::Memory(memory) => mem::take(memory),
            Recipient::Caller(_) | Recipient::Reader { .. } => Vec::new(),
        };
        (state.delivered, memory)
    }

    pub(super) fn coverage(&self) -> Coverage {
        self.lock().coverage.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in between can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Delivers the asked parts of a leaf whose turn it is, with all that waited for it, and keeps the rest. True if
    /// something was delivered.
    fn take(&mut self, offset: u64, bytes: &Bytes) -> bool {
        let before = self.delivered;
        // Usually the leaf is the next, or a part of it.
        let mut rest = self.deliver(offset, bytes);
        if rest < bytes.len() {
            for range in &self.asked {
                let Some(wanted) = overlap(range, offset, bytes.len()) else { continue };
                let wanted = wanted.start.max(rest)..wanted.end;
                if wanted.start < wanted.end {
                    rest = wanted.end;
                    self.early.insert(offset + wanted.start as u64, bytes.slice(wanted));
                }
            }
        }
        if self.delivered > before {
            while let Some(first) = self.early.first_entry().filter(|first| *first.key() <= due(&self.asked)) {
                let (offset, bytes) = first.remove_entry();
                self.deliver(offset, &bytes);
            }
        }
        self.delivered > before
    }

    /// Delivers from a piece what is due, as far as that goes; returns where in the piece it stopped.
    fn deliver(&mut self, offset: u64, bytes: &Bytes) -> usize {
        let mut stopped = 0;
        while let Some(range) = self.asked.front_mut() {
            let due = range.start;
            let Some(wanted) = overlap(range, offset, bytes.len()).filter(|wanted| offset + wanted.start as u64 == due)
            else {
                break;
            };
            stopped = wanted.end;
            range.start += (wanted.end - wanted.start) as u64;
            if range.is_empty() {
                self.asked.pop_front();
            }
            self.delivered += (wanted.end - wanted.start) as u64;
            self.to.take(due, bytes.slice(wanted));
        }
        stopped
    }

    fn due(&self) -> u64 {
        due(&self.asked)
    }

    fn has_room(&self, offset: u64, window_bytes: u64) -> bool {
        let is_read = match &self.to {
            Recipient::Memory(_) | Recipient::Caller(_) => true,
            Recipient::Reader { bytes, gone, .. } => *gone || *bytes <= window_bytes,
        };
        is_read && offset <= self.due().saturating_add(window_bytes)
    }
}

impl Recipient {
    fn take(&mut self, offset: u64, piece: Bytes) {
        match self {
            Self::Memory(memory) => memory.extend_from_slice(&piece),
            Self::Caller(take) => take(offset, piece),
            Self::Reader { gone: true, .. } => {}
            Self::Reader { pieces, bytes, .. } => {
                *bytes += piece.len() as u64;
                pieces.push_back((offset, piece));
            }
        }
    }
}

impl Pieces {
    /// The next piece: where it begins in the content, and its bytes. None at the end. Safe to cancel.
    pub(crate) async fn next(&mut self) -> Option<(u64, Bytes)> {
        loop {
            if let Some(piece) = self.try_next() {
                return Some(piece);
            }
            if matches!(self.from.lock().to, Recipient::Reader { ended: true, ref pieces, .. } if pieces.is_empty()) {
                return None;
            }
            // Leaves a permit if it comes before the wait.
            self.from.news.notified().await;
        }
    }

    /// The next piece, if it is there.
    pub(crate) fn try_next(&mut self) -> Option<(u64, Bytes)> {
        let mut state = self.from.lock();
        let Recipient::Reader { pieces, bytes, .. } = &mut state.to else { return None };
        let piece = pieces.pop_front()?;
        *bytes -= piece.1.len() as u64;
        drop(state);
        self.from.room.notify_waiters();
        Some(piece)
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if let Recipient::Reader { pieces, bytes, gone, .. } = &mut self.from.lock().to {
            pieces.clear();
            *bytes = 0;
            *gone = true;
        }
        self.from.room.notify_waiters();
    }
}

fn due(asked: &VecDeque<Range<u64>>) -> u64 {
    asked.front().map_or(u64::MAX, |range| range.start)
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

/// Room for a group of each of a few sources: 1 MiB.
const LEAST_WINDOW: u64 = 1 << 20;
