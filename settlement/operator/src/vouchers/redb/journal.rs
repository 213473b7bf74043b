//! Journal and history.

use std::time::Duration;

use aro_proto::ChannelId;
use async_trait::async_trait;
use redb::{ReadableTable, WriteTransaction};
use settlement_chain::Signature;

use super::super::{Cursor, Grant, History, HistoryQuery, HistoryRow, MAX_PAGE, StoreError, rules};
use super::RedbStore;
use super::leases::prolong;
use super::records::{decode_row, encode_row};
use super::tables::{CLOSES, HISTORY, JOURNAL, VOUCHERS, database_error};
use super::vouchers::{put, stored};
use crate::batch::Kind;
use crate::submit::{Begun, Journal, JournalEntry};

#[async_trait]
impl Journal for RedbStore {
    // r[impl settlement.write_ahead]
    async fn begin(&self, entry: &JournalEntry, grant: &Grant, ttl: Duration) -> Result<Begun, StoreError> {
        let (entry, bytes, grant) = (entry.clone(), entry.to_bytes()?, grant.clone());
        self.write(move |transaction| {
            if !prolong(transaction, &grant, ttl)? {
                return Ok(Begun::Superseded);
            }
            {
                let vouchers = transaction.open_table(VOUCHERS).map_err(database_error)?;
                for item in &entry.items {
                    let stored = stored(&vouchers, item.channel)?;
                    if !rules::may_begin(entry.kind, item, stored.as_ref(), entry.at) {
                        return Ok(Begun::Overtaken);
                    }
                }
            }
            let mut journal = transaction.open_table(JOURNAL).map_err(database_error)?;
            let before =
                journal.insert(entry.prepared.signature.as_array(), bytes.as_slice()).map_err(database_error)?;
            if before.is_none() {
                count_closes(transaction, &entry, |count| count.saturating_add(1))?;
            }
            Ok(Begun::Recorded)
        })
        .await
    }

    async fn entries(&self) -> Result<Vec<JournalEntry>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(JOURNAL).map_err(database_error)?;
            let records = table.iter().map_err(database_error)?.map(|record| {
                let (_, bytes) = record.map_err(database_error)?;
                JournalEntry::from_bytes(bytes.value()).ok_or(StoreError::Damaged("journal entry"))
            });
            records.collect()
        })
        .await
    }

    async fn resolve(&self, signature: &Signature, trail: &[HistoryRow]) -> Result<bool, StoreError> {
        let (signature, trail) = (*signature, trail.to_vec());
        self.write(move |transaction| {
            let entry = {
                let mut journal = transaction.open_table(JOURNAL).map_err(database_error)?;
                let removed = journal.remove(signature.as_array()).map_err(database_error)?;
                let Some(bytes) = removed else { return Ok(false) };
                JournalEntry::from_bytes(bytes.value()).ok_or(StoreError::Damaged("journal entry"))?
            };
            count_closes(transaction, &entry, |count| count.saturating_sub(1))?;
            for row in &trail {
                settle(transaction, row, entry.at)?;
            }
            append(transaction, &trail)?;
            Ok(true)
        })
        .await
    }
}

#[async_trait]
impl History for RedbStore {
    async fn history(&self, query: &HistoryQuery) -> Result<Vec<(Cursor, HistoryRow)>, StoreError> {
        let query = *query;
        self.read(move |transaction| {
            let table = transaction.open_table(HISTORY).map_err(database_error)?;
            let from = query.after.map_or((query.from, 0), |after| (after.at, after.number)).max((query.from, 0));
            if from >= (query.to, 0) {
                return Ok(Vec::new());
            }
            let mut rows = Vec::new();
            for record in table.range(from..(query.to, 0)).map_err(database_error)? {
                let (key, bytes) = record.map_err(database_error)?;
                let (at, number) = key.value();
                let (cursor, row) = (Cursor { at, number }, decode_row(at, bytes.value())?);
                if query.wants(&cursor, &row) {
                    rows.push((cursor, row));
                }
                if rows.len() >= query.limit.min(MAX_PAGE) {
                    break;
                }
            }
            Ok(rows)
        })
        .await
    }

    async fn forget_history(&self, before: i64) -> Result<u64, StoreError> {
        self.write(move |transaction| {
            let mut table = transaction.open_table(HISTORY).map_err(database_error)?;
            let mut forgotten = 0_u64;
            let removed = table.extract_from_if(..(before, 0), |_, _| true).map_err(database_error)?;
            for record in removed {
                record.map_err(database_error)?;
                forgotten = forgotten.saturating_add(1);
            }
            Ok(forgotten)
        })
        .await
    }
}

/// What the row settled leaves no age behind.
fn settle(transaction: &WriteTransaction, row: &HistoryRow, at: i64) -> Result<(), StoreError> {
    let mut vouchers = transaction.open_table(VOUCHERS).map_err(database_error)?;
    match stored(&vouchers, row.channel)? {
        Some(known) if known != known.settled_by(row, at) => put(&mut vouchers, &known.settled_by(row, at)),
        _ => Ok(()),
    }
}

fn append(transaction: &WriteTransaction, trail: &[HistoryRow]) -> Result<(), StoreError> {
    let mut table = transaction.open_table(HISTORY).map_err(database_error)?;
    for row in trail {
        // Numbers need to rise only within a second.
        let last = {
            let mut same_second = table.range((row.at, 0)..=(row.at, u64::MAX)).map_err(database_error)?;
            same_second.next_back().transpose().map_err(database_error)?.map(|(key, _)| key.value().1)
        };
        let number = last.map_or(1, |last| last.saturating_add(1));
        table.insert((row.at, number), encode_row(row).as_slice()).map_err(database_error)?;
    }
    Ok(())
}

fn count_closes(
    transaction: &WriteTransaction,
    entry: &JournalEntry,
    change: impl Fn(u32) -> u32,
) -> Result<(), StoreError> {
    if entry.kind != Kind::Close {
        return Ok(());
    }
    let mut closes = transaction.open_table(CLOSES).map_err(database_error)?;
    for channel in entry.items.iter().map(|item| item.channel).collect::<Vec<ChannelId>>() {
        let count = closes.get(channel.as_bytes()).map_err(database_error)?.map_or(0, |count| count.value());
        match change(count) {
            0 => closes.remove(channel.as_bytes()).map_err(database_error)?,
            count => closes.insert(channel.as_bytes(), count).map_err(database_error)?,
        };
    }
    Ok(())
}
