//! Gathers what lies side by side into memory that goes past the page cache.

use std::io;

use bytes::Bytes;
use uncached_file::{AlignedBuffer, UncachedFile};

/// A second way into a part file, past the page cache where there is one.
pub(super) struct Uncached {
    file: UncachedFile,
    buffer: AlignedBuffer,
}

impl Uncached {
    pub(super) fn new(file: UncachedFile) -> Self {
        Self { file, buffer: AlignedBuffer::with_capacity(BUFFER_BYTES) }
    }

    /// Writes what lies side by side from `offset` on, as far as it is whole blocks: returns how many bytes that are,
    /// none if it begins within a block or the way is closed.
    pub(super) fn write(&mut self, offset: u64, run: &[&Bytes]) -> io::Result<u64> {
        let mut written = 0;
        if !self.file.is_open() {
            return Ok(written);
        }
        let mut pieces = run.iter().map(|bytes| &bytes[..]).peekable();
        self.buffer.clear();
        while let Some(piece) = pieces.peek_mut() {
            *piece = &piece[self.buffer.fill(piece)..];
            if piece.is_empty() {
                pieces.next();
            }
            if self.buffer.room() == 0 || pieces.peek().is_none() {
                let went = self.file.write(&self.buffer, offset + written)?;
                written += went as u64;
                if went < self.buffer.len() {
                    break;
                }
                self.buffer.clear();
            }
        }
        Ok(written)
    }
}

/// Bytes of one write at most: 1 MiB.
const BUFFER_BYTES: usize = 1 << 20;
