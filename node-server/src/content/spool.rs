//! An upload whose end is not known: hashed as it comes, made a content when it has ended.
//!
//! Where a content's hashes lie depends on its size, so they are computed when that is known, in a second pass over
//! bytes that the system mostly still has in memory. That pass must come to the same id, or the disk has lied.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aro_proto::merkle::{ContentHasher, OutboardBuilder, outboard_len};
use aro_proto::{AgentId, ContentId};

use super::partial::name_content;
use super::store::{DATA, OUTBOARD, StoreError};

/// Bytes of an upload without a name yet; gone when dropped.
#[derive(Debug)]
pub(crate) struct Spool {
    path: PathBuf,
    data: File,
    hasher: ContentHasher,
}

impl Spool {
    /// An empty one, in a folder of its own, which must not exist.
    pub(crate) fn create(path: &Path) -> Result<Self, StoreError> {
        let at = |source| StoreError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(at)?;
        let data = File::options().read(true).append(true).create_new(true).open(path.join(DATA)).map_err(at)?;
        Ok(Self { path: path.to_owned(), data, hasher: ContentHasher::default() })
    }

    /// Takes the next bytes. Blocks on the disk.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        (&self.data).write_all(bytes)
    }

    /// The id of all bytes so far, and how many they are.
    pub(crate) fn content(&self) -> (ContentId, u64) {
        self.hasher.finish()
    }

    /// Makes the content durable, and then gives it its name. Blocks on the disk.
    // r[impl publish.durable]
    pub(crate) fn finish(self, contents: &Path, publisher: &AgentId) -> Result<(), StoreError> {
        let at = |source| StoreError::Io { path: self.path.clone(), source };
        let (content, size) = self.content();
        let outboard = File::create_new(self.path.join(OUTBOARD)).map_err(at)?;
        outboard.set_len(outboard_len(size)).map_err(at)?;
        let found = hash_again(&self.path.join(DATA), size, &outboard).map_err(at)?;
        if found != Some(content) {
            return Err(StoreError::Damaged { id: content });
        }
        name_content(&self.path, [&self.data, &outboard], contents, content, publisher)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // After the rename there is nothing here.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Reads the bytes again and writes their outboard; `None` if they are not as many as they were.
fn hash_again(data: &Path, size: u64, outboard: &File) -> io::Result<Option<ContentId>> {
    let (mut source, mut builder) = (File::open(data)?, OutboardBuilder::new(size));
    let (mut buffer, mut written) = (vec![0; READ_BUFFER], Ok(()));
    loop {
        let read = match source.read(&mut buffer) {
            Ok(0) => return Ok(builder.finish().ok()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        builder.update(&buffer[..read], |offset, run| {
            if written.is_ok() {
                written = outboard.write_all_at(run, offset);
            }
        });
        std::mem::replace(&mut written, Ok(()))?;
    }
}

/// Bytes read at once: long enough for BLAKE3 to run at full speed.
const READ_BUFFER: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::ContentStore;

    #[test]
    fn a_stream_becomes_the_content_of_its_bytes_and_leaves_nothing_if_it_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let path = dir.path().join("up");
        for size in [0_usize, 1, 100_000, (1 << 20) + 1] {
            let bytes: Vec<u8> = (0..size).map(|i| (i / 3 % 249) as u8).collect();
            let mut spool = Spool::create(&path).unwrap();
            bytes.chunks(70_001).for_each(|part| spool.take(part).unwrap());
            assert_eq!(spool.content(), (ContentId::of(&bytes), size as u64));
            spool.finish(&dir.path().join("contents"), &AgentId::from_bytes([3; 32])).unwrap();
            assert_eq!(store.get(ContentId::of(&bytes)).unwrap().unwrap().size(), size as u64);
            assert!(!path.exists());
        }
        let mut spool = Spool::create(&path).unwrap();
        spool.take(b"broken off").unwrap();
        drop(spool);
        assert!(!path.exists());
    }
}
