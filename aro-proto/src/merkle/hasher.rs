//! The id of a content whose size is not known before its end.

use crate::ids::ContentId;

/// Hashes bytes as they stream by. With a size known beforehand, [`OutboardBuilder`](super::OutboardBuilder) makes the
/// outboard in the same pass.
#[derive(Clone, Debug, Default)]
pub struct ContentHasher(blake3::Hasher);

impl ContentHasher {
    /// Takes the next bytes; slices of 64 KiB and more go at full speed.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// How many bytes have come.
    pub fn count(&self) -> u64 {
        self.0.count()
    }

    /// The id of all bytes so far, and how many they are.
    pub fn finish(&self) -> (ContentId, u64) {
        (ContentId::from_bytes(*self.0.finalize().as_bytes()), self.0.count())
    }
}
