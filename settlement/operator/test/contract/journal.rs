//! Nothing is sent that is not recorded, and no close is recorded below the best voucher, or a better one taken under
//! an open close.

use aro_proto::RefusalCode;
use settlement_operator::batch::Kind;
use settlement_operator::submit::Begun;

use super::{NOW, Store, accepted, all, begin, entry, expiring, lease, offer, stored};

// r[verify settlement.write_ahead]
pub async fn entries_read_back_until_they_are_resolved(store: Store) {
    let grant = lease(&store, "one").await;
    offer(&store, accepted(2, 5, true)).await;
    let entries = [entry(Kind::Settle, &[(2, Some(5)), (3, Some(u64::MAX))]), entry(Kind::Reclaim, &[(4, None)])];
    for entry in &entries {
        assert_eq!(begin(&store, entry, &grant).await, Begun::Recorded);
        assert_eq!(begin(&store, entry, &grant).await, Begun::Recorded, "again, after an answer that got lost");
    }
    let read = store.entries().await.unwrap();
    assert_eq!(read.len(), 2);
    assert!(entries.iter().all(|entry| read.contains(entry)));
    for entry in &entries {
        assert!(store.resolve(&entry.prepared.signature, &[]).await.unwrap());
        assert!(!store.resolve(&entry.prepared.signature, &[]).await.unwrap());
    }
    assert_eq!(store.entries().await.unwrap(), []);
}

// r[verify settlement.close.best_voucher]
pub async fn close_is_not_recorded_once_its_voucher_is_overtaken(store: Store) {
    let grant = lease(&store, "one").await;
    offer(&store, accepted(2, 5, true)).await;
    offer(&store, accepted(3, 5, true)).await;
    let planned = entry(Kind::Close, &[(2, Some(5)), (3, Some(5))]);
    offer(&store, accepted(2, 6, true)).await;
    assert_eq!(begin(&store, &planned, &grant).await, Begun::Overtaken);
    assert_eq!(store.entries().await.unwrap(), []);
    assert_eq!(offer(&store, accepted(3, 6, true)).await.refusal, None, "a close that was not recorded binds nobody");
    assert_eq!(begin(&store, &entry(Kind::Close, &[(2, Some(6)), (3, Some(6))]), &grant).await, Begun::Recorded);
    assert_eq!(begin(&store, &entry(Kind::Close, &[(4, None)]), &grant).await, Begun::Recorded);
}

// r[verify settlement.close.best_voucher]
pub async fn no_higher_voucher_is_taken_while_a_close_is_open(store: Store) {
    let grant = lease(&store, "one").await;
    offer(&store, accepted(2, 5, true)).await;
    let closes = [entry(Kind::Close, &[(2, Some(5))]), entry(Kind::Close, &[(2, Some(5))])];
    for close in &closes {
        assert_eq!(begin(&store, close, &grant).await, Begun::Recorded);
    }
    let late = async || offer(&store, accepted(2, 9, false)).await;
    for close in &closes {
        let ruling = late().await;
        assert_eq!(ruling.refusal.unwrap().code(), RefusalCode::OverCapacity);
        assert_eq!(ruling.watermark.unwrap().get(), 5);
        assert_eq!(offer(&store, accepted(2, 5, true)).await.refusal, None, "what is closed with may be repeated");
        store.resolve(&close.prepared.signature, &[]).await.unwrap();
    }
    assert_eq!(late().await.refusal, None);

    // Also where nothing is stored of the channel, before or after.
    let bare = entry(Kind::Close, &[(3, None)]);
    begin(&store, &bare, &grant).await;
    let ruling = offer(&store, accepted(3, 1, false)).await;
    assert_eq!((ruling.watermark, ruling.refusal.unwrap().code()), (None, RefusalCode::OverCapacity));
    store.prune(&all(&store).await).await.unwrap();
    store.resolve(&bare.prepared.signature, &[]).await.unwrap();
    assert_eq!(all(&store).await, []);
    assert_eq!(offer(&store, accepted(3, 1, false)).await.refusal, None);
}

pub async fn settling_does_not_hold_vouchers_up(store: Store) {
    let grant = lease(&store, "one").await;
    offer(&store, accepted(2, 5, false)).await;
    begin(&store, &entry(Kind::Settle, &[(2, Some(5))]), &grant).await;
    assert_eq!(offer(&store, accepted(2, 9, false)).await.refusal, None);
}

// r[verify settlement.handoff.lasting]
pub async fn close_may_carry_the_lasting_voucher_once_the_better_one_has_expired(store: Store) {
    let grant = lease(&store, "one").await;
    offer(&store, accepted(2, 5, true)).await;
    offer(&store, expiring(2, 9, NOW + 1, true)).await;
    let mut close = entry(Kind::Close, &[(2, Some(5))]);
    assert_eq!(begin(&store, &close, &grant).await, Begun::Overtaken, "the better one still lives");
    close.at = NOW + 1;
    assert_eq!(begin(&store, &close, &grant).await, Begun::Recorded);
    assert_eq!(stored(&store, 2).await.unwrap().cumulative().get(), 9);
}

pub async fn closes_and_better_vouchers_at_once_never_both_win(store: Store) {
    let grant = lease(&store, "one").await;
    for channel in 1..=12 {
        offer(&store, accepted(channel, 5, true)).await;
    }
    let mut racers = tokio::task::JoinSet::new();
    for channel in 1..=12 {
        let (store, grant) = (Store::clone(&store), grant.clone());
        racers.spawn(async move {
            let close = entry(Kind::Close, &[(channel, Some(5))]);
            let (begun, ruling) =
                tokio::join!(begin(&store, &close, &grant), offer(&store, accepted(channel, 9, true)));
            (begun == Begun::Recorded, ruling.refusal.is_none())
        });
    }
    for (closed, taken) in racers.join_all().await {
        assert!(closed != taken, "one of them, and only one");
    }
}
