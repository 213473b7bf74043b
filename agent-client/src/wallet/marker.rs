//! A mark on disk while a channel is in use. One that nobody holds was left by a process that died: what that had proven and
//! not signed for is not in the record, and the node may still send to it.
//!
//! ```text
//! <wallet>/in-use/<channel>.<binding>    locked while the binding is in use, empty
//! ```
//! A mark appears locked, so that nobody takes a living one for dead. The marks outlive the process, not the machine's power;
//! where they are lost, less is conceded than there might be, and the node finds out by itself that nobody is there.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aro_proto::ChannelId;
use aro_proto::limits::{BIND_ID_LEN, MAX_REPLACED};
use aro_proto::message::BindId;

/// A channel is in use by this process, until this is dropped.
#[derive(Debug)]
pub(crate) struct InUse {
    id: BindId,
    path: PathBuf,
    _lock: File,
}

/// The marks of one channel that processes left which have died. They stay until [`forget`](Self::forget), and nobody
/// else takes them up before this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Left {
    marks: Vec<(PathBuf, File)>,
    newest: Vec<BindId>,
}

impl InUse {
    /// Marks a channel, for a binding of this id. Also says whether processes have died with the channel in use.
    pub(super) fn mark(wallet: &Path, channel: ChannelId, id: BindId) -> io::Result<(Self, Left)> {
        let folder = wallet.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let left = Left::find(&folder, &format!("{channel}."))?;
        let (name, path) = (hex(id), folder.join(format!("{channel}.{}", hex(id))));
        let new = folder.join(format!(".{name}"));
        let lock = File::create_new(&new)?;
        lock.lock()?;
        fs::rename(&new, &path)?;
        Ok((Self { id, path, _lock: lock }, left))
    }

    /// The binding.
    pub(crate) fn id(&self) -> BindId {
        self.id
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "a channel stays marked as in use");
        }
    }
}

impl Left {
    fn find(folder: &Path, prefix: &str) -> io::Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else { continue };
            let Some(lock) = taken_up(&entry.path())? else { continue };
            let age = lock.metadata()?.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((age, unhex(id), entry.path(), lock));
        }
        found.sort_by_key(|(age, ..)| std::cmp::Reverse(*age));
        let newest = found.iter().filter_map(|(_, id, ..)| *id).take(MAX_REPLACED).collect();
        Ok(Self { marks: found.into_iter().map(|(_, _, path, lock)| (path, lock)).collect(), newest })
    }

    /// Whether a process has died.
    pub(super) fn is_any(&self) -> bool {
        !self.marks.is_empty()
    }

    /// The bindings that those who died had, the newest of them.
    pub(crate) fn bindings(&self) -> &[BindId] {
        &self.newest
    }

    /// All is made good: nobody is told of these again.
    pub(super) fn forget(self) -> io::Result<()> {
        self.marks.iter().try_for_each(|(path, _)| fs::remove_file(path))
    }
}

/// A mark that nobody holds any more, now held by us.
fn taken_up(path: &Path) -> io::Result<Option<File>> {
    let mark = match File::open(path) {
        Ok(mark) => mark,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match mark.try_lock() {
        // Whoever held it until now may have removed it, which is how the living end.
        Ok(()) if !path.exists() => Ok(None),
        Ok(()) => Ok(Some(mark)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn hex(id: BindId) -> String {
    id.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<BindId> {
    let mut bytes = [0; BIND_ID_LEN];
    let is_hex = text.len() == 2 * BIND_ID_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hex {
        return None;
    }
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(BindId::from_bytes(bytes))
}

const FOLDER: &str = "in-use";

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> BindId {
        BindId::from_bytes([byte; BIND_ID_LEN])
    }

    #[test]
    fn marks_that_nobody_holds_were_left_by_crashes_and_are_told_until_they_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (channel, other) = (ChannelId::from_bytes([1; 32]), ChannelId::from_bytes([2; 32]));
        let mark = |channel, own| InUse::mark(dir.path(), channel, id(own)).unwrap();
        let (first, left) = mark(channel, 1);
        assert!(!left.is_any());
        let (second, left) = mark(channel, 2);
        assert!(!left.is_any(), "two connections of one process");
        drop((first, second));
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 0);

        // As a killed process leaves it: there, and unlocked. One of an earlier version has a number.
        let named = dir.path().join(FOLDER).join(format!("{channel}.{}", hex(id(0xa7))));
        File::create(&named).unwrap();
        File::create(dir.path().join(FOLDER).join(format!("{channel}.7"))).unwrap();
        assert!(!mark(other, 3).1.is_any(), "of another channel");
        let (_mark, left) = mark(channel, 4);
        assert_eq!((left.is_any(), left.bindings()), (true, &[id(0xa7)][..]));
        assert!(!mark(channel, 5).1.is_any(), "somebody is about it");
        drop(left);
        let (_mark, left) = mark(channel, 6);
        assert!(left.is_any(), "which came to nothing");
        left.forget().unwrap();
        assert!(!named.exists() && !mark(channel, 7).1.is_any());
    }

    #[test]
    fn of_many_deaths_the_newest_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let channel = ChannelId::from_bytes([1; 32]);
        fs::create_dir(dir.path().join(FOLDER)).unwrap();
        for age in 0..40_u8 {
            let mark = File::create(dir.path().join(FOLDER).join(format!("{channel}.{}", hex(id(age))))).unwrap();
            mark.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(age))).unwrap();
        }
        let (_mark, left) = InUse::mark(dir.path(), channel, id(99)).unwrap();
        assert_eq!(left.bindings(), (24..40).rev().map(id).collect::<Vec<_>>());
        left.forget().unwrap();
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 1);
    }
}
