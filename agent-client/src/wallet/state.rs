//! The durable record: for each channel what the chain said last, and the highest amount ever signed.
//!
//! Every change is one transaction with a sync; what is returned from here has survived.
//!
//! ```text
//!  0         1        33        41        49       50         58      66       74         90
//!  +---------+--------+---------+---------+--------+----------+-------+--------+----------+
//!  | version | node   | deposit | settled | status | deadline | nonce | signed | conceded |
//!  +---------+--------+---------+---------+--------+----------+-------+--------+----------+
//! ```

use std::path::Path;

use aro_proto::channel::{ChannelState, ChannelTerms};
use aro_proto::{AgentId, Amount, ChannelId, NodeId};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, Table, TableDefinition};
use settlement_interface::accounts::{Channel, status};

use super::WalletError;

/// What the wallet knows of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChannelRecord {
    pub(crate) channel: ChannelId,
    pub(crate) node: NodeId,
    pub(crate) deposit: Amount,
    pub(crate) settled: Amount,
    /// A value of [`status`].
    pub(crate) status: u8,
    pub(crate) deadline: i64,
    pub(crate) nonce: u64,
    /// The highest amount ever signed, in base units.
    pub(crate) signed: Amount,
    /// Conceded to the node's count without proof, in 2^-20 base units.
    pub(crate) conceded: u128,
}

impl ChannelRecord {
    /// A channel that has just been opened.
    pub(crate) fn open(channel: ChannelId, node: NodeId, deposit: Amount, nonce: u64) -> Self {
        Self {
            channel,
            node,
            deposit,
            settled: Amount::ZERO,
            status: status::OPEN,
            deadline: 0,
            nonce,
            signed: Amount::ZERO,
            conceded: 0,
        }
    }

    /// A channel as the chain has it.
    pub(crate) fn from_chain(channel: ChannelId, node: NodeId, account: &Channel) -> Self {
        Self {
            settled: Amount::new(account.settled),
            status: account.status,
            deadline: account.deadline,
            ..Self::open(channel, node, Amount::new(account.deposit), account.nonce)
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.status == status::OPEN
    }

    /// What the channel machine stands on.
    pub(crate) fn terms(&self, signer: AgentId) -> ChannelTerms {
        let state = match self.status {
            status::OPEN => ChannelState::Open,
            status::CLOSING => ChannelState::Closing { deadline: self.deadline },
            _ => ChannelState::Closed,
        };
        ChannelTerms { channel: self.channel, signer, deposit: self.deposit, settled: self.settled, state }
    }

    fn encode(&self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        bytes[0] = VERSION;
        bytes[1..33].copy_from_slice(self.node.as_bytes());
        bytes[33..41].copy_from_slice(&self.deposit.get().to_le_bytes());
        bytes[41..49].copy_from_slice(&self.settled.get().to_le_bytes());
        bytes[49] = self.status;
        bytes[50..58].copy_from_slice(&self.deadline.to_le_bytes());
        bytes[58..66].copy_from_slice(&self.nonce.to_le_bytes());
        bytes[66..74].copy_from_slice(&self.signed.get().to_le_bytes());
        bytes[74..].copy_from_slice(&self.conceded.to_le_bytes());
        bytes
    }

    fn decode(channel: ChannelId, bytes: &[u8]) -> Result<Self, WalletError> {
        let damaged = || WalletError::Damaged(channel);
        let bytes: &[u8; RECORD_LEN] = bytes.try_into().map_err(|_| damaged())?;
        if bytes[0] != VERSION {
            return Err(damaged());
        }
        let u64_at = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let mut node = [0; 32];
        node.copy_from_slice(&bytes[1..33]);
        let mut conceded = [0; 16];
        conceded.copy_from_slice(&bytes[74..]);
        Ok(Self {
            channel,
            node: NodeId::from_bytes(node),
            deposit: Amount::new(u64_at(33)),
            settled: Amount::new(u64_at(41)),
            status: bytes[49],
            deadline: u64_at(50).cast_signed(),
            nonce: u64_at(58),
            signed: Amount::new(u64_at(66)),
            conceded: u128::from_le_bytes(conceded),
        })
    }
}

/// The record's file.
pub(super) struct State {
    db: Database,
}

impl State {
    pub(super) fn open(dir: &Path) -> Result<Self, WalletError> {
        let db = Database::create(dir.join(FILE)).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => WalletError::InUse(dir.to_owned()),
            other => WalletError::Store(other.into()),
        })?;
        let write = db.begin_write().map_err(store)?;
        write.open_table(CHANNELS).map_err(store)?;
        write.open_table(FACTS).map_err(store)?;
        write.commit().map_err(store)?;
        Ok(Self { db })
    }

    pub(super) fn get(&self, channel: ChannelId) -> Result<Option<ChannelRecord>, WalletError> {
        let table = self.db.begin_read().map_err(store)?.open_table(CHANNELS).map_err(store)?;
        let found = table.get(channel.as_bytes()).map_err(store)?;
        found.map(|bytes| ChannelRecord::decode(channel, bytes.value())).transpose()
    }

    pub(super) fn all(&self) -> Result<Vec<ChannelRecord>, WalletError> {
        let table = self.db.begin_read().map_err(store)?.open_table(CHANNELS).map_err(store)?;
        let mut records = Vec::new();
        for entry in table.iter().map_err(store)? {
            let (key, bytes) = entry.map_err(store)?;
            records.push(ChannelRecord::decode(ChannelId::from_bytes(*key.value()), bytes.value())?);
        }
        Ok(records)
    }

    /// Takes in the chain's news; what was signed and conceded is kept if it is higher, and old news lower nothing.
    pub(super) fn remember(&self, news: ChannelRecord) -> Result<(), WalletError> {
        self.write(news.channel, |known| {
            let Some(known) = known else { return Ok(news) };
            Ok(ChannelRecord {
                deposit: news.deposit.max(known.deposit),
                settled: news.settled.max(known.settled),
                status: news.status.max(known.status),
                deadline: news.deadline.max(known.deadline),
                signed: news.signed.max(known.signed).max(news.settled),
                conceded: news.conceded.max(known.conceded),
                ..news
            })
        })?;
        Ok(())
    }

    /// Raises what was signed to `cumulative`, durably; returns the rise. `permitted` bounds it.
    pub(super) fn raise(
        &self,
        channel: ChannelId,
        cumulative: Amount,
        permitted: Amount,
    ) -> Result<Amount, WalletError> {
        let mut rise = Amount::ZERO;
        self.write(channel, |known| {
            let known = known.ok_or(WalletError::UnknownChannel(channel))?;
            if cumulative <= known.signed {
                return Err(WalletError::NotRising { channel, asked: cumulative, signed: known.signed });
            }
            if cumulative > known.deposit {
                return Err(WalletError::AboveDeposit { channel, asked: cumulative, deposit: known.deposit });
            }
            rise = cumulative.saturating_sub(known.signed);
            if rise > permitted {
                return Err(WalletError::NotPermitted { permitted, rise });
            }
            Ok(ChannelRecord { signed: cumulative, ..known })
        })?;
        Ok(rise)
    }

    pub(super) fn adopt(&self, channel: ChannelId, signed: Amount, conceded: u128) -> Result<(), WalletError> {
        self.write(channel, |known| {
            let known = known.ok_or(WalletError::UnknownChannel(channel))?;
            Ok(ChannelRecord { signed: known.signed.max(signed), conceded: known.conceded.max(conceded), ..known })
        })?;
        Ok(())
    }

    /// What is kept under a key besides channels.
    pub(super) fn fact(&self, key: &[u8]) -> Result<Option<Vec<u8>>, WalletError> {
        let table = self.db.begin_read().map_err(store)?.open_table(FACTS).map_err(store)?;
        Ok(table.get(key).map_err(store)?.map(|value| value.value().to_vec()))
    }

    /// Replaces what is kept under a key, durably; with `None` it is forgotten.
    pub(super) fn keep(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), WalletError> {
        let write = self.db.begin_write().map_err(store)?;
        {
            let mut table = write.open_table(FACTS).map_err(store)?;
            match value {
                Some(value) => table.insert(key, value).map_err(store)?,
                None => table.remove(key).map_err(store)?,
            };
        }
        write.commit().map_err(store)
    }

    fn write(
        &self,
        channel: ChannelId,
        change: impl FnOnce(Option<ChannelRecord>) -> Result<ChannelRecord, WalletError>,
    ) -> Result<(), WalletError> {
        let write = self.db.begin_write().map_err(store)?;
        {
            let mut table: Table<'_, &[u8; 32], &[u8]> = write.open_table(CHANNELS).map_err(store)?;
            let known = table.get(channel.as_bytes()).map_err(store)?;
            let known = known.map(|bytes| ChannelRecord::decode(channel, bytes.value())).transpose()?;
            let record = change(known)?;
            if known == Some(record) {
                // Nothing to sync; the transaction ends without a trace.
                return Ok(());
            }
            table.insert(channel.as_bytes(), record.encode().as_slice()).map_err(store)?;
        }
        write.commit().map_err(store)
    }
}

fn store(error: impl Into<redb::Error>) -> WalletError {
    WalletError::Store(error.into())
}

const FILE: &str = "wallet.redb";
const CHANNELS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("channels");
/// Transactions on their way, when channels were last used, the latest time seen: each under a key of its own.
const FACTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("facts");
const VERSION: u8 = 1;
const RECORD_LEN: usize = 90;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_any_other_length_or_version_is_damage() {
        let channel = ChannelId::from_bytes([3; 32]);
        let record = ChannelRecord {
            settled: Amount::new(2),
            status: status::CLOSING,
            deadline: -5,
            signed: Amount::new(u64::MAX),
            conceded: u128::MAX,
            ..ChannelRecord::open(channel, NodeId::from_bytes([4; 32]), Amount::new(1), 7)
        };
        let bytes = record.encode();
        assert_eq!(ChannelRecord::decode(channel, &bytes).unwrap(), record);
        let mut newer = bytes;
        newer[0] = 2;
        for bad in [&bytes[..89], &[], &newer] {
            assert!(matches!(ChannelRecord::decode(channel, bad), Err(WalletError::Damaged(_))));
        }
    }
}
