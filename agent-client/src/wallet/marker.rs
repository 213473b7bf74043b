//! A mark on disk while a channel is in use. One that nobody holds was left by a process that died: what that had proven and
//! not signed for is not in the record, and the node may still send to it.
//!
//! ```text
//! <wallet>/in-use/<channel>.<binding>    locked while the binding is in use
//!
//!  0                                16                               32
//!  +--------------------------------+--------------------------------+
//!  | proven on it in fetches, u128  | the same, every bit flipped    |
//!  | LE, 2^-20 base units           |                                |
//!  +--------------------------------+--------------------------------+
//! ```
//! A mark appears locked, so that nobody takes a living one for dead. What is proven is written over in place and not synced:
//! it outlives the process, which is what marks are for, and not the machine's power. Where a mark is lost, less is conceded
//! than there might be, and the node finds out by itself that nobody is there; where an older count comes back, the next
//! process says less than was proven, which costs the node no more than its allowance and this agent nothing. What is not 32
//! bytes that fit together says nothing, as a mark of an earlier version does.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use aro_proto::limits::{BIND_ID_LEN, MAX_REPLACED};
use aro_proto::message::{BindId, Replaced};
use aro_proto::{ChannelId, Charge};

/// A channel is in use by this process, until this is dropped.
#[derive(Debug)]
pub(crate) struct InUse {
    id: BindId,
    path: PathBuf,
    lock: File,
    /// The count that the mark holds; none once it could not be written.
    proven: Mutex<Option<Charge>>,
}

/// The marks of one channel that processes left which have died. They stay until [`forget`](Self::forget), and nobody
/// else takes them up before this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Left {
    marks: Vec<(PathBuf, File)>,
    newest: Vec<Replaced>,
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
        lock.write_all_at(&encode(Charge::ZERO), 0)?;
        fs::rename(&new, &path)?;
        Ok((Self { id, path, lock, proven: Mutex::new(Some(Charge::ZERO)) }, left))
    }

    /// So much is proven on the binding by now. A small write into the system's memory, which survives this process; what
    /// comes late changes nothing.
    // r[impl bind.replace.proven.true]
    pub(super) fn proved(&self, proven: Charge) {
        let mut held = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        if !held.is_some_and(|held| held < proven) {
            return;
        }
        *held = match self.lock.write_all_at(&encode(proven), 0) {
            Ok(()) => Some(proven),
            Err(error) => {
                // Rather nothing than too little.
                let emptied = self.lock.set_len(0);
                tracing::debug!(%error, ?emptied, "what is proven cannot be marked any more");
                None
            }
        };
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
            let proven = read(&lock)?.map(Charge::parts);
            found.push((age, unhex(id).map(|id| Replaced { id, proven }), entry.path(), lock));
        }
        found.sort_by_key(|(age, ..)| std::cmp::Reverse(*age));
        let newest = found.iter().filter_map(|(_, replaced, ..)| *replaced).take(MAX_REPLACED).collect();
        Ok(Self { marks: found.into_iter().map(|(_, _, path, lock)| (path, lock)).collect(), newest })
    }

    /// Whether a process has died.
    pub(super) fn is_any(&self) -> bool {
        !self.marks.is_empty()
    }

    /// The bindings that those who died had, the newest of them, and what had been proven on each.
    pub(crate) fn bindings(&self) -> &[Replaced] {
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

fn encode(proven: Charge) -> [u8; MARK_LEN] {
    let mut bytes = [0; MARK_LEN];
    let (count, flipped) = bytes.split_at_mut(MARK_LEN / 2);
    count.copy_from_slice(&proven.parts().to_le_bytes());
    flipped.copy_from_slice(&(!proven.parts()).to_le_bytes());
    bytes
}

/// What a mark says was proven, if it says that.
fn read(mark: &File) -> io::Result<Option<Charge>> {
    let mut bytes = Vec::with_capacity(MARK_LEN + 1);
    mark.take(MARK_LEN as u64 + 1).read_to_end(&mut bytes)?;
    let count = bytes.first_chunk().map(|count| Charge::from_parts(u128::from_le_bytes(*count)));
    Ok(count.filter(|count| bytes == encode(*count)))
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
/// Bytes of a mark.
const MARK_LEN: usize = 32;

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
        assert_eq!((left.is_any(), left.bindings()), (true, &[id(0xa7).replaced()][..]));
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
        assert_eq!(left.bindings(), (24..40).rev().map(|age| id(age).replaced()).collect::<Vec<_>>());
        left.forget().unwrap();
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 1);
    }
    /// What the next process hears of a mark that holds these bytes.
    fn heard(bytes: &[u8]) -> Option<u128> {
        let dir = tempfile::tempdir().unwrap();
        let channel = ChannelId::from_bytes([1; 32]);
        fs::create_dir(dir.path().join(FOLDER)).unwrap();
        fs::write(dir.path().join(FOLDER).join(format!("{channel}.{}", hex(id(7)))), bytes).unwrap();
        let (_mark, left) = InUse::mark(dir.path(), channel, id(9)).unwrap();
        let [replaced] = left.bindings() else { panic!("{left:?}") };
        assert_eq!(replaced.id, id(7));
        replaced.proven
    }

    // r[verify bind.replace.proven.true]
    #[test]
    fn a_mark_says_the_most_that_was_proven_while_it_was_held() {
        let dir = tempfile::tempdir().unwrap();
        let channel = ChannelId::from_bytes([1; 32]);
        let (mark, _) = InUse::mark(dir.path(), channel, id(7)).unwrap();
        let bytes = || fs::read(&mark.path).unwrap();
        assert_eq!(heard(&bytes()), Some(0));
        // Two threads may write in another order than they counted.
        for (proven, held) in [(5, 5), (1 << 90, 1 << 90), (7, 1 << 90), (u128::MAX, u128::MAX)] {
            mark.proved(Charge::from_parts(proven));
            assert_eq!(heard(&bytes()), Some(held));
        }
    }

    // r[verify bind.replace.proven.true]
    #[test]
    fn a_mark_that_is_empty_cut_longer_or_damaged_names_its_binding_and_says_nothing_of_it() {
        let whole = encode(Charge::from_parts(0x0123_4567_89ab_cdef));
        assert!(heard(&whole).is_some());
        for cut in 0..whole.len() {
            assert_eq!(heard(&whole[..cut]), None, "{cut} bytes");
        }
        assert_eq!(heard(&[&whole[..], &[0]].concat()), None);
        for fill in [0, 0xff] {
            assert_eq!(heard(&[fill; MARK_LEN]), None);
        }
        for byte in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole;
                damaged[byte] ^= 1 << bit;
                assert_eq!(heard(&damaged), None, "bit {bit} of byte {byte}");
            }
        }
    }

    #[test]
    fn a_mark_that_cannot_be_written_any_more_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let channel = ChannelId::from_bytes([1; 32]);
        let (mut mark, _) = InUse::mark(dir.path(), channel, id(7)).unwrap();
        mark.lock = File::open(&mark.path).unwrap();
        mark.proved(Charge::from_parts(5));
        assert_eq!(*mark.proven.lock().unwrap(), None);
        mark.lock = fs::OpenOptions::new().write(true).open(&mark.path).unwrap();
        mark.proved(Charge::from_parts(9));
        assert_eq!(heard(&fs::read(&mark.path).unwrap()), Some(0), "it is not taken up again");
    }
}
