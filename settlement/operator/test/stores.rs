//! What could break: a voucher that was acknowledged and is gone, a close below it, two who settle at once, a trail
//! with holes. Every store stands the same tests.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod contract;
#[path = "fixture/disk.rs"]
mod disk;
#[path = "fixture/postgres.rs"]
mod postgres_server;

use std::sync::Arc;

use contract::{accepted, all, offer};
use disk::Disk;
use postgres_server::Database;
use settlement_chain::Address;
use settlement_operator::vouchers::{
    Binding, Claim, Deployment, MemoryStore, Owner, PostgresStore, RedbStore, StoreError,
};
use sqlx::{Executor, Row};

/// Every test of the contract, on every store.
macro_rules! on_every_store {
    ($($part:ident: $($test:ident),+;)+) => {
        mod memory {
            use super::*;
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    contract::$part::$test(Arc::new(MemoryStore::default())).await;
                }
            )+)+
        }
        mod redb {
            use super::*;
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let dir = tempfile::tempdir().unwrap();
                    contract::$part::$test(Arc::new(RedbStore::open(&dir.path().join("operator.redb")).await.unwrap())).await;
                }
            )+)+
        }
        mod postgres {
            use super::*;
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let Some(database) = Database::create().await else { return };
                    let store = Arc::new(PostgresStore::open(&database.url).await.unwrap());
                    contract::$part::$test(Arc::<PostgresStore>::clone(&store)).await;
                    store.close().await;
                }
            )+)+
        }
    };
}

on_every_store! {
    vouchers:
        vouchers_rise_or_repeat_and_never_fall,
        a_batch_is_judged_in_order_and_reads_back_in_order,
        refusals_alone_are_answered_with_the_watermark,
        pages_cover_every_voucher_once,
        repeated_voucher_can_still_ask_to_close,
        wish_in_doubt_counts_again_when_it_is_said_anew,
        better_voucher_that_expires_loses_no_older_money,
        known_voucher_is_acknowledged_only_while_it_is_stored,
        pruning_spares_what_has_changed_since_it_was_read,
        quarantine_lasts_until_a_higher_voucher,
        writers_at_once_leave_the_highest_voucher_of_each_channel;
    journal:
        entries_read_back_until_they_are_resolved,
        close_is_not_recorded_once_its_voucher_is_overtaken,
        no_higher_voucher_is_taken_while_a_close_is_open,
        settling_does_not_hold_vouchers_up,
        close_may_carry_the_lasting_voucher_once_the_better_one_has_expired,
        closes_and_better_vouchers_at_once_never_both_win;
    leases:
        one_holder_at_a_time_and_its_fence_rises,
        holder_that_was_superseded_records_nothing,
        lapsed_lease_is_still_good_while_nobody_else_has_it,
        of_many_that_ask_at_once_one_gets_it,
        each_wish_to_close_is_counted_and_nothing_else_is;
    history:
        final_transaction_leaves_one_row_for_each_channel_however_often_it_is_resolved,
        history_is_read_by_time_and_node_in_pages_and_forgotten_by_time,
        what_a_settlement_leaves_unsettled_is_as_young_as_the_settlement,
        failed_transaction_leaves_its_fee_and_its_reason_and_nothing_else,
        priority_fees_of_the_last_hour_are_known_to_whoever_settles_next;
    binding:
        database_belongs_to_who_came_first;
}

#[tokio::test]
async fn reopened_file_holds_every_voucher_and_a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.redb");
    let store: contract::Store = Arc::new(RedbStore::open(&path).await.unwrap());
    offer(&store, accepted(4, 9, true)).await;
    let grant = contract::lease(&store, "one").await;
    let before = all(&store).await;
    assert_eq!(RedbStore::open(&path).await.unwrap_err(), StoreError::InUse);
    drop(store);
    let store: contract::Store = Arc::new(RedbStore::open(&path).await.unwrap());
    assert_eq!(all(&store).await, before);
    assert!(contract::lease(&store, "two").await.fence > grant.fence, "whoever held the file's lease is gone");
}

#[tokio::test]
async fn file_whose_creation_was_cut_off_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.redb");
    // What redb leaves where the power goes before its last step: room, and no head.
    std::fs::write(dir.path().join("operator.redb.new"), vec![0; 1 << 20]).unwrap();
    let store: contract::Store = Arc::new(RedbStore::open(&path).await.unwrap());
    offer(&store, accepted(4, 9, true)).await;
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["operator.redb"]);
}

// r[verify settlement.handoff.durable]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_acknowledges_nothing_and_loses_nothing() {
    let disk = Disk::default();
    let spare = disk.clone();
    let open = move || ::redb::Database::builder().create_with_backend(spare.clone());
    let store: contract::Store = Arc::new(RedbStore::open_with(open).await.unwrap());
    offer(&store, accepted(2, 5, false)).await;
    for round in 1..=3_u64 {
        disk.fill(true);
        let more =
            (0..=255).map(|channel| (contract::id(channel), Ok(Claim::Rise(accepted(channel, 5 + round, false)))));
        let refused = store.commit(more.collect(), contract::NOW).await.unwrap_err();
        assert!(refused.is_retryable(), "{refused}");
        assert!(matches!(refused, StoreError::Full(_)), "{refused}");
        let grant = store.acquire("aro", "one", contract::TTL).await;
        assert!(grant.unwrap_err().is_retryable());
        disk.fill(false);
        let ruling = offer(&store, accepted(3, round, false)).await;
        assert_eq!(ruling.refusal, None, "as soon as there is room");
        let kept: Vec<_> = all(&store).await.iter().map(|kept| kept.cumulative().get()).collect();
        assert_eq!(kept, [5, round], "what was acknowledged, and nothing of what was not");
    }
}

// r[verify settlement.lease]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_of_one_database_keep_each_others_rules() {
    let Some(database) = Database::create().await else { return };
    // Both at once: one makes the tables, the other waits for them.
    let (one, two) = tokio::join!(PostgresStore::open(&database.url), PostgresStore::open(&database.url));
    let (one, two): (contract::Store, contract::Store) = (Arc::new(one.unwrap()), Arc::new(two.unwrap()));
    let grant = contract::lease(&one, "one").await;
    offer(&two, accepted(2, 5, true)).await;
    let close = contract::entry(settlement_operator::batch::Kind::Close, &[(2, Some(5))]);
    contract::begin(&one, &close, &grant).await;
    assert!(offer(&two, accepted(2, 9, true)).await.refusal.is_some(), "the other machine's close is open");
    one.resolve(&close.prepared.signature, &[]).await.unwrap();
    assert_eq!(offer(&two, accepted(2, 9, true)).await.refusal, None);
    let overtaken = contract::begin(&one, &close, &grant).await;
    assert_eq!(overtaken, settlement_operator::submit::Begun::Overtaken);
}

#[tokio::test]
async fn tables_of_a_later_program_are_left_alone() {
    let Some(database) = Database::create().await else { return };
    let store = PostgresStore::open(&database.url).await.unwrap();
    let later = "INSERT INTO settle_schema (version, description, success, checksum, execution_time) \
                 VALUES (99, 'later', true, '', 0)";
    database.connect().await.execute(later).await.unwrap();
    store.close().await;
    let refused = PostgresStore::open(&database.url).await.unwrap_err();
    assert_eq!(refused, StoreError::Newer { found: 99, known: 5 });
    assert!(!refused.is_retryable());
}

// r[verify settlement.database.bound]
#[tokio::test]
async fn database_of_somebody_else_is_refused_before_its_tables_are_brought_up() {
    let Some(database) = Database::create().await else { return };
    let store = PostgresStore::open(&database.url).await.unwrap();
    assert_eq!(store.bind(&deployment(3)).await.unwrap(), deployment(3));
    store.close().await;
    // As the version before has left it.
    let mut connection = database.connect().await;
    connection.execute("DROP TABLE settle_wishes").await.unwrap();
    connection.execute("DELETE FROM settle_schema WHERE version = 5").await.unwrap();
    let mut tables = async || {
        let rows = connection.fetch_all("SELECT relname::text FROM pg_class ORDER BY relname").await.unwrap();
        rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>()
    };
    let before = tables().await;
    for other in [deployment(4).into(), Owner { genesis_hash: None, ..deployment(4).into() }] {
        let refused = PostgresStore::open_as(&database.url, &other).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Other(other) if other.what == "operator account"), "{refused}");
        assert!(!refused.is_retryable());
    }
    assert_eq!(tables().await, before);
    let store = PostgresStore::open_as(&database.url, &deployment(3).into()).await.unwrap();
    assert!(tables().await.contains(&"settle_wishes".to_owned()), "its owner's is brought up");
    store.close().await;
}

// r[verify settlement.database.bound]
#[tokio::test]
async fn file_of_somebody_else_keeps_its_lease() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("operator.redb");
    let held = {
        let store: contract::Store = Arc::new(RedbStore::open(&path).await.unwrap());
        store.bind(&deployment(3)).await.unwrap();
        contract::lease(&store, "one").await.fence
    };
    let refused = RedbStore::open_as(&path, &deployment(4).into()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Other(_)), "{refused}");
    let leases: ::redb::TableDefinition<'_, &str, (&str, u64, i64)> = ::redb::TableDefinition::new("leases");
    {
        use ::redb::ReadableDatabase;
        let database = ::redb::Database::open(&path).unwrap();
        let table = database.begin_read().unwrap().open_table(leases).unwrap();
        let lease = table.get("aro").unwrap().unwrap();
        assert_eq!((lease.value().0, lease.value().1), ("one", held), "its owner's start would have lapsed it");
    }
    let store: contract::Store = Arc::new(RedbStore::open_as(&path, &deployment(3).into()).await.unwrap());
    assert!(contract::lease(&store, "two").await.fence > held);
}

fn deployment(operator: u8) -> Deployment {
    let address = |byte| Address::new_from_array([byte; 32]);
    Deployment { genesis_hash: [1; 32], program: address(2), operator: address(operator) }
}

#[tokio::test]
async fn urls_that_lead_nowhere_are_told_apart() {
    for (url, retryable) in [("postgres://aro@127.0.0.1:1/aro", true), ("postgres://aro:secret@:x/aro", false)] {
        let error = PostgresStore::open(url).await.unwrap_err();
        assert_eq!(error.is_retryable(), retryable, "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
