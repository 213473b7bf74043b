//! A fetch on disk before its file has a name: what is there can be proven anew, after any crash, and by nothing but the
//! content's id.
//!
//! ```text
//! <name>.aro-part    the content's bytes, each at its own place; holes where nothing came yet
//! <name>.aro-proof   the head, then the pairs of hashes over boundary 1, 2, 3 ... between 16 KiB groups, 64 bytes each
//!
//! head    0        8           40     48      64
//!         +--------+-----------+------+-------+
//!         | magic  | content   | size | zeros |
//!         +--------+-----------+------+-------+
//! ```
//! No map is kept. What counts as held is what hashes up to the id when the files are opened, so it is never ahead of the
//! disk, whatever was cut off, torn or changed, and in which order the disk took the writes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aro_proto::ContentId;
use aro_proto::limits::MAX_CONTENT_SIZE;
use aro_proto::merkle::{ByteRanges, GroupSize, HeldStore, PAIR_LEN, ParentIndex, held};
use bytes::Bytes;

use super::coverage::Coverage;

/// The two files, locked against other fetches.
pub(super) struct Part {
    data: File,
    proof: File,
    data_path: PathBuf,
    proof_path: PathBuf,
    target: PathBuf,
    content: ContentId,
}

impl Part {
    /// Opens what an earlier fetch of this content left, or begins anew. Also says what of it holds. Blocks on the disk.
    pub(super) fn open(target: &Path, content: ContentId, resume: bool) -> io::Result<(Self, Coverage)> {
        if target.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "the output path is a folder"));
        }
        let (data_path, proof_path) = (beside(target, "aro-part")?, beside(target, "aro-proof")?);
        let data = lock(&data_path)?;
        let proof = open(&proof_path)?;
        let part = Self { data, proof, data_path, proof_path, target: target.to_owned(), content };
        let coverage = match part.claimed_size()? {
            Some(size) if resume => part.prove(size)?,
            _ => Coverage::default(),
        };
        if coverage.bytes() == 0 {
            // Another content's, or nothing that holds.
            part.data.set_len(0)?;
            part.proof.set_len(0)?;
        }
        Ok((part, coverage))
    }

    /// Notes the size that a node claims: what is there is proven by it after a restart.
    pub(super) fn claim(&self, size: u64) -> io::Result<()> {
        let mut head = [0; PAIR_LEN];
        head[..8].copy_from_slice(MAGIC);
        head[8..40].copy_from_slice(self.content.as_bytes());
        head[40..48].copy_from_slice(&size.to_le_bytes());
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

    /// Writes proven bytes, those that lie side by side at once. Only one thread may do so.
    pub(super) fn write_leaves<'a>(&self, leaves: impl Iterator<Item = (u64, &'a Bytes)>) -> io::Result<()> {
        let mut leaves: Vec<(u64, &Bytes)> = leaves.filter(|(_, bytes)| !bytes.is_empty()).collect();
        leaves.sort_by_key(|(offset, _)| *offset);
        let end_of = |(offset, bytes): &(u64, &Bytes)| offset + bytes.len() as u64;
        for run in leaves.chunk_by(|left, right| end_of(left) == right.0) {
            let Some((offset, _)) = run.first() else { continue };
            (&self.data).seek(SeekFrom::Start(*offset))?;
            let mut slices: Vec<IoSlice<'_>> = run.iter().map(|(_, bytes)| IoSlice::new(bytes)).collect();
            write_all_slices(&self.data, &mut slices)?;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.data.sync_data()
    }

    /// All that was asked for is there: makes it durable and puts it in place. Returns the file's length. Blocks on the
    /// disk.
    pub(super) fn commit(&self, asked: &ByteRanges, coverage: &Coverage) -> io::Result<u64> {
        let wanted: Vec<_> = coverage.wanted(asked).collect();
        let len = wanted.iter().map(|range| range.end - range.start).sum();
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
    fn commit_ranges(&self, wanted: &[std::ops::Range<u64>]) -> io::Result<()> {
        let gathered = beside(&self.target, "aro-ranges")?;
        let outcome = (|| {
            let mut file = File::create(&gathered)?;
            for range in wanted {
                let len = range.end - range.start;
                (&self.data).seek(SeekFrom::Start(range.start))?;
                // The kernel copies, or shares the blocks where the file system can.
                if io::copy(&mut io::Read::take(&self.data, len), &mut file)? < len {
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

    /// The size in the head, if it is of this content.
    fn claimed_size(&self) -> io::Result<Option<u64>> {
        let mut head = [0; PAIR_LEN];
        if !filled(&self.proof, &mut head, 0)? || &head[..8] != MAGIC || head[8..40] != self.content.as_bytes()[..] {
            return Ok(None);
        }
        let mut size = [0; 8];
        size.copy_from_slice(&head[40..48]);
        Ok(Some(u64::from_le_bytes(size)).filter(|size| *size <= MAX_CONTENT_SIZE))
    }

    fn prove(&self, size: u64) -> io::Result<Coverage> {
        let mut coverage = Coverage::default();
        coverage.claim(size);
        for range in held(self.content, size, &mut Files(self))? {
            if range.end == size {
                coverage.prove_size(size);
            }
            coverage.add(range);
        }
        Ok(coverage)
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

fn write_all_slices(mut file: &File, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    let mut rest = slices;
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
/// Chunks between two boundaries that can have a pair.
const UNIT_CHUNKS: u64 = 1 << GroupSize::STORED.log2();
/// Time for a fetch that was cancelled to write what it had taken.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(5);
