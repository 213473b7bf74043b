//! `aro-demo`, the README's first command: its numbers add up, for files of every awkward size.

use std::path::Path;

use aro_tests::processes::{number, run_ok};

use crate::market::sample;

#[test]
fn files_of_awkward_sizes_are_paid_for_proven_and_settled_to_the_last_unit() {
    let home = tempfile::tempdir().expect("a temporary folder");
    for size in [0, 1, 1023, 1024, 1025, (3 << 20) + 1] {
        let file = home.path().join("content");
        std::fs::write(&file, sample(size)).expect("written");
        let json = demo(&file);
        assert_eq!((number(&json, "size"), number(&json, "verified_bytes")), (size as u64, size as u64));
        let parts = ["node_earned", "operator_fee", "protocol_fee", "refunded"].map(|part| number(&json, part));
        assert_eq!(parts.iter().sum::<u64>(), number(&json, "deposit"), "{json}");
        let price = (size as u64 * 100).div_ceil(1 << 20);
        assert_eq!(number(&json, "paid"), price, "{json}");
        for text in ["content_id", "open_signature", "close_signature"] {
            assert!(json[text].as_str().is_some_and(|text| text.len() > 40), "{text} of {json}");
        }
        assert_eq!(number(&json, "vouchers") > 0, size > 0);
        assert!(json["elapsed_ms"].is_u64());
    }
}

fn demo(file: &Path) -> serde_json::Value {
    run_ok("aro-demo", &["--file", &file.to_string_lossy(), "--json"])
}
