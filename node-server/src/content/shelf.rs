//! What publishers have here: how much each may still bring, which uploads run, which have broken off.
//!
//! Nothing of it has a file of its own. Who has published what stands beside each content, and an upload's folder
//! names its publisher; both are counted when the node starts.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aro_proto::{AgentId, ContentId};
use thiserror::Error;

use super::store::{ContentStore, DATA, StoreError};
use crate::config::PublishConfig;

/// Uploads and quotas of one node. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Shelf(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    config: PublishConfig,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of each publisher: published, running (as announced) and broken off (as on disk).
    used: HashMap<AgentId, u64>,
    total: u64,
    running: HashMap<AgentId, usize>,
    at_once: usize,
    /// Uploads that run or are being removed.
    busy: HashSet<Key>,
    broken_off: HashMap<Key, BrokenOff>,
    next_spool: u64,
}

type Key = (AgentId, ContentId);

#[derive(Clone, Copy, Debug)]
struct BrokenOff {
    bytes: u64,
    /// Whether this process has proven the bytes; after a restart they are only counted.
    is_proven: bool,
    since: SystemTime,
}

/// Why an upload may not begin or go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum ShelfError {
    /// The same publisher uploads the same content already.
    #[error("this content is being uploaded by this key already")]
    Busy,
    /// Too many uploads.
    #[error("too many uploads at once")]
    TooMany,
    /// No quota is left.
    #[error("the quota has {left} bytes left, {asked} are announced")]
    Quota {
        /// Bytes announced.
        asked: u64,
        /// Bytes left: of the publisher's quota or of the node's, whichever is less.
        left: u64,
    },
}

/// A running upload's place. Dropped, it leaves what it says is on disk as broken off, and gives back the rest.
#[derive(Debug)]
pub(crate) struct Place {
    shelf: Shelf,
    publisher: AgentId,
    content: Option<ContentId>,
    path: PathBuf,
    reserved: u64,
    on_disk: u64,
    held_before: Option<u64>,
    is_kept: bool,
}

impl Shelf {
    /// Counts what is there. Streams that broke off are removed, for nobody can resume them. Blocks on the disk.
    // r[impl publish.quota]
    pub(crate) fn open(dir: &Path, store: &ContentStore, config: PublishConfig) -> Result<Self, StoreError> {
        let folder = dir.join(FOLDER);
        let at = |source| StoreError::Io { path: folder.clone(), source };
        let mut state = State::default();
        fs::create_dir_all(&folder).map_err(at)?;
        for stored in store.list()? {
            if let Some(publisher) = store.publisher(stored.id)? {
                state.add(publisher, stored.size);
            }
        }
        for entry in fs::read_dir(&folder).map_err(at)? {
            let path = entry.map_err(at)?.path();
            match key_of(&path) {
                Some(key) => {
                    let meta = fs::metadata(path.join(DATA));
                    let bytes = meta.as_ref().map_or(0, |meta| meta.blocks().saturating_mul(BLOCK).min(meta.len()));
                    let since = meta.and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                    state.add(key.0, bytes);
                    state.broken_off.insert(key, BrokenOff { bytes, is_proven: false, since });
                }
                None => fs::remove_dir_all(&path).map_err(at)?,
            }
        }
        Ok(Self(Arc::new(Inner { folder, config, state: Mutex::new(state) })))
    }

    /// A place for an upload of `size` bytes, or of at most as many if the content is not known: then of what the quota
    /// leaves, if that is less.
    // r[impl publish.quota]
    pub(crate) fn enter(&self, publisher: AgentId, content: Option<ContentId>, size: u64) -> Result<Place, ShelfError> {
        let config = &self.0.config;
        let mut state = self.lock();
        let key = content.map(|content| (publisher, content));
        if key.is_some_and(|key| state.busy.contains(&key)) {
            return Err(ShelfError::Busy);
        }
        let own = state.running.get(&publisher).copied().unwrap_or_default();
        if state.at_once >= config.max_at_once || own >= config.max_at_once_per_publisher {
            return Err(ShelfError::TooMany);
        }
        let before = key.and_then(|key| state.broken_off.get(&key).copied());
        let counted = before.map_or(0, |before| before.bytes);
        let used = state.used.get(&publisher).copied().unwrap_or_default().saturating_sub(counted);
        let left = (config.quota_bytes_per_publisher.saturating_sub(used))
            .min(config.quota_bytes.saturating_sub(state.total.saturating_sub(counted)));
        if (content.is_some() && size > left) || (left == 0 && size > 0) {
            return Err(ShelfError::Quota { asked: size, left });
        }
        let reserved = size.min(left);
        let name = match key {
            Some((publisher, content)) => {
                state.broken_off.remove(&(publisher, content));
                state.busy.insert((publisher, content));
                format!("{publisher}-{content}")
            }
            None => {
                state.next_spool += 1;
                format!("{SPOOL}{}", state.next_spool)
            }
        };
        state.sub(publisher, counted);
        state.add(publisher, reserved);
        state.at_once += 1;
        *state.running.entry(publisher).or_default() += 1;
        drop(state);
        Ok(Place {
            shelf: self.clone(),
            publisher,
            content,
            path: self.0.folder.join(name),
            reserved,
            on_disk: counted,
            held_before: before.map_or(Some(0), |before| before.is_proven.then_some(before.bytes)),
            is_kept: false,
        })
    }

    /// Removes what has broken off and is too old, and the oldest of the rest until it is few enough bytes. Blocks on
    /// the disk.
    // r[impl publish.partial.bounded]
    pub(crate) fn sweep(&self, now: SystemTime) {
        for key in self.take_garbage(now) {
            let path = self.0.folder.join(format!("{}-{}", key.0, key.1));
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "a broken-off upload cannot be removed");
            }
            self.lock().busy.remove(&key);
        }
    }

    fn take_garbage(&self, now: SystemTime) -> Vec<Key> {
        let mut state = self.lock();
        let mut all: Vec<_> = state.broken_off.iter().map(|(key, upload)| (*key, *upload)).collect();
        all.sort_unstable_by_key(|(_, upload)| std::cmp::Reverse(upload.since));
        let keep = Duration::from_secs(self.0.config.partial_keep_s);
        let mut kept = 0_u64;
        all.retain(|(_, upload)| {
            let is_young = now.duration_since(upload.since).map_or(true, |age| age < keep);
            let fits = kept.saturating_add(upload.bytes) <= self.0.config.max_partial_bytes;
            if is_young && fits {
                kept = kept.saturating_add(upload.bytes);
            }
            !(is_young && fits)
        });
        for (key, upload) in &all {
            state.broken_off.remove(key);
            state.sub(key.0, upload.bytes);
            // Nobody may take it up while it is being removed.
            state.busy.insert(*key);
        }
        all.into_iter().map(|(key, _)| key).collect()
    }

    /// Bytes that a publisher has here, running and broken-off uploads included.
    #[cfg(test)]
    fn used(&self, publisher: AgentId) -> u64 {
        self.lock().used.get(&publisher).copied().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The upload's folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that this process knows to be proven in it; `None` if they must be proven anew.
    pub(crate) fn held_before(&self) -> Option<u64> {
        self.held_before
    }

    /// The most that the upload may bring.
    pub(crate) fn room(&self) -> u64 {
        self.reserved
    }

    /// So many bytes are proven on disk.
    pub(crate) fn holds(&mut self, bytes: u64) {
        (self.on_disk, self.held_before) = (bytes, Some(bytes));
    }

    /// What was proven on disk must be proven anew.
    pub(crate) fn doubts(&mut self) {
        self.held_before = self.held_before.filter(|held| *held == 0);
    }

    /// The upload has become a content of `size` bytes.
    pub(crate) fn keep(mut self, size: u64) {
        (self.on_disk, self.is_kept) = (size, true);
    }

    /// Nothing of the upload is wanted any more. Blocks on the disk.
    pub(crate) fn discard(mut self) {
        if fs::remove_dir_all(&self.path).is_ok() {
            self.on_disk = 0;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shelf.lock();
        state.at_once -= 1;
        if let Some(count) = state.running.get_mut(&self.publisher) {
            *count -= 1;
            if *count == 0 {
                state.running.remove(&self.publisher);
            }
        }
        state.sub(self.publisher, self.reserved);
        let Some(content) = self.content else {
            if self.is_kept {
                state.add(self.publisher, self.on_disk);
            }
            return;
        };
        state.busy.remove(&(self.publisher, content));
        if self.is_kept || self.on_disk > 0 {
            state.add(self.publisher, self.on_disk);
        }
        if !self.is_kept && (self.on_disk > 0 || self.path.exists()) {
            let (bytes, is_proven) = (self.on_disk, self.held_before.is_some());
            let broken_off = BrokenOff { bytes, is_proven, since: SystemTime::now() };
            state.broken_off.insert((self.publisher, content), broken_off);
        }
    }
}

impl State {
    fn add(&mut self, publisher: AgentId, bytes: u64) {
        let used = self.used.entry(publisher).or_default();
        *used = used.saturating_add(bytes);
        self.total = self.total.saturating_add(bytes);
    }

    fn sub(&mut self, publisher: AgentId, bytes: u64) {
        if let Some(used) = self.used.get_mut(&publisher) {
            *used = used.saturating_sub(bytes);
            if *used == 0 {
                self.used.remove(&publisher);
            }
        }
        self.total = self.total.saturating_sub(bytes);
    }
}

/// Publisher and content of an upload's folder.
fn key_of(path: &Path) -> Option<Key> {
    let (publisher, content) = path.file_name()?.to_str()?.split_once('-')?;
    Some((publisher.parse().ok()?, content.parse().ok()?))
}

/// The folder of uploads, on the disk of the contents.
const FOLDER: &str = "publishing";
/// Prefix of folders of streams; no base58 id begins with a dot.
const SPOOL: &str = ".stream-";
/// Bytes of a block in a file's metadata.
const BLOCK: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(dir: &Path, config: PublishConfig) -> Shelf {
        Shelf::open(dir, &ContentStore::open(dir).unwrap(), config).unwrap()
    }

    fn agent(number: u8) -> AgentId {
        AgentId::from_bytes([number; 32])
    }

    fn content(number: u8) -> Option<ContentId> {
        Some(ContentId::from_bytes([number; 32]))
    }

    /// An upload that wrote `bytes` and broke off.
    fn break_off(shelf: &Shelf, publisher: u8, id: u8, bytes: u64) {
        let mut place = shelf.enter(agent(publisher), content(id), 1_000).unwrap();
        fs::create_dir_all(place.path()).unwrap();
        fs::write(place.path().join(DATA), vec![1; bytes as usize]).unwrap();
        place.holds(bytes);
    }

    // r[verify publish.quota]
    #[test]
    fn quotas_hold_for_each_and_for_all_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let config = PublishConfig { quota_bytes_per_publisher: 1_000, quota_bytes: 1_500, ..PublishConfig::default() };
        let shelf = shelf(dir.path(), config);
        let refused = |asked, left| Some(ShelfError::Quota { asked, left });
        assert_eq!(shelf.enter(agent(1), content(1), 1_001).err(), refused(1_001, 1_000));
        let first = shelf.enter(agent(1), content(1), 900).unwrap();
        assert_eq!(shelf.enter(agent(1), content(1), 1).err(), Some(ShelfError::Busy));
        assert_eq!(shelf.enter(agent(1), content(2), 101).err(), refused(101, 100));
        assert_eq!(shelf.enter(agent(2), content(1), 601).err(), refused(601, 600));
        assert_eq!(shelf.enter(agent(2), None, 5_000).unwrap().room(), 600, "a stream gets what is left");
        drop(first);
        shelf.enter(agent(1), content(1), 700).unwrap().keep(700);
        assert_eq!((shelf.used(agent(1)), shelf.used(agent(2))), (700, 0));
        assert_eq!(shelf.enter(agent(1), content(2), 301).err(), refused(301, 300));
    }

    #[test]
    fn uploads_at_once_are_bounded_for_each_and_for_all() {
        let dir = tempfile::tempdir().unwrap();
        let config = PublishConfig { max_at_once: 3, max_at_once_per_publisher: 2, ..PublishConfig::default() };
        let shelf = shelf(dir.path(), config);
        let enter = |publisher, id| shelf.enter(agent(publisher), content(id), 1);
        let (_a, _b) = (enter(1, 1).unwrap(), enter(1, 2).unwrap());
        assert_eq!(enter(1, 3).err(), Some(ShelfError::TooMany));
        let third = enter(2, 1).unwrap();
        assert_eq!(enter(3, 1).err(), Some(ShelfError::TooMany));
        drop(third);
        assert!(enter(3, 1).is_ok());
    }

    // r[verify publish.partial.bounded]
    #[test]
    fn broken_off_uploads_are_resumed_for_a_while_and_removed_by_age_and_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let config = PublishConfig { max_partial_bytes: 250, partial_keep_s: 3_600, ..PublishConfig::default() };
        let store = shelf(dir.path(), config.clone());
        break_off(&store, 1, 1, 100);
        assert_eq!(store.enter(agent(1), content(1), 1_000).unwrap().held_before(), Some(100));
        store.enter(agent(1), content(1), 1_000).unwrap().doubts();
        assert_eq!(store.enter(agent(1), content(1), 1_000).unwrap().held_before(), None);
        assert_eq!(store.enter(agent(1), content(9), 1_000).unwrap().held_before(), Some(0));
        break_off(&store, 1, 2, 100);
        break_off(&store, 2, 3, 100);
        assert_eq!((store.used(agent(1)), store.used(agent(2))), (200, 100));
        // The oldest goes.
        store.sweep(SystemTime::now());
        assert_eq!((store.used(agent(1)), store.used(agent(2))), (100, 100));
        let left = || fs::read_dir(dir.path().join(FOLDER)).unwrap().count();
        assert_eq!(left(), 2);

        // A restart counts them again, but has to prove them.
        fs::create_dir(dir.path().join(FOLDER).join(".stream-7")).unwrap();
        let store = shelf(dir.path(), config);
        assert_eq!((store.used(agent(1)), store.used(agent(2)), left()), (100, 100, 2));
        assert_eq!(store.enter(agent(1), content(2), 1_000).unwrap().held_before(), None);
        store.sweep(SystemTime::now() + Duration::from_secs(3_601));
        assert_eq!((store.used(agent(1)), store.used(agent(2)), left()), (0, 0, 0));
    }
}
