//! What is sent of a hashed file: its encoding, read batch by batch into buffers that come back.

use std::io;
use std::iter::Peekable;
use std::sync::{Arc, Mutex, PoisonError};

use aro_proto::channel::BATCH_BYTES;
use aro_proto::merkle::{AnsweredRanges, Encoder, PAIR_LEN, Step};
use bytes::Bytes;

use super::source::HashedFile;

/// Reads an encoding batch by batch.
pub(super) struct Encoding {
    file: Arc<HashedFile>,
    steps: Peekable<Encoder>,
    pages: Pages,
}

/// A stretch of an encoding.
pub(super) struct Batch {
    pub(super) wire: Bytes,
    /// Content bytes in it.
    pub(super) content_bytes: u64,
}

/// Buffers that nobody reads any more: the last packet made from each is acknowledged.
type Pages = Arc<Mutex<Vec<Vec<u8>>>>;

/// A buffer that is filled from its beginning, and goes back when it is dropped.
struct Page {
    bytes: Vec<u8>,
    len: usize,
    home: Pages,
}

impl Encoding {
    pub(super) fn new(file: Arc<HashedFile>, answered: AnsweredRanges) -> Self {
        Self { file, steps: Encoder::new(answered).peekable(), pages: Pages::default() }
    }

    /// The next batch of at most 256 KiB of content; `None` after the last. Blocks on the disk.
    pub(super) fn next_batch(&mut self) -> io::Result<Option<Batch>> {
        if self.steps.peek().is_none() {
            return Ok(None);
        }
        let (mut page, mut content_bytes) = (Page::take(&self.pages), 0);
        let fits = |content: u64, step: &Step| match step {
            Step::Parent(_) => content < BATCH_BYTES,
            Step::Leaf { len, .. } => content + u64::from(*len) <= BATCH_BYTES,
        };
        while let Some(step) = self.steps.next_if(|step| fits(content_bytes, step)) {
            match step {
                Step::Parent(node) => self.file.read_pair(page.room(PAIR_LEN), node)?,
                Step::Leaf { offset, len } => {
                    self.file.read(page.room(len as usize), offset)?;
                    content_bytes += u64::from(len);
                }
            }
        }
        Ok(Some(Batch { wire: Bytes::from_owner(page), content_bytes }))
    }
}

impl Page {
    fn take(home: &Pages) -> Self {
        let bytes = home.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Self { bytes, len: 0, home: Arc::clone(home) }
    }

    /// So many bytes more, to be written over.
    fn room(&mut self, len: usize) -> &mut [u8] {
        let start = self.len;
        self.len += len;
        if self.bytes.len() < self.len {
            self.bytes.resize(self.len.next_multiple_of(ROUNDING), 0);
        }
        &mut self.bytes[start..self.len]
    }
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // As many as have been on their way at once, which the transport bounds.
        self.home.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.bytes));
    }
}

/// What the sizes of buffers are rounded up to, in bytes, so that they fit the next batch too.
const ROUNDING: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use aro_proto::merkle::{ByteRanges, Decoder, GroupSize};

    use super::*;

    #[test]
    fn what_is_read_proves_and_buffers_are_filled_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for size in [0, 1, 65_537, 1 << 20, (2 << 20) + 77] {
            let bytes: Vec<u8> = (0..size).map(|place| (place / 7 % 253) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            let file = Arc::new(HashedFile::open(&path).unwrap());
            let end = size as u64 + 1;
            for ranges in [
                ByteRanges::all(),
                ByteRanges::single(size as u64 / 2, end).unwrap(),
                ByteRanges::new([0..1, end / 2..end / 2 + 1, end..end + 1]).unwrap(),
            ] {
                let answered = ranges.answered(size as u64, GroupSize::KIB64);
                let mut encoding = Encoding::new(Arc::clone(&file), answered.clone());
                let (mut decoder, mut content) = (Decoder::new(file.content, answered.clone()).unwrap(), 0);
                while let Some(batch) = encoding.next_batch().unwrap() {
                    assert!(batch.content_bytes <= BATCH_BYTES);
                    content += batch.content_bytes;
                    let mut wire = batch.wire;
                    while !wire.is_empty() {
                        decoder.accept(wire.split_to(decoder.expects().unwrap())).unwrap();
                    }
                }
                if size == 0 {
                    decoder.accept(Bytes::new()).unwrap();
                }
                decoder.finish().unwrap();
                assert_eq!(content, answered.content_bytes());
                assert_eq!(encoding.pages.lock().unwrap().len(), 1, "one was enough");
            }
        }
    }
}
