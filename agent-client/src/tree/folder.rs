//! The folder that a tree is written to. Every step goes from an open folder to the next one below and through no link,
//! so nothing that lies there, or is put there meanwhile, leads a file out of it.
//!
//! A file is written into `.aro-part` within the folder, under its content id, and renamed to its place when it is proven
//! and on disk. Names that begin with `.aro-` cannot stand in a manifest.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use aro_proto::ContentId;
use aro_proto::manifest::Entry;
use aro_proto::merkle::ContentHasher;
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstat, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;

/// A target folder, held open, and locked against other processes that write a tree there.
#[derive(Debug)]
pub(super) struct TargetFolder {
    path: PathBuf,
    root: OwnedFd,
    parts: OwnedFd,
}

impl TargetFolder {
    /// Opens a folder, or makes it. Blocks on the disk.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path)?;
        // The caller's own choice: it may be a link.
        let root = OwnedFd::from(File::open(path)?);
        let parts = below(&root, PARTS, true)?;
        flock(&parts, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            Errno::WOULDBLOCK => io::Error::new(io::ErrorKind::ResourceBusy, "another process writes a tree here"),
            other => other.into(),
        })?;
        Ok(Self { path: path.to_owned(), root, parts })
    }

    /// Whether an entry is in its place already: a plain file with its bytes. It is made executable if need be. Blocks on
    /// the disk, for the whole file is read.
    pub(super) fn has(&self, entry: &Entry) -> io::Result<bool> {
        let Ok((folder, leaf)) = self.folder_of(entry, false) else { return Ok(false) };
        // What is there may be a pipe, which must not be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(found) = openat(&folder, leaf, flags, Mode::empty()) else { return Ok(false) };
        let stat = fstat(&found)?;
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || size != entry.size {
            return Ok(false);
        }
        let mut file = File::from(found);
        let (mut hasher, mut buffer) = (ContentHasher::default(), vec![0; READ_BUFFER]);
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        let is_same = hasher.finish() == (entry.content, entry.size);
        if is_same && entry.executable {
            make_executable(&file)?;
        }
        Ok(is_same)
    }

    /// Where a content gathers before it has its place.
    pub(super) fn part_path(&self, content: ContentId) -> PathBuf {
        // Through the open folder, where the system can say so: then not even a folder that is swapped matters.
        let held = PathBuf::from(format!("/proc/self/fd/{}", self.parts.as_raw_fd()));
        let folder = if cfg!(target_os = "linux") && held.exists() { held } else { self.path.join(PARTS) };
        folder.join(content.to_string())
    }

    /// Writes a proven content to where it gathers. Blocks on the disk.
    pub(super) fn write_part(&self, content: ContentId, bytes: &[u8]) -> io::Result<()> {
        self.new_part(&content.to_string())?.write_all(bytes)
    }

    /// Everything that was written so far is on disk when this returns. Blocks.
    pub(super) fn sync(&self, contents: &[ContentId]) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            // One sync for a whole portion.
            let _ = contents;
            Ok(rustix::fs::syncfs(&self.parts)?)
        }
        #[cfg(not(target_os = "linux"))]
        {
            contents.iter().try_for_each(|content| self.open_part(&content.to_string())?.sync_all())
        }
    }

    /// Moves a content to all its places; it is there as a whole or not at all. Blocks on the disk.
    // r[impl manifest.write.inside]
    pub(super) fn place(&self, content: ContentId, entries: &[Entry]) -> Result<(), (String, io::Error)> {
        let part = content.to_string();
        let Some((last, others)) = entries.split_last() else { return Ok(()) };
        for entry in others {
            let copied = self.copy_part(&part).and_then(|copy| self.move_to(&copy, entry));
            copied.map_err(|error| (entry.name.to_string(), error))?;
        }
        self.move_to(&part, last).map_err(|error| (last.name.to_string(), error))
    }

    /// Nothing more is written: removes where files gather, if nothing is left there.
    pub(super) fn finish(&self) {
        // What broke off stays for the next try.
        let _ = unlinkat(&self.root, PARTS, AtFlags::REMOVEDIR);
    }

    fn move_to(&self, part: &str, entry: &Entry) -> io::Result<()> {
        if entry.executable {
            make_executable(&self.open_part(part)?)?;
        }
        let (folder, leaf) = self.folder_of(entry, true)?;
        // A link in its place is replaced, never followed.
        Ok(renameat(&self.parts, part, &folder, leaf)?)
    }

    fn copy_part(&self, part: &str) -> io::Result<String> {
        let copy = format!("{part}.copy");
        let mut to = self.new_part(&copy)?;
        io::copy(&mut self.open_part(part)?, &mut to)?;
        to.sync_all()?;
        Ok(copy)
    }

    fn new_part(&self, name: &str) -> io::Result<File> {
        match unlinkat(&self.parts, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.parts, name, flags, Mode::from_raw_mode(0o666))?.into())
    }

    fn open_part(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(&self.parts, name, flags, Mode::empty())?.into())
    }

    /// The open folder of an entry, and its own name in it.
    fn folder_of<'a>(&self, entry: &'a Entry, make: bool) -> io::Result<(OwnedFd, &'a str)> {
        let mut parts: Vec<&str> = entry.name.parts().collect();
        let leaf = parts.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let mut folder = self.root.try_clone()?;
        for part in parts {
            folder = below(&folder, part, make)?;
        }
        Ok((folder, leaf))
    }
}

/// Opens a folder in an open folder, made if need be; never through a link.
fn below(folder: &OwnedFd, name: &str, make: bool) -> io::Result<OwnedFd> {
    if make {
        match mkdirat(folder, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(folder, name, flags, Mode::empty())?)
}

/// Whoever may read the file may run it.
fn make_executable(file: &File) -> io::Result<()> {
    let mode = fstat(file)?.st_mode & 0o777;
    let wanted = mode | (mode & 0o444) >> 2;
    if wanted != mode {
        fchmod(file, Mode::from_raw_mode(wanted))?;
    }
    Ok(())
}

/// What gathers, within the target folder: on the same disk, and found again by the next try.
const PARTS: &str = ".aro-part";
/// Bytes read at once: long enough for BLAKE3 to run at full speed.
const READ_BUFFER: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn entry(name: &str, bytes: &[u8], executable: bool) -> Entry {
        let (content, size) = (ContentId::of(bytes), bytes.len() as u64);
        Entry { name: name.parse().unwrap(), content, size, media_type: None, executable }
    }

    fn put(folder: &TargetFolder, name: &str, bytes: &[u8]) -> Result<(), (String, io::Error)> {
        let entry = entry(name, bytes, false);
        folder.write_part(entry.content, bytes).unwrap();
        folder.sync(&[entry.content]).unwrap();
        folder.place(entry.content, &[entry])
    }

    // r[verify manifest.write.inside]
    #[test]
    fn no_link_that_lies_there_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
        fs::create_dir_all(outside.join("sub")).unwrap();
        fs::create_dir_all(&target).unwrap();
        fs::write(outside.join("file"), b"precious").unwrap();
        symlink(&outside, target.join("dir")).unwrap();
        symlink(outside.join("file"), target.join("leaf")).unwrap();
        symlink(outside.join("new"), target.join("dangling")).unwrap();
        let folder = TargetFolder::open(&target).unwrap();
        for name in ["dir/file", "dir/new", "dir/sub/x"] {
            let (named, _) = put(&folder, name, b"hostile").unwrap_err();
            assert_eq!(named, name);
        }
        // A link where a file goes is replaced by the file.
        for name in ["leaf", "dangling"] {
            assert!(!folder.has(&entry(name, b"precious", false)).unwrap(), "what a link shows is not in its place");
            put(&folder, name, b"hostile").unwrap();
            assert!(fs::symlink_metadata(target.join(name)).unwrap().is_file());
        }
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 2);
        assert_eq!(fs::read_dir(outside.join("sub")).unwrap().count(), 0);
    }

    // r[verify manifest.write.inside]
    #[test]
    fn a_planted_place_for_parts_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(&target).unwrap();
        symlink(&outside, target.join(PARTS)).unwrap();
        assert!(TargetFolder::open(&target).is_err());
    }

    #[test]
    fn a_folder_that_is_swapped_for_a_link_meanwhile_gets_nothing_out() {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
        fs::create_dir_all(&outside).unwrap();
        let folder = TargetFolder::open(&target).unwrap();
        fs::rename(target.join(PARTS), target.join("moved")).unwrap();
        symlink(&outside, target.join(PARTS)).unwrap();
        fs::write(folder.part_path(ContentId::of(b"a")), b"a").unwrap();
        put(&folder, "b", b"b").unwrap();
        if cfg!(target_os = "linux") {
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        }
        assert_eq!(fs::read(target.join("b")).unwrap(), b"b");
    }

    #[test]
    fn what_is_there_counts_only_if_it_is_the_same_plain_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = TargetFolder::open(dir.path()).unwrap();
        let (a, program) = (entry("x/a", b"hello", false), entry("x/run", b"hello", true));
        assert!(!folder.has(&a).unwrap());
        folder.write_part(a.content, b"hello").unwrap();
        folder.place(a.content, &[a.clone(), program.clone()]).unwrap();
        assert!(folder.has(&a).unwrap() && folder.has(&program).unwrap());
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o111;
        assert_eq!(mode("x/a"), 0);
        assert_ne!(mode("x/run"), 0);
        fs::write(dir.path().join("x/a"), b"hellO").unwrap();
        assert!(!folder.has(&a).unwrap());
        assert!(!folder.has(&Entry { size: 6, ..program.clone() }).unwrap());
        fs::remove_file(dir.path().join("x/run")).unwrap();
        fs::create_dir(dir.path().join("x/run")).unwrap();
        assert!(!folder.has(&program).unwrap());
        assert!(put(&folder, "x/run", b"hello").is_err(), "a folder is in the way");
    }

    #[test]
    fn one_tree_at_a_time_is_written_to_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = TargetFolder::open(dir.path()).unwrap();
        assert_eq!(TargetFolder::open(dir.path()).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        folder.finish();
        drop(folder);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        TargetFolder::open(dir.path()).unwrap();
    }
}
