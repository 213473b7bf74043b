//! Which files a folder has: plain ones, by names that can stand in a manifest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aro_proto::limits::{MAX_ENTRY_DEPTH, MAX_MANIFEST_ENTRIES};
use aro_proto::manifest::{EntryName, EntryNameError, ManifestError};

use super::TreeError;

/// A file that is to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) name: EntryName,
    /// Its bytes when it was seen.
    pub(super) size: u64,
    pub(super) executable: bool,
}

/// Every file below a folder, and what was left out. Links are not followed. Blocks on the disk.
pub(super) fn walk(root: &Path, skip_special: bool) -> Result<(Vec<Found>, Vec<PathBuf>), TreeError> {
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    let mut folders = vec![(root.to_owned(), String::new(), 1)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        let failed = |error| TreeError::source(&folder, error);
        for item in fs::read_dir(&folder).map_err(failed)? {
            let item = item.map_err(failed)?;
            let (path, kind) = (item.path(), item.file_type().map_err(failed)?);
            if !kind.is_dir() && !kind.is_file() {
                if !skip_special {
                    return Err(TreeError::NotAFile { path });
                }
                skipped.push(path);
                continue;
            }
            let wrong = |error| TreeError::Name { path: path.clone(), error };
            let part = item.file_name().into_string().map_err(|_| {
                TreeError::source(&path, std::io::Error::new(std::io::ErrorKind::InvalidData, "its name is not UTF-8"))
            })?;
            let name = format!("{prefix}{part}");
            if kind.is_dir() {
                if depth >= MAX_ENTRY_DEPTH {
                    return Err(wrong(EntryNameError::TooDeep(depth + 1)));
                }
                folders.push((path, format!("{name}/"), depth + 1));
                continue;
            }
            let name = EntryName::normalised(&name).map_err(wrong)?;
            let meta = item.metadata().map_err(|error| TreeError::source(&path, error))?;
            if found.len() == MAX_MANIFEST_ENTRIES {
                return Err(TreeError::Unpublishable(ManifestError::TooManyEntries(found.len() as u64 + 1)));
            }
            let executable = meta.permissions().mode() & 0o100 != 0;
            found.push(Found { path, name, size: meta.len(), executable });
        }
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    skipped.sort_unstable();
    Ok((found, skipped))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn plain_files_are_found_and_links_are_refused_or_left_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        for name in ["a/b/c", "a/d", "z"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        fs::set_permissions(dir.path().join("z"), fs::Permissions::from_mode(0o755)).unwrap();
        let (found, skipped) = walk(dir.path(), false).unwrap();
        let seen: Vec<_> = found.iter().map(|file| (file.name.as_str(), file.size, file.executable)).collect();
        assert_eq!((seen, skipped.len()), (vec![("a/b/c", 5, false), ("a/d", 3, false), ("z", 1, true)], 0));

        symlink("/etc/passwd", dir.path().join("a/link")).unwrap();
        assert!(matches!(walk(dir.path(), false), Err(TreeError::NotAFile { path }) if path.ends_with("a/link")));
        let (found, skipped) = walk(dir.path(), true).unwrap();
        assert_eq!((found.len(), skipped), (3, vec![dir.path().join("a/link")]));

        fs::write(dir.path().join("nul"), "").unwrap();
        assert!(matches!(walk(dir.path(), true), Err(TreeError::Name { error: EntryNameError::Reserved, .. })));
        assert!(matches!(walk(&dir.path().join("none"), true), Err(TreeError::Source { .. })));
    }
}
