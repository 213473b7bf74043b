//! Names of a manifest's entries: relative paths that mean the same on every system, and never a place outside.

use core::fmt;
use core::str::FromStr;

use thiserror::Error;
use unicode_normalization::{UnicodeNormalization, is_nfc};

use crate::limits::{MAX_ENTRY_DEPTH, MAX_ENTRY_NAME, MAX_ENTRY_PART};

/// A relative path: parts parted by `/`, each a plain file name on every system that we know of.
// r[impl manifest.name]
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName(Box<str>);

/// Why a text is no entry's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EntryNameError {
    /// There is no text.
    #[error("a name is empty")]
    Empty,
    /// More bytes than a path may have.
    #[error("a name has {0} bytes, at most {MAX_ENTRY_NAME} are allowed")]
    TooLong(usize),
    /// More parts than a path may have.
    #[error("a name has {0} parts, at most {MAX_ENTRY_DEPTH} are allowed")]
    TooDeep(usize),
    /// It begins with a slash.
    #[error("a name is an absolute path")]
    Absolute,
    /// Two slashes in a row, or one at the end.
    #[error("a part of a name is empty")]
    EmptyPart,
    /// A part is `.` or `..`.
    #[error("a part of a name is `.` or `..`")]
    Dots,
    /// A part has more bytes than a file name may have.
    #[error("a part of a name has {0} bytes, at most {MAX_ENTRY_PART} are allowed")]
    PartTooLong(usize),
    /// A control character, one that turns the direction of writing, or one that some system gives a meaning.
    #[error("a name contains the character U+{:04X}", u32::from(*.0))]
    Character(char),
    /// Some systems drop these.
    #[error("a part of a name ends with a dot or a space")]
    TrailingDotOrSpace,
    /// A device on Windows, or a name that agents keep for themselves.
    #[error("a part of a name is reserved")]
    Reserved,
    /// The same characters, spelled another way.
    #[error("a name is not in Unicode's normal form C")]
    NotNormal,
}

impl EntryName {
    /// Puts a text into normal form and reads it: for names that come from a disk.
    pub fn normalised(text: &str) -> Result<Self, EntryNameError> {
        // Bounded before the normal form is made.
        if text.len() > MAX_ENTRY_NAME {
            return Err(EntryNameError::TooLong(text.len()));
        }
        text.nfc().collect::<String>().parse()
    }

    /// The whole path, with slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folders, from the outermost, and the file's own name last; never empty.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }
}

impl FromStr for EntryName {
    type Err = EntryNameError;
    fn from_str(text: &str) -> Result<Self, EntryNameError> {
        if text.is_empty() {
            return Err(EntryNameError::Empty);
        }
        if text.len() > MAX_ENTRY_NAME {
            return Err(EntryNameError::TooLong(text.len()));
        }
        if text.starts_with('/') {
            return Err(EntryNameError::Absolute);
        }
        let depth = text.split('/').count();
        if depth > MAX_ENTRY_DEPTH {
            return Err(EntryNameError::TooDeep(depth));
        }
        text.split('/').try_for_each(check_part)?;
        if !is_nfc(text) {
            return Err(EntryNameError::NotNormal);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// The spelling under which two parts are the same on a system that does not tell cases apart.
pub(super) fn folded(part: &str) -> String {
    // Upwards first, so that letters which only meet there (the long and the final s) are one.
    part.to_uppercase().to_lowercase().nfc().collect()
}

fn check_part(part: &str) -> Result<(), EntryNameError> {
    if part.is_empty() {
        return Err(EntryNameError::EmptyPart);
    }
    if part == "." || part == ".." {
        return Err(EntryNameError::Dots);
    }
    if part.len() > MAX_ENTRY_PART {
        return Err(EntryNameError::PartTooLong(part.len()));
    }
    if let Some(found) = part.chars().find(|c| is_forbidden(*c)) {
        return Err(EntryNameError::Character(found));
    }
    if part.ends_with(['.', ' ']) {
        return Err(EntryNameError::TrailingDotOrSpace);
    }
    if is_reserved(part) { Err(EntryNameError::Reserved) } else { Ok(()) }
}

fn is_forbidden(c: char) -> bool {
    let has_meaning = matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    // Marks of direction, separators of lines, the byte order mark: unseen, they make one name look like another.
    let is_unseen = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || c == '\u{feff}';
    c.is_control() || has_meaning || is_unseen
}

/// Windows takes its devices' names with any ending and in any case.
fn is_reserved(part: &str) -> bool {
    if part.get(..AGENT_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(AGENT_PREFIX)) {
        return true;
    }
    let stem = part.split('.').next().unwrap_or(part).trim_end_matches(' ').to_ascii_uppercase();
    let is_numbered = |device: &str| {
        stem.strip_prefix(device).is_some_and(|number| {
            matches!(number, "0" | "1" | "2" | "3" | "4" | "5" | "6" | "7" | "8" | "9" | "¹" | "²" | "³")
        })
    };
    matches!(&*stem, "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") || is_numbered("COM") || is_numbered("LPT")
}

/// What agents keep beside the files of a tree begins so.
const AGENT_PREFIX: &str = ".aro-";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // r[verify manifest.name]
    #[test]
    fn plain_paths_are_names_and_read_back() {
        for good in ["a", "a/b/c.txt", ".hidden", "..a", "a..b", "a b", "été/Ünï.md", "con1", "nulls", "日本", "-", "~"]
        {
            let name: EntryName = good.parse().unwrap();
            assert_eq!((name.as_str(), name.to_string()), (good, good.to_owned()));
        }
        let name: EntryName = "a/b/c".parse().unwrap();
        assert_eq!(name.parts().collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    // r[verify manifest.name]
    #[test]
    fn whatever_a_system_could_read_as_another_place_is_refused_with_its_cause() {
        use EntryNameError::*;
        let (long, deep) = ("a/".repeat(600) + "a", "a/".repeat(MAX_ENTRY_DEPTH) + "a");
        let wide = "a".repeat(MAX_ENTRY_PART + 1);
        for (bad, error) in [
            ("", Empty),
            ("/", Absolute),
            ("/etc/passwd", Absolute),
            ("//host/share", Absolute),
            ("a//b", EmptyPart),
            ("a/", EmptyPart),
            (".", Dots),
            ("..", Dots),
            ("a/../b", Dots),
            ("../../etc/passwd", Dots),
            ("a/./b", Dots),
            ("a\\b", Character('\\')),
            ("..\\b", Character('\\')),
            ("C:", Character(':')),
            ("C:/Windows", Character(':')),
            ("a:stream", Character(':')),
            ("a\0b", Character('\0')),
            ("a\nb", Character('\n')),
            ("a\x1b[2J", Character('\x1b')),
            ("a\x7f", Character('\x7f')),
            ("a\u{85}", Character('\u{85}')),
            ("a\u{202e}txt.exe", Character('\u{202e}')),
            ("\u{feff}a", Character('\u{feff}')),
            ("a?", Character('?')),
            ("a.", TrailingDotOrSpace),
            ("a /b", TrailingDotOrSpace),
            ("...", TrailingDotOrSpace),
            ("nul", Reserved),
            ("a/NUL.txt", Reserved),
            ("Con", Reserved),
            ("aux .c", Reserved),
            ("COM1", Reserved),
            ("lpt9.log", Reserved),
            ("COM\u{b9}", Reserved),
            (".aro-part/x", Reserved),
            ("a/.ARO-x", Reserved),
            ("e\u{301}", NotNormal),
            (&*long, TooLong(long.len())),
            (&*deep, TooDeep(MAX_ENTRY_DEPTH + 1)),
            (&*wide, PartTooLong(MAX_ENTRY_PART + 1)),
        ] {
            assert_eq!(bad.parse::<EntryName>(), Err(error), "{bad:?}");
        }
        assert_eq!(EntryName::normalised("e\u{301}"), "é".parse());
        assert_eq!(EntryName::normalised(&"é".repeat(600)), Err(TooLong(1200)));
    }

    #[test]
    fn cases_that_some_system_does_not_tell_apart_fold_together() {
        for (a, b) in [("Makefile", "makefile"), ("STRASSE", "straße"), ("ς", "Σ"), ("ſ", "S"), ("É", "é")] {
            assert_eq!(folded(a), folded(b), "{a} {b}");
        }
        assert_ne!(folded("a"), folded("b"));
    }

    proptest! {
        // r[verify manifest.name]
        #[test]
        fn what_is_taken_stays_below_its_folder(text in "[a./\\\\: \u{0}-\u{ff}]{0,12}") {
            let Ok(name) = text.parse::<EntryName>() else { return Ok(()) };
            prop_assert_eq!(name.as_str(), &text);
            let path = std::path::Path::new(name.as_str());
            let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
            prop_assert!(path.is_relative() && path.components().all(plain));
            prop_assert_eq!(path.components().count(), name.parts().count());
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = text.parse::<EntryName>();
            let _ = EntryName::normalised(&text);
        }
    }
}
