//! Writing past the system's page cache: whole blocks go from here to the disk, nothing stays in memory behind them,
//! and nobody else's files are pushed out of it. For large files that costs the kernel a fraction of the work.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use bytes::Bytes;
use rustix::fs::OFlags;

/// A second way into a file. Blocks are gathered in memory that is aligned as disks want it.
pub(super) struct Uncached {
    file: File,
    buffer: Vec<u8>,
    /// Where in the buffer its aligned part begins.
    start: usize,
}

impl Uncached {
    /// None where the system or the file system has no such way, or where another file is at the path by now.
    pub(super) fn open(path: &Path, same_as: &File) -> Option<Self> {
        let file = OpenOptions::new().write(true).custom_flags(flags()?).open(path).ok()?;
        let (here, there) = (file.metadata().ok()?, same_as.metadata().ok()?);
        if (here.dev(), here.ino()) != (there.dev(), there.ino()) {
            return None;
        }
        let buffer = vec![0; BUFFER_BYTES + BLOCK];
        let start = buffer.as_ptr().align_offset(BLOCK);
        (start <= BLOCK).then_some(Self { file, buffer, start })
    }

    /// Writes what lies side by side from `offset` on, as far as it is whole blocks: returns how many bytes that are,
    /// none if it begins within a block. An error of kind [`InvalidInput`](io::ErrorKind::InvalidInput) or
    /// [`Unsupported`](io::ErrorKind::Unsupported) says that this way is closed after all.
    pub(super) fn write(&mut self, offset: u64, run: &[&Bytes]) -> io::Result<u64> {
        let len: usize = run.iter().map(|bytes| bytes.len()).sum();
        let whole = if offset.is_multiple_of(BLOCK as u64) { len - len % BLOCK } else { 0 };
        let buffer = &mut self.buffer[self.start..self.start + BUFFER_BYTES];
        let (mut written, mut filled) = (0, 0);
        for mut rest in run.iter().map(|bytes| &bytes[..]) {
            while !rest.is_empty() && written + filled < whole {
                let taken = rest.len().min(buffer.len() - filled).min(whole - written - filled);
                buffer[filled..filled + taken].copy_from_slice(&rest[..taken]);
                (rest, filled) = (&rest[taken..], filled + taken);
                if filled == buffer.len() || written + filled == whole {
                    self.file.write_all_at(&buffer[..filled], offset + written as u64)?;
                    (written, filled) = (written + filled, 0);
                }
            }
        }
        Ok(whole as u64)
    }
}

#[cfg(target_os = "linux")]
fn flags() -> Option<i32> {
    i32::try_from(OFlags::DIRECT.bits()).ok()
}

#[cfg(not(target_os = "linux"))]
fn flags() -> Option<i32> {
    None
}

/// What offsets, lengths and addresses are multiples of: no disk in use has larger blocks than 4 KiB; a file system that
/// does refuses, and is written the usual way.
const BLOCK: usize = 4 << 10;
/// Bytes of one write at most: 1 MiB.
const BUFFER_BYTES: usize = 1 << 20;
