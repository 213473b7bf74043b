//! Where contents lie, and how they are found by id.
//!
//! ```text
//! contents/<content id>/data              the bytes
//! contents/<content id>/outboard.obao4    their hashes, see aro_proto::merkle::parent_offset
//! contents/<content id>/publisher            the key of who uploaded it, if it was uploaded
//! contents/.incoming-<random>/            being added; becomes <content id> by one rename
//! ```
//! A folder of that name is whole, for it appears by a rename only. No database knows of contents, so that `add`
//! works beside a serving node.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aro_proto::limits::MAX_CONTENT_SIZE;
use aro_proto::merkle::outboard_len;
use aro_proto::{AgentId, ContentId};
use thiserror::Error;

use super::hot::{DEFAULT_HOT_BYTES, Hot};
use super::import::{self, Stored};
use super::pages::Pages;
use super::small::{SmallContent, SmallContents};

/// The contents of one node. Clones share the cache of open files, the free pages, what is hot and what is small.
#[derive(Clone, Debug)]
pub struct ContentStore {
    contents: Arc<PathBuf>,
    open: Arc<Mutex<HashMap<ContentId, Arc<StoredContent>>>>,
    pages: Pages,
    hot: Hot,
    small: SmallContents,
}

/// A content on disk, open for reading.
#[derive(Debug)]
pub struct StoredContent {
    id: ContentId,
    size: u64,
    pub(super) data: File,
    pub(super) outboard: File,
    pub(super) pages: Pages,
    pub(super) hot: Hot,
}

/// Why a content could not be stored or read.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file changed while it was hashed.
    #[error("{path} changed while it was read: {got} bytes where {expected} were announced; add it again")]
    Changed {
        /// The file.
        path: PathBuf,
        /// Bytes announced.
        expected: u64,
        /// Bytes read.
        got: u64,
    },
    /// The file is longer than any content may be.
    #[error("{path} has {size} bytes, a content may have at most {MAX_CONTENT_SIZE}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
    /// The path is not a regular file.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The stored hashes do not fit the stored bytes: someone wrote into the store.
    #[error("the content {id} is damaged on disk: its hashes do not fit its size; remove its folder and add it again")]
    Damaged {
        /// The content.
        id: ContentId,
    },
}

impl ContentStore {
    /// Opens the store below `dir`, which is created if needed, and clears what interrupted adds left behind.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the folder cannot be created or listed.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, DEFAULT_HOT_BYTES)
    }

    /// The same, with so many bytes of memory for what is asked for most.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(dir: &Path, hot_bytes: usize) -> Result<Self, StoreError> {
        let contents = dir.join(CONTENTS);
        fs::create_dir_all(&contents).map_err(|source| StoreError::Io { path: contents.clone(), source })?;
        import::clear_leftovers(&contents, LEFTOVER_AGE)?;
        Ok(Self {
            contents: Arc::new(contents),
            open: Arc::default(),
            pages: Pages::default(),
            hot: Hot::new(hot_bytes),
            small: SmallContents::new(0),
        })
    }

    /// The same store, which keeps so many bytes of small contents (at most 64 KiB each) in memory.
    #[must_use]
    pub fn with_small_contents(self, most_bytes: usize) -> Self {
        Self { small: SmallContents::new(most_bytes), ..self }
    }

    /// Copies a file into the store and hashes it on the way, in one pass and bounded memory. Blocks on the disk.
    /// What is already there is left as it is.
    ///
    /// # Errors
    /// The file cannot be read, changes meanwhile or is too long, or the store cannot be written.
    pub fn add_file(&self, path: &Path) -> Result<Stored, StoreError> {
        import::add_file(&self.contents, path)
    }

    /// Opens a content; `None` if it is not here. Blocks on the disk unless it was read lately.
    ///
    /// # Errors
    /// The disk fails, or the content is [`StoreError::Damaged`].
    pub fn get(&self, id: ContentId) -> Result<Option<Arc<StoredContent>>, StoreError> {
        if let Some(content) = self.cached(id) {
            return Ok(Some(content));
        }
        let Some(content) = self.open_content(id)? else { return Ok(None) };
        Ok(Some(self.keep_open(content)))
    }

    fn keep_open(&self, content: StoredContent) -> Arc<StoredContent> {
        let content = Arc::new(content);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_OPEN {
            // Any will do: what is in use stays open through its readers, and opening again is cheap.
            let victim = open.keys().next().copied();
            victim.map(|victim| open.remove(&victim));
        }
        open.insert(content.id, Arc::clone(&content));
        content
    }

    /// Reads a small content whole, and proves it once more while it is at hand.
    fn read_small(&self, content: &StoredContent) -> Result<SmallContent, StoreError> {
        let id = content.id;
        let folder = self.contents.join(id.to_string());
        let read = |file: &File, len: u64, name| {
            let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
            file.read_exact_at(&mut bytes, 0)
                .map_err(|source| StoreError::Io { path: folder.join(name), source })
                .map(|()| bytes)
        };
        let data = read(&content.data, content.size, DATA)?;
        let outboard = read(&content.outboard, outboard_len(content.size), OUTBOARD)?;
        if ContentId::of(&data) == id { Ok(SmallContent::new(data, outboard)) } else { Err(StoreError::Damaged { id }) }
    }

    /// The content if it is open already; never blocks.
    pub(crate) fn cached(&self, id: ContentId) -> Option<Arc<StoredContent>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// A small content if it is in memory; never blocks.
    pub(crate) fn small(&self, id: ContentId) -> Option<Arc<SmallContent>> {
        self.small.get(id)
    }

    /// The size of a content, `None` if it is not here. Nothing of it is read, so that asking is cheap whoever asks.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) fn look_up(&self, id: ContentId) -> Result<Option<u64>, StoreError> {
        if let Some(small) = self.small.get(id) {
            return Ok(Some(small.size()));
        }
        if let Some(content) = self.cached(id) {
            return Ok(Some(content.size()));
        }
        let Some(content) = self.open_content(id)? else { return Ok(None) };
        let size = content.size();
        // A small one is not kept open: it is read from memory once it was loaded.
        if !self.small.holds(size) {
            self.keep_open(content);
        }
        Ok(Some(size))
    }

    /// Whether a content of this size is served from memory, once it was [loaded](Self::load_small).
    pub(crate) fn holds_small(&self, size: u64) -> bool {
        self.small.holds(size)
    }

    /// A small content, read into memory and proven if it is not there yet; `None` if it is not here, or not small. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// As [`get`](Self::get); [`StoreError::Damaged`] also if its bytes are not its own.
    pub(crate) fn load_small(&self, id: ContentId) -> Result<Option<Arc<SmallContent>>, StoreError> {
        if let Some(small) = self.small.get(id) {
            return Ok(Some(small));
        }
        let Some(content) = self.open_content(id)?.filter(|content| self.small.holds(content.size())) else {
            return Ok(None);
        };
        let small = Arc::new(self.read_small(&content)?);
        self.small.keep(id, Arc::clone(&small));
        Ok(Some(small))
    }

    /// Every content, in no particular order. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the folder cannot be listed.
    pub fn list(&self) -> Result<Vec<Stored>, StoreError> {
        let io_error = |source| StoreError::Io { path: self.contents.to_path_buf(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&*self.contents).map_err(io_error)? {
            let entry = entry.map_err(io_error)?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let path = entry.path().join(DATA);
            let size = fs::metadata(&path).map_err(|source| StoreError::Io { path, source })?.len();
            found.push(Stored { id, size });
        }
        Ok(found)
    }

    /// The folder of all contents.
    pub(crate) fn folder(&self) -> &Path {
        &self.contents
    }

    /// Who uploaded a content; `None` if it was added by hand or is not here. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the note cannot be read.
    pub fn publisher(&self, id: ContentId) -> Result<Option<AgentId>, StoreError> {
        let path = self.contents.join(id.to_string()).join(PUBLISHER);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Io { path, source }),
        }
    }

    fn open_content(&self, id: ContentId) -> Result<Option<StoredContent>, StoreError> {
        let folder = self.contents.join(id.to_string());
        let Some(data) = open_if_there(&folder.join(DATA))? else { return Ok(None) };
        let Some(outboard) = open_if_there(&folder.join(OUTBOARD))? else { return Err(StoreError::Damaged { id }) };
        let len = |file: &File, name| {
            file.metadata().map(|meta| meta.len()).map_err(|source| StoreError::Io { path: folder.join(name), source })
        };
        let (size, hashes) = (len(&data, DATA)?, len(&outboard, OUTBOARD)?);
        if size > MAX_CONTENT_SIZE || hashes != outboard_len(size) {
            return Err(StoreError::Damaged { id });
        }
        let (pages, hot) = (self.pages.clone(), self.hot.clone());
        Ok(Some(StoredContent { id, size, data, outboard, pages, hot }))
    }
}

impl StoredContent {
    /// The content's id.
    pub fn id(&self) -> ContentId {
        self.id
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

fn open_if_there(path: &Path) -> Result<Option<File>, StoreError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io { path: path.to_owned(), source }),
    }
}

/// The folder of all contents.
const CONTENTS: &str = "contents";
/// A content's bytes.
pub(super) const DATA: &str = "data";
/// A content's hashes; the ending is that of other tools which keep the same layout.
pub(super) const OUTBOARD: &str = "outboard.obao4";
/// The key of who uploaded a content, in base58.
pub(super) const PUBLISHER: &str = "publisher";
/// Contents kept open: two descriptors each, far below the usual limit of 1,024.
const MAX_OPEN: usize = 128;
/// An add that has not moved for this long, and holds no lock, is dead.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_nasty_sizes_are_found_by_the_hash_of_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        for size in [0, 1, 1023, 1024, 1025, 16_384, 16_385, 1 << 20, (3 << 20) + 7] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let path = dir.path().join("file");
            fs::write(&path, &bytes).unwrap();
            let stored = store.add_file(&path).unwrap();
            assert_eq!(stored, Stored { id: ContentId::of(&bytes), size: size as u64 });
            assert_eq!(store.add_file(&path).unwrap(), stored);
            assert_eq!(store.get(stored.id).unwrap().unwrap().size(), size as u64);
        }
        assert_eq!(store.list().unwrap().len(), 9);
        assert!(store.get(ContentId::of(b"elsewhere")).unwrap().is_none());
    }

    #[test]
    fn a_small_content_is_read_when_it_is_served_and_not_when_it_is_asked_about_and_a_changed_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap().with_small_contents(1 << 20);
        let path = dir.path().join("file");
        for (size, is_small) in [(0, true), (20_000, true), (65_536, true), (65_537, false)] {
            fs::write(&path, vec![7; size]).unwrap();
            let id = store.add_file(&path).unwrap().id;
            assert!(store.small(id).is_none());
            assert_eq!(store.look_up(id).unwrap(), Some(size as u64));
            assert_eq!((store.small(id).is_some(), store.cached(id).is_some()), (false, !is_small));
            let loaded = store.load_small(id).unwrap().map(|small| small.size());
            assert_eq!(loaded, is_small.then_some(size as u64));
            assert_eq!((store.small(id).is_some(), store.holds_small(size as u64)), (is_small, is_small));
        }
        assert_eq!(store.look_up(ContentId::of(b"elsewhere")).unwrap(), None);

        fs::write(&path, vec![1; 40_000]).unwrap();
        let id = store.add_file(&path).unwrap().id;
        fs::write(dir.path().join("contents").join(id.to_string()).join("data"), vec![2; 40_000]).unwrap();
        assert_eq!(store.look_up(id).unwrap(), Some(40_000));
        assert!(matches!(store.load_small(id), Err(StoreError::Damaged { .. })));
        assert!(store.small(id).is_none());
    }

    #[test]
    fn a_content_that_was_tampered_with_in_length_is_not_served() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![1; 40_000]).unwrap();
        let stored = store.add_file(&path).unwrap();
        let data = dir.path().join("contents").join(stored.id.to_string()).join("data");
        fs::write(data, vec![1; 10_000]).unwrap();
        assert!(matches!(store.get(stored.id), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn more_contents_than_may_stay_open_are_all_served() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let path = dir.path().join("file");
        let ids: Vec<_> = (0..MAX_OPEN + 20)
            .map(|i| {
                fs::write(&path, i.to_le_bytes()).unwrap();
                store.add_file(&path).unwrap().id
            })
            .collect();
        for id in &ids {
            assert_eq!(store.get(*id).unwrap().unwrap().id(), *id);
        }
        assert!(store.open.lock().unwrap().len() <= MAX_OPEN);
    }
}
