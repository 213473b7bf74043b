//! Buffers that come back: a response is read into pages, and a page returns when the last packet made from it is
//! acknowledged, so that serving allocates and clears nothing in its steady state.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// The free pages of one store. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Bytes to be filled, at first with anything.
#[derive(Debug)]
pub(super) struct Page {
    bytes: Vec<u8>,
    len: usize,
    home: Pages,
}

impl Pages {
    /// A page with room for `len` bytes. Small ones are made anew, which costs less than keeping them would.
    pub(super) fn take(&self, len: usize) -> Page {
        let mut bytes = if len < LEAST_KEPT { Vec::new() } else { self.lock().pop().unwrap_or_default() };
        if bytes.len() < len {
            bytes.resize(len.next_multiple_of(ROUNDING), 0);
        }
        Page { bytes, len, home: self.clone() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Page {
    /// The room.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// Memory that it takes.
    pub(super) fn room(&self) -> usize {
        self.bytes.len()
    }

    /// The page as it goes to the transport.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if self.bytes.len() < LEAST_KEPT {
            return;
        }
        let mut free = self.home.lock();
        if free.len() < MAX_FREE {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Bytes from which on a page is kept: from there allocators ask the system for memory, which clears it.
const LEAST_KEPT: usize = 64 << 10;
/// Free pages that are kept: 16 MiB or so.
const MAX_FREE: usize = 64;
/// What sizes are rounded up to, so that pages fit the next batch too.
const ROUNDING: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_once_nobody_reads_them() {
        let pages = Pages::default();
        let mut page = pages.take(100_000);
        page.bytes_mut().fill(7);
        let frozen = page.freeze();
        let part = frozen.slice(10..20);
        drop(frozen);
        assert_eq!((pages.lock().len(), &part[..]), (0, &[7; 10][..]));
        drop(part);
        assert_eq!(pages.lock().len(), 1);
        assert_eq!(pages.take(200_000).bytes_mut().len(), 200_000);
        assert_eq!(pages.lock().len(), 1, "taken, grown and given back");
    }

    #[test]
    fn small_pages_and_too_many_are_not_kept() {
        let pages = Pages::default();
        drop(pages.take(1_000));
        assert_eq!(pages.lock().len(), 0);
        let many: Vec<_> = (0..MAX_FREE + 5).map(|_| pages.take(LEAST_KEPT)).collect();
        drop(many);
        assert_eq!(pages.lock().len(), MAX_FREE);
    }
}
