//! The write-ahead journal: what was signed is known before anybody else can know it.
//!
//! ```text
//!  0        1      2        10       18              20                      20 + 157 n
//!  +--------+------+--------+--------+---------------+-----------------------+--------------------------+
//!  | format | kind | at i64 | fee u64| count u16     | count x item          | settlement_chain::Prepared |
//!  +--------+------+--------+--------+---------------+-----------------------+--------------------------+
//!  item: channel 32 | voucher? 1 + signed? 2 | voucher u64 | node 32 | from u64 | refund u64
//!        | operator bps u16 | protocol bps u16 | voucher signature 64          (integers little-endian)
//! ```

use std::time::Duration;

use aro_proto::{Amount, ChannelId};
use async_trait::async_trait;
use settlement_chain::submit::Prepared;
use settlement_chain::{Address, Signature};

use crate::batch::{Item, Kind, Trace};
use crate::vouchers::{Grant, HistoryRow, StoreError};

/// Where an operator keeps signed transactions until their end is known for good.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Makes an entry durable, if the grant's fence is still the lease's and every close carries the best voucher, all
    /// in one transaction. The lease is prolonged with it.
    ///
    /// # Errors
    /// It may have been recorded or not: do not send it. If it was, it is found among the entries.
    async fn begin(&self, entry: &JournalEntry, grant: &Grant, ttl: Duration) -> Result<Begun, StoreError>;

    /// All entries.
    async fn entries(&self) -> Result<Vec<JournalEntry>, StoreError>;

    /// Forgets the entry of this signature and appends what it did to the history, in one transaction. Where there is
    /// no such entry nothing happens, and the answer is false: a history has no row twice.
    async fn resolve(&self, signature: &Signature, trail: &[HistoryRow]) -> Result<bool, StoreError>;
}

/// Whether a transaction may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is durable: send it.
    Recorded,
    /// A channel's voucher has changed since it was planned: plan again.
    Overtaken,
    /// Another process settles now: send nothing.
    Superseded,
}

/// A signed transaction and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// What it does.
    pub kind: Kind,
    /// The chain's unix second by which it was planned.
    pub at: i64,
    /// To which channels.
    pub items: Vec<Item>,
    /// Lamports that it costs if it lands.
    pub fee_lamports: u64,
    /// The signed bytes, their signature and the last block height at which they can land.
    pub prepared: Prepared,
}

impl JournalEntry {
    /// The stored form.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the transaction cannot be written, which signing excludes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, StoreError> {
        let damaged = || StoreError::Damaged("transaction");
        let count = u16::try_from(self.items.len()).map_err(|_| damaged())?;
        let mut bytes = vec![FORMAT, self.kind as u8];
        bytes.extend(self.at.to_le_bytes());
        bytes.extend(self.fee_lamports.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        for Item { channel, voucher, trace } in &self.items {
            bytes.extend(channel.as_bytes());
            bytes.push(
                u8::from(voucher.is_some()) * HAS_VOUCHER + u8::from(trace.voucher_signature.is_some()) * IS_SIGNED,
            );
            bytes.extend(voucher.unwrap_or_default().get().to_le_bytes());
            bytes.extend(trace.node.as_ref());
            bytes.extend(trace.from.get().to_le_bytes());
            bytes.extend(trace.refund.get().to_le_bytes());
            bytes.extend(trace.operator_bps.to_le_bytes());
            bytes.extend(trace.protocol_bps.to_le_bytes());
            bytes.extend(trace.voucher_signature.unwrap_or([0; 64]));
        }
        bytes.extend(self.prepared.to_bytes().map_err(|_| damaged())?);
        Ok(bytes)
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let ([FORMAT, kind], rest) = bytes.split_first_chunk::<2>()? else { return None };
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (fee, rest) = rest.split_first_chunk::<8>()?;
        let (count, mut rest) = rest.split_first_chunk::<2>()?;
        let mut items = Vec::new();
        for _ in 0..u16::from_le_bytes(*count) {
            let (item, after) = rest.split_first_chunk::<ITEM>()?;
            items.push(item_from(item)?);
            rest = after;
        }
        Some(Self {
            kind: Kind::from_number(*kind)?,
            at: i64::from_le_bytes(*at),
            items,
            fee_lamports: u64::from_le_bytes(*fee),
            prepared: Prepared::from_bytes(rest)?,
        })
    }
}

fn item_from(item: &[u8; ITEM]) -> Option<Item> {
    let (channel, rest) = item.split_first_chunk::<32>()?;
    let ([flags], rest) = rest.split_first_chunk::<1>()?;
    let (voucher, rest) = rest.split_first_chunk::<8>()?;
    let (node, rest) = rest.split_first_chunk::<32>()?;
    let (from, rest) = rest.split_first_chunk::<8>()?;
    let (refund, rest) = rest.split_first_chunk::<8>()?;
    let (operator_bps, rest) = rest.split_first_chunk::<2>()?;
    let (protocol_bps, rest) = rest.split_first_chunk::<2>()?;
    let signature = <[u8; 64]>::try_from(rest).ok()?;
    let amount = |bytes: &[u8; 8]| Amount::new(u64::from_le_bytes(*bytes));
    if flags & !(HAS_VOUCHER | IS_SIGNED) != 0 {
        return None;
    }
    let trace = Trace {
        node: Address::new_from_array(*node),
        from: amount(from),
        refund: amount(refund),
        operator_bps: u16::from_le_bytes(*operator_bps),
        protocol_bps: u16::from_le_bytes(*protocol_bps),
        voucher_signature: (flags & IS_SIGNED != 0).then_some(signature),
    };
    let voucher = (flags & HAS_VOUCHER != 0).then(|| amount(voucher));
    Some(Item { channel: ChannelId::from_bytes(*channel), voucher, trace })
}

/// First byte of an entry; earlier formats began with the kind, which is never this.
const FORMAT: u8 = 0x20;
/// Bytes of an item.
const ITEM: usize = 157;
const HAS_VOUCHER: u8 = 1;
const IS_SIGNED: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submit::tests::entry;

    #[test]
    fn entries_read_back_and_anything_else_is_refused() {
        for (kind, voucher) in [(Kind::Settle, Some(7)), (Kind::Close, Some(0)), (Kind::Reclaim, None)] {
            let entry = entry(kind, 3, voucher);
            let bytes = entry.to_bytes().unwrap();
            assert_eq!(JournalEntry::from_bytes(&bytes), Some(entry));
            for len in 0..bytes.len() {
                assert_eq!(JournalEntry::from_bytes(&bytes[..len]), None, "{len} bytes");
            }
            for (index, wrong) in [(0, 1), (1, 9), (52, 4)] {
                let mut other = bytes.clone();
                other[index] = wrong;
                assert_eq!(JournalEntry::from_bytes(&other), None, "byte {index}");
            }
        }
    }
}
