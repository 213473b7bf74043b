//! What the node's own settling has offered on top of base fees within the hour, so that no process begins it anew.
//!
//! ```text
//! fees       signature (64) -> unix second i64, lamports u64
//! ```

use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use settlement_chain::Signature;

use super::redb_store::{LedgerError, RedbLedger, broken};

/// The priority fee of a transaction that has cost it, or may yet cost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OfferedFee {
    /// The transaction's.
    pub(crate) signature: Signature,
    /// The fee.
    pub(crate) lamports: u64,
    /// Unix second of the offer.
    pub(crate) at: i64,
}

impl RedbLedger {
    /// What was offered within the hour around `now_s`, a unix second.
    pub(crate) fn fees(&self, now_s: i64) -> Result<Vec<OfferedFee>, LedgerError> {
        let rows = || -> Result<_, redb::Error> {
            let table = match self.database().begin_read()?.open_table(FEES) {
                // Of an earlier version.
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let mut fees = Vec::new();
            for row in table.iter()? {
                let (signature, value) = row?;
                let (at, lamports) = value.value();
                fees.push(OfferedFee { signature: Signature::from(*signature.value()), lamports, at });
            }
            Ok(fees)
        };
        let mut fees = rows().map_err(broken)?;
        fees.retain(|fee| is_of_the_hour(fee.at, now_s));
        Ok(fees)
    }

    /// Remembers an offer before it is sent, and forgets those of another hour.
    pub(crate) fn note_fee(&self, fee: &OfferedFee) -> Result<(), LedgerError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(FEES)?;
            table.retain(|_, (at, _)| is_of_the_hour(at, fee.at))?;
            table.insert(fee.signature.as_array(), (fee.at, fee.lamports))?;
            Ok(())
        })
    }

    /// Forgets an offer that has cost nothing and never will.
    pub(crate) fn forget_fee(&self, signature: &Signature) -> Result<(), LedgerError> {
        self.write(|transaction| {
            transaction.open_table(FEES)?.remove(signature.as_array())?;
            Ok(())
        })
    }
}

/// What a clock that was far ahead has written does not count for ever.
fn is_of_the_hour(at: i64, now_s: i64) -> bool {
    at.abs_diff(now_s) < HOUR_S
}

const FEES: TableDefinition<&[u8; 64], (i64, u64)> = TableDefinition::new("fees");
/// What the cap of priority fees looks back on.
const HOUR_S: u64 = 3_600;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_900_000_000;

    fn fee(number: u8, at: i64) -> OfferedFee {
        OfferedFee { signature: Signature::from([number; 64]), lamports: u64::from(number), at }
    }

    #[test]
    fn offers_survive_reopening_until_their_hour_is_over_or_they_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = RedbLedger::open(dir.path()).unwrap();
        assert_eq!(ledger.fees(NOW).unwrap(), []);
        for offered in [fee(1, NOW), fee(2, NOW + 60), fee(3, NOW + 60)] {
            ledger.note_fee(&offered).unwrap();
        }
        ledger.forget_fee(&fee(2, 0).signature).unwrap();
        drop(ledger);

        let ledger = RedbLedger::open(dir.path()).unwrap();
        assert_eq!(ledger.fees(NOW + 3_599).unwrap(), [fee(1, NOW), fee(3, NOW + 60)]);
        assert_eq!(ledger.fees(NOW + 3_600).unwrap(), [fee(3, NOW + 60)]);
        assert_eq!(ledger.fees(NOW - 3_600).unwrap(), [], "a clock that was set back is not held to what it said");
        ledger.note_fee(&fee(4, NOW + 3_600)).unwrap();
        assert_eq!(ledger.fees(NOW).unwrap(), [fee(3, NOW + 60)], "the first is gone for good");
    }
}
