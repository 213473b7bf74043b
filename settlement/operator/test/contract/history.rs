//! The trail is complete, without repetition, and readable piece by piece.

use std::time::Duration;

use aro_proto::Amount;
use settlement_chain::Address;
use settlement_operator::batch::Kind;
use settlement_operator::submit::{Spent, spent_lately};
use settlement_operator::vouchers::{Book, Cursor, Effect, Finality, HistoryQuery, HistoryRow, LeaseTerms, MAX_REASON};

use super::{NOW, Store, accepted, begin, entry, id, lease, offer, offer_at, stored};

fn rows(page: &[(Cursor, HistoryRow)]) -> Vec<HistoryRow> {
    page.iter().map(|(_, row)| row.clone()).collect()
}

// r[verify settlement.audit]
pub async fn final_transaction_leaves_one_row_for_each_channel_however_often_it_is_resolved(store: Store) {
    let grant = lease(&store, "one").await;
    let settle = entry(Kind::Settle, &[(2, Some(1_001)), (3, Some(50)), (4, Some(u64::MAX))]);
    begin(&store, &settle, &grant).await;
    // The chain shows the first at its voucher, the second below it, the third gone.
    let effect = |channel| Effect {
        watermark: [(id(2), 1_001), (id(3), 49)].iter().find(|(id, _)| *id == channel).map(|(_, at)| Amount::new(*at)),
    };
    let trail = HistoryRow::of(&settle, Finality { slot: 77, at: NOW + 3 }, effect);
    let rise = |row: &HistoryRow| {
        (row.to.get() - row.from.get(), row.node_share.get(), row.operator_share.get(), row.protocol_share.get())
    };
    assert_eq!(rise(&trail[0]), (1_000, 980, 15, 5));
    assert_eq!(rise(&trail[1]), (0, 0, 0, 0), "the chain skipped it");
    assert_eq!(trail[2].to, Amount::new(u64::MAX));
    assert_eq!(trail.iter().map(|row| row.fee_share).sum::<u64>(), 5_001);

    assert!(store.resolve(&settle.prepared.signature, &trail).await.unwrap());
    assert!(!store.resolve(&settle.prepared.signature, &trail).await.unwrap());
    let read = store.history(&HistoryQuery::default()).await.unwrap();
    assert_eq!(rows(&read), trail);

    let void = entry(Kind::Settle, &[(2, Some(2_000))]);
    begin(&store, &void, &grant).await;
    store.resolve(&void.prepared.signature, &[]).await.unwrap();
    assert_eq!(store.history(&HistoryQuery::default()).await.unwrap(), read, "what had no effect leaves no trail");
}

pub async fn history_is_read_by_time_and_node_in_pages_and_forgotten_by_time(store: Store) {
    let grant = lease(&store, "one").await;
    let mut all = Vec::new();
    for (at, node) in [(3, 1), (1, 2), (2, 1), (2, 2)] {
        let settle = entry(Kind::Settle, &[(2, Some(5)), (3, Some(6))]);
        begin(&store, &settle, &grant).await;
        let mut trail = HistoryRow::of(&settle, Finality { slot: 1, at }, |_| Effect { watermark: None });
        trail.iter_mut().for_each(|row| row.node = Address::new_from_array([node; 32]));
        store.resolve(&settle.prepared.signature, &trail).await.unwrap();
        all.extend(trail);
    }
    all.sort_by_key(|row| row.at);
    let ask = async |query: HistoryQuery| rows(&store.history(&query).await.unwrap());
    let mut paged = Vec::new();
    let mut after = None;
    loop {
        let page = store.history(&HistoryQuery { after, limit: 3, ..HistoryQuery::default() }).await.unwrap();
        paged.extend(rows(&page));
        match page.last() {
            Some((cursor, _)) => after = Some(*cursor),
            None => break,
        }
    }
    assert_eq!(paged, all);
    let wanted = |keep: &dyn Fn(&HistoryRow) -> bool| all.iter().filter(|row| keep(row)).cloned().collect::<Vec<_>>();
    assert_eq!(ask(HistoryQuery { from: 2, to: 3, ..HistoryQuery::default() }).await, wanted(&|row| row.at == 2));
    assert_eq!(ask(HistoryQuery { from: 3, to: 3, ..HistoryQuery::default() }).await, []);
    let node = Some(Address::new_from_array([2; 32]));
    assert_eq!(ask(HistoryQuery { node, ..HistoryQuery::default() }).await, wanted(&|row| Some(row.node) == node));

    assert_eq!(store.forget_history(2).await.unwrap(), 2);
    assert_eq!(ask(HistoryQuery::default()).await, wanted(&|row| row.at >= 2));
}

pub async fn what_a_settlement_leaves_unsettled_is_as_young_as_the_settlement(store: Store) {
    let grant = lease(&store, "one").await;
    for channel in [2, 3] {
        offer_at(&store, accepted(channel, 5, false), NOW - 100).await;
    }
    let settle = entry(Kind::Settle, &[(2, Some(5)), (3, Some(5))]);
    begin(&store, &settle, &grant).await;
    offer(&store, accepted(2, 9, false)).await;
    let trail =
        HistoryRow::of(&settle, Finality { slot: 1, at: NOW + 9 }, |_| Effect { watermark: Some(Amount::new(5)) });
    store.resolve(&settle.prepared.signature, &trail).await.unwrap();
    assert_eq!(stored(&store, 2).await.unwrap().since, NOW, "the rest came after the transaction was signed");
    assert_eq!(stored(&store, 3).await.unwrap().since, NOW - 100);
}

// r[verify settlement.audit]
pub async fn failed_transaction_leaves_its_fee_and_its_reason_and_nothing_else(store: Store) {
    let grant = lease(&store, "one").await;
    for (channel, cumulative) in [(2, 9), (3, 5)] {
        offer_at(&store, accepted(channel, cumulative, true), NOW - 100).await;
    }
    let close = entry(Kind::Close, &[(2, Some(9)), (3, Some(5))]);
    begin(&store, &close, &grant).await;
    let reason = "é".repeat(MAX_REASON);
    let trail = HistoryRow::of_failed(&close, Finality { slot: 7, at: NOW + 9 }, &reason);
    assert_eq!(trail.iter().map(|row| row.fee_share).sum::<u64>(), 5_001);
    assert!(store.resolve(&close.prepared.signature, &trail).await.unwrap());
    let read = rows(&store.history(&HistoryQuery::default()).await.unwrap());
    assert_eq!(read, trail);
    for row in &read {
        assert_eq!((row.to, row.node_share, row.voucher_signature), (row.from, Amount::ZERO, None));
        assert_eq!(row.error.as_deref(), Some("é".repeat(MAX_REASON / 2).as_str()), "bounded");
    }
    assert_eq!(stored(&store, 2).await.unwrap().since, NOW - 100, "it is as old as before");
    assert_eq!(offer(&store, accepted(2, 10, true)).await.refusal, None, "the close is open no more");
    assert_eq!(store.entries().await.unwrap(), []);
}

// r[verify settlement.priority.bounded]
pub async fn priority_fees_of_the_last_hour_are_known_to_whoever_settles_next(store: Store) {
    let grant = lease(&store, "one").await;
    let entries = [(); 5].map(|()| entry(Kind::Settle, &[(2, Some(5)), (3, Some(6))]));
    for entry in &entries {
        begin(&store, entry, &grant).await;
    }
    let [landed, failed, dead, old, open] = &entries;
    let at = |at| Finality { slot: 1, at };
    let trail = |entry, finality| HistoryRow::of(entry, finality, |_| Effect { watermark: None });
    for (entry, trail) in [
        (landed, trail(landed, at(NOW - 60))),
        (failed, HistoryRow::of_failed(failed, at(NOW - 120), "why")),
        (dead, Vec::new()),
        (old, trail(old, at(NOW - 3_601))),
    ] {
        assert!(store.resolve(&entry.prepared.signature, &trail).await.unwrap());
    }
    let next = Book::new(store, LeaseTerms::new("two"));
    let mut spent = spent_lately(&next, NOW).await.unwrap();
    spent.sort_by_key(|spent| spent.ago);
    // What is open offers nothing.
    let due = [(open, 0, 0), (landed, 1, 60), (failed, 1, 120)].map(|(entry, lamports, ago)| Spent {
        signature: entry.prepared.signature,
        lamports,
        ago: Duration::from_secs(ago),
    });
    assert_eq!(spent, due);
}
