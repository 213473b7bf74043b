//! Spec, code and tests name the same rules.
//!
//! A MUST stands in protocol-spec as `r[area.topic]` at the beginning of its paragraph; the code that does it says
//! `impl` and the id in such brackets, its test `verify`, in a comment. What is not done yet is listed in
//! `protocol-spec/exceptions.toml` with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_rule_is_written_implemented_and_tested() {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut spec = BTreeSet::new();
    for file in files(&root.join("protocol-spec"), "md") {
        for line in fs::read_to_string(&file).expect("readable").lines() {
            if let Some(id) = line.strip_prefix("r[").and_then(|rest| rest.split(']').next()) {
                assert!(spec.insert(id.to_owned()), "{id} is written twice ({})", file.display());
            }
        }
    }

    let mut marks: BTreeMap<&str, BTreeSet<String>> =
        BTreeMap::from([("impl", BTreeSet::new()), ("verify", BTreeSet::new())]);
    for folder in ["aro-proto", "agent-client", "node-server", "settlement", "tests"] {
        for file in files(&root.join(folder), "rs") {
            let text = fs::read_to_string(&file).expect("readable");
            for (kind, found) in &mut marks {
                // Put together here, so that this file does not carry a mark of its own.
                let mark = format!("r[{kind} ");
                found.extend(
                    text.split(&mark)
                        .skip(1)
                        .filter_map(|rest| rest.split(']').next())
                        .map(str::to_owned)
                        .filter(|id| is_id(id)),
                );
            }
        }
    }

    let exceptions = exceptions(&root.join("protocol-spec/exceptions.toml"));
    let mut wrong = Vec::new();
    for (kind, found) in &marks {
        for id in found.difference(&spec) {
            wrong.push(format!("the code says `{kind} {id}`, the spec has no such rule"));
        }
        for id in spec.difference(found) {
            if !exceptions.contains(&format!("{kind} {id}")) {
                wrong.push(format!("no code says `{kind} {id}`"));
            }
        }
    }
    for exception in &exceptions {
        let (kind, id) = exception.split_once(' ').expect("`impl id` or `verify id`");
        if !spec.contains(id) || marks.get(kind).is_none_or(|found| found.contains(id)) {
            wrong.push(format!("exceptions.toml lists `{exception}`, which is done or unknown"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Entries read `"impl area.topic" = "reason"`.
fn exceptions(path: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(path).expect("protocol-spec/exceptions.toml is there");
    text.lines()
        .filter_map(|line| line.strip_prefix('"'))
        .map(|line| {
            let (id, reason) = line.split_once("\" = \"").expect("an exception has a reason");
            assert!(reason.len() > 10, "{id}: say why");
            id.to_owned()
        })
        .collect()
}

fn is_id(text: &str) -> bool {
    text.contains('.') && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'_')
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("readable folder") {
        let path = entry.expect("readable entry").path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}
