//! The newest record of each name that this wallet has ever seen, in one file each, shared by all processes.
//!
//! ```text
//! <wallet>/names/.lock                    held while a record is compared and replaced
//! <wallet>/names/<publisher>/<name>       the signed record, as it came
//! ```
//! A file is replaced by one rename after its bytes are on disk, so it is always the old record or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aro_proto::NameAddress;
use aro_proto::naming::{SignedNameRecord, Standing, VerifiedName};

/// What names have come to mean.
#[derive(Clone, Debug)]
pub(crate) struct NameMemory {
    folder: PathBuf,
}

impl NameMemory {
    /// The memory of a wallet; nothing is written before there is something to remember.
    pub(crate) fn of_wallet(wallet: &Path) -> Self {
        Self { folder: wallet.join(FOLDER) }
    }

    /// The newest record ever seen. Blocks on the disk.
    pub(crate) fn latest(&self, name: &NameAddress) -> io::Result<Option<VerifiedName>> {
        let path = self.path_of(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let read = SignedNameRecord::from_bytes(&bytes).filter(|signed| signed.record.address() == *name);
        let record = read.and_then(|signed| signed.verify().ok());
        // Forgetting it would let the name go back.
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
        record.map(Some).ok_or_else(damaged)
    }

    /// Compares a record with the newest one, and takes its place if it is newer; then it is on disk. Blocks on it.
    pub(crate) fn raise(&self, record: &VerifiedName) -> io::Result<(Standing, Option<VerifiedName>)> {
        let name = record.record().address();
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(LOCK);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        // Released when the file is closed.
        lock.lock()?;
        let known = self.latest(&name)?;
        let standing = record.against(known.as_ref());
        if standing == Standing::Newer {
            let path = self.path_of(&name);
            let folder = self.folder.join(name.publisher.to_string());
            fs::create_dir_all(&folder)?;
            let mut fresh = tempfile::NamedTempFile::new_in(&folder)?;
            fresh.write_all(&record.signed().to_bytes())?;
            fresh.as_file().sync_all()?;
            fresh.persist(&path).map_err(|error| error.error)?;
            for folder in [&folder, &self.folder] {
                File::open(folder)?.sync_all()?;
            }
        }
        Ok((standing, known))
    }

    fn path_of(&self, name: &NameAddress) -> PathBuf {
        // A name has no slash and does not begin with a dot.
        self.folder.join(name.publisher.to_string()).join(name.name.as_str())
    }
}

const FOLDER: &str = "names";
const LOCK: &str = ".lock";

#[cfg(test)]
mod tests {
    use aro_proto::naming::{NameRecord, TargetKind};
    use aro_proto::{ContentId, SecretKey};

    use super::*;

    fn record(sequence: u64, target: &[u8]) -> VerifiedName {
        let key = SecretKey::from_bytes(&[7; 32]);
        let record = NameRecord {
            publisher: key.agent_id(),
            name: "site".parse().unwrap(),
            sequence,
            target: ContentId::of(target),
            kind: TargetKind::Content,
            issued_at: 0,
            valid_until: None,
        };
        record.sign(&key)
    }

    // r[verify name.remembered]
    #[test]
    fn what_was_seen_is_remembered_and_only_rises() {
        let dir = tempfile::tempdir().unwrap();
        let memory = NameMemory::of_wallet(dir.path());
        let name = record(1, b"x").record().address();
        assert_eq!(memory.latest(&name).unwrap(), None);
        assert_eq!(memory.raise(&record(3, b"x")).unwrap(), (Standing::Newer, None));
        let memory = NameMemory::of_wallet(dir.path());
        let known = Some(record(3, b"x"));
        assert_eq!(memory.raise(&record(2, b"x")).unwrap(), (Standing::NotRising, known.clone()));
        assert_eq!(memory.raise(&record(3, b"y")).unwrap(), (Standing::EqualDiffers, known.clone()));
        assert_eq!(memory.raise(&record(3, b"x")).unwrap(), (Standing::Same, known.clone()));
        assert_eq!(memory.latest(&name).unwrap(), known);
        assert_eq!(memory.raise(&record(4, b"y")).unwrap().0, Standing::Newer);
    }

    #[test]
    fn a_damaged_memory_is_an_error_and_no_way_back() {
        let dir = tempfile::tempdir().unwrap();
        let memory = NameMemory::of_wallet(dir.path());
        memory.raise(&record(3, b"x")).unwrap();
        let path = memory.path_of(&record(3, b"x").record().address());
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(memory.raise(&record(2, b"x")).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    // r[verify name.remembered]
    #[test]
    fn of_many_at_once_the_highest_stays() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|threads| {
            for sequence in 1..=16 {
                let memory = NameMemory::of_wallet(dir.path());
                threads.spawn(move || memory.raise(&record(sequence, b"x")).unwrap());
            }
        });
        let memory = NameMemory::of_wallet(dir.path());
        let latest = memory.latest(&record(1, b"x").record().address()).unwrap().unwrap();
        assert_eq!(latest.record().sequence, 16);
    }
}
