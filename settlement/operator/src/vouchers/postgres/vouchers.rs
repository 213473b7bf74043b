//! Vouchers and quarantine.

use std::collections::HashMap;

use aro_proto::ChannelId;
use async_trait::async_trait;
use sqlx::Row;

use super::super::rules::{self, Holding};
use super::super::{MAX_PAGE, Offer, Quarantined, Ruling, StoreError, StoredVoucher, VoucherStore};
use super::PostgresStore;
use super::channels::{self, amount};
use super::failure::{Failure, retrying};

#[async_trait]
impl VoucherStore for PostgresStore {
    // r[impl settlement.handoff.durable]
    async fn commit(&self, offers: Vec<Offer>, now: i64) -> Result<(Vec<Ruling>, bool), StoreError> {
        let ids: Vec<ChannelId> = offers.iter().map(|(channel, _)| *channel).collect();
        if !rules::may_store(&offers) {
            // What stores nothing locks nothing: a flood of it must not hold anybody up.
            let known = self.get(&ids).await?;
            let held = ids.into_iter().zip(known).map(|(channel, voucher)| (channel, Holding { voucher, closes: 0 }));
            return Ok((rules::judge_all(&mut held.collect(), &offers, now).rulings, false));
        }
        retrying!(async {
            let mut transaction = self.begin_transaction().await?;
            let mut holdings = channels::lock(&mut transaction, ids.iter().copied()).await?;
            let judged = rules::judge_all(&mut holdings, &offers, now);
            if !judged.changed.is_empty() {
                channels::write(&mut transaction, &judged.changed).await?;
            }
            if holdings.values().any(|holding| *holding == Holding::default()) {
                channels::sweep(&mut transaction, &ids).await?;
            }
            let closes = judged.changed.iter().any(|changed| changed.is_to_close(false));
            if closes {
                // Last, for its row is everybody's.
                sqlx::query("UPDATE settle_wishes SET stored = stored + 1").execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok((judged.rulings, closes))
        })
    }

    async fn get(&self, channels: &[ChannelId]) -> Result<Vec<Option<StoredVoucher>>, StoreError> {
        let found = async {
            let rows = sqlx::query(
                "SELECT channel, node, cumulative::text, expires_at, signature, lasting_cumulative::text, \
                 lasting_signature, close, doubted, since, heard, quarantined_at IS NOT NULL AS quarantined \
                 FROM settle_channels WHERE channel = ANY($1) AND cumulative IS NOT NULL",
            )
            .bind(channels::ids(channels))
            .fetch_all(&self.pool)
            .await?;
            let vouchers = rows.iter().map(|row| Ok((channels::channel(row)?, channels::voucher(row)?)));
            vouchers.collect::<Result<HashMap<ChannelId, Option<StoredVoucher>>, Failure>>()
        };
        let found = found.await?;
        Ok(channels.iter().map(|channel| found.get(channel).copied().flatten()).collect())
    }

    async fn page(&self, after: Option<ChannelId>, limit: usize) -> Result<Vec<StoredVoucher>, StoreError> {
        let page = async {
            let rows = sqlx::query(
                "SELECT channel, node, cumulative::text, expires_at, signature, lasting_cumulative::text, \
                 lasting_signature, close, doubted, since, heard, quarantined_at IS NOT NULL AS quarantined \
                 FROM settle_channels WHERE channel > $1 AND cumulative IS NOT NULL ORDER BY channel LIMIT $2",
            )
            // The empty string lies before every id.
            .bind(after.map_or_else(Vec::new, |after| after.as_bytes().to_vec()))
            .bind(i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?;
            let vouchers = rows.iter().filter_map(|row| channels::voucher(row).transpose());
            vouchers.collect::<Result<Vec<StoredVoucher>, Failure>>()
        };
        Ok(page.await?)
    }

    async fn prune(&self, done: &[StoredVoucher]) -> Result<(), StoreError> {
        retrying!(async {
            let mut transaction = self.begin_transaction().await?;
            let held = channels::lock(&mut transaction, done.iter().map(StoredVoucher::channel)).await?;
            let same = |voucher: &&StoredVoucher| {
                held.get(&voucher.channel()).is_some_and(|holding| holding.voucher.as_ref() == Some(*voucher))
            };
            let gone: Vec<ChannelId> = done.iter().filter(same).map(StoredVoucher::channel).collect();
            channels::clear(&mut transaction, &gone).await?;
            let looked_at: Vec<ChannelId> = held.into_keys().collect();
            channels::sweep(&mut transaction, &looked_at).await?;
            Ok(transaction.commit().await?)
        })
    }

    async fn doubt_wishes(&self) -> Result<u64, StoreError> {
        retrying!(async {
            let doubted =
                sqlx::query("UPDATE settle_channels SET doubted = true WHERE close").execute(&self.pool).await?;
            Ok(doubted.rows_affected())
        })
    }

    async fn quarantine(&self, entry: &Quarantined) -> Result<(), StoreError> {
        let entry = entry.bounded();
        retrying!(async {
            sqlx::query(
                "UPDATE settle_channels SET quarantined_at = $3, quarantine_reason = $4 \
                 WHERE channel = $1 AND cumulative = $2::text::numeric",
            )
            .bind(entry.channel.as_bytes().as_slice())
            .bind(entry.cumulative.get().to_string())
            .bind(entry.at)
            // PostgreSQL's text holds every character but this one.
            .bind(entry.reason.replace('\0', " "))
            .execute(&self.pool)
            .await?;
            Ok(())
        })
    }

    async fn quarantined(&self) -> Result<Vec<Quarantined>, StoreError> {
        let entries = async {
            let rows = sqlx::query(
                "SELECT channel, cumulative::text, quarantined_at, quarantine_reason FROM settle_channels \
                 WHERE quarantined_at IS NOT NULL ORDER BY channel",
            )
            .fetch_all(&self.pool)
            .await?;
            let entries = rows.iter().map(|row| {
                Ok(Quarantined {
                    channel: channels::channel(row)?,
                    cumulative: amount(row.try_get("cumulative")?)?,
                    reason: row.try_get("quarantine_reason")?,
                    at: row.try_get("quarantined_at")?,
                })
            });
            entries.collect::<Result<Vec<Quarantined>, Failure>>()
        };
        Ok(entries.await?)
    }
}
