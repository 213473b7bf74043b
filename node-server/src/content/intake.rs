//! An upload as it comes: proven item by item, and gathered into batches for the disk.

use aro_proto::ContentId;
use aro_proto::channel::BATCH_BYTES;
use aro_proto::limits::MAX_CONTENT_SIZE;
use aro_proto::merkle::{AnsweredRanges, Decoder, PAIR_LEN, ParentIndex, PlacedPair, VerifyError};
use uncached_file::AlignedBuffer;

/// Proves an upload's encoding.
#[derive(Debug)]
pub(crate) struct Intake {
    decoder: Decoder,
    /// The beginning of a pair of hashes.
    pair: Vec<u8>,
}

/// A stretch of content, at most 256 KiB, with the pairs of hashes that came with it and those inside its groups. Once it
/// is whole, all of it is proven. It is filled again and again.
#[derive(Debug)]
pub(crate) struct ProvenBatch {
    pub(super) offset: u64,
    pub(super) content: AlignedBuffer,
    pub(super) pairs: Vec<PlacedPair>,
    /// How much of the content is proven: all but a group that is not all there.
    proven: usize,
    is_whole: bool,
}

impl Intake {
    /// Proves `answered`, which is one range of the content.
    pub(crate) fn new(content: ContentId, answered: AnsweredRanges) -> Self {
        debug_assert!(answered.size() <= MAX_CONTENT_SIZE && answered.iter().count() <= 1);
        debug_assert!(BATCH_BYTES.is_multiple_of(answered.group().bytes()), "whole groups fill a batch");
        let decoder = Decoder::new(content, answered).expect("announced sizes are bounded");
        Self { decoder, pair: Vec::with_capacity(PAIR_LEN) }
    }

    /// True if all is proven.
    pub(crate) fn is_complete(&self) -> bool {
        self.decoder.is_complete()
    }

    /// Makes a batch ready for what comes next.
    pub(crate) fn begin(&self, batch: &mut ProvenBatch) {
        let left = self.decoder.answered().content_bytes() - self.decoder.proven_bytes();
        let most = usize::try_from(left.min(BATCH_BYTES)).expect("at most a batch");
        batch.content.clear();
        if batch.content.room() < most {
            batch.content = AlignedBuffer::with_capacity(most);
        }
        batch.pairs.clear();
        (batch.proven, batch.is_whole) = (0, false);
    }

    /// Takes what comes next, as far as the batch is not whole, and returns how many bytes that is. Each item is proven as
    /// soon as it is there.
    ///
    /// # Errors
    /// An item is not the content's. After that nothing more is taken.
    // r[impl publish.verify.first_error]
    pub(crate) fn take(&mut self, bytes: &[u8], batch: &mut ProvenBatch) -> Result<usize, VerifyError> {
        let mut rest = bytes;
        while !batch.is_whole {
            let Some(len) = self.decoder.expects() else {
                self.decoder.finish()?;
                break;
            };
            let node = self.decoder.next_parent();
            let there = if node.is_some() { self.pair.len() } else { batch.content.len() - batch.proven };
            let (now, later) = rest.split_at(rest.len().min(len - there));
            rest = later;
            match node {
                Some(_) => self.pair.extend_from_slice(now),
                None => drop(batch.content.fill(now)),
            }
            if there + now.len() < len {
                break;
            }
            match node {
                Some(node) => self.prove_pair(node, batch)?,
                None => self.prove_leaf(batch)?,
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn prove_pair(&mut self, node: ParentIndex, batch: &mut ProvenBatch) -> Result<(), VerifyError> {
        self.decoder.accept(&self.pair)?;
        batch.pairs.extend(self.pair.first_chunk().map(|pair| (node, *pair)));
        self.pair.clear();
        Ok(())
    }

    fn prove_leaf(&mut self, batch: &mut ProvenBatch) -> Result<(), VerifyError> {
        let leaf = self.decoder.accept_with_pairs(&batch.content[batch.proven..], &mut batch.pairs)?;
        if let Some(leaf) = leaf.filter(|_| batch.proven == 0) {
            batch.offset = leaf.offset();
        }
        batch.proven = batch.content.len();
        batch.is_whole = batch.proven as u64 >= BATCH_BYTES || self.decoder.is_complete();
        Ok(())
    }
}

impl ProvenBatch {
    /// Its content bytes.
    pub(crate) fn len(&self) -> u64 {
        self.content.len() as u64
    }

    /// Whether it is full, or the last.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }
}

/// Without any memory yet.
impl Default for ProvenBatch {
    fn default() -> Self {
        let content = AlignedBuffer::with_capacity(0);
        Self { offset: 0, content, pairs: Vec::new(), proven: 0, is_whole: false }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use aro_proto::merkle::{ByteRanges, Encoder, GroupSize, Outboard, PreOrderOutboard, Step};
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn content(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i / 5 % 251) as u8).collect()
    }

    /// The encoding of everything from `held` on, and where each of its items ends: in it, and in the content.
    pub(in super::super) fn encoding(
        bytes: &[u8],
        held: u64,
        group: GroupSize,
    ) -> (AnsweredRanges, Vec<u8>, Vec<(usize, usize)>) {
        let outboard = PreOrderOutboard::build(bytes);
        let missing = ByteRanges::single(held, u64::MAX).unwrap();
        let answered = missing.answered(bytes.len() as u64, group);
        let (mut wire, mut ends, mut end) = (Vec::new(), Vec::new(), 0);
        for step in Encoder::new(answered.clone()) {
            match step {
                Step::Parent(node) => wire.extend(outboard.parent(node).unwrap()),
                Step::Leaf { offset, len } => {
                    wire.extend(&bytes[offset as usize..][..len as usize]);
                    end = offset as usize + len as usize;
                }
            }
            ends.push((wire.len(), end));
        }
        (answered, wire, ends)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        // r[verify content.outboard.layout]
        #[test]
        fn however_it_is_cut_the_batches_are_the_content_and_all_its_pairs_proptest(
            size in prop_oneof![0_usize..20_000, Just(65_536), Just(262_144), 1_usize..1_500_000],
            held in 0_u64..1_500_000,
            group in prop::sample::select(vec![GroupSize::KIB16, GroupSize::KIB32, GroupSize::KIB64]),
            cuts in prop::collection::vec(prop_oneof![Just(0_usize), 1_usize..70, 1_usize..100_000], 1..20),
        ) {
            let bytes = content(size);
            let held = held.min(size as u64) / 65_536 * 65_536;
            let (answered, wire, _) = encoding(&bytes, held, group);
            let mut intake = Intake::new(ContentId::of(&bytes), answered.clone());
            let (mut batch, mut rest, mut cuts) = (ProvenBatch::default(), &wire[..], cuts.into_iter().chain([1]).cycle());
            let (mut got, mut pairs) = (Vec::new(), BTreeMap::new());
            let start = answered.iter().next().map_or(0, |first| first.start) as usize;
            while !intake.is_complete() {
                intake.begin(&mut batch);
                while !batch.is_whole() {
                    let piece = &rest[..rest.len().min(cuts.next().unwrap())];
                    rest = &rest[intake.take(piece, &mut batch).unwrap()..];
                }
                prop_assert!(batch.len() == BATCH_BYTES || intake.is_complete());
                prop_assert_eq!(batch.offset as usize, start + got.len());
                got.extend_from_slice(&batch.content);
                pairs.extend(batch.pairs.drain(..));
            }
            prop_assert!(rest.is_empty() && got == bytes[start..]);
            let outboard = PreOrderOutboard::build(&bytes);
            for (node, pair) in &pairs {
                prop_assert_eq!(outboard.parent(*node).unwrap(), *pair);
            }
            if held == 0 {
                prop_assert_eq!(pairs.len() * PAIR_LEN, outboard.bytes().len());
            }
        }
    }

    // r[verify publish.verify.first_error]
    #[test]
    fn nothing_is_taken_after_the_first_wrong_byte() {
        let bytes = content(400_000);
        let (answered, mut wire, ends) = encoding(&bytes, 0, GroupSize::KIB64);
        for wrong in [10, ends[2].0 + 1, wire.len() - 200_000, wire.len() - 1] {
            wire[wrong] ^= 1;
            let mut intake = Intake::new(ContentId::of(&bytes), answered.clone());
            let (mut batch, mut rest, mut taken) = (ProvenBatch::default(), &wire[..], 0);
            let error = loop {
                intake.begin(&mut batch);
                match intake.take(rest, &mut batch) {
                    Ok(len) => rest = &rest[len..],
                    Err(error) => break error,
                }
                assert!(batch.is_whole());
                taken += batch.content.len();
            };
            assert!(matches!(error, VerifyError::LeafMismatch { .. } | VerifyError::ParentMismatch { .. }));
            let before = ends.iter().rev().find(|(end, _)| *end <= wrong).map_or(0, |(_, content)| *content);
            assert_eq!((taken + batch.proven, batch.is_whole()), (before, false), "{wrong}");
            assert!(matches!(intake.take(&wire, &mut batch), Err(VerifyError::AfterError)));
            assert!(!intake.is_complete());
            wire[wrong] ^= 1;
        }
    }
}
