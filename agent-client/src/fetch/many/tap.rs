//! Watches a fetch of many while it runs: for callers that keep what came before it broke, or end it early.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aro_proto::{Amount, ContentId};
use tokio::sync::watch;

use super::Fetched;

/// Takes each content as soon as it is proven, instead of the fetch's results.
pub(crate) struct Tap {
    taken: Mutex<Taken>,
    is_stopped: watch::Sender<bool>,
}

/// What came.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Each whole and proven.
    pub(crate) contents: Vec<(ContentId, Vec<u8>)>,
    /// Bytes of them, and of what broke off. All of them are billed.
    pub(crate) verified_bytes: u64,
    pub(crate) wire_bytes: u64,
    pub(crate) requests: u64,
    /// In base units.
    pub(crate) paid: Amount,
}

impl Default for Tap {
    fn default() -> Self {
        Self { taken: Mutex::default(), is_stopped: watch::channel(false).0 }
    }
}

impl Tap {
    /// Ends the fetch: what was proven by then is kept and paid.
    pub(crate) fn stop(&self) {
        self.is_stopped.send_replace(true);
    }

    /// Everything so far. What ended is all there once the fetch has returned.
    pub(crate) fn take(&self) -> Taken {
        std::mem::take(&mut self.lock())
    }

    pub(super) async fn stopped(&self) {
        // The sender is here, so it does not go away.
        let _ = self.is_stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    pub(super) fn keep(&self, content: ContentId, fetched: Fetched) -> Fetched {
        fetched.map(|bytes| {
            self.lock().contents.push((content, bytes));
            Vec::new()
        })
    }

    /// A request is over.
    pub(super) fn count(&self, verified_bytes: u64, wire_bytes: u64, paid: Amount) {
        let mut taken = self.lock();
        taken.verified_bytes += verified_bytes;
        taken.wire_bytes += wire_bytes;
        taken.requests += 1;
        taken.paid = taken.paid.saturating_add(paid);
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Changed in one go.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
