//! The spec's vectors: bytes that every implementation must agree on.
//!
//! What could break: an encoding that drifts between versions, a check that is lost, a vector that nobody reads.
//! Vectors are frozen; a change that needs another vector is a change of the protocol.

#![allow(clippy::panic, clippy::unwrap_used, reason = "that is how tests fail")]

mod delegations;
mod file;
mod frames;
mod manifests;
mod proofs;
mod receipts;
mod signed;
mod vouchers;

use file::Vector;

/// Runs every vector of a folder. `check` says what was made of it: `Ok`, or the reason of a refusal.
fn run(folder: &str, least: usize, check: fn(&Vector) -> Result<(), String>) {
    let vectors = file::read_all(folder);
    assert!(vectors.len() >= least, "{folder} has {} vectors, at least {least} are due", vectors.len());
    for vector in vectors {
        let outcome = check(&vector);
        let expected = match vector.header("expect") {
            "ok" => None,
            refused => Some(refused.strip_prefix("refused ").expect("`ok` or `refused <why>`")),
        };
        match (&outcome, expected) {
            (Ok(()), None) => {}
            (Err(why), Some(expected)) if why == expected => {}
            _ => panic!("{}: expected {}, got {outcome:?}", vector.name, vector.header("expect")),
        }
    }
}
