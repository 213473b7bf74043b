//! One settles at a time, and who has lost that right records nothing any more.

use std::time::Duration;

use settlement_operator::batch::Kind;
use settlement_operator::submit::Begun;
use settlement_operator::vouchers::Lease;

use super::{Store, TTL, accepted, begin, entry, lease, offer};

const SHORT: Duration = Duration::from_millis(1);

/// Takes a lease that lapses by itself, and waits for that by asking.
async fn take_over(store: &Store, holder: &str) -> settlement_operator::vouchers::Grant {
    let taken = async {
        loop {
            if let Lease::Held(grant) = store.acquire("aro", holder, TTL).await.unwrap() {
                return grant;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), taken).await.expect("a dead holder's lease lapses")
}

// r[verify settlement.lease]
pub async fn one_holder_at_a_time_and_its_fence_rises(store: Store) {
    let first = lease(&store, "one").await;
    assert_eq!(lease(&store, "one").await, first, "asking again changes nothing");
    let Lease::Elsewhere { holder, for_ms } = store.acquire("aro", "two", TTL).await.unwrap() else {
        panic!("two holders");
    };
    assert_eq!(holder, "one");
    assert!((1..=60_000).contains(&for_ms), "{for_ms}");
    assert!(matches!(store.acquire("another", "two", TTL).await.unwrap(), Lease::Held(_)), "names are independent");

    store.release(&first).await.unwrap();
    let second = lease(&store, "two").await;
    assert!(second.fence > first.fence);
    store.release(&first).await.unwrap();
    assert!(!store.renew(&first, TTL).await.unwrap());
    assert!(store.renew(&second, TTL).await.unwrap(), "an old holder cannot release a new one");
}

// r[verify settlement.lease]
pub async fn holder_that_was_superseded_records_nothing(store: Store) {
    let Lease::Held(old) = store.acquire("aro", "old", SHORT).await.unwrap() else { panic!("free") };
    let new = take_over(&store, "new").await;
    assert!(new.fence > old.fence);
    let late = entry(Kind::Settle, &[(2, Some(5))]);
    assert_eq!(begin(&store, &late, &old).await, Begun::Superseded);
    assert_eq!(store.entries().await.unwrap(), []);
    assert_eq!(begin(&store, &late, &new).await, Begun::Recorded);
    assert!(!store.renew(&old, TTL).await.unwrap());
}

pub async fn lapsed_lease_is_still_good_while_nobody_else_has_it(store: Store) {
    let Lease::Held(grant) = store.acquire("aro", "one", SHORT).await.unwrap() else { panic!("free") };
    let planned = entry(Kind::Settle, &[(2, Some(5))]);
    assert_eq!(begin(&store, &planned, &grant).await, Begun::Recorded);
    let other = store.acquire("aro", "two", TTL).await.unwrap();
    assert!(matches!(other, Lease::Elsewhere { .. }), "recording has prolonged it: {other:?}");
}

// r[verify settlement.lease]
pub async fn of_many_that_ask_at_once_one_gets_it(store: Store) {
    let mut askers = tokio::task::JoinSet::new();
    for number in 0..12 {
        let store = Store::clone(&store);
        askers.spawn(async move { store.acquire("aro", &format!("holder {number}"), TTL).await.unwrap() });
    }
    let held = askers.join_all().await.into_iter().filter(|lease| matches!(lease, Lease::Held(_))).count();
    assert_eq!(held, 1);
}

// r[verify settlement.lease.wishes]
pub async fn each_wish_to_close_is_counted_and_nothing_else_is(store: Store) {
    let mut before = store.wishes().await.unwrap();
    for (channel, cumulative, close, counts) in
        [(2, 5, false, false), (2, 5, true, true), (2, 5, true, false), (3, 7, true, true), (3, 6, true, false)]
    {
        offer(&store, accepted(channel, cumulative, close)).await;
        let after = store.wishes().await.unwrap();
        assert_eq!(after > before, counts, "{channel} at {cumulative}");
        before = after;
    }
    store.doubt_wishes().await.unwrap();
    assert_eq!(store.wishes().await.unwrap(), before);
    offer(&store, accepted(2, 5, true)).await;
    assert!(store.wishes().await.unwrap() > before, "said anew");
}
