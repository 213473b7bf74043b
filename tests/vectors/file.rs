//! One vector: a header of `key: value` lines, a blank line, hex.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// A scenario as it stands in its file.
pub(crate) struct Vector {
    /// File name, for messages.
    pub(crate) name: String,
    headers: BTreeMap<String, String>,
    /// The bytes in question.
    pub(crate) bytes: Vec<u8>,
}

impl Vector {
    /// A header that must be there.
    pub(crate) fn header(&self, key: &str) -> &str {
        self.headers.get(key).unwrap_or_else(|| panic!("{} has no header `{key}`", self.name))
    }

    /// A header that is a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> T {
        self.header(key).parse().unwrap_or_else(|_| panic!("{}: `{key}` is no number", self.name))
    }

    /// A header that is hex of a fixed length.
    pub(crate) fn array<const N: usize>(&self, key: &str) -> [u8; N] {
        hex(self.header(key)).try_into().unwrap_or_else(|_| panic!("{}: `{key}` has not {N} bytes", self.name))
    }
}

/// All vectors of a folder, by name.
pub(crate) fn read_all(folder: &str) -> Vec<Vector> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol-spec/vectors")).join(folder);
    let mut vectors: Vec<Vector> = fs::read_dir(&path)
        .expect("the folder is there")
        .map(|entry| {
            let entry = entry.expect("readable");
            let text = fs::read_to_string(entry.path()).expect("readable");
            let (head, body) = text.split_once("\n\n").expect("header, blank line, hex");
            let headers = head
                .lines()
                .map(|line| line.split_once(": ").expect("`key: value`"))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            Vector { name: entry.file_name().to_string_lossy().into_owned(), headers, bytes: hex(body) }
        })
        .collect();
    vectors.sort_by(|a, b| a.name.cmp(&b.name));
    vectors
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("hex") as u8).collect();
    assert_eq!(digits.len() % 2, 0, "whole bytes");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
