//! Files that are made from the code and committed: the test compares, `ARO_UPDATE=1` rewrites.

use std::path::PathBuf;

/// The text at a path of the repository must be this one.
#[track_caller]
pub fn assert_blessed(path: &str, made: &str) {
    let file = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path);
    if std::env::var_os("ARO_UPDATE").is_some() {
        std::fs::write(&file, made).unwrap();
        return;
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default().replace("\r\n", "\n");
    if there == made {
        return;
    }
    let differs = there.lines().zip(made.lines()).position(|(old, new)| old != new);
    let at = differs.unwrap_or_else(|| there.lines().count().min(made.lines().count()));
    panic!(
        "{path} is not what the code makes; run this test with ARO_UPDATE=1 and read the diff.\nline {}: {:?}\n   now: {:?}",
        at + 1,
        there.lines().nth(at).unwrap_or("(the end)"),
        made.lines().nth(at).unwrap_or("(the end)"),
    );
}
