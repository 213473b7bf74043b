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

use aro_proto::merkle::{
    ByteRanges, Decoder, Encoder, GroupSize, PAIR_LEN, ParentIndex, PlacedPair, Step, outboard_len, parent_offset,
};
use aro_proto::{AgentId, ContentId};
use uncached_file::UncachedFile;

use super::import::{sync_folder, sync_together};
use super::intake::ProvenBatch;
use super::store::{DATA, OUTBOARD, PUBLISHER, StoreError};

/// Part of a content, from its beginning, as one publisher has uploaded it.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    content: ContentId,
    size: u64,
    data: Arc<File>,
    /// Past the page cache, for a content that is too large for it.
    uncached: UncachedFile,
    outboard: File,
    held: u64,
}

impl Partial {
    /// Takes up an upload where it broke off, or begins it. `held` is what this process knows to be there; otherwise
    /// what is on disk is proven anew. A content of more than `cached_bytes` is written past the page cache, where the system
    /// can. Blocks on the disk.
    // r[impl publish.resume.proven]
    pub(crate) fn open(
        path: &Path,
        content: ContentId,
        size: u64,
        held: Option<u64>,
        cached_bytes: u64,
    ) -> Result<Self, StoreError> {
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
        let uncached =
            if size > cached_bytes { UncachedFile::open(&path.join(DATA), &data) } else { UncachedFile::closed() };
        let (path, data) = (path.to_owned(), Arc::new(data));
        let mut partial = Self { path, content, size, data, uncached, outboard, held: 0 };
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

    /// The file that grows, for syncing it meanwhile.
    pub(crate) fn data(&self) -> Arc<File> {
        Arc::clone(&self.data)
    }

    /// Writes a whole batch that follows what is held. What of it cannot go past the page cache, if it should, goes the usual
    /// way. Blocks on the disk.
    pub(crate) fn write(&mut self, batch: &ProvenBatch) -> io::Result<()> {
        debug_assert!(batch.is_whole());
        let past = self.uncached.write(&batch.content, batch.offset)?;
        self.data.write_all_at(&batch.content[past..], batch.offset + past as u64)?;
        self.write_pairs(&batch.pairs)?;
        self.held = batch.offset + batch.len();
        Ok(())
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

    /// Writes pairs, those that lie side by side at once.
    fn write_pairs(&self, pairs: &[PlacedPair]) -> io::Result<()> {
        let placed = pairs.iter().map(|(node, pair)| Ok((self.offset_of(*node)?, pair)));
        let mut placed = placed.collect::<io::Result<Vec<_>>>()?;
        placed.sort_unstable_by_key(|(offset, _)| *offset);
        for run in placed.chunk_by(|(a, _), (b, _)| a + PAIR_LEN as u64 == *b) {
            let bytes: Vec<u8> = run.iter().flat_map(|(_, pair)| pair.iter().copied()).collect();
            if let Some((offset, _)) = run.first() {
                self.outboard.write_all_at(&bytes, *offset)?;
            }
        }
        Ok(())
    }

    fn offset_of(&self, node: ParentIndex) -> io::Result<u64> {
        parent_offset(self.size, node).ok_or_else(|| io::ErrorKind::InvalidInput.into())
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
    use aro_proto::merkle::PreOrderOutboard;

    use super::super::intake::Intake;
    use super::super::intake::tests::{content, encoding};
    use super::*;
    use crate::content::ContentStore;

    fn open(path: &Path, bytes: &[u8], held: Option<u64>, cached_bytes: u64) -> Partial {
        Partial::open(path, ContentId::of(bytes), bytes.len() as u64, held, cached_bytes).unwrap()
    }

    /// Brings what a partial lacks, at most so many batches of it.
    fn bring(partial: &mut Partial, bytes: &[u8], group: GroupSize, batches: usize) {
        let (answered, wire, _) = encoding(bytes, partial.held(), group);
        let mut intake = Intake::new(ContentId::of(bytes), answered);
        let (mut batch, mut rest) = (ProvenBatch::default(), &wire[..]);
        for _ in 0..batches {
            if intake.is_complete() {
                return;
            }
            intake.begin(&mut batch);
            rest = &rest[intake.take(rest, &mut batch).unwrap()..];
            partial.write(&batch).unwrap();
        }
    }

    /// Whether temporary folders have a way past the page cache.
    fn has_a_way_past() -> bool {
        let file = tempfile::NamedTempFile::new().unwrap();
        UncachedFile::open(file.path(), file.as_file()).is_open()
    }

    // r[verify publish.durable]
    #[test]
    fn what_is_taken_is_served_as_if_it_had_been_added() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let publisher = AgentId::from_bytes([3; 32]);
        let cached_bytes = 100_000;
        for size in [0, 1, 16_384, 16_385, 65_536, 65_537, 200_000, 1 << 20, (1 << 20) + 77] {
            let bytes = content(size);
            let id = ContentId::of(&bytes);
            let mut partial = open(&dir.path().join("up"), &bytes, None, cached_bytes);
            let goes_past = size as u64 > cached_bytes && has_a_way_past();
            assert_eq!((partial.held(), partial.uncached.is_open()), (0, goes_past));
            bring(&mut partial, &bytes, GroupSize::KIB64, usize::MAX);
            assert_eq!((partial.held(), partial.uncached.is_open()), (size as u64, goes_past));
            partial.finish(&dir.path().join("contents"), &publisher).unwrap();
            let folder = dir.path().join("contents").join(id.to_string());
            assert_eq!(fs::read(folder.join(DATA)).unwrap(), bytes);
            assert_eq!(fs::read(folder.join(OUTBOARD)).unwrap(), PreOrderOutboard::build(&bytes).bytes(), "{size}");
            assert_eq!(store.get(id).unwrap().unwrap().size(), size as u64);
        }
    }

    // r[verify publish.resume.proven]
    #[test]
    fn after_a_restart_only_what_proves_on_disk_is_held_whichever_way_it_went() {
        for cached_bytes in [0, u64::MAX] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("up");
            let bytes = content(1_000_000);
            let reopen = || open(&path, &bytes, None, cached_bytes);
            bring(&mut reopen(), &bytes, GroupSize::KIB64, 2);
            assert_eq!(reopen().held(), 8 * 65_536);

            // A byte that the disk has lost, a size that was a lie.
            OpenOptions::new().write(true).open(path.join(DATA)).unwrap().write_all_at(b"?", 3 * 65_536 + 7).unwrap();
            assert_eq!(reopen().held(), 3 * 65_536);
            bring(&mut reopen(), &bytes, GroupSize::KIB16, 1);
            assert_eq!(reopen().held(), 8 * 65_536, "the group behind those was there");
            let mut partial = reopen();
            bring(&mut partial, &bytes, GroupSize::KIB32, usize::MAX);
            assert!(partial.is_whole());
            assert!(reopen().is_whole());
            let longer = Partial::open(&path, ContentId::of(&bytes), 1_000_001, Some(65_536), cached_bytes).unwrap();
            assert_eq!(longer.held(), 0);
        }
    }
}
