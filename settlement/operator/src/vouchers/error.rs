//! Why what an operator remembers could not be read or written.

use super::OtherDeployment;

/// A store's failure. Nothing of a failed call may be acknowledged: what it did is unknown, and doing it again is
/// harmless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file open.
    #[error("the operator's database is in use by another process; ask that one, or stop it first")]
    InUse,
    /// The database server does not answer, or the connection broke in the middle of a call.
    #[error("the operator's database cannot be reached: {0}")]
    Unavailable(String),
    /// There is no room left to write to.
    #[error("the operator's database has no room left to write: {0}; free disk space")]
    Full(String),
    /// The database or the file system said no.
    #[error("the operator's database: {0}")]
    Database(String),
    /// A record is not what this version writes.
    #[error("the operator's database holds a damaged {0}; restore it from a backup")]
    Damaged(&'static str),
    /// A later version of this program has written it.
    #[error("the operator's database has the format {found}, this program knows {known}; use the newer program")]
    Newer {
        /// The format that was found.
        found: i64,
        /// The latest that this program knows.
        known: i64,
    },
    /// The database belongs to another chain, program or operator account. Nothing of it was changed.
    #[error(transparent)]
    Other(#[from] OtherDeployment),
    /// The address of the database cannot be understood.
    #[error("`{0}` is no store; give `redb` or postgres://user@host/database")]
    Address(String),
}

impl StoreError {
    /// True if the same call may succeed later without anybody changing the program or its configuration.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::InUse | Self::Unavailable(_) | Self::Full(_))
    }
}
