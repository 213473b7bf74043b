//! Entries in the ledger, and their sums.

use aro_proto::merkle::ByteRanges;
use aro_proto::message::{Message, Published, Receipt};
use aro_proto::{Amount, ChannelId, ContentId, NodeId};
use rusqlite::{Connection, Row, Transaction, params};
use serde::Serialize;

use super::{Check, Entry, EntryKind, Word};
use crate::ledger::{LedgerError, amount_from, amount_to, bytes32, count_from, count_to};

/// What one day's entries come to, for one node or one content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// The day in UTC, as days since 1970-01-01.
    pub day: i64,
    /// Node or content, in base58.
    pub of: String,
    /// Requests.
    pub requests: u64,
    /// Content bytes.
    pub bytes: u64,
    /// Base units.
    pub amount: Amount,
}

/// What totals are taken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Each node.
    Node,
    /// Each content.
    Content,
}

/// Writes an entry and returns its number.
pub(super) fn insert(tx: &Transaction<'_>, entry: &Entry) -> Result<i64, LedgerError> {
    let receipt = match &entry.receipt {
        Some(Word::Published(receipt)) => {
            let body = Published { receipt: *receipt }.to_body();
            Some(keep(tx, entry.node, PUBLISHED, &body)?)
        }
        // One that is for several entries is attached to them.
        Some(Word::Delivered(_)) | None => None,
    };
    let ranges = entry.ranges.as_ref().map(|ranges| {
        let mut bytes = Vec::new();
        ranges.encode(&mut bytes);
        bytes
    });
    tx.prepare_cached(
        "INSERT INTO entries (at, kind, node, channel, content, contents, ranges, bytes, amount, class, receipt, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, 0)",
    )?
    .execute(params![
        entry.at,
        matches!(entry.kind, EntryKind::Publish),
        entry.node.as_bytes(),
        entry.channel.as_ref().map(ChannelId::as_bytes),
        entry.content.as_bytes(),
        entry.contents,
        ranges,
        count_to(entry.bytes)?,
        amount_to(entry.amount)?,
        entry.class,
        receipt,
    ])?;
    Ok(tx.last_insert_rowid())
}

/// Keeps a receipt, with the entries that it is for and those that it fails.
pub(super) fn attach(
    tx: &Transaction<'_>,
    node: NodeId,
    receipt: &Receipt,
    entries: &[(i64, Check)],
) -> Result<(), LedgerError> {
    if entries.is_empty() {
        return Ok(());
    }
    let kept = keep(tx, node, DELIVERED, &receipt.to_body())?;
    for (entry, check) in entries {
        tx.prepare_cached("UPDATE entries SET receipt = ?2, state = ?3 WHERE entry = ?1")?.execute(params![
            entry,
            kept,
            if *check == Check::Valid { HOLDS } else { REFUTED }
        ])?;
    }
    Ok(())
}

fn keep(tx: &Transaction<'_>, node: NodeId, kind: i64, body: &[u8]) -> Result<i64, LedgerError> {
    tx.prepare_cached("INSERT INTO receipts (kind, node, body) VALUES (?1, ?2, ?3)")?.execute(params![
        kind,
        node.as_bytes(),
        body
    ])?;
    Ok(tx.last_insert_rowid())
}

/// Hands every entry from `since` on to `take`, the oldest first.
pub(crate) fn each<E: From<LedgerError>>(
    db: &Connection,
    since: i64,
    mut take: impl FnMut(Entry) -> Result<(), E>,
) -> Result<(), E> {
    let prepare = || db.prepare(SELECT).map_err(LedgerError::from);
    let mut statement = prepare()?;
    let mut rows = statement.query([since]).map_err(LedgerError::from)?;
    while let Some(row) = rows.next().map_err(LedgerError::from)? {
        take(read(row)?)?;
    }
    Ok(())
}

/// What the entries from `since` on come to, day by day.
pub(crate) fn totals(db: &Connection, since: i64, by: By) -> Result<Vec<Totals>, LedgerError> {
    let column = match by {
        By::Node => "node",
        By::Content => "content",
    };
    let query = format!(
        "SELECT at / 86400, {column}, COUNT(*), SUM(bytes), SUM(amount) FROM entries WHERE at >= ?1
         GROUP BY 1, 2 ORDER BY 1, 5 DESC, 2"
    );
    let mut statement = db.prepare(&query)?;
    let mut rows = statement.query([since])?;
    let mut totals = Vec::new();
    while let Some(row) = rows.next()? {
        let id = bytes32(&row.get::<_, Vec<u8>>(1)?)?;
        let of = match by {
            By::Node => NodeId::from_bytes(id).to_string(),
            By::Content => ContentId::from_bytes(id).to_string(),
        };
        totals.push(Totals {
            day: row.get(0)?,
            of,
            requests: count_from(row.get(2)?)?,
            bytes: count_from(row.get(3)?)?,
            amount: amount_from(row.get(4)?)?,
        });
    }
    Ok(totals)
}

fn read(row: &Row<'_>) -> Result<Entry, LedgerError> {
    let id = |at| -> Result<[u8; 32], LedgerError> { bytes32(&row.get::<_, Vec<u8>>(at)?) };
    let ranges: Option<Vec<u8>> = row.get(7)?;
    let ranges = ranges.map(|bytes| ByteRanges::decode(&bytes)).transpose();
    let (body, kind): (Option<Vec<u8>>, Option<i64>) = (row.get(11)?, row.get(12)?);
    let unreadable = |_| LedgerError::Impossible("a receipt that cannot be read");
    let receipt = match (body, kind) {
        (Some(body), Some(PUBLISHED)) => {
            Some(Word::Published(Published::from_body(&body).map_err(unreadable)?.0.receipt))
        }
        (Some(body), _) => Some(Word::Delivered(Receipt::from_body(&body).map_err(unreadable)?.0)),
        (None, _) => None,
    };
    let channel: Option<Vec<u8>> = row.get(4)?;
    Ok(Entry {
        entry: count_from(row.get(0)?)?,
        at: row.get(1)?,
        kind: if row.get::<_, bool>(2)? { EntryKind::Publish } else { EntryKind::Fetch },
        node: NodeId::from_bytes(id(3)?),
        channel: channel.map(|bytes| bytes32(&bytes).map(ChannelId::from_bytes)).transpose()?,
        content: ContentId::from_bytes(id(5)?),
        contents: row.get(6)?,
        ranges: ranges.map_err(|_| LedgerError::Impossible("ranges that cannot be"))?,
        bytes: count_from(row.get(8)?)?,
        amount: amount_from(row.get(9)?)?,
        class: row.get(10)?,
        receipt,
        refuted: row.get::<_, i64>(13)? == REFUTED,
    })
}

/// Kinds of receipts.
const DELIVERED: i64 = 0;
const PUBLISHED: i64 = 1;
/// What an entry's receipt was found to be.
const HOLDS: i64 = 1;
const REFUTED: i64 = 2;
const SELECT: &str = "SELECT entry, at, entries.kind, entries.node, channel, content, contents, ranges, bytes, amount,
    class, body, receipts.kind, state
    FROM entries LEFT JOIN receipts ON receipts.receipt = entries.receipt WHERE at >= ?1 ORDER BY entry";
