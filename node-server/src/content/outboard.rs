//! A stored content as it goes on the wire: hashes and bytes interleaved, read straight into one buffer a batch.
//!
//! Nothing is hashed here. Memory is that of one batch, whatever the content's size.

use std::io;
use std::iter::Peekable;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use aro_proto::merkle::{AnsweredRanges, Encoder, PAIR_LEN, ParentIndex, Step, parent_offset};
use bytes::Bytes;

use super::StoredContent;

/// Reads one response batch by batch. Blocks on the disk.
#[derive(Debug)]
pub(crate) struct BatchReader {
    content: Arc<StoredContent>,
    steps: Peekable<Encoder>,
}

/// A stretch of a response.
#[derive(Debug)]
pub(crate) struct Batch {
    /// What is sent.
    pub(crate) wire: Bytes,
    /// How much of it is content: what is billed.
    pub(crate) content_bytes: u64,
}

impl BatchReader {
    /// The response that holds `answered`, which must be made for the content's size.
    pub(crate) fn new(content: Arc<StoredContent>, answered: AnsweredRanges) -> Self {
        Self { content, steps: Encoder::new(answered).peekable() }
    }

    /// The next batch of at most [`BATCH_CONTENT`] bytes of content; `None` after the last.
    pub(crate) fn next_batch(&mut self) -> io::Result<Option<Batch>> {
        let plan = self.plan();
        if plan.steps.is_empty() {
            return Ok(None);
        }
        let mut wire = vec![0; plan.wire_len];
        let pairs = self.read_pairs(&plan)?;
        let mut pairs = pairs.chunks_exact(PAIR_LEN);
        let mut rest = wire.as_mut_slice();
        for step in &plan.steps {
            let (place, behind) = match step {
                Step::Parent(_) => {
                    let (place, behind) = rest.split_at_mut(PAIR_LEN);
                    place.copy_from_slice(pairs.next().ok_or(io::ErrorKind::UnexpectedEof)?);
                    (place, behind)
                }
                Step::Leaf { offset, len } => {
                    let (place, behind) = rest.split_at_mut(*len as usize);
                    self.content.data.read_exact_at(place, *offset)?;
                    (place, behind)
                }
            };
            debug_assert!(!place.is_empty() || self.content.size() == 0);
            rest = behind;
        }
        Ok(Some(Batch { wire: wire.into(), content_bytes: plan.content_bytes }))
    }

    fn plan(&mut self) -> Plan {
        let mut plan = Plan::default();
        while let Some(step) = self.steps.next_if(|step| plan.has_room_for(step)) {
            plan.push(step);
        }
        plan
    }

    /// The planned pairs of hashes, in order: with one read if they lie close together, as they do for a run.
    fn read_pairs(&self, plan: &Plan) -> io::Result<Vec<u8>> {
        let offsets = plan.parents().map(|node| self.offset_of(node)).collect::<io::Result<Vec<u64>>>()?;
        let (Some(first), Some(last)) = (offsets.iter().min(), offsets.iter().max()) else { return Ok(Vec::new()) };
        let mut pairs = vec![0; offsets.len() * PAIR_LEN];
        let span = last - first + PAIR_LEN as u64;
        if span <= MAX_SPAN {
            let mut near = vec![0; span as usize];
            self.content.outboard.read_exact_at(&mut near, *first)?;
            for (pair, offset) in pairs.chunks_exact_mut(PAIR_LEN).zip(&offsets) {
                pair.copy_from_slice(&near[(offset - first) as usize..][..PAIR_LEN]);
            }
        } else {
            for (pair, offset) in pairs.chunks_exact_mut(PAIR_LEN).zip(&offsets) {
                self.content.outboard.read_exact_at(pair, *offset)?;
            }
        }
        Ok(pairs)
    }

    fn offset_of(&self, node: ParentIndex) -> io::Result<u64> {
        parent_offset(self.content.size(), node).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

/// Steps that are read and sent together.
#[derive(Default)]
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

    fn parents(&self) -> impl Iterator<Item = ParentIndex> + '_ {
        self.steps.iter().filter_map(|step| match step {
            Step::Parent(node) => Some(*node),
            Step::Leaf { .. } => None,
        })
    }
}

/// Content bytes of a batch: as many as the payee lets leave at once.
const BATCH_CONTENT: u64 = aro_proto::channel::BATCH_BYTES;
/// Bytes of the outboard that one read may span.
const MAX_SPAN: u64 = 64 * 1024;

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
                    let mut reader = BatchReader::new(Arc::clone(&content), answered.clone());
                    let (mut wire, mut billed) = (Vec::new(), 0);
                    while let Some(batch) = reader.next_batch().unwrap() {
                        assert!(batch.content_bytes <= BATCH_CONTENT);
                        wire.extend_from_slice(&batch.wire);
                        billed += batch.content_bytes;
                    }
                    assert_eq!((billed, wire.len() as u64), (answered.content_bytes(), answered.encoded_len()));
                    assert_proves(&content, answered, &wire, &bytes);
                }
            }
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
