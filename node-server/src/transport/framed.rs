//! Frames from and to a QUIC stream.

use std::time::Duration;

use aro_proto::message::Message;
use aro_proto::wire::{DecodeError, FRAME_HEAD, Frame, FrameHead, encode_frame};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use thiserror::Error;
use tokio::time::{Instant, timeout, timeout_at};

/// Reads one frame after the other. [`next`](Self::next) may be cancelled at any await and called again.
pub(crate) struct FrameReader {
    stream: RecvStream,
    patience: Duration,
    /// When the frame that has begun must be there.
    deadline: Option<Instant>,
    head: Vec<u8>,
    body: Vec<u8>,
}

/// Why there is no frame.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    /// The bytes are no frame: the peer is broken or hostile.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The frame was begun, but not completed in time.
    #[error("a frame was not completed in time")]
    Timeout,
    /// The stream was reset, or the connection is gone.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl FrameReader {
    /// A frame that has begun must be complete within `patience`.
    pub(crate) fn new(stream: RecvStream, patience: Duration) -> Self {
        Self { stream, patience, deadline: None, head: Vec::with_capacity(FRAME_HEAD), body: Vec::new() }
    }

    /// The next frame; `None` after a clean end.
    // r[impl framing.kind]
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let missing = match self.missing()? {
                Missing::Nothing { kind } => {
                    self.head.clear();
                    self.deadline = None;
                    return Ok(Some(Frame { kind, body: std::mem::take(&mut self.body) }));
                }
                Missing::Bytes(missing) => missing,
            };
            let read = self.stream.read_chunk(missing, true);
            let chunk = match self.deadline {
                Some(deadline) => timeout_at(deadline, read).await.map_err(|_| FrameError::Timeout)??,
                None => read.await?,
            };
            match chunk {
                Some(chunk) => self.take_in(&chunk.bytes),
                None if self.head.is_empty() => return Ok(None),
                None => return Err(DecodeError::Truncated.into()),
            }
        }
    }

    /// The stream, for what follows the frames; no byte of it has been read.
    pub(crate) fn stream(&mut self) -> &mut RecvStream {
        &mut self.stream
    }

    /// The stream, for its end.
    pub(crate) fn into_stream(self) -> RecvStream {
        self.stream
    }

    fn missing(&self) -> Result<Missing, DecodeError> {
        let Some(head) = self.head.first_chunk::<FRAME_HEAD>() else {
            return Ok(Missing::Bytes(FRAME_HEAD - self.head.len()));
        };
        let head = FrameHead::parse(head)?;
        match head.body_len - self.body.len() {
            0 => Ok(Missing::Nothing { kind: head.kind }),
            missing => Ok(Missing::Bytes(missing)),
        }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        self.deadline.get_or_insert_with(|| Instant::now() + self.patience);
        // Reads are as long as what is missing, so a chunk never holds both head and body.
        let part = if self.head.len() < FRAME_HEAD { &mut self.head } else { &mut self.body };
        part.extend_from_slice(bytes);
    }
}

enum Missing {
    Nothing { kind: u8 },
    Bytes(usize),
}

/// Why a frame was not sent.
#[derive(Debug, Error)]
pub(crate) enum SendFrameError {
    /// The peer leaves no room for it: it does not read.
    #[error("the peer does not read")]
    Stalled,
    /// The stream was stopped, or the connection is gone.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Sends a message to a peer that may leave it unread, and gives up after `patience`.
pub(crate) async fn send_frame_within<M: Message>(
    stream: &mut SendStream,
    message: &M,
    patience: Duration,
) -> Result<(), SendFrameError> {
    match timeout(patience, send_frame(stream, message)).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(SendFrameError::Stalled),
    }
}

/// Sends a message of our own, all of which are short. Waits for room without end.
pub(crate) async fn send_frame<M: Message>(stream: &mut SendStream, message: &M) -> Result<(), WriteError> {
    let frame = encode_frame(message).expect("what a node says fits a frame");
    stream.write_all(&frame).await
}
