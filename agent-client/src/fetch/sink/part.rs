//! A fetch on disk before its file has a name: what is there can be proven anew, after any crash, and by nothing but the
//! content's id.
//!
//! ```text
//! <name>.aro-part    the content's bytes, each at its own place; holes where nothing came yet
//! <name>.aro-proof   the head, then the pairs of hashes over boundary 1, 2, 3 ... between 16 KiB groups, 64 bytes each
//!
//! head    0        8           40      48      56      64
//!         +--------+-----------+-------+-------+-------+
//!         | magic  | content   | size  | size  | size  |
//!         +--------+-----------+-------+-------+-------+
//! ```
//! The sizes are claims of nodes (all ones if there are fewer), of which the first stays and the last gives way, so that a lie
//! takes nothing away from what was proven under another; or one size that is proven.
//!
//! No map is kept. What counts as held is what hashes up to the id when the files are opened, so it is never ahead of the
//! disk, whatever was cut off, torn or changed, and in which order the disk took the writes.

use std::cmp::Reverse;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aro_proto::ContentId;
use aro_proto::limits::MAX_CONTENT_SIZE;
use aro_proto::merkle::{ByteRanges, ContentHasher, GroupSize, HeldStore, PAIR_LEN, ParentIndex, held};
use uncached_file::UncachedFile;

use super::coverage::Coverage;

/// The two files, locked against other fetches.
pub(super) struct Part {
    data: File,
    proof: File,
    data_path: PathBuf,
    proof_path: PathBuf,
    target: PathBuf,
    content: ContentId,
    /// As in the head.
    sizes: Mutex<Vec<u64>>,
    /// The target itself is the content already.
    is_done: bool,
}

impl Part {
    /// Opens what an earlier fetch of this content left, or begins anew. Also says what of it holds, all if the file has
    /// its name already. Blocks on the disk.
    pub(super) fn open(
        target: &Path,
        content: ContentId,
        asked: &ByteRanges,
        resume: bool,
    ) -> io::Result<(Self, Coverage)> {
        if target.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "the output path is a folder"));
        }
        let (data_path, proof_path) = (beside(target, "aro-part")?, beside(target, "aro-proof")?);
        let data = lock(&data_path)?;
        let proof = open(&proof_path)?;
        let (target, sizes) = (target.to_owned(), Mutex::default());
        let mut part = Self { data, proof, data_path, proof_path, target, content, sizes, is_done: false };
        let is_new = part.data.metadata()?.len() == 0;
        let coverage = match resume {
            // An earlier run may have died right after its last step.
            true if is_new && asked.is_all() && part.target_is_content()? => {
                part.is_done = true;
                Coverage::whole(part.target.metadata()?.len())
            }
            true => part.prove()?,
            false => Coverage::default(),
        };
        if coverage.bytes() == 0 {
            // Another content's, or nothing that holds.
            part.data.set_len(0)?;
            part.proof.set_len(0)?;
        }
        Ok((part, coverage))
    }

    /// Notes the size that a node claims, or that is proven: what is there is proven by it after a restart.
    pub(super) fn claim(&self, size: u64, is_proven: bool) -> io::Result<()> {
        let mut sizes = self.sizes.lock().unwrap_or_else(PoisonError::into_inner);
        match sizes.iter().position(|known| *known == size) {
            _ if is_proven => *sizes = vec![size],
            Some(_) => {}
            None => {
                sizes.truncate(MAX_SIZES - 1);
                sizes.push(size);
            }
        }
        let mut head = [u8::MAX; PAIR_LEN];
        head[..8].copy_from_slice(MAGIC);
        head[8..40].copy_from_slice(self.content.as_bytes());
        for (place, size) in head[40..].chunks_exact_mut(8).zip(sizes.iter()) {
            place.copy_from_slice(&size.to_le_bytes());
        }
        self.proof.write_all_at(&head, 0)
    }

    /// Writes proven pairs of hashes.
    pub(super) fn write_pairs(&self, pairs: &mut [(ParentIndex, [u8; PAIR_LEN])]) -> io::Result<()> {
        pairs.sort_unstable_by_key(|(node, _)| *node);
        for run in pairs.chunk_by(|(left, _), (right, _)| left.get() + UNIT_CHUNKS == right.get()) {
            let bytes: Vec<u8> = run.iter().flat_map(|(_, pair)| *pair).collect();
            if let Some((first, _)) = run.first() {
                self.proof.write_all_at(&bytes, place_of(*first))?;
            }
        }
        Ok(())
    }

    /// Where the content's bytes go. Only one thread may write there.
    pub(super) fn data(&self) -> &File {
        &self.data
    }

    /// The same past the page cache, where the system has such a way.
    pub(super) fn uncached(&self) -> UncachedFile {
        UncachedFile::open(&self.data_path, &self.data)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.data.sync_data()
    }

    /// All that was asked for is there: makes it durable and puts it in place. Returns the file's length. Blocks on the
    /// disk.
    pub(super) fn commit(&self, asked: &ByteRanges, coverage: &Coverage) -> io::Result<u64> {
        let wanted: Vec<_> = coverage.wanted(asked).collect();
        let len = wanted.iter().map(|range| range.end - range.start).sum();
        if self.is_done {
            self.remove();
            return Ok(len);
        }
        // From the first byte on, the part is the file already, but for what lies behind it.
        let is_file = wanted.len() <= 1 && wanted.first().is_none_or(|range| range.start == 0);
        if is_file {
            self.data.set_len(len)?;
            self.data.sync_all()?;
            fs::rename(&self.data_path, &self.target)?;
        } else {
            self.commit_ranges(&wanted)?;
            fs::remove_file(&self.data_path)?;
        }
        if let Err(error) = fs::remove_file(&self.proof_path) {
            tracing::debug!(%error, "the proofs of a part file stay behind");
        }
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(len)
    }

    /// Nothing was taken: leaves no file behind.
    pub(super) fn remove(&self) {
        for path in [&self.data_path, &self.proof_path] {
            if let Err(error) = fs::remove_file(path) {
                tracing::debug!(%error, "an empty part file stays behind");
            }
        }
    }

    /// Puts the asked ranges one behind the other into a file of their own, and that in place.
    fn commit_ranges(&self, wanted: &[Range<u64>]) -> io::Result<()> {
        let gathered = beside(&self.target, "aro-ranges")?;
        let outcome = (|| {
            let mut file = File::create(&gathered)?;
            for range in wanted {
                let len = range.end - range.start;
                (&self.data).seek(SeekFrom::Start(range.start))?;
                // The kernel copies, or shares the blocks where the file system can.
                if io::copy(&mut (&self.data).take(len), &mut file)? < len {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the part file was cut off meanwhile"));
                }
            }
            file.sync_all()?;
            fs::rename(&gathered, &self.target)
        })();
        if outcome.is_err() {
            // The error says more.
            let _ = fs::remove_file(&gathered);
        }
        outcome
    }

    /// The same part, its bytes going elsewhere.
    #[cfg(test)]
    pub(super) fn with_data(mut self, data: File) -> Self {
        self.data = data;
        self
    }

    /// The sizes in the head, if it is of this content.
    fn claimed_sizes(&self) -> io::Result<Vec<u64>> {
        let mut head = [0; PAIR_LEN];
        if !filled(&self.proof, &mut head, 0)? || &head[..8] != MAGIC || head[8..40] != self.content.as_bytes()[..] {
            return Ok(Vec::new());
        }
        let mut sizes: Vec<u64> = Vec::new();
        for place in head[40..].chunks_exact(8) {
            let size = place.iter().rev().fold(0, |size, byte| size << 8 | u64::from(*byte));
            if size <= MAX_CONTENT_SIZE && !sizes.contains(&size) {
                sizes.push(size);
            }
        }
        Ok(sizes)
    }

    /// What is there under any of the claimed sizes. Bytes are bound to their place, so they are the content's whatever
    /// size proved them.
    fn prove(&self) -> io::Result<Coverage> {
        let mut found = Vec::new();
        for size in self.claimed_sizes()? {
            found.push((size, held(self.content, size, &mut Files(self))?));
        }
        found.retain(|(_, ranges)| !ranges.is_empty());
        let bytes_of = |ranges: &[Range<u64>]| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        found.sort_by_key(|(_, ranges)| Reverse(bytes_of(ranges)));
        let mut coverage = Coverage::default();
        for (size, ranges) in &found {
            coverage.claim(*size);
            if ranges.last().is_some_and(|last| last.end == *size) {
                coverage.prove_size(*size);
            }
            for range in ranges {
                coverage.add(range.clone());
            }
        }
        let sizes = coverage.size().map_or_else(|| found.iter().map(|(size, _)| *size).collect(), |size| vec![size]);
        *self.sizes.lock().unwrap_or_else(PoisonError::into_inner) = sizes;
        Ok(coverage)
    }

    fn target_is_content(&self) -> io::Result<bool> {
        if !self.target.is_file() {
            return Ok(false);
        }
        let (mut file, mut hasher, mut buffer) =
            (File::open(&self.target)?, ContentHasher::default(), vec![0; HASH_BYTES]);
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finish().0 == self.content),
                Ok(len) => hasher.update(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

struct Files<'a>(&'a Part);

impl HeldStore for Files<'_> {
    type Error = io::Error;

    fn pair(&mut self, node: ParentIndex) -> io::Result<Option<[u8; PAIR_LEN]>> {
        let mut pair = [0; PAIR_LEN];
        Ok(filled(&self.0.proof, &mut pair, place_of(node))?.then_some(pair))
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<bool> {
        filled(&self.0.data, bytes, offset)
    }
}

/// Reads all of `bytes`; false if the file ends before.
fn filled(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where a pair lies: by its boundary, whatever the content's size and the groups it came in.
fn place_of(node: ParentIndex) -> u64 {
    (node.get() + 1) / UNIT_CHUNKS * PAIR_LEN as u64
}

fn beside(target: &Path, ending: &str) -> io::Result<PathBuf> {
    let name = target.file_name();
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the output path names no file"))?;
    let mut name = name.to_owned();
    name.push(".");
    name.push(ending);
    Ok(target.with_file_name(name))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
}

/// Opens the part file for this fetch alone. One that has just ended may still be writing its last bytes.
fn lock(path: &Path) -> io::Result<File> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let file = open(path)?;
        match file.try_lock() {
            // What was opened may have got its final name before it was locked, and is then somebody's file.
            Ok(()) if is_at(&file, path)? => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another fetch is writing to the same file"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((own.dev(), own.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a head begins with.
const MAGIC: &[u8; 8] = b"AROpart1";
/// Sizes that a head has room for.
const MAX_SIZES: usize = 3;
/// Bytes of a finished file hashed at once: 1 MiB.
const HASH_BYTES: usize = 1 << 20;
/// Chunks between two boundaries that can have a pair.
const UNIT_CHUNKS: u64 = 1 << GroupSize::STORED.log2();
/// Time for a fetch that was cancelled to write what it had taken.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(5);
