//! The tables of the file.
//!
//! ```text
//! schema     "version" -> u64
//! vouchers   channel 32 -> records::voucher
//! closes     channel 32 -> u32, the recorded closes that name it
//! quarantine channel 32 -> records::quarantined
//! journal    signature 64 -> JournalEntry::to_bytes
//! history    (unix s, number) -> records::row
//! leases     name -> (holder, fence, unix ms at which it lapses)
//! deployment "genesis_hash", "program", "operator" -> 32
//! ```

use std::io;

use redb::{ReadableTable, TableDefinition, TableError, TableHandle, WriteTransaction};

use super::super::StoreError;

pub(super) const VOUCHERS: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("vouchers_2");
pub(super) const CLOSES: TableDefinition<&[u8; 32], u32> = TableDefinition::new("closes");
pub(super) const QUARANTINE: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("quarantine");
pub(super) const JOURNAL: TableDefinition<&[u8; 64], &[u8]> = TableDefinition::new("journal_2");
pub(super) const HISTORY: TableDefinition<(i64, u64), &[u8]> = TableDefinition::new("history");
pub(super) const LEASES: TableDefinition<&str, (&str, u64, i64)> = TableDefinition::new("leases");
pub(super) const DEPLOYMENT: TableDefinition<&str, &[u8; 32]> = TableDefinition::new("deployment");
const SCHEMA: TableDefinition<&str, u64> = TableDefinition::new("schema");

/// Makes every table, so that readers never miss one.
///
/// # Errors
/// [`StoreError::Newer`] if a later program has written the file; [`StoreError::Damaged`] if an earlier one has.
pub(super) fn create(transaction: &WriteTransaction) -> Result<(), StoreError> {
    let names: Vec<String> =
        transaction.list_tables().map_err(database_error)?.map(|table| table.name().to_owned()).collect();
    let mut schema = transaction.open_table(SCHEMA).map_err(database_error)?;
    let found = schema.get("version").map_err(database_error)?.map(|version| version.value());
    match found {
        Some(VERSION) => {}
        // Every record of version 2 is one of this version too.
        Some(2) => {
            schema.insert("version", VERSION).map_err(database_error)?;
        }
        None if names.is_empty() => {
            schema.insert("version", VERSION).map_err(database_error)?;
        }
        None => return Err(StoreError::Damaged("schema: it was written before version 2")),
        Some(other) => {
            let number = |version| i64::try_from(version).unwrap_or(i64::MAX);
            return Err(StoreError::Newer { found: number(other), known: number(VERSION) });
        }
    }
    let opened = || -> Result<(), TableError> {
        transaction.open_table(VOUCHERS)?;
        transaction.open_table(CLOSES)?;
        transaction.open_table(QUARANTINE)?;
        transaction.open_table(JOURNAL)?;
        transaction.open_table(HISTORY)?;
        transaction.open_table(LEASES)?;
        transaction.open_table(DEPLOYMENT)?;
        Ok(())
    };
    opened().map_err(database_error)
}

pub(super) fn database_error(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) => match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                StoreError::Full(error.to_string())
            }
            _ => StoreError::Unavailable(error.to_string()),
        },
        error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed) => StoreError::Unavailable(error.to_string()),
        error => StoreError::Database(error.to_string()),
    }
}

/// What this program writes.
const VERSION: u64 = 3;

#[cfg(test)]
mod tests {
    use redb::Database;
    use redb::backends::InMemoryBackend;

    use super::*;

    #[test]
    fn file_of_the_version_before_is_taken_over_and_one_of_a_later_program_left_alone() {
        for (found, opened) in
            [(2, Ok(())), (VERSION, Ok(())), (VERSION + 1, Err(StoreError::Newer { found: 4, known: 3 }))]
        {
            let database = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
            let transaction = database.begin_write().unwrap();
            {
                let mut schema = transaction.open_table(SCHEMA).unwrap();
                schema.insert("version", found).unwrap();
            }
            assert_eq!(create(&transaction), opened, "version {found}");
            let schema = transaction.open_table(SCHEMA).unwrap();
            assert_eq!(schema.get("version").unwrap().unwrap().value(), found.max(VERSION));
        }
    }
}
