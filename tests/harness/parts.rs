//! What a killed fetch left on disk, looked at from outside: by its documented layout, and proven from the content's id.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aro_proto::ContentId;
use aro_proto::merkle::{HeldStore, PAIR_LEN, ParentIndex, held};

/// The ranges of a content that the part file of `target` holds, rising. None if there is no part file of it.
///
/// # Errors
/// The files cannot be read.
pub fn held_beside(target: &Path, content: ContentId) -> io::Result<Vec<Range<u64>>> {
    let beside = |ending: &str| {
        let mut name = target.as_os_str().to_owned();
        name.push(ending);
        File::open(name)
    };
    let (data, proof) = match (beside(".aro-part"), beside(".aro-proof")) {
        (Ok(data), Ok(proof)) => (data, proof),
        (Err(error), _) | (_, Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => return Ok(Vec::new()),
    };
    let mut head = [0; PAIR_LEN];
    if !filled(&proof, &mut head, 0)? || head[8..40] != content.as_bytes()[..] {
        return Ok(Vec::new());
    }
    let mut size = [0; 8];
    size.copy_from_slice(&head[40..48]);
    held(content, u64::from_le_bytes(size), &mut Left { data, proof })
}

struct Left {
    data: File,
    proof: File,
}

impl HeldStore for Left {
    type Error = io::Error;

    fn pair(&mut self, node: ParentIndex) -> io::Result<Option<[u8; PAIR_LEN]>> {
        let mut pair = [0; PAIR_LEN];
        // By its boundary, in groups of 16 chunks.
        let place = (node.get() + 1) / 16 * PAIR_LEN as u64;
        Ok(filled(&self.proof, &mut pair, place)?.then_some(pair))
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<bool> {
        filled(&self.data, bytes, offset)
    }
}

fn filled(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
