//! What is noted is kept, sums up, and shows a signature that is not the node's.

use aro_proto::message::PublishReceipt;
use aro_proto::{ByteCount, SecretKey};

use super::*;
use crate::ledger::{Ledger, LedgerError};

fn entry(at: i64, key: &SecretKey, amount: u64) -> Entry {
    Entry {
        entry: 0,
        at,
        kind: EntryKind::Fetch,
        node: key.node_id(),
        channel: Some(ChannelId::from_bytes([9; 32])),
        content: ContentId::of(b"x"),
        contents: 1,
        ranges: Some(ByteRanges::new([0..10, 20..u64::MAX]).unwrap()),
        bytes: 5,
        amount: Amount::new(amount),
        class: "a,\"b\"".into(),
        receipt: None,
        refuted: false,
    }
}

fn all(ledger: &Ledger) -> Vec<Entry> {
    let mut entries = Vec::new();
    each::<LedgerError>(&ledger.reader().unwrap(), 0, |entry| {
        entries.push(entry);
        Ok(())
    })
    .unwrap();
    entries
}

#[test]
fn entries_read_back_in_order_and_sum_up_by_the_day() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    let scribe = Scribe::new(ledger.clone());
    let keys = [7, 8].map(|seed| SecretKey::from_bytes(&[seed; 32]));
    let noted =
        [entry(10, &keys[0], 3), entry(20, &keys[1], 4), entry(86_400, &keys[0], 5), entry(86_401, &keys[0], 6)];
    for entry in &noted {
        let _ = scribe.note(entry.clone());
    }
    scribe.flush();
    let numbered = noted.into_iter().zip(1..).map(|(noted, entry)| Entry { entry, ..noted });
    assert_eq!(all(&ledger), numbered.collect::<Vec<_>>());
    assert_eq!(all(&ledger)[0].spans().unwrap(), "0-9,20-");

    let by_node = totals(&ledger.reader().unwrap(), 0, By::Node).unwrap();
    let shown: Vec<_> = by_node.iter().map(|totals| (totals.day, totals.requests, totals.amount.get())).collect();
    assert_eq!(shown, [(0, 1, 4), (0, 1, 3), (1, 2, 11)]);
    let by_content = totals(&ledger.reader().unwrap(), 86_400, By::Content).unwrap();
    assert_eq!((by_content.len(), by_content[0].bytes, by_content[0].amount.get()), (1, 10, 11));
}

#[test]
fn a_receipt_counts_only_from_its_node_and_for_its_entry() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    let scribe = Scribe::new(ledger.clone());
    let (key, other) = (SecretKey::from_bytes(&[7; 32]), SecretKey::from_bytes(&[8; 32]));
    let receipt = PublishReceipt {
        content: ContentId::of(b"x"),
        size: ByteCount::new(5),
        publisher: other.agent_id(),
        taken: ByteCount::new(5),
        price: Amount::new(3),
        at: 60,
    };
    let of = |receipt: PublishReceipt, key: &SecretKey| Entry {
        kind: EntryKind::Publish,
        receipt: Some(Word::Published(receipt.sign(key))),
        ..entry(10, &SecretKey::from_bytes(&[7; 32]), 3)
    };
    let elsewhere = PublishReceipt { content: ContentId::of(b"y"), ..receipt };
    let more = PublishReceipt { taken: ByteCount::new(6), ..receipt };
    let cases = [of(receipt, &key), of(receipt, &other), of(elsewhere, &key), of(more, &key), entry(10, &key, 1)];
    for entry in cases {
        let _ = scribe.note(entry);
    }
    scribe.flush();
    let found: Vec<Check> = all(&ledger).iter().map(Entry::check).collect();
    assert_eq!(found, [Check::Valid, Check::Wrong, Check::Wrong, Check::Wrong, Check::Unsigned]);
}
