//! Rows of `settle_channels`: locked, read, written.

use std::collections::HashMap;

use aro_proto::channel::{SignedVoucher, Voucher};
use aro_proto::{Amount, ChannelId};
use settlement_chain::Address;
use settlement_interface::voucher::NEVER;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::super::rules::Holding;
use super::super::{StoreError, StoredVoucher};
use super::failure::Failure;

/// Locks the rows of these channels, making those that are missing, and reads them. Rows that hold nothing at the end
/// are to be [swept](sweep).
pub(super) async fn lock(
    connection: &mut PgConnection,
    channels: impl IntoIterator<Item = ChannelId>,
) -> Result<HashMap<ChannelId, Holding>, Failure> {
    let ids: Vec<Vec<u8>> = channels.into_iter().map(|channel| channel.as_bytes().to_vec()).collect();
    // The update changes nothing, but it locks, and unlike a select it cannot miss a row that another has just
    // deleted.
    let rows = sqlx::query(
        "INSERT INTO settle_channels AS c (channel) \
         SELECT id FROM (SELECT DISTINCT unnest($1::bytea[]) AS id) AS ids ORDER BY id \
         ON CONFLICT (channel) DO UPDATE SET closes = c.closes \
         RETURNING channel, node, cumulative::text, expires_at, signature, lasting_cumulative::text, \
         lasting_signature, close, doubted, since, heard, quarantined_at IS NOT NULL AS quarantined, closes",
    )
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let held = rows.iter().map(|row| {
        let closes: i32 = row.try_get("closes")?;
        let closes = u32::try_from(closes).map_err(|_| StoreError::Damaged("channel"))?;
        Ok((channel(row)?, Holding { voucher: voucher(row)?, closes }))
    });
    held.collect()
}

/// Writes vouchers into their locked rows. One that is not quarantined ends its channel's quarantine.
pub(super) async fn write(connection: &mut PgConnection, vouchers: &[StoredVoucher]) -> Result<(), Failure> {
    let bytes = |of: fn(&StoredVoucher) -> Vec<u8>| -> Vec<Vec<u8>> { vouchers.iter().map(of).collect() };
    let numbers = |of: fn(&StoredVoucher) -> i64| -> Vec<i64> { vouchers.iter().map(of).collect() };
    let flags = |of: fn(&StoredVoucher) -> bool| -> Vec<bool> { vouchers.iter().map(of).collect() };
    let cumulative: Vec<String> = vouchers.iter().map(|voucher| voucher.cumulative().get().to_string()).collect();
    let lasting: Vec<Option<String>> = vouchers
        .iter()
        .map(|voucher| voucher.lasting.map(|lasting| lasting.voucher.cumulative.get().to_string()))
        .collect();
    let lasting_signature: Vec<Option<Vec<u8>>> =
        vouchers.iter().map(|voucher| voucher.lasting.map(|lasting| lasting.signature.to_vec())).collect();
    sqlx::query(
        "UPDATE settle_channels AS c SET node = v.node, cumulative = v.cumulative::numeric, \
         expires_at = v.expires_at, signature = v.signature, lasting_cumulative = v.lasting_cumulative::numeric, \
         lasting_signature = v.lasting_signature, close = v.close, doubted = v.doubted, since = v.since, heard = v.heard, \
         quarantined_at = CASE WHEN v.quarantined THEN c.quarantined_at END, \
         quarantine_reason = CASE WHEN v.quarantined THEN c.quarantine_reason END \
         FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::bigint[], $5::bytea[], $6::text[], $7::bytea[], \
         $8::boolean[], $9::boolean[], $10::bigint[], $11::bigint[], $12::boolean[]) AS v (channel, node, cumulative, \
         expires_at, signature, lasting_cumulative, lasting_signature, close, doubted, since, heard, quarantined) \
         WHERE c.channel = v.channel",
    )
    .bind(bytes(|voucher| voucher.channel().as_bytes().to_vec()))
    .bind(bytes(|voucher| voucher.node.to_bytes().to_vec()))
    .bind(cumulative)
    .bind(numbers(|voucher| voucher.signed.voucher.expires_at))
    .bind(bytes(|voucher| voucher.signed.signature.to_vec()))
    .bind(lasting)
    .bind(lasting_signature)
    .bind(flags(|voucher| voucher.close))
    .bind(flags(|voucher| voucher.doubted))
    .bind(numbers(|voucher| voucher.since))
    .bind(numbers(|voucher| voucher.heard))
    .bind(flags(|voucher| voucher.quarantined))
    .execute(connection)
    .await?;
    Ok(())
}

/// Empties locked rows of their vouchers.
pub(super) async fn clear(connection: &mut PgConnection, channels: &[ChannelId]) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE settle_channels SET node = NULL, cumulative = NULL, expires_at = NULL, signature = NULL, \
         lasting_cumulative = NULL, lasting_signature = NULL, close = false, doubted = false, since = NULL, heard = NULL, \
         quarantined_at = NULL, quarantine_reason = NULL WHERE channel = ANY($1)",
    )
    .bind(ids(channels))
    .execute(connection)
    .await?;
    Ok(())
}

/// Counts recorded closes of locked rows up or down.
pub(super) async fn count_closes(
    connection: &mut PgConnection,
    channels: &[ChannelId],
    change: i32,
) -> Result<(), Failure> {
    sqlx::query("UPDATE settle_channels SET closes = greatest(closes + $2, 0) WHERE channel = ANY($1)")
        .bind(ids(channels))
        .bind(change)
        .execute(connection)
        .await?;
    Ok(())
}

/// Removes locked rows that hold nothing.
pub(super) async fn sweep(connection: &mut PgConnection, channels: &[ChannelId]) -> Result<(), Failure> {
    sqlx::query("DELETE FROM settle_channels WHERE channel = ANY($1) AND cumulative IS NULL AND closes = 0")
        .bind(ids(channels))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) fn ids(channels: &[ChannelId]) -> Vec<Vec<u8>> {
    channels.iter().map(|channel| channel.as_bytes().to_vec()).collect()
}

pub(super) fn channel(row: &PgRow) -> Result<ChannelId, Failure> {
    Ok(ChannelId::from_bytes(array(row.try_get("channel")?, "channel")?))
}

/// The voucher of a row, if it holds one.
pub(super) fn voucher(row: &PgRow) -> Result<Option<StoredVoucher>, Failure> {
    let Some(cumulative) = row.try_get::<Option<String>, _>("cumulative")? else { return Ok(None) };
    let channel = channel(row)?;
    let signed = |cumulative: String, expires_at: i64, signature: Vec<u8>| -> Result<SignedVoucher, Failure> {
        let voucher = Voucher { channel, cumulative: amount(&cumulative)?, expires_at };
        Ok(SignedVoucher { voucher, signature: array(signature, "voucher")? })
    };
    let lasting = match row.try_get::<Option<String>, _>("lasting_cumulative")? {
        Some(cumulative) => Some(signed(cumulative, NEVER, row.try_get("lasting_signature")?)?),
        None => None,
    };
    Ok(Some(StoredVoucher {
        signed: signed(cumulative, row.try_get("expires_at")?, row.try_get("signature")?)?,
        lasting,
        node: Address::new_from_array(array(row.try_get("node")?, "voucher")?),
        close: row.try_get("close")?,
        doubted: row.try_get("doubted")?,
        since: row.try_get("since")?,
        heard: row.try_get("heard")?,
        quarantined: row.try_get("quarantined")?,
    }))
}

pub(super) fn array<const N: usize>(bytes: Vec<u8>, what: &'static str) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Damaged(what))
}

pub(super) fn number(text: &str) -> Result<u64, StoreError> {
    text.parse().map_err(|_| StoreError::Damaged("number"))
}

pub(super) fn amount(text: &str) -> Result<Amount, StoreError> {
    number(text).map(Amount::new)
}
