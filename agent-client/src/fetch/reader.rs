//! A fetch that is read while it runs.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::JoinHandle;

use super::sink::{Next, Pieces};
use super::{FetchBuilder, FetchReport};
use crate::error::FetchError;

/// The asked bytes of a content, in order, each proven before it can be read, while later ones are on their way.
///
/// A reader that is slow holds the fetch back, and the node with it. If the fetch fails, reading fails with its
/// [`FetchError`] after the last proven byte; the end of the stream means that all is there. Dropped, it cancels the fetch:
/// what was proven is paid.
///
/// ```no_run
/// # async fn example(agent: agent_client::Agent, address: aro_proto::Address) -> Result<(), Box<dyn std::error::Error>> {
/// let mut reader = agent.fetch(&address).to_reader();
/// tokio::io::copy(&mut reader, &mut tokio::io::sink()).await?;
/// let report = reader.report().await?;
/// # Ok(()) }
/// ```
#[must_use = "dropping it cancels the fetch"]
pub struct FetchReader {
    pieces: Pieces,
    current: Bytes,
    task: FetchTask,
}

/// The fetch itself. Dropped, it is cancelled.
enum FetchTask {
    Running(JoinHandle<Result<FetchReport, FetchError>>),
    Ended(Result<FetchReport, FetchError>),
}

impl FetchReader {
    pub(super) fn new(pieces: Pieces, fetch: FetchBuilder, output: super::Output) -> Self {
        let task = tokio::spawn(async move { fetch.run(output, u64::MAX).await.map(|(report, _)| report) });
        Self { pieces, current: Bytes::new(), task: FetchTask::Running(task) }
    }

    /// Waits for the end of the fetch and says what it brought and cost. What was not read yet is fetched and paid all the
    /// same, and thrown away.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn report(self) -> Result<FetchReport, FetchError> {
        let Self { pieces, mut task, .. } = self;
        drop(pieces);
        std::future::poll_fn(|context| task.poll_end(context)).await
    }
}

impl FetchReader {
    /// Cancels the fetch, as dropping does, and waits until what was proven is counted and its payment is on its way.
    pub async fn cancel(self) {
        let Self { mut task, .. } = self;
        task.abort();
        let FetchTask::Running(running) = &mut task else { return };
        // Cancelled, or ended just before.
        let _ = running.await;
    }
}

impl AsyncRead for FetchReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(self.pieces.poll_next(context)) {
                Next::Piece(piece) => self.current = piece,
                Next::Whole => return Poll::Ready(Ok(())),
                Next::Broken => {
                    let error = ready!(self.task.poll_end(context)).err();
                    let error = error.map_or_else(|| io::ErrorKind::UnexpectedEof.into(), io::Error::other);
                    return Poll::Ready(Err(error));
                }
            }
        }
        let len = self.current.len().min(buffer.remaining());
        buffer.put_slice(&self.current[..len]);
        self.current.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl FetchTask {
    fn abort(&self) {
        if let Self::Running(task) = self {
            task.abort();
        }
    }

    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Result<FetchReport, FetchError>> {
        if let Self::Running(task) = self {
            let ended = match ready!(pin!(task).poll(context)) {
                Ok(ended) => ended,
                Err(panicked) => match panicked.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(cancelled) => Err(io::Error::other(cancelled).into()),
                },
            };
            *self = Self::Ended(ended);
        }
        match self {
            Self::Ended(ended) => Poll::Ready(ended.clone()),
            Self::Running(_) => Poll::Pending,
        }
    }
}

impl Drop for FetchTask {
    fn drop(&mut self) {
        self.abort();
    }
}

impl std::fmt::Debug for FetchReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchReader").field("ready_bytes", &self.current.len()).finish_non_exhaustive()
    }
}
