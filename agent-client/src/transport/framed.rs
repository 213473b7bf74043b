//! Frames on a QUIC stream: the length is checked before anything is held for it.

use std::time::Duration;

use aro_proto::limits::EXCHANGE_TIMEOUT_MS;
use aro_proto::wire::{DecodeError, FRAME_HEAD, Frame, FrameHead};
use quinn::{ReadError, ReadExactError, RecvStream};
use thiserror::Error;

/// Why no frame came.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    /// The stream ended cleanly before a frame.
    #[error("the stream ended")]
    Ended,
    /// The stream ended, or stalled, inside a frame.
    #[error("the stream ended inside a frame")]
    Cut,
    /// The bytes are no frame.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The stream or its connection broke.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Reads one frame of any kind. Waits for its first byte as long as the caller lets it; a frame once begun must be
/// whole within the exchange timeout. Not safe to cancel and resume.
// r[impl framing.length]
pub(crate) async fn read_any_frame(recv: &mut RecvStream) -> Result<Frame, FrameError> {
    let mut head = [0; FRAME_HEAD];
    let got = recv.read(&mut head).await?.ok_or(FrameError::Ended)?;
    let rest = async {
        recv.read_exact(&mut head[got..]).await?;
        let FrameHead { kind, body_len } = FrameHead::parse(&head)?;
        let mut body = vec![0; body_len];
        recv.read_exact(&mut body).await?;
        Ok(Frame { kind, body })
    };
    match tokio::time::timeout(Duration::from_millis(EXCHANGE_TIMEOUT_MS), rest).await {
        Ok(frame) => frame,
        Err(_) => Err(FrameError::Cut),
    }
}

impl From<ReadExactError> for FrameError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => Self::Cut,
            ReadExactError::ReadError(error) => Self::Read(error),
        }
    }
}
