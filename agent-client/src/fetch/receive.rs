//! Receiving: bytes from the stream go into the decoder, proven bytes come out, are counted and go on.
//!
//! Whole batches of items are read into one buffer and handed on without another copy. Items are checked as soon as
//! they are complete, so the node never waits at its window for bytes that lie unchecked here.

use std::iter::Peekable;
use std::time::Duration;

use aro_proto::error::close;
use aro_proto::merkle::{Encoder, PAIR_LEN, Step, VerifyError};
use aro_proto::{ByteCount, Tariff};
use bytes::{BufMut, BytesMut};
use quinn::{ReadError, RecvStream, VarInt};
use tokio::io::AsyncReadExt;

use super::progress::{Progress, Reporter};
use super::request::{Answer, read_failure};
use super::sink::Output;
use crate::config::AgentConfig;
use crate::error::FetchError;
use crate::transport::Session;

/// Reads an answer to its end. On an error everything that was proven before it has been counted, and nothing else.
// r[impl content.verify.unproven]
pub(super) async fn receive(
    answer: &mut Answer,
    session: &Session,
    output: &mut Output,
    progress: &Reporter,
    config: &AgentConfig,
) -> Result<(), FetchError> {
    let total = answer.decoder.answered().content_bytes();
    let mut batches = Batches { steps: Encoder::new(answer.decoder.answered().clone()).peekable() };
    let mut buffer = BytesMut::new();
    let mut room = 0;
    let mut reported = 0;
    while let Some(len) = answer.decoder.expects() {
        if buffer.len() < len {
            if room == 0 {
                room = batches.next_len();
                buffer = BytesMut::with_capacity(room);
            }
            let got = read_some(&mut answer.recv, &mut buffer, room, session, config).await?;
            if got == 0 {
                return Err(cut_short(answer, session));
            }
            room -= got;
            answer.wire_bytes += got as u64;
            continue;
        }
        let covers = answer.decoder.next_covers();
        match answer.decoder.accept(buffer.split_to(len).freeze()) {
            Ok(None) => {}
            Ok(Some(leaf)) => {
                answer.account.proved(leaf.len());
                output.push(leaf).await?;
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
    let mut beyond = BytesMut::with_capacity(1);
    match read_some(&mut answer.recv, &mut beyond, 1, session, config).await? {
        0 => Ok(()),
        len => {
            let _ = answer.recv.stop(VarInt::from_u32(close::BAD_PROOF));
            let end = answer.decoder.answered().size();
            Err(proof_failure(answer, session, end, VerifyError::TrailingBytes { len }))
        }
    }
}

/// Up to `room` bytes; 0 at the end of the stream.
async fn read_some(
    recv: &mut RecvStream,
    buffer: &mut BytesMut,
    room: usize,
    session: &Session,
    config: &AgentConfig,
) -> Result<usize, FetchError> {
    let waited_ms = config.stall_timeout_ms;
    let mut space = buffer.limit(room);
    let read = recv.read_buf(&mut space);
    match tokio::time::timeout(Duration::from_millis(waited_ms), read).await {
        Err(_) => Err(FetchError::Timeout { doing: "receiving", waited_ms }),
        Ok(Ok(got)) => Ok(got),
        Ok(Err(error)) => match error.get_ref().and_then(|inner| inner.downcast_ref::<ReadError>()) {
            Some(error) => Err(read_failure(session, error)),
            None => Err(FetchError::Unreachable { place: session.place().to_owned(), why: error.to_string() }),
        },
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
