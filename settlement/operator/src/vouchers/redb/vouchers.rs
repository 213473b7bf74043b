//! Vouchers and quarantine.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use aro_proto::ChannelId;
use async_trait::async_trait;
use redb::{ReadableTable, WriteTransaction};

use super::super::rules::{self, Holding};
use super::super::{MAX_PAGE, Offer, Quarantined, Ruling, StoreError, StoredVoucher, VoucherStore};
use super::RedbStore;
use super::records::{decode_quarantined, decode_voucher, encode_quarantined, encode_voucher};
use super::tables::{CLOSES, QUARANTINE, VOUCHERS, database_error};

#[async_trait]
impl VoucherStore for RedbStore {
    // r[impl settlement.handoff.durable]
    async fn commit(&self, offers: Vec<Offer>, now: i64) -> Result<(Vec<Ruling>, bool), StoreError> {
        if !rules::may_store(&offers) {
            return Ok((self.answer(offers, now).await?, false));
        }
        self.write(move |transaction| {
            let mut holdings = HashMap::with_capacity(offers.len());
            {
                let vouchers = transaction.open_table(VOUCHERS).map_err(database_error)?;
                let closes = transaction.open_table(CLOSES).map_err(database_error)?;
                for (channel, _) in &offers {
                    if !holdings.contains_key(channel) {
                        holdings.insert(*channel, holding(&vouchers, &closes, *channel)?);
                    }
                }
            }
            let judged = rules::judge_all(&mut holdings, &offers, now);
            for changed in &judged.changed {
                put(transaction, changed)?;
            }
            Ok((judged.rulings, judged.changed.iter().any(|changed| changed.close)))
        })
        .await
    }

    async fn get(&self, channels: &[ChannelId]) -> Result<Vec<Option<StoredVoucher>>, StoreError> {
        let channels: Arc<[ChannelId]> = channels.into();
        self.read(move |transaction| {
            let table = transaction.open_table(VOUCHERS).map_err(database_error)?;
            channels.iter().map(|channel| stored(&table, *channel)).collect()
        })
        .await
    }

    async fn page(&self, after: Option<ChannelId>, limit: usize) -> Result<Vec<StoredVoucher>, StoreError> {
        self.read(move |transaction| {
            let table = transaction.open_table(VOUCHERS).map_err(database_error)?;
            let after = after.map(ChannelId::to_bytes);
            let start = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let records = table.range::<&[u8; 32]>((start, Bound::Unbounded)).map_err(database_error)?;
            let decoded = records.take(limit.min(MAX_PAGE)).map(|record| {
                let (channel, bytes) = record.map_err(database_error)?;
                decode_voucher(ChannelId::from_bytes(*channel.value()), bytes.value())
            });
            decoded.collect()
        })
        .await
    }

    async fn prune(&self, done: &[StoredVoucher]) -> Result<(), StoreError> {
        let done = done.to_vec();
        self.write(move |transaction| {
            let mut vouchers = transaction.open_table(VOUCHERS).map_err(database_error)?;
            let mut quarantine = transaction.open_table(QUARANTINE).map_err(database_error)?;
            for voucher in &done {
                let channel = voucher.channel();
                if stored(&vouchers, channel)?.as_ref() == Some(voucher) {
                    vouchers.remove(channel.as_bytes()).map_err(database_error)?;
                    quarantine.remove(channel.as_bytes()).map_err(database_error)?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn quarantine(&self, entry: &Quarantined) -> Result<(), StoreError> {
        let entry = entry.bounded();
        self.write(move |transaction| {
            let known = {
                let vouchers = transaction.open_table(VOUCHERS).map_err(database_error)?;
                stored(&vouchers, entry.channel)?.filter(|known| known.cumulative() == entry.cumulative)
            };
            let Some(known) = known else { return Ok(()) };
            put(transaction, &StoredVoucher { quarantined: true, ..known })?;
            let mut quarantine = transaction.open_table(QUARANTINE).map_err(database_error)?;
            let bytes = encode_quarantined(&entry);
            quarantine.insert(entry.channel.as_bytes(), bytes.as_slice()).map_err(database_error)?;
            Ok(())
        })
        .await
    }

    async fn quarantined(&self) -> Result<Vec<Quarantined>, StoreError> {
        self.read(|transaction| {
            let table = transaction.open_table(QUARANTINE).map_err(database_error)?;
            let records = table.iter().map_err(database_error)?.map(|record| {
                let (channel, bytes) = record.map_err(database_error)?;
                decode_quarantined(ChannelId::from_bytes(*channel.value()), bytes.value())
            });
            records.collect()
        })
        .await
    }
}

impl RedbStore {
    /// What stores nothing costs no sync: a flood of it must not hold anybody up.
    async fn answer(&self, offers: Vec<Offer>, now: i64) -> Result<Vec<Ruling>, StoreError> {
        let channels: Vec<ChannelId> = offers.iter().map(|(channel, _)| *channel).collect();
        let known = self.get(&channels).await?;
        let mut holdings = channels
            .into_iter()
            .zip(known)
            .map(|(channel, voucher)| (channel, Holding { voucher, closes: 0 }))
            .collect();
        Ok(rules::judge_all(&mut holdings, &offers, now).rulings)
    }
}

/// Writes a voucher; one that is not quarantined ends its channel's quarantine.
pub(super) fn put(transaction: &WriteTransaction, voucher: &StoredVoucher) -> Result<(), StoreError> {
    let channel = voucher.channel();
    let mut vouchers = transaction.open_table(VOUCHERS).map_err(database_error)?;
    let before = vouchers.insert(channel.as_bytes(), encode_voucher(voucher).as_slice()).map_err(database_error)?;
    let was_quarantined = match before {
        Some(before) => decode_voucher(channel, before.value())?.quarantined,
        None => false,
    };
    if was_quarantined && !voucher.quarantined {
        let mut quarantine = transaction.open_table(QUARANTINE).map_err(database_error)?;
        quarantine.remove(channel.as_bytes()).map_err(database_error)?;
    }
    Ok(())
}

pub(super) fn stored(
    table: &impl ReadableTable<&'static [u8; 32], &'static [u8]>,
    channel: ChannelId,
) -> Result<Option<StoredVoucher>, StoreError> {
    let found = table.get(channel.as_bytes()).map_err(database_error)?;
    found.map(|bytes| decode_voucher(channel, bytes.value())).transpose()
}

fn holding(
    vouchers: &impl ReadableTable<&'static [u8; 32], &'static [u8]>,
    closes: &impl ReadableTable<&'static [u8; 32], u32>,
    channel: ChannelId,
) -> Result<Holding, StoreError> {
    let count = closes.get(channel.as_bytes()).map_err(database_error)?.map_or(0, |count| count.value());
    Ok(Holding { voucher: stored(vouchers, channel)?, closes: count })
}
