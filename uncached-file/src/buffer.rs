//! Memory that disks can be written from.

use std::ops::Deref;

use crate::BLOCK;

/// Memory that begins where disks want it, and is filled from its beginning.
#[derive(Debug)]
pub struct AlignedBuffer {
    memory: Vec<u8>,
    /// Where in the memory its aligned part begins.
    start: usize,
    len: usize,
    capacity: usize,
}

impl AlignedBuffer {
    /// An empty one with room for so many bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let memory = vec![0; capacity + BLOCK];
        // Memory that cannot be aligned is refused by the disk, and goes the usual way.
        let start = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { memory, start, len: 0, capacity }
    }

    /// Appends as many of the bytes as there is room for, and returns how many these are.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        let end = self.start + self.len;
        self.memory[end..end + taken].copy_from_slice(&bytes[..taken]);
        self.len += taken;
        taken
    }

    /// Bytes that it still has room for.
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_aligned_takes_what_it_has_room_for_and_is_filled_again() {
        for capacity in [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5] {
            let mut buffer = AlignedBuffer::with_capacity(capacity);
            for byte in [1, 2] {
                assert!(buffer.is_empty());
                assert_eq!(buffer.as_ptr().align_offset(BLOCK), 0);
                let first = buffer.fill(&vec![byte; capacity / 2]);
                let rest = buffer.fill(&vec![byte; capacity]);
                assert_eq!((first, first + rest, buffer.room()), (capacity / 2, capacity, 0));
                assert!(buffer.len() == capacity && buffer.iter().all(|got| *got == byte));
                buffer.clear();
            }
        }
    }
}
