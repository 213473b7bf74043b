//! The streams of one channel that wait for credit: first come, first served, and only the first is woken by news.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard};

/// A fair queue of waiting streams.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    front: Mutex<()>,
    length: AtomicUsize,
}

/// A place in the queue; left when dropped.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Queue);

impl Queue {
    /// True if nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.length.load(Ordering::Acquire) == 0
    }

    /// From now on nobody who comes later goes before.
    pub(crate) fn enter(&self) -> Place<'_> {
        self.length.fetch_add(1, Ordering::AcqRel);
        Place(self)
    }
}

impl Place<'_> {
    /// Waits until all who came before have left.
    pub(crate) async fn front(&self) -> MutexGuard<'_, ()> {
        self.0.front.lock().await
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.length.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn streams_come_to_the_front_in_the_order_of_their_waiting() {
        let queue = Arc::new(Queue::default());
        let first = queue.enter();
        let held = first.front().await;
        let (arrived, mut order) = mpsc::unbounded_channel();
        for stream in 0..20 {
            let (queue, arrived) = (Arc::clone(&queue), arrived.clone());
            let (waits, waiting) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                let place = queue.enter();
                let front = place.front();
                tokio::pin!(front);
                assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut front).await.is_err());
                waits.send(()).unwrap();
                let _held = front.await;
                arrived.send(stream).unwrap();
            });
            waiting.await.unwrap();
        }
        assert!(!queue.is_empty());
        drop(held);
        drop(first);
        drop(arrived);
        let mut seen = Vec::new();
        while let Some(stream) = order.recv().await {
            seen.push(stream);
        }
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
        assert!(queue.is_empty());
    }
}
