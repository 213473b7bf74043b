//! The durable record: for each channel what the chain said last, and the highest amount ever signed.
//!
//! Every change is one transaction with a sync; what is returned from here has survived.

use aro_proto::channel::{ChannelState, ChannelTerms};
use aro_proto::identity::{Beyond, Delegated};
use aro_proto::{AgentId, Amount, ChannelId, NodeId};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use settlement_interface::accounts::{Channel, status};

use super::WalletError;
use crate::budget::{SpendPermit, Spending};
use crate::ledger::{Durability, Ledger, LedgerError, amount_from, amount_to, bytes32, count_from, count_to};

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

    fn read(row: &Row<'_>) -> Result<Self, LedgerError> {
        let conceded: Vec<u8> = row.get(8)?;
        let conceded =
            conceded.try_into().map_err(|_| LedgerError::Impossible("a concession that has not 16 bytes"))?;
        let id =
            |at| bytes32(row.get_ref(at)?.as_blob().map_err(|_| LedgerError::Impossible("an id of another type"))?);
        Ok(Self {
            channel: ChannelId::from_bytes(id(0)?),
            node: NodeId::from_bytes(id(1)?),
            deposit: amount_from(row.get(2)?)?,
            settled: amount_from(row.get(3)?)?,
            status: row.get(4)?,
            deadline: row.get(5)?,
            nonce: count_from(row.get(6)?)?,
            signed: amount_from(row.get(7)?)?,
            conceded: u128::from_le_bytes(conceded),
        })
    }

    fn write(&self, tx: &Transaction<'_>) -> Result<(), LedgerError> {
        tx.prepare_cached("INSERT OR REPLACE INTO channels VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?.execute(
            params![
                self.channel.as_bytes(),
                self.node.as_bytes(),
                amount_to(self.deposit)?,
                amount_to(self.settled)?,
                self.status,
                self.deadline,
                count_to(self.nonce)?,
                amount_to(self.signed)?,
                self.conceded.to_le_bytes(),
            ],
        )?;
        Ok(())
    }
}

/// The channels in the ledger.
#[derive(Clone, Debug)]
pub(super) struct State {
    ledger: Ledger,
}

impl State {
    pub(super) fn new(ledger: Ledger) -> Self {
        Self { ledger }
    }

    pub(super) fn get(&self, channel: ChannelId) -> Result<Option<ChannelRecord>, WalletError> {
        self.ledger.read(|tx| Ok(get(tx, channel)?))
    }

    pub(super) fn all(&self) -> Result<Vec<ChannelRecord>, WalletError> {
        self.ledger.read(|tx| Ok(all(tx)?))
    }

    /// Takes in the chain's news; what was signed and conceded is kept if it is higher, and old news lower nothing.
    pub(super) fn remember(&self, news: ChannelRecord) -> Result<(), WalletError> {
        self.change(news.channel, |known| {
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
        })
    }

    /// Raises what was signed to `cumulative` and spends the rise from the permit, in one transaction: whatever happens,
    /// no voucher is signed that the budget does not count. What the rise does not take stays with the permit. What was
    /// delegated bounds it too, if this is a session key's wallet: over all its channels, and by a clock that never goes
    /// back.
    // r[impl identity.delegation.bounds]
    pub(super) fn raise(
        &self,
        channel: ChannelId,
        cumulative: Amount,
        permit: &mut SpendPermit,
        delegated: Option<&Delegated>,
    ) -> Result<Amount, WalletError> {
        let (guard, permitted) = (permit.guard().clone(), permit.amount());
        if !guard.is_on(&self.ledger) || permit.spending() != Spending::Vouchers {
            return Err(WalletError::OtherPermit);
        }
        let raised = guard.spend(permit, |tx| {
            let rise = raise(tx, channel, cumulative, permitted)?;
            if let Some(delegated) = delegated {
                let channels = all(tx)?;
                let signed = channels.iter().map(|record| record.signed).fold(Amount::ZERO, Amount::saturating_add);
                let node = channels.iter().find(|record| record.channel == channel).map(|record| record.node);
                let node = node.ok_or(WalletError::UnknownChannel(channel))?;
                delegated.allows(node, signed, self.ledger.tick(tx)?)?;
            }
            Ok(rise)
        });
        if let Err(WalletError::Beyond(Beyond::Expired { .. })) = raised {
            // What was undone with the rise: once it has ended, no clock revives it.
            self.now()?;
        }
        raised
    }

    /// The time in unix seconds, never before what it was at any call before, in any process.
    pub(super) fn now(&self) -> Result<i64, WalletError> {
        self.ledger.write(Durability::Synced, |tx| Ok(self.ledger.tick(tx)?))
    }

    /// Somebody who knows says that it is this late, in unix seconds.
    pub(super) fn saw(&self, unix_s: i64) -> Result<(), WalletError> {
        self.ledger.write(Durability::Synced, |tx| {
            let set = tx.execute("UPDATE clock SET latest = ?1 WHERE latest < ?1", [unix_s]);
            set.map_err(LedgerError::from)?;
            Ok(())
        })
    }

    pub(super) fn adopt(&self, channel: ChannelId, signed: Amount, conceded: u128) -> Result<(), WalletError> {
        self.change(channel, |known| {
            let known = known.ok_or(WalletError::UnknownChannel(channel))?;
            Ok(ChannelRecord { signed: known.signed.max(signed), conceded: known.conceded.max(conceded), ..known })
        })
    }

    /// What is kept under a name besides channels.
    pub(super) fn fact(&self, name: &[u8]) -> Result<Option<Vec<u8>>, WalletError> {
        self.ledger.read(|tx| {
            let mut statement =
                tx.prepare_cached("SELECT value FROM facts WHERE name = ?1").map_err(LedgerError::from)?;
            let found = statement.query_row([name], |row| row.get(0)).optional().map_err(LedgerError::from)?;
            Ok(found)
        })
    }

    /// Replaces what is kept under a name, durably; with `None` it is forgotten.
    pub(super) fn keep(&self, name: &[u8], value: Option<&[u8]>) -> Result<(), WalletError> {
        self.ledger.write(Durability::Synced, |tx| Ok(keep(tx, name, value)?))
    }

    fn change(
        &self,
        channel: ChannelId,
        change: impl FnOnce(Option<ChannelRecord>) -> Result<ChannelRecord, WalletError>,
    ) -> Result<(), WalletError> {
        self.ledger.write(Durability::Synced, |tx| {
            let known = get(tx, channel)?;
            let record = change(known)?;
            // A transaction that changes nothing syncs nothing.
            if known != Some(record) {
                record.write(tx)?;
            }
            Ok(())
        })
    }
}

/// The same in somebody's transaction.
pub(super) fn keep(tx: &Transaction<'_>, name: &[u8], value: Option<&[u8]>) -> Result<(), LedgerError> {
    match value {
        Some(value) => tx.execute("INSERT OR REPLACE INTO facts VALUES (?1, ?2)", params![name, value])?,
        None => tx.execute("DELETE FROM facts WHERE name = ?1", [name])?,
    };
    Ok(())
}

/// Raises what was signed to `cumulative`; returns the rise. `permitted` bounds it.
fn raise(
    tx: &Transaction<'_>,
    channel: ChannelId,
    cumulative: Amount,
    permitted: Amount,
) -> Result<Amount, WalletError> {
    let known = get(tx, channel)?.ok_or(WalletError::UnknownChannel(channel))?;
    if cumulative <= known.signed {
        return Err(WalletError::NotRising { channel, asked: cumulative, signed: known.signed });
    }
    if cumulative > known.deposit {
        return Err(WalletError::AboveDeposit { channel, asked: cumulative, deposit: known.deposit });
    }
    let rise = cumulative.saturating_sub(known.signed);
    if rise > permitted {
        return Err(WalletError::NotPermitted { permitted, rise });
    }
    ChannelRecord { signed: cumulative, ..known }.write(tx)?;
    Ok(rise)
}

fn get(tx: &Transaction<'_>, channel: ChannelId) -> Result<Option<ChannelRecord>, LedgerError> {
    let mut statement = tx.prepare_cached(&format!("{SELECT} WHERE channel = ?1"))?;
    let found = statement.query_row([channel.as_bytes()], |row| Ok(ChannelRecord::read(row))).optional()?;
    found.transpose()
}

fn all(tx: &Transaction<'_>) -> Result<Vec<ChannelRecord>, LedgerError> {
    let mut statement = tx.prepare_cached(SELECT)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(ChannelRecord::read(row)?);
    }
    Ok(records)
}

const SELECT: &str = "SELECT channel, node, deposit, settled, status, deadline, nonce, signed, conceded FROM channels";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_what_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(Ledger::open(dir.path()).unwrap());
        let most = Amount::new(i64::MAX.unsigned_abs());
        let channel = ChannelId::from_bytes([3; 32]);
        let record = ChannelRecord {
            settled: Amount::new(2),
            status: status::CLOSING,
            deadline: -5,
            signed: most,
            conceded: u128::MAX,
            ..ChannelRecord::open(channel, NodeId::from_bytes([4; 32]), Amount::new(1), 7)
        };
        state.remember(record).unwrap();
        assert_eq!((state.get(channel).unwrap(), state.all().unwrap()), (Some(record), vec![record]));
        let beyond = ChannelRecord { deposit: most.saturating_add(Amount::new(1)), ..record };
        assert!(matches!(state.remember(beyond), Err(WalletError::Ledger(LedgerError::TooLarge(_)))));
        assert_eq!(state.get(channel).unwrap(), Some(record));
    }

    #[test]
    fn a_record_that_cannot_be_is_refused_and_not_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        let state = State::new(ledger.clone());
        let channel = ChannelId::from_bytes([3; 32]);
        state.remember(ChannelRecord::open(channel, NodeId::from_bytes([4; 32]), Amount::new(9), 7)).unwrap();
        for (column, value) in [("deposit", "-1"), ("signed", "-9"), ("node", "x'0102'"), ("conceded", "x'00'")] {
            let before = state.get(channel).unwrap().unwrap();
            let set = format!("UPDATE channels SET {column} = {value}");
            ledger.write::<_, LedgerError>(Durability::Synced, |tx| Ok(tx.execute(&set, [])?)).unwrap();
            assert!(matches!(state.get(channel), Err(WalletError::Ledger(LedgerError::Impossible(_)))), "{column}");
            assert!(state.all().is_err(), "{column}");
            ledger.write::<_, LedgerError>(Durability::Synced, |tx| before.write(tx)).unwrap();
        }
    }
}
