//! What a fetch tells while it runs.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aro_proto::Amount;
use serde::Serialize;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};

/// Where a fetch stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Content bytes proven so far.
    pub proven_bytes: u64,
    /// Content bytes that will be proven in all.
    pub total_bytes: u64,
    /// Bytes received so far, proofs included.
    pub wire_bytes: u64,
    /// What the proven bytes cost, in base units.
    pub spent: Amount,
}

/// What a transfer tells, as a stream: the newest [`Progress`] each time it is polled, so that a slow reader misses steps and
/// holds nothing up. It ends with the transfer.
#[derive(Debug)]
#[must_use = "a stream tells nothing until it is polled"]
pub struct ProgressStream {
    changes: WatchStream<Progress>,
}

impl ProgressStream {
    /// The next step; none when the transfer has ended. Safe to cancel.
    pub async fn next(&mut self) -> Option<Progress> {
        self.changes.next().await
    }
}

impl Stream for ProgressStream {
    type Item = Progress;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Progress>> {
        Pin::new(&mut self.changes).poll_next(context)
    }
}

/// Calls back, but not for every chunk group.
#[derive(Clone, Default)]
pub(crate) struct Reporter {
    report: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl Reporter {
    pub(crate) fn new(report: Arc<dyn Fn(Progress) + Send + Sync>) -> Self {
        Self { report: Some(report) }
    }

    /// One that feeds a stream, which ends when the last clone of the reporter is gone.
    pub(crate) fn stream() -> (Self, ProgressStream) {
        let (newest, changes) = watch::channel(Progress::default());
        let report = move |progress| {
            newest.send_replace(progress);
        };
        (Self::new(Arc::new(report)), ProgressStream { changes: WatchStream::from_changes(changes) })
    }

    /// Reports if `progress` is a step beyond `last`, or the end; returns the bytes of the last report.
    pub(crate) fn step(&self, last: u64, progress: impl FnOnce() -> Progress, proven: u64, total: u64) -> u64 {
        match &self.report {
            Some(report) if proven - last >= STEP_BYTES || (proven == total && proven != last) => {
                report(progress());
                proven
            }
            _ => last,
        }
    }
}

const STEP_BYTES: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(proven_bytes: u64) -> Progress {
        Progress { proven_bytes, total_bytes: 4 * STEP_BYTES, ..Progress::default() }
    }

    #[tokio::test]
    async fn a_stream_gives_the_newest_step_and_ends_with_the_transfer() {
        let (reporter, mut stream) = Reporter::stream();
        let mut last = 0;
        for proven in [1, STEP_BYTES, 2 * STEP_BYTES, 2 * STEP_BYTES + 1] {
            last = reporter.step(last, || at(proven), proven, 4 * STEP_BYTES);
        }
        assert_eq!(stream.next().await, Some(at(2 * STEP_BYTES)), "what a slow reader missed is gone");
        let second = reporter.clone();
        drop(reporter);
        second.step(last, || at(4 * STEP_BYTES), 4 * STEP_BYTES, 4 * STEP_BYTES);
        drop(second);
        assert_eq!(stream.next().await, Some(at(4 * STEP_BYTES)));
        assert_eq!(stream.next().await, None);
    }
}
