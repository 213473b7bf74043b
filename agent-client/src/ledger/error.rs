//! Why the ledger cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use aro_proto::Amount;
use rusqlite::ErrorCode;
use thiserror::Error;

/// Why a wallet's ledger cannot be opened, read or written. Nothing was changed.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The file is not whole, or not what was written.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A database of another program.
    #[error("{path} is not a wallet's ledger")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A later version of this program has written it.
    #[error("{path} has version {found}, this program knows up to {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The latest that is known here.
        known: i64,
    },
    /// The record of an earlier form of the wallet lies there, and what it signed must not be forgotten.
    #[error("{path} is the record of an earlier form of the wallet, which this program does not read")]
    Old {
        /// The file.
        path: PathBuf,
    },
    /// Another process kept it for too long.
    #[error("another process is writing to {path}")]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("the disk of {path} is full")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// A file of the folder cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was read is not what can have been written.
    #[error("the ledger holds what it cannot hold: {0}")]
    Impossible(&'static str),
    /// More base units than a ledger counts: above 2^63 - 1.
    #[error("{0} $ARO are more than a ledger counts")]
    TooLarge(Amount),
    /// Anything else that the database says.
    #[error("the ledger: {0}")]
    Database(rusqlite::Error),
}

impl LedgerError {
    /// One stable word for what happened, for logs and JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Damaged { .. } | Self::Impossible(_) => "WalletDamaged",
            Self::Foreign { .. } => "WalletForeign",
            Self::Newer { .. } => "WalletNewer",
            Self::Old { .. } => "WalletOld",
            Self::Busy { .. } => "WalletInUse",
            Self::Full { .. } => "DiskFull",
            Self::File { .. } => "WalletFile",
            Self::TooLarge(_) => "TooLarge",
            Self::Database(_) => "WalletStore",
        }
    }

    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// What to do next, for people.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Damaged { .. } | Self::Foreign { .. } | Self::Impossible(_) => {
                "restore wallet.db from a backup, or move it away: the wallet then learns its channels from the chain and \
                 the nodes, and forgets budget and receipts"
            }
            Self::Newer { .. } => "use the program that wrote it",
            Self::Old { .. } => {
                "close the channels with the program that wrote it, then move the file away; a wallet without it learns its \
                 channels from the chain and the nodes"
            }
            Self::Busy { .. } => "try again",
            Self::Full { .. } => "make room on the disk",
            Self::File { .. } | Self::Database(_) => "check the disk, the folder and its permissions",
            Self::TooLarge(_) => "ask for less",
        }
    }

    /// What the database says of a file.
    pub(super) fn at(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
                Self::Damaged { path, why: error.to_string() }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            Some(ErrorCode::DiskFull) => Self::Full { path },
            _ => Self::Database(error),
        }
    }
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::at(Path::new("wallet.db"), error)
    }
}
