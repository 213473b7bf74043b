//! Vouchers and journal in one redb file. Every write is synced before it returns.
//!
//! ```text
//! vouchers  channel (32) -> node account (32) | cumulative u64 LE | expires_at i64 LE | signature (64) | close (1)
//! journal   signature (64) -> see JournalEntry::to_bytes
//! ```

use std::fs::File;
use std::path::Path;

use aro_proto::channel::{SignedVoucher, Voucher};
use aro_proto::{Amount, ChannelId};
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction,
};
use settlement_chain::{Address, Signature};

use super::{Accepted, StoreError, StoredVoucher, VoucherStore};
use crate::submit::{Journal, JournalEntry};

/// The operator's file. One process at a time.
#[derive(Debug)]
pub struct RedbStore {
    database: Database,
}

impl RedbStore {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process, or another part of this one, has it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse,
            other => database_error(other),
        })?;
        let store = Self { database };
        // Both tables exist from here on, so that readers never miss one.
        store.write(|transaction| {
            transaction.open_table(VOUCHERS).map_err(database_error)?;
            transaction.open_table(JOURNAL).map_err(database_error)?;
            Ok(())
        })?;
        // A new file is only as durable as its name.
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| StoreError::Database(e.to_string()))?;
        }
        Ok(store)
    }

    fn write(&self, change: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_write().map_err(database_error)?;
        transaction.set_durability(Durability::Immediate).map_err(database_error)?;
        change(&transaction)?;
        transaction.commit().map_err(database_error)
    }
}

impl VoucherStore for RedbStore {
    // r[impl settlement.handoff.durable]
    fn put(&self, batch: &[Accepted]) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(VOUCHERS).map_err(database_error)?;
            for accepted in batch {
                let channel = accepted.voucher.channel();
                let kept = stored(&table, channel)?.map_or_else(|| accepted.into(), |kept| kept.merged(accepted));
                table.insert(channel.as_bytes(), &encode(&kept)).map_err(database_error)?;
            }
            Ok(())
        })
    }

    fn get(&self, channel: ChannelId) -> Result<Option<StoredVoucher>, StoreError> {
        let transaction = self.database.begin_read().map_err(database_error)?;
        let table = transaction.open_table(VOUCHERS).map_err(database_error)?;
        let found = table.get(channel.as_bytes()).map_err(database_error)?;
        found.map(|bytes| decode(channel, bytes.value())).transpose()
    }

    fn all(&self) -> Result<Vec<StoredVoucher>, StoreError> {
        let transaction = self.database.begin_read().map_err(database_error)?;
        let table = transaction.open_table(VOUCHERS).map_err(database_error)?;
        let records = table.iter().map_err(database_error)?;
        records
            .map(|record| {
                let (channel, bytes) = record.map_err(database_error)?;
                decode(ChannelId::from_bytes(*channel.value()), bytes.value())
            })
            .collect()
    }

    fn prune(&self, done: &[(ChannelId, Amount)]) -> Result<(), StoreError> {
        if done.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut table = transaction.open_table(VOUCHERS).map_err(database_error)?;
            for (channel, amount) in done {
                if stored(&table, *channel)?.is_some_and(|kept| kept.cumulative() <= *amount) {
                    table.remove(channel.as_bytes()).map_err(database_error)?;
                }
            }
            Ok(())
        })
    }
}

impl Journal for RedbStore {
    // r[impl settlement.write_ahead]
    fn record(&self, entry: &JournalEntry) -> Result<(), StoreError> {
        let bytes = entry.to_bytes()?;
        self.write(|transaction| {
            let mut table = transaction.open_table(JOURNAL).map_err(database_error)?;
            table.insert(entry.prepared.signature.as_array(), bytes.as_slice()).map_err(database_error)?;
            Ok(())
        })
    }

    fn entries(&self) -> Result<Vec<JournalEntry>, StoreError> {
        let transaction = self.database.begin_read().map_err(database_error)?;
        let table = transaction.open_table(JOURNAL).map_err(database_error)?;
        let records = table.iter().map_err(database_error)?;
        records
            .map(|record| {
                let (_, bytes) = record.map_err(database_error)?;
                JournalEntry::from_bytes(bytes.value()).ok_or(StoreError::Damaged("journal entry"))
            })
            .collect()
    }

    fn resolve(&self, signature: &Signature) -> Result<(), StoreError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(JOURNAL).map_err(database_error)?;
            table.remove(signature.as_array()).map_err(database_error)?;
            Ok(())
        })
    }
}

fn stored(
    table: &Table<'_, &'static [u8; 32], &'static [u8; VOUCHER_RECORD]>,
    channel: ChannelId,
) -> Result<Option<StoredVoucher>, StoreError> {
    let found = table.get(channel.as_bytes()).map_err(database_error)?;
    found.map(|bytes| decode(channel, bytes.value())).transpose()
}

fn encode(stored: &StoredVoucher) -> [u8; VOUCHER_RECORD] {
    let voucher = &stored.signed.voucher;
    let mut bytes = [0; VOUCHER_RECORD];
    bytes[..32].copy_from_slice(stored.node.as_ref());
    bytes[32..40].copy_from_slice(&voucher.cumulative.get().to_le_bytes());
    bytes[40..48].copy_from_slice(&voucher.expires_at.to_le_bytes());
    bytes[48..112].copy_from_slice(&stored.signed.signature);
    bytes[112] = u8::from(stored.close);
    bytes
}

fn decode(channel: ChannelId, bytes: &[u8; VOUCHER_RECORD]) -> Result<StoredVoucher, StoreError> {
    let damaged = || StoreError::Damaged("voucher");
    let (node, rest) = bytes.split_first_chunk::<32>().ok_or_else(damaged)?;
    let (cumulative, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (expires_at, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (signature, close) = rest.split_first_chunk::<64>().ok_or_else(damaged)?;
    let voucher = Voucher {
        channel,
        cumulative: Amount::new(u64::from_le_bytes(*cumulative)),
        expires_at: i64::from_le_bytes(*expires_at),
    };
    Ok(StoredVoucher {
        signed: SignedVoucher { voucher, signature: *signature },
        node: Address::new_from_array(*node),
        close: match close {
            [0] => false,
            [1] => true,
            _ => return Err(damaged()),
        },
    })
}

fn database_error(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database(error.into().to_string())
}

/// Bytes of a voucher record.
const VOUCHER_RECORD: usize = 113;
const VOUCHERS: TableDefinition<&[u8; 32], &[u8; VOUCHER_RECORD]> = TableDefinition::new("vouchers");
const JOURNAL: TableDefinition<&[u8; 64], &[u8]> = TableDefinition::new("journal");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vouchers::tests::accepted;

    #[test]
    fn records_read_back_and_a_damaged_one_is_an_error() {
        let stored = StoredVoucher::from(&accepted(4, u64::MAX, true));
        let mut bytes = encode(&stored);
        assert_eq!(decode(stored.channel(), &bytes).unwrap(), stored);
        bytes[112] = 2;
        assert!(matches!(decode(stored.channel(), &bytes), Err(StoreError::Damaged("voucher"))));
    }

    #[test]
    fn reopened_file_holds_every_voucher_and_a_second_opener_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("operator.redb");
        let store = RedbStore::open(&path).unwrap();
        store.put(&[accepted(4, 9, true)]).unwrap();
        assert!(matches!(RedbStore::open(&path), Err(StoreError::InUse)));
        drop(store);
        let store = RedbStore::open(&path).unwrap();
        assert_eq!(store.all().unwrap(), [StoredVoucher::from(&accepted(4, 9, true))]);
    }
}
