//! Vouchers and quarantine.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aro_proto::ChannelId;
use async_trait::async_trait;
use redb::{ReadableTable, ReadableTableMetadata, Table};

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
        let written = self.write(move |transaction| {
            // Opened once: a table costs more to open than a voucher to write.
            let mut vouchers = transaction.open_table(VOUCHERS).map_err(database_error)?;
            let mut holdings = HashMap::with_capacity(offers.len());
            {
                let closes = transaction.open_table(CLOSES).map_err(database_error)?;
                let nothing_closes = closes.is_empty().map_err(database_error)?;
                for (channel, _) in &offers {
                    if let Entry::Vacant(unread) = holdings.entry(*channel) {
                        let voucher = stored(&vouchers, *channel)?;
                        let closes = if nothing_closes { 0 } else { count(&closes, *channel)? };
                        unread.insert(Holding { voucher, closes });
                    }
                }
            }
            let set_aside = |(channel, holding): (&ChannelId, &Holding)| {
                holding.voucher.filter(|voucher| voucher.quarantined).map(|_| *channel)
            };
            let were_set_aside: HashSet<ChannelId> = holdings.iter().filter_map(set_aside).collect();
            let judged = rules::judge_all(&mut holdings, &offers, now);
            for changed in &judged.changed {
                put(&mut vouchers, changed)?;
                if !changed.quarantined && were_set_aside.contains(&changed.channel()) {
                    let mut quarantine = transaction.open_table(QUARANTINE).map_err(database_error)?;
                    quarantine.remove(changed.channel().as_bytes()).map_err(database_error)?;
                }
            }
            Ok((judged.rulings, judged.changed.iter().any(|changed| changed.is_to_close(false))))
        });
        let (rulings, closes) = written.await?;
        self.wishes.fetch_add(u64::from(closes), Ordering::SeqCst);
        Ok((rulings, closes))
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

    async fn doubt_wishes(&self) -> Result<u64, StoreError> {
        self.write(|transaction| {
            let mut vouchers = transaction.open_table(VOUCHERS).map_err(database_error)?;
            let mut wishes = Vec::new();
            for record in vouchers.iter().map_err(database_error)? {
                let (channel, bytes) = record.map_err(database_error)?;
                let voucher = decode_voucher(ChannelId::from_bytes(*channel.value()), bytes.value())?;
                wishes.extend(voucher.close.then_some(voucher.with_doubt()));
            }
            for voucher in &wishes {
                put(&mut vouchers, voucher)?;
            }
            Ok(u64::try_from(wishes.len()).unwrap_or(u64::MAX))
        })
        .await
    }

    async fn quarantine(&self, entry: &Quarantined) -> Result<(), StoreError> {
        let entry = entry.bounded();
        self.write(move |transaction| {
            let mut vouchers = transaction.open_table(VOUCHERS).map_err(database_error)?;
            let known = stored(&vouchers, entry.channel)?.filter(|known| known.cumulative() == entry.cumulative);
            let Some(known) = known else { return Ok(()) };
            put(&mut vouchers, &StoredVoucher { quarantined: true, ..known })?;
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

/// Writes a voucher.
pub(super) fn put(
    vouchers: &mut Table<'_, &'static [u8; 32], &'static [u8]>,
    voucher: &StoredVoucher,
) -> Result<(), StoreError> {
    vouchers.insert(voucher.channel().as_bytes(), encode_voucher(voucher).as_slice()).map_err(database_error)?;
    Ok(())
}

pub(super) fn stored(
    table: &impl ReadableTable<&'static [u8; 32], &'static [u8]>,
    channel: ChannelId,
) -> Result<Option<StoredVoucher>, StoreError> {
    let found = table.get(channel.as_bytes()).map_err(database_error)?;
    found.map(|bytes| decode_voucher(channel, bytes.value())).transpose()
}

fn count(closes: &impl ReadableTable<&'static [u8; 32], u32>, channel: ChannelId) -> Result<u32, StoreError> {
    Ok(closes.get(channel.as_bytes()).map_err(database_error)?.map_or(0, |count| count.value()))
}
