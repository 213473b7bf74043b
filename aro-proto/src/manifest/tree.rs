//! Whether names can stand side by side on every file system.

use std::collections::HashMap;

use super::entry_name::{EntryName, folded};

/// The names so far, as a tree of folders. Memory: the parts of the names, once each.
#[derive(Default)]
pub(super) struct Tree<'a> {
    places: HashMap<(usize, String), Place<'a>>,
    folders: usize,
}

struct Place<'a> {
    spelling: &'a str,
    /// The number of the folder, unless it is a file.
    folder: Option<usize>,
}

impl<'a> Tree<'a> {
    /// Adds a name. False if it is the same place as an earlier one where cases are not told apart, or would be a file
    /// and a folder at once.
    // r[impl manifest.conflicts]
    pub(super) fn add(&mut self, name: &'a EntryName) -> bool {
        let mut within = 0;
        let mut parts = name.parts().peekable();
        while let Some(part) = parts.next() {
            let is_file = parts.peek().is_none();
            let next = self.folders + 1;
            let mut is_new = false;
            let place = self.places.entry((within, folded(part))).or_insert_with(|| {
                is_new = true;
                Place { spelling: part, folder: (!is_file).then_some(next) }
            });
            match place.folder {
                _ if place.spelling != part => return false,
                None => return is_new,
                Some(_) if is_file => return false,
                Some(folder) => {
                    self.folders = self.folders.max(folder);
                    within = folder;
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_conflict(names: &[&str]) -> Option<usize> {
        let names: Vec<EntryName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let mut tree = Tree::default();
        names.iter().position(|name| !tree.add(name))
    }

    // r[verify manifest.conflicts]
    #[test]
    fn no_two_names_are_one_place_on_any_system() {
        assert_eq!(first_conflict(&["a", "b", "c/a", "c/b", "c/d/a", "d/a"]), None);
        assert_eq!(first_conflict(&["a", "a"]), Some(1));
        assert_eq!(first_conflict(&["a", "a/b"]), Some(1));
        assert_eq!(first_conflict(&["a/b", "a"]), Some(1));
        assert_eq!(first_conflict(&["A", "a"]), Some(1));
        assert_eq!(first_conflict(&["A", "a/b"]), Some(1));
        assert_eq!(first_conflict(&["Dir/a", "dir/b"]), Some(1));
        assert_eq!(first_conflict(&["x/STRASSE", "x/straße"]), Some(1));
        assert_eq!(first_conflict(&["x/STRASSE", "y/straße"]), None);
    }
}
