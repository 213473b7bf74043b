//! The ledger's file: one redb database, two tables for channels, and one for [fees](super::fees).
//!
//! ```text
//! vouchers   channel (32) -> signer (32) | cumulative u64 LE | expires_at i64 LE | signature (64)
//! handed     channel (32) -> cumulative u64 LE | close u8      what the operator has acknowledged
//! ```
//! Only the best voucher of a channel is kept: it contains all before it.

use std::path::{Path, PathBuf};

use aro_proto::channel::{SignedVoucher, VerifiedVoucher, Voucher, VoucherStore};
use aro_proto::{AgentId, Amount, ChannelId};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use thiserror::Error;

/// The node's vouchers on disk.
#[derive(Debug)]
pub(crate) struct RedbLedger {
    database: Database,
}

/// What the operator has acknowledged of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handed {
    /// The voucher's amount.
    pub(crate) cumulative: Amount,
    /// Whether the channel was given up: handed over to be closed.
    pub(crate) close: bool,
}

/// A voucher as the ledger keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LedgerEntry {
    /// The channel's signer when the voucher was taken.
    pub(crate) signer: AgentId,
    /// The voucher.
    pub(crate) signed: SignedVoucher,
}

/// Why the ledger cannot be used.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// Another process has it open.
    #[error("the ledger {path} is in use by another process: is this node serving already?")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The database cannot be opened, read or written.
    #[error("the ledger cannot be used: {0}")]
    Database(Box<redb::Error>),
    /// An entry has not the form that it was written in.
    #[error("the ledger's entry of channel {channel} is damaged")]
    Damaged {
        /// The channel.
        channel: ChannelId,
    },
}

impl RedbLedger {
    /// Opens the ledger below `dir`, or begins it.
    pub(crate) fn open(dir: &Path) -> Result<Self, LedgerError> {
        let path = dir.join(FILE);
        let database = match Database::create(&path) {
            Ok(database) => database,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => return Err(LedgerError::InUse { path }),
            Err(error) => return Err(broken(error)),
        };
        Self::on(database)
    }

    fn on(database: Database) -> Result<Self, LedgerError> {
        let ledger = Self { database };
        ledger.write(|transaction| {
            transaction.open_table(VOUCHERS)?;
            transaction.open_table(HANDED)?;
            Ok(())
        })?;
        Ok(ledger)
    }

    /// One on a disk of the test's making.
    #[cfg(test)]
    pub(crate) fn on_backend(backend: impl redb::StorageBackend) -> Result<Self, LedgerError> {
        Self::on(Database::builder().create_with_backend(backend).map_err(broken)?)
    }

    /// For the tables of others.
    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// Whether there is a ledger below `dir`.
    pub(crate) fn exists(dir: &Path) -> bool {
        dir.join(FILE).exists()
    }

    /// Every voucher.
    pub(crate) fn vouchers(&self) -> Result<Vec<LedgerEntry>, LedgerError> {
        let rows = self.read(VOUCHERS)?;
        rows.into_iter().map(|(channel, row)| decode_voucher(channel, &row)).collect()
    }

    /// What the operator has acknowledged.
    pub(crate) fn handed(&self) -> Result<Vec<(ChannelId, Handed)>, LedgerError> {
        let rows = self.read(HANDED)?;
        rows.into_iter().map(|(channel, row)| Ok((channel, decode_handed(channel, &row)?))).collect()
    }

    /// Remembers what the operator has acknowledged.
    pub(crate) fn mark_handed(&self, batch: &[(ChannelId, Handed)]) -> Result<(), LedgerError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(HANDED)?;
            for (channel, handed) in batch {
                let mut row = [0; HANDED_LEN];
                row[..8].copy_from_slice(&handed.cumulative.get().to_le_bytes());
                row[8] = u8::from(handed.close);
                table.insert(&channel.to_bytes(), row.as_slice())?;
            }
            Ok(())
        })
    }

    /// Forgets a channel that is no more on chain.
    pub(crate) fn prune(&self, channel: ChannelId) -> Result<(), LedgerError> {
        self.write(|transaction| {
            transaction.open_table(VOUCHERS)?.remove(&channel.to_bytes())?;
            transaction.open_table(HANDED)?.remove(&channel.to_bytes())?;
            Ok(())
        })
    }

    fn read(&self, table: Table) -> Result<Vec<(ChannelId, Vec<u8>)>, LedgerError> {
        let rows = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(table)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (channel, value) = row?;
                rows.push((ChannelId::from_bytes(channel.value()), value.value().to_vec()));
            }
            Ok(rows)
        };
        rows().map_err(broken)
    }

    /// Runs one transaction and syncs it to disk before it returns.
    pub(super) fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), LedgerError> {
        let run = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            change(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        run().map_err(broken)
    }
}

impl VoucherStore for RedbLedger {
    type Error = LedgerError;

    fn persist(&self, batch: &[VerifiedVoucher]) -> Result<(), LedgerError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(VOUCHERS)?;
            for voucher in batch {
                let key = voucher.channel().to_bytes();
                let known = table.get(&key)?.and_then(|row| decode_voucher(voucher.channel(), row.value()).ok());
                if known.is_none_or(|known| known.signed.voucher.cumulative < voucher.cumulative()) {
                    table.insert(&key, encode_voucher(voucher).as_slice())?;
                }
            }
            Ok(())
        })
    }

    fn load(&self, channel: ChannelId) -> Result<Option<SignedVoucher>, LedgerError> {
        let row = || -> Result<Option<Vec<u8>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(VOUCHERS)?;
            Ok(table.get(&channel.to_bytes())?.map(|row| row.value().to_vec()))
        };
        row().map_err(broken)?.map(|row| Ok(decode_voucher(channel, &row)?.signed)).transpose()
    }
}

fn encode_voucher(voucher: &VerifiedVoucher) -> Vec<u8> {
    let signed = voucher.signed();
    [
        voucher.signer().as_bytes(),
        &signed.voucher.cumulative.get().to_le_bytes()[..],
        &signed.voucher.expires_at.to_le_bytes(),
        &signed.signature,
    ]
    .concat()
}

fn decode_voucher(channel: ChannelId, row: &[u8]) -> Result<LedgerEntry, LedgerError> {
    let fields = || {
        let (signer, rest) = row.split_first_chunk::<32>()?;
        let (cumulative, rest) = rest.split_first_chunk::<8>()?;
        let (expires_at, signature) = rest.split_first_chunk::<8>()?;
        let voucher = Voucher {
            channel,
            cumulative: Amount::new(u64::from_le_bytes(*cumulative)),
            expires_at: i64::from_le_bytes(*expires_at),
        };
        let signed = SignedVoucher { voucher, signature: signature.try_into().ok()? };
        Some(LedgerEntry { signer: AgentId::from_bytes(*signer), signed })
    };
    fields().ok_or(LedgerError::Damaged { channel })
}

fn decode_handed(channel: ChannelId, row: &[u8]) -> Result<Handed, LedgerError> {
    let row: &[u8; HANDED_LEN] = row.try_into().map_err(|_| LedgerError::Damaged { channel })?;
    let (cumulative, close) = row.split_first_chunk::<8>().ok_or(LedgerError::Damaged { channel })?;
    Ok(Handed { cumulative: Amount::new(u64::from_le_bytes(*cumulative)), close: close != [0] })
}

pub(super) fn broken(error: impl Into<redb::Error>) -> LedgerError {
    LedgerError::Database(Box::new(error.into()))
}

type Table = TableDefinition<'static, [u8; 32], &'static [u8]>;

/// The file below the node's folder.
const FILE: &str = "ledger.redb";
const VOUCHERS: Table = TableDefinition::new("vouchers");
const HANDED: Table = TableDefinition::new("handed");
/// Bytes of a row of `handed`.
const HANDED_LEN: usize = 9;

#[cfg(test)]
mod tests {
    use aro_proto::SecretKey;
    use aro_proto::channel::{persist_all, restore};

    use super::*;

    fn voucher(channel: u8, cumulative: u64) -> VerifiedVoucher {
        let key = SecretKey::from_bytes(&[7; 32]);
        let voucher = Voucher {
            channel: ChannelId::from_bytes([channel; 32]),
            cumulative: Amount::new(cumulative),
            expires_at: 0,
        };
        voucher.sign(&key).verify(&key.agent_id()).unwrap()
    }

    #[test]
    fn the_best_voucher_of_each_channel_survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path()).unwrap();
        persist_all(&ledger, vec![voucher(1, 5), voucher(2, 9), voucher(1, 7)]).unwrap();
        // A lower one never replaces a higher one.
        persist_all(&ledger, vec![voucher(1, 6)]).unwrap();
        drop(ledger);

        let ledger = RedbLedger::open(dir.path()).unwrap();
        let signer = SecretKey::from_bytes(&[7; 32]).agent_id();
        let best = |channel| restore(&ledger, ChannelId::from_bytes([channel; 32]), &signer).unwrap();
        assert_eq!(best(1).unwrap().signed(), voucher(1, 7).signed());
        assert_eq!(best(2).unwrap().signed(), voucher(2, 9).signed());
        assert!(best(3).is_none());
        assert_eq!(ledger.vouchers().unwrap().len(), 2);
        ledger.prune(ChannelId::from_bytes([1; 32])).unwrap();
        assert_eq!(ledger.vouchers().unwrap().len(), 1);
    }

    #[test]
    fn what_the_operator_acknowledged_survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let handed = Handed { cumulative: Amount::new(9), close: true };
        let channel = ChannelId::from_bytes([1; 32]);
        RedbLedger::open(dir.path()).unwrap().mark_handed(&[(channel, handed)]).unwrap();
        assert_eq!(RedbLedger::open(dir.path()).unwrap().handed().unwrap(), [(channel, handed)]);
    }

    #[test]
    fn a_ledger_in_use_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let _held = RedbLedger::open(dir.path()).unwrap();
        assert!(matches!(RedbLedger::open(dir.path()), Err(LedgerError::InUse { .. })));
    }

    #[test]
    fn damaged_rows_are_errors() {
        let channel = ChannelId::from_bytes([1; 32]);
        for len in [0, 31, 111, 113] {
            assert!(decode_voucher(channel, &vec![0; len]).is_err(), "{len}");
        }
        assert!(decode_voucher(channel, &[0; 112]).is_ok());
        assert!(decode_handed(channel, &[0; 8]).is_err());
    }
}
