//! The write-ahead journal: what was signed is known before anybody else can know it.
//!
//! ```text
//!  0      1               3                                             3 + 41 n
//!  +------+---------------+---------------------------------------------+-------------------------+
//!  | kind | count u16 LE  | count x (channel 32 | voucher? 1 | u64 LE)  | settlement_chain::Prepared |
//!  +------+---------------+---------------------------------------------+-------------------------+
//! ```

use aro_proto::{Amount, ChannelId};
use settlement_chain::Signature;
use settlement_chain::submit::Prepared;

use crate::batch::{Item, Kind};
use crate::vouchers::StoreError;

/// Where an operator keeps signed transactions until their end is known for good. Blocking.
pub trait Journal: Send + Sync + 'static {
    /// Makes an entry durable.
    fn record(&self, entry: &JournalEntry) -> Result<(), StoreError>;

    /// All entries.
    fn entries(&self) -> Result<Vec<JournalEntry>, StoreError>;

    /// Forgets the entry of this signature.
    fn resolve(&self, signature: &Signature) -> Result<(), StoreError>;
}

/// A signed transaction and what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// What it does.
    pub kind: Kind,
    /// To which channels.
    pub items: Vec<Item>,
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
        let mut bytes = vec![self.kind as u8];
        bytes.extend(count.to_le_bytes());
        for item in &self.items {
            bytes.extend(item.channel.as_bytes());
            bytes.push(u8::from(item.voucher.is_some()));
            bytes.extend(item.voucher.unwrap_or_default().get().to_le_bytes());
        }
        bytes.extend(self.prepared.to_bytes().map_err(|_| damaged())?);
        Ok(bytes)
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let ([kind, low, high], mut rest) = bytes.split_first_chunk::<3>()?;
        let count = usize::from(u16::from_le_bytes([*low, *high]));
        let mut items = Vec::new();
        for _ in 0..count {
            let (channel, after) = rest.split_first_chunk::<32>()?;
            let (present, after) = after.split_first()?;
            let (amount, after) = after.split_first_chunk::<8>()?;
            let amount = Amount::new(u64::from_le_bytes(*amount));
            let voucher = match present {
                0 if amount.is_zero() => None,
                1 => Some(amount),
                _ => return None,
            };
            items.push(Item { channel: ChannelId::from_bytes(*channel), voucher });
            rest = after;
        }
        Some(Self { kind: Kind::from_number(*kind)?, items, prepared: Prepared::from_bytes(rest)? })
    }
}

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
            let mut other = bytes.clone();
            other[0] = 9;
            assert_eq!(JournalEntry::from_bytes(&other), None);
        }
    }
}
