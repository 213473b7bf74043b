//! Why a node cannot start, stop or hand over.

use std::io;
use std::net::SocketAddr;

use aro_proto::NodeId;
use settlement_chain::reads::ReadError;
use settlement_chain::{Address, ChainError};
use thiserror::Error;

use crate::content::StoreError;
use crate::ledger::LedgerError;
use crate::names::NameStoreError;

/// Why a node does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The chain has no account of this node.
    #[error("the node {id} is not registered with the settlement program {program}; run `aro-node init` first")]
    NotRegistered {
        /// The node.
        id: NodeId,
        /// The program.
        program: Address,
    },
    /// The chain could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The chain did not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The content store could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger could not be opened.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The names could not be opened.
    #[error(transparent)]
    Names(#[from] NameStoreError),
    /// The UDP socket could not be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The public host cannot stand in an address.
    #[error("the public host `{host}` is neither an IP address nor a name")]
    PublicHost {
        /// The host.
        host: String,
    },
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
}

impl StartError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Read(error) => error.is_retryable(),
            Self::Chain(error) => error.is_retryable(),
            Self::NotRegistered { .. }
            | Self::Store(_)
            | Self::Ledger(_)
            | Self::Names(_)
            | Self::Listen { .. }
            | Self::PublicHost { .. }
            | Self::Thread(_) => false,
        }
    }
}

/// What went wrong while stopping. Every durable voucher is still in the ledger.
#[derive(Debug, Error)]
pub enum ShutdownError {
    /// The operator did not take the last vouchers.
    #[error("the last vouchers could not be handed to the operator, they stay in the ledger: {0}")]
    HandOff(#[from] HandoffError),
}

/// Why vouchers could not be handed to the operator.
#[derive(Debug, Error)]
pub enum HandoffError {
    /// None is configured.
    #[error("this node has no operator; name one in `operators` of config.json")]
    NoOperator,
    /// It cannot be reached, or another key answers.
    #[error("the operator at {address} cannot be reached: {cause}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What went wrong.
        cause: String,
    },
    /// It does not answer in time.
    #[error("the operator does not answer in time")]
    Timeout,
    /// It speaks, but wrongly.
    #[error("the operator breaks the protocol: {0}")]
    Misbehaved(String),
    /// It settles on another chain.
    #[error("the operator settles on another chain than this node")]
    WrongChain,
    /// It refused the whole handoff.
    #[error("the operator refused the handoff: {0}")]
    Refused(aro_proto::Refusal),
    /// What it acknowledged could not be noted.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl HandoffError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout => true,
            Self::Refused(refusal) => refusal.code().is_retryable(),
            Self::NoOperator | Self::Misbehaved(_) | Self::WrongChain | Self::Ledger(_) => false,
        }
    }
}
