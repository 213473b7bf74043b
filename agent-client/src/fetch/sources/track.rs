//! How far a segment is and where it ends: shared by the task that receives it and by the driver that may cut it.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use aro_proto::merkle::ProvenLeaf;
use bytes::Bytes;
use tokio::sync::Notify;

use crate::error::FetchError;
use crate::fetch::sink::Feed;

/// One segment's place. Neither side ever waits for the other: a cut is made under the lock, at the asked end or where
/// the segment is by then.
#[derive(Debug)]
pub(in crate::fetch) struct Track {
    place: Mutex<Place>,
    /// Its end has come nearer.
    cut: Notify,
}

/// Where a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Everything before it is proven, and handed on or just about to be.
    pub(super) position: u64,
    pub(super) end: u64,
    /// Waits for whoever takes the bytes.
    pub(super) is_held: bool,
    /// Bytes received, proofs included.
    pub(super) wire_bytes: u64,
}

impl Track {
    pub(super) fn new(range: &Range<u64>) -> Self {
        let place = Place { position: range.start, end: range.end, is_held: false, wire_bytes: 0 };
        Self { place: Mutex::new(place), cut: Notify::new() }
    }

    pub(super) fn place(&self) -> Place {
        *self.lock()
    }

    /// Lets the segment end at `end`, or where it is if that is further; says which.
    pub(super) fn cut(&self, end: u64) -> u64 {
        let mut place = self.lock();
        place.end = place.end.min(end.max(place.position));
        self.cut.notify_one();
        place.end
    }

    /// Something of ours holds the segment up, or does not any more.
    pub(super) fn hold(&self, is_held: bool) {
        self.lock().is_held = is_held;
    }

    /// Resolves when nothing more of the segment is wanted.
    pub(in crate::fetch) async fn ended(&self) {
        while !self.is_at_end() {
            // Leaves a permit if the cut comes before the wait.
            self.cut.notified().await;
        }
    }

    /// Hands a proven leaf on, if it is still wanted, and waits while whoever takes it is behind, but not at the end.
    /// True if nothing more is wanted.
    pub(in crate::fetch) async fn push(
        &self,
        feed: &Feed,
        leaf: ProvenLeaf<Bytes>,
        wire_bytes: u64,
    ) -> Result<bool, FetchError> {
        // First, so that a cut is never made before a leaf that is handed on.
        let Some(is_last) = self.advance(leaf.len(), wire_bytes) else { return Ok(true) };
        let mut pushing = pin!(feed.push(leaf));
        let taken = poll_fn(|context| Poll::Ready(pushing.as_mut().poll(context))).await;
        if let Poll::Ready(failed @ Err(_)) = taken {
            return failed.map(|()| true);
        }
        // It is taken by now, whether or not there is room for more.
        if taken.is_pending() && !is_last {
            self.lock().is_held = true;
            let pushed = tokio::select! {
                pushed = pushing => pushed,
                () = self.ended() => Ok(()),
            };
            self.lock().is_held = false;
            pushed?;
        }
        Ok(self.is_at_end())
    }

    /// Moves on by a leaf, and says whether it is the last. None if it is not wanted any more.
    fn advance(&self, bytes: u64, wire_bytes: u64) -> Option<bool> {
        let mut place = self.lock();
        place.wire_bytes = wire_bytes;
        if place.position >= place.end {
            return None;
        }
        place.position = place.position.saturating_add(bytes);
        Some(place.position >= place.end)
    }

    fn is_at_end(&self) -> bool {
        let place = self.lock();
        place.position >= place.end
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        // Plain numbers, changed in one go.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_never_takes_back_what_is_proven() {
        let track = Track::new(&(100..200));
        assert_eq!(track.advance(40, 45), Some(false));
        assert_eq!(track.cut(180), 180);
        assert_eq!(track.cut(110), 140, "it was further");
        track.ended().await;
        assert_eq!(track.cut(190), 140, "an end does not move away again");
        assert_eq!(track.advance(10, 56), None, "what comes then is not handed on");
        assert_eq!(track.place(), Place { position: 140, end: 140, is_held: false, wire_bytes: 56 });
    }
}
