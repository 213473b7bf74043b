//! Receiving: bytes from the stream go into the decoder, proven bytes come out, are counted and go on.
//!
//! The path of a byte, all in the fetch's own task: up to 64 packets are taken from quinn at once, as they lie there;
//! each is copied once, into a buffer of whole items, for BLAKE3 hashes sixteen chunks side by side and a packet ends
//! anywhere; a group is checked where it lies as soon as it is complete, while it is in the cache, so that the node
//! never waits at its window for bytes that lie unchecked here; and it goes on without another copy, into memory, to a
//! reader, or to the writer's queue. There it is counted, in a file once it is written, which may wake the task that
//! signs. A buffer that nobody reads any more is filled again.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::iter::Peekable;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use aro_proto::error::close;
use aro_proto::merkle::{Encoder, PAIR_LEN, Step, VerifyError};
use aro_proto::{ByteCount, Tariff};
use bytes::{Buf, Bytes, BytesMut};
use quinn::{ReadError, RecvStream, VarInt};

use super::progress::{Progress, Reporter};
use super::request::{Answer, read_failure};
use super::sink::Feed;
use super::sources::Track;
use crate::config::AgentConfig;
use crate::error::FetchError;
use crate::transport::Session;

/// Reads an answer until all of it is proven, or as much as is wanted of a segment by then: the rest is cancelled. On
/// an error everything that was proven before it has been counted, and nothing else.
// r[impl content.verify.unproven]
pub(super) async fn receive(
    answer: &mut Answer,
    session: &Session,
    feed: &Feed,
    progress: &Reporter,
    config: &AgentConfig,
    segment: Option<&Track>,
) -> Result<(), FetchError> {
    let total = answer.decoder.answered().content_bytes();
    let mut batches = Batches { steps: Encoder::new(answer.decoder.answered().clone()).peekable() };
    let mut inflow = Inflow::default();
    let mut buffers = Buffers::default();
    let mut buffer = BytesMut::new();
    let mut room = 0;
    let mut reported = 0;
    while let Some(len) = answer.decoder.expects() {
        if buffer.len() < len {
            if room == 0 {
                room = batches.next_len();
                buffer = buffers.exchange(buffer, room);
            }
            let filling = inflow.fill(&mut answer.recv, &mut buffer, room);
            let waited_ms = config.stall_timeout_ms;
            let in_time = within(Duration::from_millis(waited_ms), filling);
            let filled = tokio::select! {
                biased;
                filled = in_time => filled,
                () = ended(segment) => {
                    cancel(answer);
                    return Ok(());
                }
                failure = feed.failed() => return Err(failure),
            };
            let got = match filled {
                Some(Ok(got)) => got,
                Some(Err(error)) => return Err(read_failure(session, &error)),
                None => return Err(FetchError::Timeout { doing: "receiving", waited_ms }),
            };
            if got == 0 {
                return Err(cut_short(answer, session));
            }
            room -= got;
            answer.wire_bytes += got as u64;
            continue;
        }
        let covers = answer.decoder.next_covers();
        let pair = answer.decoder.next_parent().zip(buffer.first_chunk().copied());
        match answer.decoder.accept(buffer.split_to(len).freeze()) {
            Ok(None) => {
                if let Some((node, pair)) = pair {
                    feed.pair(node, pair);
                }
            }
            Ok(Some(leaf)) => {
                match segment {
                    None => feed.push(leaf).await?,
                    Some(track) => {
                        let is_enough = track.push(feed, leaf, answer.wire_bytes).await?;
                        if is_enough && !answer.decoder.is_complete() {
                            cancel(answer);
                            return Ok(());
                        }
                    }
                }
                let (proven, wire_bytes, tariff) = (answer.account.proven(), answer.wire_bytes, answer.tariff);
                reported = progress.step(reported, || at(proven, total, wire_bytes, &tariff), proven, total);
            }
            Err(error) => {
                // r[impl content.verify.first_error]
                let _ = answer.recv.stop(VarInt::from_u32(close::BAD_PROOF));
                let offset = covers.map_or(total, |range| range.start);
                return Err(proof_failure(answer, session, offset, error));
            }
        }
    }
    end(answer, session, inflow).await;
    Ok(())
}

/// Waits until no more is wanted of a segment. A whole answer is wanted to its end.
async fn ended(segment: Option<&Track>) {
    match segment {
        Some(track) => track.ended().await,
        None => pending().await,
    }
}

/// The rest is not wanted, and not owed.
fn cancel(answer: &mut Answer) {
    // A stream that is closed already needs no stop.
    let _ = answer.recv.stop(VarInt::from_u32(close::CANCELLED));
}

/// All is proven, whatever follows: bytes behind the end, or no end in time, are the node's fault and take nothing
/// back.
// r[impl content.end.harmless]
async fn end(answer: &mut Answer, session: &Session, mut inflow: Inflow) {
    let mut beyond = BytesMut::new();
    let (what, code) = match within(END_WAIT, inflow.fill(&mut answer.recv, &mut beyond, 1)).await {
        Some(Ok(0)) => return,
        Some(Ok(_)) => ("sent bytes behind the end of an answer", close::BAD_PROOF),
        Some(Err(_)) => ("broke off a stream behind the end of an answer", close::DONE),
        None => ("left a stream open behind the end of an answer", close::DONE),
    };
    // A stream that is closed already needs no stop.
    let _ = answer.recv.stop(VarInt::from_u32(code));
    tracing::warn!(node = %session.node(), "the node {what}");
}

/// What a future yields within a limit. A clock runs only if it has to wait.
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        Poll::Ready(done) => Some(done),
        Poll::Pending => tokio::time::timeout(limit, work).await.ok(),
    }
}

fn cut_short(answer: &Answer, session: &Session) -> FetchError {
    let offset = answer.decoder.next_covers().map_or(0, |range| range.start);
    match answer.decoder.finish() {
        Err(error) => proof_failure(answer, session, offset, error),
        Ok(()) => proof_failure(answer, session, offset, VerifyError::AfterError),
    }
}

fn proof_failure(answer: &Answer, session: &Session, offset: u64, source: VerifyError) -> FetchError {
    let group = match &source {
        VerifyError::ParentMismatch { group, .. }
        | VerifyError::LeafMismatch { group, .. }
        | VerifyError::WrongLength { group, .. }
        | VerifyError::Truncated { group } => Some(*group),
        VerifyError::TrailingBytes { .. } | VerifyError::AfterError => None,
    };
    let proven = ByteCount::new(answer.account.proven());
    FetchError::Proof { group, offset, proven, node: session.node(), source }
}

fn at(proven_bytes: u64, total_bytes: u64, wire_bytes: u64, tariff: &Tariff) -> Progress {
    let spent = tariff.price(ByteCount::new(proven_bytes)).unwrap_or_default();
    Progress { proven_bytes, total_bytes, wire_bytes, spent }
}

/// Bytes that QUIC has handed over and no batch has taken yet: taken as they lie there while the connection is locked,
/// and copied when it is free again.
pub(super) struct Inflow {
    chunks: [Bytes; CHUNKS],
    next: usize,
    len: usize,
}

impl Inflow {
    /// Moves up to `room` bytes into the buffer, and waits only if there are none; 0 at the end of the stream. Safe to
    /// cancel.
    pub(super) async fn fill(
        &mut self,
        recv: &mut RecvStream,
        buffer: &mut BytesMut,
        room: usize,
    ) -> Result<usize, ReadError> {
        if self.next == self.len {
            // Given back all at once: they share a count with packets that another core is taking in.
            self.chunks[..self.len].fill(Bytes::new());
            let len = recv.read_chunks(&mut self.chunks).await?.unwrap_or(0);
            (self.next, self.len) = (0, len);
        }
        Ok(self.pour(buffer, room))
    }

    fn pour(&mut self, buffer: &mut BytesMut, room: usize) -> usize {
        let mut left = room;
        while left > 0 && self.next < self.len {
            let chunk = &mut self.chunks[self.next];
            let taken = left.min(chunk.len());
            buffer.extend_from_slice(&chunk[..taken]);
            chunk.advance(taken);
            left -= taken;
            if chunk.is_empty() {
                self.next += 1;
            }
        }
        room - left
    }
}

impl Default for Inflow {
    fn default() -> Self {
        Self { chunks: [const { Bytes::new() }; CHUNKS], next: 0, len: 0 }
    }
}

/// Buffers in turn: one that nobody reads any more is filled again.
#[derive(Default)]
struct Buffers {
    /// Emptied ones, the longest empty first; others may still read what was taken out of them.
    emptied: VecDeque<BytesMut>,
}

impl Buffers {
    /// Takes an emptied buffer and gives one with room.
    fn exchange(&mut self, emptied: BytesMut, room: usize) -> BytesMut {
        if emptied.is_empty() && self.emptied.len() < MAX_BUFFERS {
            self.emptied.push_back(emptied);
        }
        if self.emptied.front_mut().is_some_and(|oldest| oldest.try_reclaim(room)) {
            return self.emptied.pop_front().unwrap_or_default();
        }
        // Rounded up, so that it serves every other run as well.
        BytesMut::with_capacity(room.next_multiple_of(ROUNDING))
    }
}

/// Cuts the answer into runs of whole items.
struct Batches {
    steps: Peekable<Encoder>,
}

impl Batches {
    /// Bytes of the next run: at least one item, and about [`BATCH_BYTES`].
    fn next_len(&mut self) -> usize {
        let mut len = 0;
        while len < BATCH_BYTES {
            match self.steps.next() {
                Some(Step::Parent(_)) => len += PAIR_LEN,
                Some(Step::Leaf { len: leaf, .. }) => len += leaf as usize,
                None => break,
            }
        }
        len
    }
}

/// Bytes received into one buffer: few allocations, and a small part of the write queue.
const BATCH_BYTES: usize = 256 << 10;
/// Emptied buffers that are kept: those that wait for the disk, and a few.
const MAX_BUFFERS: usize = 24;
/// What buffers are rounded up to.
const ROUNDING: usize = 16 << 10;
/// Packets taken from the connection at once.
const CHUNKS: usize = 64;
/// Time for the end of a stream to follow its last byte. Honest nodes send both together.
const END_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_poured_in_order_and_no_further_than_there_is_room() {
        let mut inflow = Inflow::default();
        for (chunk, bytes) in inflow.chunks.iter_mut().zip(["abc", "d", "efgh"]) {
            *chunk = Bytes::from_static(bytes.as_bytes());
        }
        inflow.len = 3;
        let mut buffer = BytesMut::new();
        for (room, got, so_far) in [(2, 2, "ab"), (0, 0, "ab"), (3, 3, "abcde"), (9, 3, "abcdefgh"), (9, 0, "abcdefgh")]
        {
            assert_eq!(inflow.pour(&mut buffer, room), got);
            assert_eq!(buffer, so_far.as_bytes());
        }
    }
}
