//! Journal and history.

use std::time::Duration;

use aro_proto::ChannelId;
use async_trait::async_trait;
use settlement_chain::{Address, Signature};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::super::{Cursor, Grant, History, HistoryQuery, HistoryRow, MAX_PAGE, StoreError, StoredVoucher, rules};
use super::PostgresStore;
use super::channels::{self, amount, array, number};
use super::failure::{Failure, retrying};
use super::leases::prolong;
use crate::batch::Kind;
use crate::submit::{Begun, Journal, JournalEntry};

#[async_trait]
impl Journal for PostgresStore {
    // r[impl settlement.write_ahead]
    async fn begin(&self, entry: &JournalEntry, grant: &Grant, ttl: Duration) -> Result<Begun, StoreError> {
        let bytes = entry.to_bytes()?;
        let named = named(entry);
        retrying!(async {
            let mut transaction = self.begin_transaction().await?;
            // The lease's row stays locked until the commit: nobody takes it over in between.
            if !prolong(&mut transaction, grant, ttl).await? {
                return Ok(Begun::Superseded);
            }
            if entry.kind == Kind::Close {
                let held = channels::lock(&mut transaction, named.iter().copied()).await?;
                let stands = |item: &crate::batch::Item| {
                    let stored = held.get(&item.channel).and_then(|holding| holding.voucher.as_ref());
                    rules::may_begin(entry.kind, item, stored, entry.at)
                };
                if !entry.items.iter().all(stands) {
                    return Ok(Begun::Overtaken);
                }
            }
            let inserted = sqlx::query(
                "INSERT INTO settle_journal (signature, entry) VALUES ($1, $2) ON CONFLICT (signature) DO NOTHING",
            )
            .bind(entry.prepared.signature.as_ref())
            .bind(&bytes)
            .execute(&mut *transaction)
            .await?;
            if entry.kind == Kind::Close && inserted.rows_affected() > 0 {
                channels::count_closes(&mut transaction, &named, 1).await?;
            }
            transaction.commit().await?;
            Ok(Begun::Recorded)
        })
    }

    async fn entries(&self) -> Result<Vec<JournalEntry>, StoreError> {
        let entries = async {
            let rows = sqlx::query("SELECT entry FROM settle_journal ORDER BY signature").fetch_all(&self.pool).await?;
            rows.iter().map(journal_entry).collect::<Result<Vec<JournalEntry>, Failure>>()
        };
        Ok(entries.await?)
    }

    async fn resolve(&self, signature: &Signature, trail: &[HistoryRow]) -> Result<bool, StoreError> {
        retrying!(async {
            let mut transaction = self.begin_transaction().await?;
            let removed = sqlx::query("DELETE FROM settle_journal WHERE signature = $1 RETURNING entry")
                .bind(signature.as_ref())
                .fetch_optional(&mut *transaction)
                .await?;
            let Some(row) = removed else { return Ok(false) };
            let entry = journal_entry(&row)?;
            let named = named(&entry);
            let held = channels::lock(&mut transaction, named.iter().copied()).await?;
            if entry.kind == Kind::Close {
                channels::count_closes(&mut transaction, &named, -1).await?;
            }
            let younger = trail.iter().filter_map(|row| {
                let stored = held.get(&row.channel)?.voucher?;
                Some(stored.settled_by(row, entry.at)).filter(|settled| *settled != stored)
            });
            let younger: Vec<StoredVoucher> = younger.collect();
            channels::write(&mut transaction, &younger).await?;
            append(&mut transaction, trail).await?;
            channels::sweep(&mut transaction, &named).await?;
            transaction.commit().await?;
            Ok(true)
        })
    }
}

#[async_trait]
impl History for PostgresStore {
    async fn history(&self, query: &HistoryQuery) -> Result<Vec<(Cursor, HistoryRow)>, StoreError> {
        let after = query.after.unwrap_or(Cursor { at: i64::MIN, number: 0 });
        let page = async {
            let rows = sqlx::query(
                "SELECT number, at, kind, node, channel, from_amount::text, to_amount::text, node_share::text, \
                 operator_share::text, protocol_share::text, refunded::text, signature, slot::text, \
                 transaction_fee::text, fee_share::text, voucher_signature, error FROM settle_history \
                 WHERE at >= $1 AND at < $2 AND (at, number) > ($3, $4) AND ($5::bytea IS NULL OR node = $5) \
                 ORDER BY at, number LIMIT $6",
            )
            .bind(query.from)
            .bind(query.to)
            .bind(after.at)
            .bind(i64::try_from(after.number).unwrap_or(i64::MAX))
            .bind(query.node.map(|node| node.to_bytes().to_vec()))
            .bind(i64::try_from(query.limit.min(MAX_PAGE)).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?;
            rows.iter().map(history_row).collect::<Result<Vec<(Cursor, HistoryRow)>, Failure>>()
        };
        Ok(page.await?)
    }

    async fn forget_history(&self, before: i64) -> Result<u64, StoreError> {
        retrying!(async {
            let gone = sqlx::query("DELETE FROM settle_history WHERE at < $1").bind(before).execute(&self.pool).await?;
            Ok(gone.rows_affected())
        })
    }
}

/// The channels that an entry names.
fn named(entry: &JournalEntry) -> Vec<ChannelId> {
    entry.items.iter().map(|item| item.channel).collect()
}

fn journal_entry(row: &PgRow) -> Result<JournalEntry, Failure> {
    let bytes: Vec<u8> = row.try_get("entry")?;
    Ok(JournalEntry::from_bytes(&bytes).ok_or(StoreError::Damaged("journal entry"))?)
}

async fn append(connection: &mut PgConnection, trail: &[HistoryRow]) -> Result<(), Failure> {
    let bytes = |of: fn(&HistoryRow) -> Vec<u8>| -> Vec<Vec<u8>> { trail.iter().map(of).collect() };
    let numbers = |of: fn(&HistoryRow) -> u64| -> Vec<String> { trail.iter().map(|row| of(row).to_string()).collect() };
    let kinds: Vec<i16> = trail.iter().map(|row| i16::from(row.kind as u8)).collect();
    let ats: Vec<i64> = trail.iter().map(|row| row.at).collect();
    let errors: Vec<Option<&str>> = trail.iter().map(|row| row.error.as_deref()).collect();
    let signed: Vec<Option<Vec<u8>>> = trail.iter().map(|row| row.voucher_signature.map(|s| s.to_vec())).collect();
    sqlx::query(
        "INSERT INTO settle_history (at, kind, node, channel, from_amount, to_amount, node_share, operator_share, \
         protocol_share, refunded, signature, slot, transaction_fee, fee_share, voucher_signature, error) \
         SELECT at, kind, node, channel, f::numeric, t::numeric, n::numeric, o::numeric, p::numeric, r::numeric, \
         signature, slot::numeric, fee::numeric, share::numeric, signed, error \
         FROM unnest($1::bigint[], $2::smallint[], $3::bytea[], $4::bytea[], $5::text[], $6::text[], $7::text[], \
         $8::text[], $9::text[], $10::text[], $11::bytea[], $12::text[], $13::text[], $14::text[], $15::bytea[], $16::text[]) \
         AS h (at, kind, node, channel, f, t, n, o, p, r, signature, slot, fee, share, signed, error) \
         ON CONFLICT (signature, channel) DO NOTHING",
    )
    .bind(ats)
    .bind(kinds)
    .bind(bytes(|row| row.node.to_bytes().to_vec()))
    .bind(bytes(|row| row.channel.as_bytes().to_vec()))
    .bind(numbers(|row| row.from.get()))
    .bind(numbers(|row| row.to.get()))
    .bind(numbers(|row| row.node_share.get()))
    .bind(numbers(|row| row.operator_share.get()))
    .bind(numbers(|row| row.protocol_share.get()))
    .bind(numbers(|row| row.refunded.get()))
    .bind(bytes(|row| row.signature.as_ref().to_vec()))
    .bind(numbers(|row| row.slot))
    .bind(numbers(|row| row.transaction_fee))
    .bind(numbers(|row| row.fee_share))
    .bind(signed)
    .bind(errors)
    .execute(connection)
    .await?;
    Ok(())
}

fn history_row(row: &PgRow) -> Result<(Cursor, HistoryRow), Failure> {
    let damaged = |_| StoreError::Damaged("history row");
    let at: i64 = row.try_get("at")?;
    let ordinal: i64 = row.try_get("number")?;
    let kind: i16 = row.try_get("kind")?;
    let kind = u8::try_from(kind).ok().and_then(Kind::from_number).ok_or(StoreError::Damaged("history row"))?;
    let sum = |column: &str| -> Result<_, Failure> { Ok(amount(row.try_get(column)?)?) };
    let count = |column: &str| -> Result<_, Failure> { Ok(number(row.try_get(column)?)?) };
    let signed: Option<Vec<u8>> = row.try_get("voucher_signature")?;
    let history = HistoryRow {
        at,
        kind,
        node: Address::new_from_array(array(row.try_get("node")?, "history row")?),
        channel: channels::channel(row)?,
        from: sum("from_amount")?,
        to: sum("to_amount")?,
        node_share: sum("node_share")?,
        operator_share: sum("operator_share")?,
        protocol_share: sum("protocol_share")?,
        refunded: sum("refunded")?,
        signature: Signature::from(array::<64>(row.try_get("signature")?, "history row")?),
        slot: count("slot")?,
        transaction_fee: count("transaction_fee")?,
        fee_share: count("fee_share")?,
        voucher_signature: signed.map(|bytes| array(bytes, "history row")).transpose()?,
        error: row.try_get("error")?,
    };
    Ok((Cursor { at, number: u64::try_from(ordinal).map_err(damaged)? }, history))
}
