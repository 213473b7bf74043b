//! Our numbers in the database's: SQLite counts in i64, so what does not fit is refused and never wraps.

use aro_proto::Amount;

use super::LedgerError;

/// An amount as the database holds it.
pub(crate) fn amount_to(amount: Amount) -> Result<i64, LedgerError> {
    i64::try_from(amount.get()).map_err(|_| LedgerError::TooLarge(amount))
}

/// An amount that was read.
pub(crate) fn amount_from(stored: i64) -> Result<Amount, LedgerError> {
    count_from(stored).map(Amount::new)
}

/// A count as the database holds it.
pub(crate) fn count_to(count: u64) -> Result<i64, LedgerError> {
    i64::try_from(count).map_err(|_| LedgerError::TooLarge(Amount::new(count)))
}

/// A count that was read.
pub(crate) fn count_from(stored: i64) -> Result<u64, LedgerError> {
    u64::try_from(stored).map_err(|_| LedgerError::Impossible("a count below zero"))
}

/// An id that was read.
pub(crate) fn bytes32(stored: &[u8]) -> Result<[u8; 32], LedgerError> {
    stored.try_into().map_err(|_| LedgerError::Impossible("an id that has not 32 bytes"))
}
