//! Why an operator could not start or be registered.

use std::io;
use std::net::SocketAddr;

use settlement_chain::reads::ReadError;
use settlement_chain::submit::SubmitError;
use settlement_chain::{Address, ChainError};

use crate::vouchers::{OtherDeployment, StoreError};

/// Why an operator could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The chain did not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// An account could not be read, or the program is not set up.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The authority has no operator account.
    #[error(
        "there is no operator account of {authority} on this chain; run `aro-settle init`, or check the program id"
    )]
    NotRegistered {
        /// The hot key.
        authority: Address,
    },
    /// The database could not be opened.
    #[error(transparent)]
    Store(StoreError),
    /// The database belongs to another chain, program or operator account: its owner must act. Nothing was changed.
    #[error(transparent)]
    OtherDeployment(#[from] OtherDeployment),
    /// The address is taken or not of this machine.
    #[error("cannot listen at {listen}: {source}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Other(other) => Self::OtherDeployment(other),
            error => Self::Store(error),
        }
    }
}

impl StartError {
    /// True if the same start may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Chain(error) => error.is_retryable(),
            Self::Read(error) => error.is_retryable(),
            Self::Store(error) => error.is_retryable(),
            Self::NotRegistered { .. } | Self::OtherDeployment(_) | Self::Listen { .. } => false,
        }
    }
}

/// Why an operator's account could not be registered or its fees not withdrawn.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// An account could not be read, or the program is not set up.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The transaction did not do its work.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The account exists with another fee, which cannot be changed.
    #[error("the operator account {account} exists with a fee of {found} basis points, not {wanted}")]
    OtherFee {
        /// The operator account.
        account: Address,
        /// Its fee in basis points.
        found: u16,
        /// The fee that was asked for.
        wanted: u16,
    },
    /// There is nothing at the address that fees could be withdrawn from.
    #[error("there is no such account at {0}")]
    NoAccount(Address),
}

impl AccountError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read(error) => error.is_retryable(),
            Self::Submit(error) => error.is_retryable(),
            Self::OtherFee { .. } | Self::NoAccount(_) => false,
        }
    }
}
