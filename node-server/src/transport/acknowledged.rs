//! What an agent's transport has acknowledged of a stream's content: quinn keeps a buffer until all that it holds, and all
//! before it, is acknowledged, and then drops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aro_proto::ByteCount;
use bytes::Bytes;

/// The count of one stream, in whole buffers, until it is closed.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    bytes: AtomicU64,
    is_closed: AtomicBool,
}

/// A buffer on its way.
struct Tracked {
    wire: Bytes,
    content: ByteCount,
    count: Arc<Acknowledged>,
}

impl Acknowledged {
    /// The same bytes, which carry `content` bytes of content and of those written with them. Whoever writes them keeps a
    /// clone until they are written, and closes the count first if they are not: then no part of them is counted.
    pub(crate) fn track(self: &Arc<Self>, wire: Bytes, content: ByteCount) -> Bytes {
        Bytes::from_owner(Tracked { wire, content, count: Arc::clone(self) })
    }

    /// Counts no more: buffers that are dropped from now on may be so for other reasons.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    /// Content bytes so far.
    pub(crate) fn bytes(&self) -> ByteCount {
        ByteCount::new(self.bytes.load(Ordering::SeqCst))
    }
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.wire
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if !self.count.is_closed.load(Ordering::SeqCst) {
            self.count.bytes.fetch_add(self.content.get(), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_counts_once_the_last_part_of_it_is_dropped_and_not_after_the_close() {
        let count = Arc::<Acknowledged>::default();
        let wire = count.track(Bytes::from_static(b"a batch"), ByteCount::new(5));
        assert_eq!(&wire[..], b"a batch");
        let (part, later) = (wire.slice(2..), count.track(Bytes::from_static(b"another"), ByteCount::new(7)));
        drop(wire);
        assert_eq!(count.bytes(), ByteCount::ZERO);
        drop(part);
        assert_eq!(count.bytes(), ByteCount::new(5));
        count.close();
        drop(later);
        assert_eq!(count.bytes(), ByteCount::new(5));
    }
}
