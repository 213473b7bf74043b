//! Writing a large file past the system's page cache: whole blocks go from memory to the disk, nothing stays in memory
//! behind them, and nobody else's files are pushed out of it. For large files that costs the kernel a fraction of the work.
//!
//! [`UncachedFile`] is a second way into a file that is open already. It takes what disks can take, whole blocks from an
//! [`AlignedBuffer`], and says how much that was; the rest its caller writes the usual way, and all of it where the system or
//! the file system has no other. Both ways may be mixed: each sees what the other wrote.
//!
//! ```
//! # fn main() -> std::io::Result<()> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("film");
//! use std::os::unix::fs::FileExt;
//! use uncached_file::{AlignedBuffer, UncachedFile};
//!
//! let file = std::fs::File::create(&path)?;
//! let mut uncached = UncachedFile::open(&path, &file);
//! let mut buffer = AlignedBuffer::with_capacity(1 << 20);
//! buffer.fill(&[7; 100_000]);
//! let written = uncached.write(&buffer, 0)?;
//! file.write_all_at(&buffer[written..], written as u64)?;
//! # assert!(std::fs::read(&path)? == [7; 100_000]);
//! # Ok(()) }
//! ```

mod buffer;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

pub use buffer::AlignedBuffer;

/// A way into a file past the page cache. It may be closed from the beginning, or turn out to be.
#[derive(Debug)]
pub struct UncachedFile {
    file: Option<File>,
}

impl UncachedFile {
    /// A second way into the file that is open as `same_as`. Closed where there is none, or where another file is at `path`
    /// by now.
    pub fn open(path: &Path, same_as: &File) -> Self {
        let file = direct().and_then(|flags| OpenOptions::new().write(true).custom_flags(flags).open(path).ok());
        Self { file: file.filter(|file| is_same(file, same_as)) }
    }

    /// One that takes nothing, for files that are written the usual way.
    pub fn closed() -> Self {
        Self { file: None }
    }

    /// Whether it is not closed, as far as is known.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Writes as much from the buffer's beginning as is whole blocks, and returns how many bytes these are: none if
    /// `offset` lies within a block, or if the way is closed.
    ///
    /// # Errors
    /// The disk's. A file system that lets such a file be opened and not written is none: the way is then closed.
    pub fn write(&mut self, buffer: &AlignedBuffer, offset: u64) -> io::Result<usize> {
        let whole = if offset.is_multiple_of(BLOCK as u64) { buffer.len() - buffer.len() % BLOCK } else { 0 };
        let Some(file) = self.file.as_ref().filter(|_| whole > 0) else { return Ok(0) };
        match file.write_all_at(&buffer[..whole], offset) {
            Ok(()) => Ok(whole),
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                self.file = None;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }
}

fn is_same(here: &File, there: &File) -> bool {
    let id = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    id(here).is_some_and(|here| id(there) == Some(here))
}

#[cfg(target_os = "linux")]
fn direct() -> Option<i32> {
    i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()
}

#[cfg(not(target_os = "linux"))]
fn direct() -> Option<i32> {
    None
}

/// What offsets, lengths and addresses are multiples of, in bytes: no disk in use has larger blocks than 4 KiB; a file system
/// that does refuses, and is written the usual way.
const BLOCK: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn both_ways_together_write_every_byte_at_its_place_proptest(
            runs in prop::collection::vec((0_u64..300_000, prop_oneof![Just(4_096_usize), 1_usize..200_000]), 1..6),
            is_closed: bool,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            let file = File::create(&path).unwrap();
            let mut uncached = if is_closed { UncachedFile::closed() } else { UncachedFile::open(&path, &file) };
            let (mut expected, mut buffer) = (Vec::new(), AlignedBuffer::with_capacity(200_000));
            for (number, (offset, len)) in runs.into_iter().enumerate() {
                let offset = if number % 2 == 0 { offset - offset % BLOCK as u64 } else { offset };
                let bytes: Vec<u8> = (0..len).map(|at| (at + number) as u8 | 1).collect();
                buffer.clear();
                prop_assert_eq!(buffer.fill(&bytes), len);
                let written = uncached.write(&buffer, offset).unwrap();
                prop_assert!(written == 0 || (!is_closed && written % BLOCK == 0 && len - written < BLOCK));
                file.write_all_at(&buffer[written..], offset + written as u64).unwrap();
                let offset = offset as usize;
                expected.resize(expected.len().max(offset + len), 0);
                expected[offset..offset + len].copy_from_slice(&bytes);
            }
            prop_assert!(fs::read(&path).unwrap() == expected);
        }
    }

    #[test]
    fn another_file_at_the_path_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = File::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"somebody else's").unwrap();
        let mut buffer = AlignedBuffer::with_capacity(BLOCK);
        buffer.fill(&[1; BLOCK]);
        assert_eq!(UncachedFile::open(&path, &file).write(&buffer, 0).unwrap(), 0);
        assert_eq!(UncachedFile::open(&dir.path().join("none"), &file).write(&buffer, 0).unwrap(), 0);
        assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_disk_refuses_is_an_error_and_what_the_way_refuses_closes_it() {
        let mut buffer = AlignedBuffer::with_capacity(BLOCK);
        buffer.fill(&[1; BLOCK]);
        let open = |path| OpenOptions::new().write(true).open(path).ok();
        let full = UncachedFile { file: open("/dev/full") }.write(&buffer, 0);
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        // The largest offsets that a file can have, and one more.
        let mut refusing = UncachedFile { file: open("/dev/null") };
        assert_eq!(refusing.write(&buffer, 0).unwrap(), BLOCK);
        assert_eq!(refusing.write(&buffer, u64::MAX - BLOCK as u64 + 1).unwrap(), 0);
        assert!(!refusing.is_open());
        assert_eq!(refusing.write(&buffer, 0).unwrap(), 0);
    }
}
