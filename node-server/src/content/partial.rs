//! An upload on disk: verified before it is written, durable before it has a name.
//!
//! ```text
//! publishing/<publisher>-<content id>/data, outboard.obao4    an upload that runs or has broken off
//! contents/<content id>/data, outboard.obao4, publisher       the whole content; by one rename
//! ```
//! What an upload holds is a stretch from its beginning, for uploads go from left to right. No map of it is kept on
//! disk: after a restart the bytes that are there are proven anew against the content id, so that what counts as held
//! is never ahead of the disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aro_proto::limits::MAX_CONTENT_SIZE;
use aro_proto::merkle::{
    AnsweredRanges, ByteRanges, Decoder, Encoder, GroupSize, PAIR_LEN, ParentIndex, PlacedPair, Step, VerifyError,
    outboard_len, parent_offset,
};
use aro_proto::{AgentId, ContentId};
use thiserror::Error;

use super::import::{sync_folder, sync_together};
use super::store::{DATA, OUTBOARD, PUBLISHER, StoreError};

/// Part of a content, from its beginning, as one publisher has uploaded it.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    content: ContentId,
    size: u64,
    data: Arc<File>,
    outboard: File,
    held: u64,
}

/// Why bytes of an upload are not taken.
#[derive(Debug, Error)]
pub(crate) enum IntakeError {
    /// They are not the content's.
    #[error(transparent)]
    Wrong(#[from] VerifyError),
    /// The disk does not take them.
    #[error("an upload cannot be written: {0}")]
    Disk(#[from] io::Error),
}

impl Partial {
    /// Takes up an upload where it broke off, or begins it. `held` is what this process knows to be there; otherwise
    /// what is on disk is proven anew. Blocks on the disk.
    // r[impl publish.resume.proven]
    pub(crate) fn open(path: &Path, content: ContentId, size: u64, held: Option<u64>) -> Result<Self, StoreError> {
        let at = |source| StoreError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(at)?;
        let open = |name| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path.join(name));
        let (data, outboard) = (open(DATA).map_err(at)?, open(OUTBOARD).map_err(at)?);
        // Of one content there is one size: where another was announced before, one of the two was a lie.
        let is_same = data.metadata().map_err(at)?.len() == size;
        if !is_same && data.metadata().map_err(at)?.is_file() {
            data.set_len(0).and_then(|()| data.set_len(size)).map_err(at)?;
        }
        outboard.set_len(outboard_len(size)).map_err(at)?;
        let mut partial = Self { path: path.to_owned(), content, size, data: Arc::new(data), outboard, held: 0 };
        partial.held = match held {
            _ if !is_same => 0,
            Some(held) => held,
            None => partial.prove().map_err(at)?,
        };
        Ok(partial)
    }

    /// Bytes from the beginning that are proven and written.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    /// True if nothing is missing.
    pub(crate) fn is_whole(&self) -> bool {
        self.held == self.size && self.size > 0
    }

    /// Makes the content durable, and then gives it its name. Blocks on the disk.
    // r[impl publish.durable]
    pub(crate) fn finish(self, contents: &Path, publisher: &AgentId) -> Result<(), StoreError> {
        name_content(&self.path, [&self.data, &self.outboard], contents, self.content, publisher)
    }

    /// How much from the beginning proves, in bulk groups.
    fn prove(&self) -> io::Result<u64> {
        let answered = ByteRanges::all().answered(self.size, GroupSize::STORED);
        let Ok(mut decoder) = Decoder::new(self.content, answered.clone()) else { return Ok(0) };
        let mut item = Vec::new();
        for step in Encoder::new(answered) {
            let read = match step {
                Step::Parent(node) => {
                    item.resize(PAIR_LEN, 0);
                    self.outboard.read_exact_at(&mut item, self.offset_of(node)?)
                }
                Step::Leaf { offset, len } => {
                    item.resize(len as usize, 0);
                    self.data.read_exact_at(&mut item, offset)
                }
            };
            if read.is_err() || decoder.accept(&item).is_err() {
                break;
            }
        }
        let proven = decoder.proven_bytes();
        Ok(if proven == self.size { proven } else { proven - proven % GroupSize::KIB64.bytes() })
    }

    fn offset_of(&self, node: ParentIndex) -> io::Result<u64> {
        parent_offset(self.size, node).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

/// Verifies an upload and writes what holds. Memory: one batch.
#[derive(Debug)]
pub(crate) struct Intake {
    partial: Partial,
    decoder: Decoder,
    steps: Encoder,
}

impl Intake {
    /// Takes `answered`, which is what the partial lacks.
    pub(crate) fn new(partial: Partial, answered: AnsweredRanges) -> Self {
        debug_assert!(answered.size() <= MAX_CONTENT_SIZE);
        let decoder = Decoder::new(partial.content, answered.clone()).expect("announced sizes are bounded");
        let held = answered.iter().next().map_or(0, |first| first.start);
        Self { partial: Partial { held, ..partial }, decoder, steps: Encoder::new(answered) }
    }

    /// The file that grows, for syncing it meanwhile.
    pub(crate) fn data(&self) -> Arc<File> {
        Arc::clone(&self.partial.data)
    }

    /// Takes whole items in wire order: proves each, then writes it. Returns the content bytes among them. Blocks on
    /// the disk.
    ///
    /// After an error nothing more is taken, and what was proven before stays.
    // r[impl publish.verify.first_error]
    pub(crate) fn take(&mut self, wire: &[u8]) -> Result<u64, IntakeError> {
        let (mut rest, before) = (wire, self.decoder.proven_bytes());
        let mut pairs = Vec::new();
        while let Some(len) = self.decoder.expects().filter(|len| *len <= rest.len()) {
            let (item, later) = rest.split_at(len);
            let (leaf, step) = (self.decoder.accept_with_pairs(item, &mut pairs)?, self.steps.next());
            if let Some(leaf) = leaf {
                self.partial.data.write_all_at(leaf.bytes(), leaf.offset())?;
            } else if let (Some(Step::Parent(node)), Ok(pair)) = (step, item.try_into()) {
                pairs.push((node, pair));
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        if !rest.is_empty() {
            // Cut wrongly, too much, or after an error.
            self.decoder.accept(rest)?;
        }
        self.write_pairs(&pairs)?;
        let taken = self.decoder.proven_bytes() - before;
        self.partial.held += taken;
        Ok(taken)
    }

    /// Gives the upload back, whole or not.
    pub(crate) fn into_partial(self) -> Partial {
        self.partial
    }

    /// Writes pairs, those that lie side by side at once.
    fn write_pairs(&self, pairs: &[PlacedPair]) -> io::Result<()> {
        let placed = pairs.iter().map(|(node, pair)| Ok((self.partial.offset_of(*node)?, pair)));
        let mut placed = placed.collect::<io::Result<Vec<_>>>()?;
        placed.sort_unstable_by_key(|(offset, _)| *offset);
        for run in placed.chunk_by(|(a, _), (b, _)| a + PAIR_LEN as u64 == *b) {
            let bytes: Vec<u8> = run.iter().flat_map(|(_, pair)| pair.iter().copied()).collect();
            if let Some((offset, _)) = run.first() {
                self.partial.outboard.write_all_at(&bytes, *offset)?;
            }
        }
        Ok(())
    }
}

/// Makes an upload's data and outboard durable, and moves their folder to its place among the contents, with its
/// publisher's name.
// r[impl publish.durable]
pub(super) fn name_content(
    folder: &Path,
    [data, outboard]: [&File; 2],
    contents: &Path,
    content: ContentId,
    publisher: &AgentId,
) -> Result<(), StoreError> {
    let at = |source| StoreError::Io { path: folder.to_owned(), source };
    let note = File::create(folder.join(PUBLISHER)).map_err(at)?;
    note.write_all_at(publisher.to_string().as_bytes(), 0).map_err(at)?;
    sync_together(data, &[outboard, &note]).map_err(at)?;
    sync_folder(folder)?;
    let target = contents.join(content.to_string());
    match fs::rename(folder, &target) {
        Ok(()) => {}
        // It has come from elsewhere meanwhile.
        Err(_) if target.join(DATA).is_file() => fs::remove_dir_all(folder).map_err(at)?,
        Err(source) => return Err(StoreError::Io { path: target, source }),
    }
    sync_folder(contents)
}

#[cfg(test)]
mod tests {
    use aro_proto::merkle::{Outboard, PreOrderOutboard};

    use super::*;
    use crate::content::ContentStore;

    const GROUP: GroupSize = GroupSize::KIB64;

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i / 5 % 251) as u8).collect()
    }

    /// The encoding of everything from `held` on.
    fn encoding(bytes: &[u8], held: u64) -> (AnsweredRanges, Vec<u8>) {
        let outboard = PreOrderOutboard::build(bytes);
        let missing = ByteRanges::single(held, u64::MAX).unwrap();
        let answered = missing.answered(bytes.len() as u64, GROUP);
        let mut wire = Vec::new();
        for step in Encoder::new(answered.clone()) {
            match step {
                Step::Parent(node) => wire.extend(outboard.parent(node).unwrap()),
                Step::Leaf { offset, len } => wire.extend(&bytes[offset as usize..][..len as usize]),
            }
        }
        (answered, wire)
    }

    // r[verify publish.durable]
    #[test]
    fn what_is_taken_is_served_as_if_it_had_been_added() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let publisher = AgentId::from_bytes([3; 32]);
        for size in [0, 1, 16_384, 16_385, 65_536, 65_537, 200_000, (1 << 20) + 77] {
            let bytes = content(size);
            let id = ContentId::of(&bytes);
            let partial = Partial::open(&dir.path().join("up"), id, size as u64, None).unwrap();
            assert_eq!(partial.held(), 0);
            let (answered, wire) = encoding(&bytes, 0);
            let mut intake = Intake::new(partial, answered);
            assert_eq!(intake.take(&wire).unwrap(), size as u64);
            intake.into_partial().finish(&dir.path().join("contents"), &publisher).unwrap();
            let folder = dir.path().join("contents").join(id.to_string());
            assert_eq!(fs::read(folder.join(DATA)).unwrap(), bytes);
            assert_eq!(fs::read(folder.join(OUTBOARD)).unwrap(), PreOrderOutboard::build(&bytes).bytes(), "{size}");
            assert_eq!(store.get(id).unwrap().unwrap().size(), size as u64);
        }
    }

    // r[verify publish.resume.proven]
    #[test]
    fn after_a_restart_only_what_proves_on_disk_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("up");
        let bytes = content(1_000_000);
        let (id, size) = (ContentId::of(&bytes), 1_000_000);
        let (answered, wire) = encoding(&bytes, 0);
        let mut intake = Intake::new(Partial::open(&path, id, size, None).unwrap(), answered);
        // Cut within the ninth group, after whole items.
        let items = Encoder::new(ByteRanges::all().answered(size, GROUP)).scan(0, |sum, step| {
            *sum += match step {
                Step::Parent(_) => PAIR_LEN,
                Step::Leaf { len, .. } => len as usize,
            };
            Some(*sum)
        });
        let cut = items.filter(|at| *at <= 9 * 65_536).last().unwrap();
        let taken = intake.take(&wire[..cut]).unwrap();
        drop(intake);
        assert_eq!(Partial::open(&path, id, size, None).unwrap().held(), taken);
        assert_eq!(taken, 8 * 65_536);

        // A byte that the disk has lost, a size that was a lie.
        OpenOptions::new().write(true).open(path.join(DATA)).unwrap().write_all_at(b"?", 3 * 65_536 + 7).unwrap();
        let partial = Partial::open(&path, id, size, None).unwrap();
        assert_eq!(partial.held(), 3 * 65_536);
        let (answered, wire) = encoding(&bytes, partial.held());
        let mut intake = Intake::new(partial, answered);
        intake.take(&wire).unwrap();
        assert!(intake.into_partial().is_whole());
        assert!(Partial::open(&path, id, size, None).unwrap().is_whole());
        assert_eq!(Partial::open(&path, id, size + 1, Some(65_536)).unwrap().held(), 0);
    }

    // r[verify publish.verify.first_error]
    #[test]
    fn nothing_after_the_first_wrong_byte_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = content(400_000);
        let (answered, mut wire) = encoding(&bytes, 0);
        let at = wire.len() - 200_000;
        wire[at] ^= 1;
        let mut intake =
            Intake::new(Partial::open(dir.path(), ContentId::of(&bytes), 400_000, None).unwrap(), answered);
        assert!(matches!(intake.take(&wire), Err(IntakeError::Wrong(VerifyError::LeafMismatch { .. }))));
        assert!(matches!(intake.take(&wire), Err(IntakeError::Wrong(VerifyError::AfterError))));
        let written = fs::read(dir.path().join(DATA)).unwrap();
        let first_wrong = 400_000 - 200_000 - (400_000 - 200_000) % 65_536;
        assert_eq!(written[..first_wrong], bytes[..first_wrong]);
        assert!(written[first_wrong..].iter().all(|byte| *byte == 0));
    }
}
