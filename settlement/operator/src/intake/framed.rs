//! Frames on QUIC streams, bounded in length and time.

use std::time::Duration;

use aro_proto::limits::EXCHANGE_TIMEOUT_MS;
use aro_proto::message::Message;
use aro_proto::wire::{DecodeError, EncodeError, FRAME_HEAD, Frame, FrameHead, encode_frame};
use quinn::{ReadExactError, RecvStream, SendStream, WriteError};
use tokio::time::timeout;

/// Why there is no next frame.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The peer broke the framing: the connection's error.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The peer took too long over it.
    #[error("the peer did not complete a frame in time")]
    Slow,
    /// The stream or the connection is gone.
    #[error("the stream is gone")]
    Gone,
}

/// Why a frame could not be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("the peer does not read its answer")]
    Slow,
}

/// Reads one frame, whose head and body must each come in time.
pub(super) async fn read_frame(stream: &mut RecvStream) -> Result<Frame, FrameError> {
    let head = read_head(stream).await?;
    read_body(stream, head).await
}

/// Reads what a frame announces, which must come in time; nothing is held for it yet.
pub(super) async fn read_head(stream: &mut RecvStream) -> Result<FrameHead, FrameError> {
    let mut head = [0; FRAME_HEAD];
    timeout(PATIENCE, stream.read_exact(&mut head)).await.map_err(|_| FrameError::Slow)?.map_err(cut)?;
    Ok(FrameHead::parse(&head)?)
}

/// Reads the frame that was announced, which must end in time.
pub(super) async fn read_body(stream: &mut RecvStream, head: FrameHead) -> Result<Frame, FrameError> {
    let mut body = vec![0; head.body_len];
    timeout(PATIENCE, stream.read_exact(&mut body)).await.map_err(|_| FrameError::Slow)?.map_err(cut)?;
    Ok(Frame { kind: head.kind, body })
}

/// Waits for one frame as long as it takes to begin; `None` when the peer has finished its side.
pub(super) async fn next_frame(stream: &mut RecvStream) -> Result<Option<Frame>, FrameError> {
    let mut head = [0; FRAME_HEAD];
    match stream.read_exact(&mut head[..1]).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(cut(error)),
    }
    timeout(PATIENCE, stream.read_exact(&mut head[1..])).await.map_err(|_| FrameError::Slow)?.map_err(cut)?;
    read_body(stream, FrameHead::parse(&head)?).await.map(Some)
}

/// Sends one message.
pub(super) async fn write_message<M: Message>(stream: &mut SendStream, message: &M) -> Result<(), SendError> {
    let frame = encode_frame(message)?;
    Ok(timeout(PATIENCE, stream.write_all(&frame)).await.map_err(|_| SendError::Slow)??)
}

fn cut(error: ReadExactError) -> FrameError {
    match error {
        ReadExactError::FinishedEarly(_) => FrameError::Decode(DecodeError::Truncated),
        ReadExactError::ReadError(_) => FrameError::Gone,
    }
}

pub(super) const PATIENCE: Duration = Duration::from_millis(EXCHANGE_TIMEOUT_MS);
