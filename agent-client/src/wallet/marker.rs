//! A mark on disk while a channel is in use. One that nobody holds was left by a process that died: what that had proven and
//! not signed for is not in the record, and the node may still send to it.
//!
//! ```text
//! <wallet>/in-use/<channel>.<binding>    locked while the binding is in use
//!
//!  0                     16                    32                               64
//!  +---------------------+---------------------+--------------------------------+
//!  | proven in fetches   | signed without that | the same, every bit flipped    |
//!  +---------------------+---------------------+--------------------------------+
//! ```
//! Both are u128 LE in 2^-20 base units. The second is what could be signed with nothing proven in fetches: what the channel owed
//! when the binding began, what is paid ahead, and uploads.
//!
//! A mark appears locked, so that nobody takes a living one for dead. Its count is written over in place and not synced: it
//! outlives the process, which is what marks are for, and not the machine's power. Where a mark is lost, less is conceded than
//! there might be, and the node finds out by itself that nobody is there. Where an older count comes back, what was signed
//! for, which is synced, was proven all the same. What is not 64 bytes that fit together says nothing, as a mark of an earlier
//! version does.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use aro_proto::limits::{BIND_ID_LEN, MAX_REPLACED};
use aro_proto::message::{BindId, Replaced};
use aro_proto::{Amount, ChannelId, Charge};

/// A channel is in use by this process, until this is dropped.
#[derive(Debug)]
pub(crate) struct InUse {
    id: BindId,
    path: PathBuf,
    lock: File,
    /// What the mark holds; none once it could not be written.
    held: Mutex<Option<Count>>,
}

/// What a binding's process has proven, and could sign for without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// In fetches.
    pub(super) proven: Charge,
    /// What can be signed with nothing proven in fetches.
    pub(super) free: Charge,
}

/// The marks of one channel that processes left which have died. They stay until [`forget`](Self::forget), and nobody
/// else takes them up before this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Left {
    marks: Vec<(PathBuf, File)>,
    newest: Vec<Replaced>,
    /// What the newest says, if it says anything.
    count: Option<Count>,
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
        lock.write_all_at(&Count::NOTHING.encode(), 0)?;
        fs::rename(&new, &path)?;
        Ok((Self { id, path, lock, held: Mutex::new(Some(Count::NOTHING)) }, left))
    }

    /// So much is proven on the binding by now. A small write into the system's memory, which survives this process; what
    /// comes late changes nothing.
    // r[impl bind.replace.proven.true]
    pub(super) fn counts(&self, count: Count) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = *held else { return };
        let count = if before == Count::NOTHING { count } else { before.max(count) };
        if count == before {
            return;
        }
        *held = match self.lock.write_all_at(&count.encode(), 0) {
            Ok(()) => Some(count),
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
            found.push((age, unhex(id), Count::read(&lock)?, entry.path(), lock));
        }
        found.sort_by_key(|(age, ..)| std::cmp::Reverse(*age));
        let count = found.first().and_then(|(_, _, count, ..)| *count);
        let replaced = |id, count: Option<Count>| Replaced { id, proven: count.map(|count| count.proven.parts()) };
        let newest = found.iter().filter_map(|(_, id, count, ..)| Some(replaced((*id)?, *count))).take(MAX_REPLACED);
        let newest = newest.collect();
        Ok(Self { marks: found.into_iter().map(|(.., path, lock)| (path, lock)).collect(), newest, count })
    }

    /// So much was signed on the channel, durably: the one process that died had proven no less than that, whatever a loss
    /// of power has left of its count. Of several nobody knows which of them signed.
    // r[impl bind.replace.proven.true]
    pub(super) fn signed(&mut self, signed: Amount) {
        if let ([replaced], [_], Some(count)) = (self.newest.as_mut_slice(), self.marks.as_slice(), self.count) {
            // The last unit may be a part of one, rounded up.
            let whole = Charge::from_amount(signed.saturating_sub(Amount::new(1)));
            replaced.proven = replaced.proven.max(Some(whole.saturating_sub(count.free).parts()));
        }
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

impl Count {
    /// Of a binding that has not begun.
    const NOTHING: Self = Self { proven: Charge::ZERO, free: Charge::from_parts(u128::MAX) };

    fn max(self, other: Self) -> Self {
        Self { proven: self.proven.max(other.proven), free: self.free.max(other.free) }
    }

    fn encode(self) -> [u8; MARK_LEN] {
        let mut bytes = [0; MARK_LEN];
        let numbers = [self.proven.parts(), self.free.parts(), !self.proven.parts(), !self.free.parts()];
        for (place, number) in bytes.chunks_exact_mut(16).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// What a mark says, if it says anything.
    fn read(mark: &File) -> io::Result<Option<Self>> {
        let mut bytes = Vec::with_capacity(MARK_LEN + 1);
        mark.take(MARK_LEN as u64 + 1).read_to_end(&mut bytes)?;
        let ([proven, free, ..], _) = bytes.as_chunks::<16>() else { return Ok(None) };
        let charge = |number: &[u8; 16]| Charge::from_parts(u128::from_le_bytes(*number));
        let count = Self { proven: charge(proven), free: charge(free) };
        Ok((bytes == count.encode()).then_some(count))
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
/// Bytes of a mark.
const MARK_LEN: usize = 64;

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

    fn count(proven: u128, free: u128) -> Count {
        Count { proven: Charge::from_parts(proven), free: Charge::from_parts(free) }
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
        for (proven, held) in [(0, 0), (5, 5), (1 << 90, 1 << 90), (7, 1 << 90), (u128::MAX, u128::MAX)] {
            mark.counts(count(proven, 3));
            assert_eq!((heard(&bytes()), bytes()[16]), (Some(held), 3));
        }
    }

    // r[verify bind.replace.proven.true]
    #[test]
    fn what_was_signed_for_was_proven_whatever_the_power_left_of_the_count() {
        let channel = ChannelId::from_bytes([1; 32]);
        let units = |units| Charge::from_amount(Amount::new(units)).parts();
        // Free: 100 units. Of 150 that were signed, more than 49 were proven.
        for (proven, signed, said) in [(0, 150, 49), (60, 150, 60), (0, 101, 0), (7, 0, 7), (0, 100, 0)] {
            let dir = tempfile::tempdir().unwrap();
            let (mark, _) = InUse::mark(dir.path(), channel, id(7)).unwrap();
            mark.counts(count(units(proven), units(100)));
            let bytes = fs::read(&mark.path).unwrap();
            let place = mark.path.clone();
            drop(mark);
            fs::write(place, &bytes).unwrap();
            let (_mark, mut left) = InUse::mark(dir.path(), channel, id(9)).unwrap();
            left.signed(Amount::new(signed));
            assert_eq!(left.bindings(), [Replaced { id: id(7), proven: Some(units(said)) }], "{signed} signed");
            drop(left);
            // Of one that never began, of two, or of a damaged one, what was signed says nothing.
            for (other, expected) in [(&Count::NOTHING.encode()[..], Some(0)), (&bytes[..9], None)] {
                fs::write(dir.path().join(FOLDER).join(format!("{channel}.{}", hex(id(8)))), other).unwrap();
                let (_mark, mut left) = InUse::mark(dir.path(), channel, id(9)).unwrap();
                left.signed(Amount::new(u64::MAX));
                let found = |wanted| left.bindings().iter().find(|replaced| replaced.id == wanted).unwrap().proven;
                assert_eq!((found(id(7)), found(id(8))), (Some(units(proven)), expected));
            }
        }
    }

    // r[verify bind.replace.proven.true]
    #[test]
    fn a_mark_that_is_empty_cut_longer_or_damaged_names_its_binding_and_says_nothing_of_it() {
        let whole = count(0x0123_4567_89ab_cdef, 1 << 70).encode();
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
        mark.counts(count(5, 0));
        assert_eq!(*mark.held.lock().unwrap(), None);
        mark.lock = fs::OpenOptions::new().write(true).open(&mark.path).unwrap();
        mark.counts(count(9, 0));
        assert_eq!(heard(&fs::read(&mark.path).unwrap()), Some(0), "it is not taken up again");
    }
}
