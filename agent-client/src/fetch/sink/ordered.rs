//! Targets that take the asked bytes in their order: memory, and whoever reads along. What comes too early waits in a
//! bounded window.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use aro_proto::merkle::ByteRanges;
use bytes::Bytes;
use tokio::sync::Notify;

use super::coverage::Coverage;

/// The way from those who prove to the one who reads.
pub(super) struct Ordered {
    state: Mutex<State>,
    /// For those who feed: something was delivered or read.
    room: Notify,
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
    Reader(Reading),
}

/// What was delivered and is not yet read.
#[derive(Default)]
struct Reading {
    pieces: VecDeque<Bytes>,
    bytes: u64,
    waker: Option<Waker>,
    /// Nothing more will come; whether all is there.
    ended: Option<bool>,
    /// Nobody reads any more.
    gone: bool,
}

/// The reading end. Dropped, it lets whoever feeds run on without it.
pub(crate) struct Pieces {
    from: Arc<Ordered>,
}

/// What a reader comes by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next asked bytes.
    Piece(Bytes),
    /// All was read.
    Whole,
    /// Nothing more will come, although something is missing.
    Broken,
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
        let ordered = Arc::new(Self::new(asked, window_bytes, Recipient::Reader(Reading::default())));
        (Arc::clone(&ordered), Pieces { from: ordered })
    }

    fn new(asked: &ByteRanges, window_bytes: usize, to: Recipient) -> Self {
        let asked = asked.iter().collect();
        let state = State { coverage: Coverage::default(), asked, early: BTreeMap::new(), delivered: 0, to };
        let window_bytes = (window_bytes as u64).max(LEAST_WINDOW);
        Self { state: Mutex::new(state), room: Notify::new(), window_bytes }
    }

    /// A node claims this size. False if another is proven.
    pub(super) fn claim(&self, size: u64) -> bool {
        self.lock().coverage.claim(size)
    }

    /// Takes a leaf, and then waits while the reader is behind, or the leaf too far ahead of what is due. Whoever stops
    /// waiting has lost nothing.
    ///
    /// What waited for the leaf may be megabytes. Its pusher delivers them step by step, so that other sources are never
    /// held up by it; should it stop, those that push next go on.
    pub(super) async fn push(&self, offset: u64, bytes: Bytes, ends_at_size: Option<u64>) {
        let was_due = {
            let mut state = self.lock();
            if let Some(size) = ends_at_size {
                state.coverage.prove_size(size);
            }
            state.coverage.add(offset..offset + bytes.len() as u64) && state.take(offset, &bytes)
        };
        let mut delivered = was_due;
        loop {
            // Made before the look, so that nothing is missed between the two.
            let room = self.room.notified();
            let is_behind = {
                let mut state = self.lock();
                delivered |= state.go_on(STEP_BYTES);
                if mem::take(&mut delivered) {
                    state.to.wake();
                    self.room.notify_waiters();
                }
                let is_behind = state.is_behind();
                if !(was_due && is_behind) && state.has_room(offset, self.window_bytes) {
                    return;
                }
                is_behind
            };
            if is_behind { tokio::task::yield_now().await } else { room.await }
        }
    }

    /// Where bytes begin to be too early to be taken without waiting.
    pub(super) fn horizon(&self) -> u64 {
        self.lock().due().saturating_add(self.window_bytes)
    }

    /// Nothing more will come. The first word on whether all is there stands.
    pub(super) fn end(&self, is_whole: bool) {
        let mut state = self.lock();
        // The others hear it from whoever waits for the fetch.
        let Recipient::Reader(_) = state.to else { return };
        state.go_on(u64::MAX);
        state.to.end(is_whole);
    }

    /// What was delivered, and the bytes, if they went to memory.
    pub(super) fn finish(&self) -> (u64, Vec<u8>) {
        let mut state = self.lock();
        state.go_on(u64::MAX);
        let memory = match &mut state.to {
            Recipient::Memory(memory) => mem::take(memory),
            Recipient::Caller(_) | Recipient::Reader(_) => Vec::new(),
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
    /// Delivers the asked parts of a leaf whose turn it is, and keeps the rest. True if something was delivered.
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
        self.delivered > before
    }

    /// Delivers of what waited, as far as it is due, about `most` bytes. True if it was something.
    fn go_on(&mut self, most: u64) -> bool {
        let before = self.delivered;
        while self.delivered - before < most && self.is_behind() {
            let Some((offset, bytes)) = self.early.pop_first() else { break };
            self.deliver(offset, &bytes);
        }
        self.delivered > before
    }

    /// Whether something waits whose turn it is.
    fn is_behind(&self) -> bool {
        self.early.first_key_value().is_some_and(|(first, _)| *first <= self.due())
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
            Recipient::Reader(reading) => reading.gone || reading.bytes <= window_bytes,
        };
        is_read && offset <= self.due().saturating_add(window_bytes)
    }
}

impl Recipient {
    fn take(&mut self, offset: u64, piece: Bytes) {
        match self {
            Self::Memory(memory) => memory.extend_from_slice(&piece),
            Self::Caller(take) => take(offset, piece),
            Self::Reader(reading) if reading.gone => {}
            Self::Reader(reading) => {
                reading.bytes += piece.len() as u64;
                reading.pieces.push_back(piece);
            }
        }
    }

    fn end(&mut self, is_whole: bool) {
        if let Self::Reader(reading) = self {
            reading.ended.get_or_insert(is_whole);
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Self::Reader(reading) = self
            && let Some(waker) = reading.waker.take()
        {
            waker.wake();
        }
    }
}

impl Pieces {
    /// The next piece, or how it ended.
    pub(crate) fn poll_next(&mut self, context: &Context<'_>) -> Poll<Next> {
        let mut state = self.from.lock();
        let Recipient::Reader(reading) = &mut state.to else { return Poll::Ready(Next::Broken) };
        if let Some(piece) = reading.pieces.pop_front() {
            reading.bytes -= piece.len() as u64;
            drop(state);
            self.from.room.notify_waiters();
            return Poll::Ready(Next::Piece(piece));
        }
        match reading.ended {
            Some(true) => Poll::Ready(Next::Whole),
            Some(false) => Poll::Ready(Next::Broken),
            None => {
                reading.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if let Recipient::Reader(reading) = &mut self.from.lock().to {
            *reading = Reading { gone: true, ..Reading::default() };
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

/// Delivered under one lock, of what waited: 512 KiB, a copy of some tenth of a millisecond.
const STEP_BYTES: u64 = 512 << 10;
/// Room for a group of each of a few sources: 1 MiB.
const LEAST_WINDOW: u64 = 1 << 20;
