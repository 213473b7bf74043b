//! A mark on disk while a channel is in use. One that nobody holds was left by a process that died: what that had proven and
//! not signed for is not in the record.
//!
//! ```text
//! <wallet>/in-use/<channel>.<number>    locked while the channel is in use, empty
//! ```
//! The marks outlive the process, not the machine's power; where they are lost, less is conceded than there might be.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use aro_proto::ChannelId;

/// A channel is in use by this process, until this is dropped.
#[derive(Debug)]
pub(super) struct InUse {
    path: PathBuf,
    _lock: File,
}

impl InUse {
    /// Marks a channel. Also says whether a process has died since with the channel in use, and forgets that.
    pub(super) fn mark(wallet: &Path, channel: ChannelId) -> io::Result<(Self, bool)> {
        let folder = wallet.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let prefix = format!("{channel}.");
        let (mut crashed, mut number) = (false, 0_u64);
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(found) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) else { continue };
            number = number.max(found.parse::<u64>().unwrap_or_default());
            if is_left(&entry.path())? {
                fs::remove_file(entry.path())?;
                crashed = true;
            }
        }
        loop {
            number += 1;
            let path = folder.join(format!("{prefix}{number}"));
            match File::create_new(&path) {
                Ok(lock) => {
                    lock.lock()?;
                    return Ok((Self { path, _lock: lock }, crashed));
                }
                // Another connection was as quick.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "a channel stays marked as in use");
        }
    }
}

/// Whether nobody holds a mark any more.
fn is_left(path: &Path) -> io::Result<bool> {
    let mark = match File::open(path) {
        Ok(mark) => mark,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match mark.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

const FOLDER: &str = "in-use";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_nobody_holds_was_left_by_a_crash_and_tells_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let (channel, other) = (ChannelId::from_bytes([1; 32]), ChannelId::from_bytes([2; 32]));
        let (first, crashed) = InUse::mark(dir.path(), channel).unwrap();
        assert!(!crashed);
        let (second, crashed) = InUse::mark(dir.path(), channel).unwrap();
        assert!(!crashed, "two connections of one process");
        drop((first, second));
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 0);

        // As a killed process leaves it: there, and unlocked.
        File::create(dir.path().join(FOLDER).join(format!("{channel}.7"))).unwrap();
        assert!(!InUse::mark(dir.path(), other).unwrap().1, "of another channel");
        let (_mark, crashed) = InUse::mark(dir.path(), channel).unwrap();
        assert!(crashed);
        assert!(!InUse::mark(dir.path(), channel).unwrap().1, "told already");
    }
}
