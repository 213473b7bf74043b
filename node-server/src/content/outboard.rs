//! A stored content as it goes on the wire: hashes and bytes interleaved, read straight into one page a batch.
//!
//! Nothing is hashed here. What is [`hot`](super::hot) is there already; of the rest, nothing is copied but what the system copies out of its page cache: one scattering read
//! fills the places of all leaves of a run, around the places of their hashes, which come out of a stretch of the
//! outboard that is read once for many batches. Memory is that of one batch, whatever the content's size.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::iter::Peekable;
use std::sync::Arc;

use aro_proto::merkle::{AnsweredRanges, Encoder, PAIR_LEN, Step, parent_offset};
use bytes::Bytes;

use super::StoredContent;

/// Reads one response batch by batch.
#[derive(Debug)]
pub(crate) struct BatchReader {
    content: Arc<StoredContent>,
    steps: Peekable<Encoder>,
    /// What is read next, kept when it could not be read without waiting.
    plan: Plan,
    pairs: Stretch,
}

/// A stretch of a response.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// What is sent.
    pub(crate) wire: Bytes,
    /// How much of it is content: what is billed.
    pub(crate) content_bytes: u64,
}

impl BatchReader {
    /// The response that holds `answered`, which must be made for the content's size.
    pub(crate) fn new(content: Arc<StoredContent>, answered: AnsweredRanges) -> Self {
        let steps = Encoder::new(answered).peekable();
        Self { content, steps, plan: Plan::default(), pairs: Stretch::default() }
    }

    /// The next batch of at most [`BATCH_CONTENT`] bytes of content; `None` after the last. Blocks on the disk.
    pub(crate) fn next_batch(&mut self) -> io::Result<Option<Batch>> {
        self.read(Patience::Waits)
    }

    /// The same from what the system holds in memory. Never waits for the disk.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if the disk is needed: then [`next_batch`](Self::next_batch) has the same batch.
    pub(crate) fn next_in_memory(&mut self) -> io::Result<Option<Batch>> {
        self.read(Patience::None)
    }

    fn read(&mut self, patience: Patience) -> io::Result<Option<Batch>> {
        while let Some(step) = self.steps.next_if(|step| self.plan.has_room_for(step)) {
            self.plan.push(step);
        }
        if self.plan.steps.is_empty() {
            return Ok(None);
        }
        if let Some(batch) = self.content.hot.get(self.content.id(), &self.plan.steps) {
            self.plan.clear();
            return Ok(Some(batch));
        }
        let mut page = self.content.pages.take(self.plan.wire_len);
        let mut rest = page.bytes_mut();
        let mut run = Run::default();
        for step in &self.plan.steps {
            match step {
                Step::Parent(node) => {
                    let (place, behind) = rest.split_at_mut(PAIR_LEN);
                    let offset = parent_offset(self.content.size(), *node).ok_or(io::ErrorKind::InvalidInput)?;
                    place.copy_from_slice(self.pairs.pair(&self.content.outboard, offset, patience)?);
                    rest = behind;
                }
                Step::Leaf { offset, len } => {
                    let (place, behind) = rest.split_at_mut(*len as usize);
                    if *offset != run.end {
                        run.read(&self.content.data, patience)?;
                        run.end = *offset;
                    }
                    run.push(place);
                    rest = behind;
                }
            }
        }
        run.read(&self.content.data, patience)?;
        let room = page.room();
        let batch = Batch { wire: page.freeze(), content_bytes: self.plan.content_bytes };
        self.content.hot.offer(self.content.id(), &self.plan.steps, &batch, room);
        self.plan.clear();
        Ok(Some(batch))
    }
}

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Waits,
    None,
}

/// Leaves that follow each other in the content, and their places in the page.
#[derive(Default)]
struct Run<'a> {
    places: Vec<IoSliceMut<'a>>,
    len: usize,
    /// Where the next leaf would begin in the content.
    end: u64,
}

impl<'a> Run<'a> {
    fn push(&mut self, place: &'a mut [u8]) {
        self.end += place.len() as u64;
        self.len += place.len();
        if !place.is_empty() {
            self.places.push(IoSliceMut::new(place));
        }
    }

    /// Fills the places, and forgets them.
    fn read(&mut self, file: &File, patience: Patience) -> io::Result<()> {
        let mut offset = self.end - self.len as u64;
        let mut places = self.places.as_mut_slice();
        while !places.is_empty() {
            let read = read_at(file, places, offset, patience)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += read as u64;
            IoSliceMut::advance_slices(&mut places, read);
        }
        self.places.clear();
        self.len = 0;
        Ok(())
    }
}

/// Pairs of hashes that lie together in the outboard, read ahead.
#[derive(Debug, Default)]
struct Stretch {
    start: u64,
    bytes: Vec<u8>,
}

impl Stretch {
    /// The pair at `offset`.
    fn pair(&mut self, outboard: &File, offset: u64, patience: Patience) -> io::Result<&[u8]> {
        if self.find(offset).is_none() {
            self.load(outboard, offset, patience)?;
        }
        self.find(offset).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn find(&self, offset: u64) -> Option<&[u8]> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes.get(at..at + PAIR_LEN)
    }

    /// A pair that follows the last stretch is one of a run, and more of them will be wanted; others stand alone.
    fn load(&mut self, outboard: &File, offset: u64, patience: Patience) -> io::Result<()> {
        let end = self.start + self.bytes.len() as u64;
        let is_near = offset.checked_sub(end).is_some_and(|gap| gap < NEAR);
        let len = if is_near { (2 * self.bytes.len()).clamp(FIRST_STRETCH, MAX_STRETCH) } else { FIRST_STRETCH };
        self.bytes.resize(len, 0);
        self.start = offset;
        let mut filled = 0;
        while filled < len {
            let place = &mut self.bytes[filled..];
            match read_at(outboard, &mut [IoSliceMut::new(place)], offset + filled as u64, patience) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) => {
                    self.bytes.clear();
                    return Err(error);
                }
            }
        }
        self.bytes.truncate(filled);
        Ok(())
    }
}

/// One read; may bring less than there is room for, and 0 only at the file's end.
fn read_at(file: &File, places: &mut [IoSliceMut<'_>], offset: u64, patience: Patience) -> io::Result<usize> {
    loop {
        let outcome = match patience {
            Patience::None => read_in_memory(file, places, offset),
            Patience::Waits => scatter(file, places, offset),
        };
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(target_os = "linux")]
fn read_in_memory(file: &File, places: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
    match rustix::io::preadv2(file, places, offset, rustix::io::ReadWriteFlags::NOWAIT) {
        // A file system that cannot tell must be waited for.
        Err(rustix::io::Errno::OPNOTSUPP) => Err(io::ErrorKind::WouldBlock.into()),
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
fn read_in_memory(_file: &File, _places: &mut [IoSliceMut<'_>], _offset: u64) -> io::Result<usize> {
    Err(io::ErrorKind::WouldBlock.into())
}

#[cfg(target_os = "linux")]
fn scatter(file: &File, places: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
    Ok(rustix::io::preadv(file, places, offset)?)
}

#[cfg(not(target_os = "linux"))]
fn scatter(file: &File, places: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<usize> {
    use std::os::unix::fs::FileExt;
    places.first_mut().map_or(Ok(0), |place| file.read_at(place, offset))
}

/// Steps that are read and sent together.
#[derive(Debug, Default)]
struct Plan {
    steps: Vec<Step>,
    wire_len: usize,
    content_bytes: u64,
}

impl Plan {
    fn has_room_for(&self, step: &Step) -> bool {
        match step {
            Step::Parent(_) => self.content_bytes < BATCH_CONTENT,
            Step::Leaf { len, .. } => self.content_bytes == 0 || self.content_bytes + u64::from(*len) <= BATCH_CONTENT,
        }
    }

    fn push(&mut self, step: Step) {
        match step {
            Step::Parent(_) => self.wire_len += PAIR_LEN,
            Step::Leaf { len, .. } => {
                self.wire_len += len as usize;
                self.content_bytes += u64::from(len);
            }
        }
        self.steps.push(step);
    }

    fn clear(&mut self) {
        self.steps.clear();
        (self.wire_len, self.content_bytes) = (0, 0);
    }
}

/// Content bytes of a batch: as many as the payee lets leave at once.
const BATCH_CONTENT: u64 = aro_proto::channel::BATCH_BYTES;
/// Bytes of the outboard that are read at first: the pairs of 1 MiB.
const FIRST_STRETCH: usize = 4 << 10;
/// Bytes that are read at once when pair follows pair: the pairs of 16 MiB.
const MAX_STRETCH: usize = 64 << 10;
/// Bytes behind a stretch in which its run goes on.
const NEAR: u64 = 4 << 10;

#[cfg(test)]
mod tests {
    use std::fs;

    use aro_proto::merkle::{ByteRanges, Decoder, GroupSize};

    use super::*;
    use crate::content::ContentStore;

    #[test]
    fn what_is_read_proves_at_every_group_size_and_range() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let path = dir.path().join("file");
        for size in [0_usize, 1, 1024, 1025, 16_384, 16_385, 65_537, 1 << 20, (2 << 20) + 77] {
            let bytes: Vec<u8> = (0..size).map(|i| (i / 7 % 253) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            let content = store.get(store.add_file(&path).unwrap().id).unwrap().unwrap();
            let end = size as u64 + 1;
            for ranges in [
                ByteRanges::all(),
                ByteRanges::single(0, 1).unwrap(),
                ByteRanges::single(size as u64 / 2, end).unwrap(),
                ByteRanges::new([0..1, end / 2..end / 2 + 1, end..end + 1]).unwrap(),
            ] {
                for group in [GroupSize::KIB16, GroupSize::KIB32, GroupSize::KIB64] {
                    let answered = ranges.answered(size as u64, group);
                    // The first two times from the file, whether or not it lies in memory; then it is hot.
                    for _ in 0..3 {
                        let (wire, billed) = read_all(BatchReader::new(Arc::clone(&content), answered.clone()));
                        assert_eq!((billed, wire.len() as u64), (answered.content_bytes(), answered.encoded_len()));
                        assert_proves(&content, answered.clone(), &wire, &bytes);
                    }
                }
            }
        }
    }

    fn read_all(mut reader: BatchReader) -> (Vec<u8>, u64) {
        let (mut wire, mut billed) = (Vec::new(), 0);
        loop {
            let batch = match reader.next_in_memory() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => reader.next_batch(),
                batch => batch,
            };
            let Some(batch) = batch.unwrap() else { return (wire, billed) };
            assert!(batch.content_bytes <= BATCH_CONTENT);
            wire.extend_from_slice(&batch.wire);
            billed += batch.content_bytes;
        }
    }

    fn assert_proves(content: &StoredContent, answered: AnsweredRanges, mut wire: &[u8], bytes: &[u8]) {
        let mut decoder = Decoder::new(content.id(), answered).unwrap();
        while let Some(len) = decoder.expects() {
            let (item, rest) = wire.split_at(len);
            if let Some(leaf) = decoder.accept(item.to_vec()).unwrap() {
                assert_eq!(leaf.bytes(), &bytes[leaf.offset() as usize..][..leaf.len() as usize]);
            }
            wire = rest;
        }
        decoder.finish().unwrap();
        assert!(wire.is_empty());
    }
}
