//! What went wrong in a transaction, by what can be done about it.

use sqlx::Error;

use super::super::StoreError;

pub(super) enum Failure {
    /// The database has undone the transaction for another's sake: try again at once.
    Conflict,
    /// Nothing that trying again at once would change.
    Store(StoreError),
}

/// Runs a transaction, anew where the database has undone it because it got in another's way.
macro_rules! retrying {
    ($transaction:expr) => {{
        let mut attempt = 1;
        loop {
            let result: Result<_, Failure> = $transaction.await;
            match result {
                Err(Failure::Conflict) if attempt < $crate::vouchers::postgres::failure::MAX_ATTEMPTS => attempt += 1,
                other => break Ok(other?),
            }
        }
    }};
}
pub(super) use retrying;

/// How often a transaction is tried that others undo.
pub(super) const MAX_ATTEMPTS: u32 = 5;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let unavailable = |error: &Error| Self::Store(StoreError::Unavailable(error.to_string()));
        match &error {
            Error::Database(answer) => match answer.code().as_deref().unwrap_or_default() {
                // serialization_failure, deadlock_detected
                "40001" | "40P01" => Self::Conflict,
                // disk_full
                "53100" => Self::Store(StoreError::Full(answer.message().to_owned())),
                // lock_not_available, read_only_sql_transaction (a standby after a failover)
                "55P03" | "25006" => unavailable(&error),
                // connection, insufficient resources, operator intervention (shutdown, timeout), system error
                code if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => unavailable(&error),
                _ => Self::Store(StoreError::Database(error.to_string())),
            },
            Error::Io(_) | Error::Tls(_) | Error::PoolTimedOut | Error::PoolClosed | Error::WorkerCrashed => {
                unavailable(&error)
            }
            // What the server says after it has lost its footing.
            Error::Protocol(_) => unavailable(&error),
            _ => Self::Store(StoreError::Database(error.to_string())),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Conflict => Self::Unavailable("other transactions keep getting in the way".into()),
            Failure::Store(error) => error,
        }
    }
}
