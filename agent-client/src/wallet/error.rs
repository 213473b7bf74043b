//! Why the wallet on disk cannot be used, or will not sign; and what to do next.

use std::sync::Arc;

use aro_proto::identity::{Beyond, DelegationError};
use aro_proto::{Amount, ChannelId, WhoActs};
use settlement_chain::keyfile::KeyfileError;
use thiserror::Error;

use crate::ledger::LedgerError;
use crate::report::{Subject, exit, exit_code_of, retry_after_ms_of};

/// Why the wallet on disk cannot be used, or will not sign.
#[derive(Debug, Error)]
pub enum WalletError {
    /// There is no wallet in this folder.
    #[error("there is no wallet in {0}")]
    Missing(std::path::PathBuf),
    /// There is one already, and keys are never overwritten.
    #[error("there is a wallet in {0} already")]
    Exists(std::path::PathBuf),
    /// A key file cannot be read or written.
    #[error(transparent)]
    Key(#[from] KeyfileError),
    /// The folder cannot be made.
    #[error("folder {path}: {source}")]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The ledger of channels, budget and receipts cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The same, told to several.
    #[error(transparent)]
    Shared(Arc<LedgerError>),
    /// Another process pays with the channel: two cannot count one stream of vouchers.
    #[error("another process is using channel {0}")]
    ChannelInUse(ChannelId),
    /// Another process opens a channel, or tops one up.
    #[error("another process is locking money in a channel")]
    PurseInUse,
    /// The program is ending.
    #[error("the program is ending")]
    Ending,
    /// The owner's word for what a session key may do cannot be taken.
    #[error("{path}: {source}")]
    Delegation {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        source: DelegationError,
    },
    /// The folder's delegation is for another key than the one that lies there.
    #[error("the delegation in {0} is for another session key")]
    OtherSession(std::path::PathBuf),
    /// The delegation is for another chain, program or mint.
    #[error("the delegation is for another chain")]
    OtherChain,
    /// More than was delegated.
    #[error(transparent)]
    Beyond(#[from] Beyond),
    /// The channel is not in the record.
    #[error("the wallet has no record of channel {0}")]
    UnknownChannel(ChannelId),
    /// A voucher at or below what was signed before.
    #[error("{asked} $ARO is not above the {signed} $ARO signed before on channel {channel}")]
    NotRising {
        /// The channel.
        channel: ChannelId,
        /// Asked to sign, in base units.
        asked: Amount,
        /// Signed before, in base units.
        signed: Amount,
    },
    /// A voucher above the deposit.
    #[error("{asked} $ARO is above the {deposit} $ARO that channel {channel} holds")]
    AboveDeposit {
        /// The channel.
        channel: ChannelId,
        /// Asked to sign, in base units.
        asked: Amount,
        /// The deposit, in base units.
        deposit: Amount,
    },
    /// The permit does not cover the voucher's rise.
    #[error("the permit covers {permitted} $ARO, the voucher pays {rise} more")]
    NotPermitted {
        /// What the permit covers, in base units.
        permitted: Amount,
        /// What the voucher pays beyond the one before, in base units.
        rise: Amount,
    },
    /// The permit is for something else, or of a guard on another wallet.
    #[error("the permit is not for vouchers of this wallet")]
    OtherPermit,
}

impl WalletError {
    /// One stable word for what happened, for logs and JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "WalletMissing",
            Self::Exists(_) => "WalletExists",
            Self::Key(_) => "KeyFile",
            Self::Folder { .. } => "WalletFile",
            Self::Ledger(error) => error.code(),
            Self::Shared(error) => error.code(),
            Self::OtherPermit => "OtherPermit",
            Self::ChannelInUse(_) => "ChannelInUse",
            Self::PurseInUse => "PurseInUse",
            Self::Ending => "Ending",
            Self::Delegation { .. } | Self::OtherSession(_) | Self::OtherChain => "Delegation",
            Self::Beyond(Beyond::Scope { .. }) => "DelegationScope",
            Self::Beyond(Beyond::Cap { .. }) => "DelegationCap",
            Self::Beyond(Beyond::Expired { .. }) => "DelegationExpired",
            Self::UnknownChannel(_) => "UnknownChannel",
            Self::NotRising { .. } => "NotRising",
            Self::AboveDeposit { .. } => "AboveDeposit",
            Self::NotPermitted { .. } => "NotPermitted",
        }
    }

    /// Who can change it.
    pub fn who_acts(&self) -> WhoActs {
        if self.is_retryable() { WhoActs::RetryHere } else { WhoActs::Authorise }
    }

    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::ChannelInUse(_) | Self::PurseInUse | Self::Ending => true,
            Self::Key(error) => error.is_retryable(),
            Self::Ledger(error) => error.is_retryable(),
            Self::Shared(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// What to do next, for people.
    pub fn next_step(&self) -> String {
        match self {
            Self::Missing(_) => "make one with `aro keys new`, or point --home at it",
            Self::Exists(_) => "use it, or give another --home",
            Self::ChannelInUse(_) | Self::PurseInUse => "wait for the other process to end, then try again",
            Self::Ending => "start it again",
            Self::Key(_) | Self::Folder { .. } => "check the folder, the key files and their permissions",
            Self::Ledger(error) => error.next_step(),
            Self::Delegation { .. } | Self::OtherSession(_) | Self::Beyond(_) => {
                "ask the owner for another delegation (aro keys delegate)"
            }
            Self::OtherChain => "point --rpc and --program-id at the chain that the delegation is for",
            Self::Shared(error) => error.next_step(),
            Self::UnknownChannel(_) => "look at `aro channel list`",
            Self::NotRising { .. } | Self::AboveDeposit { .. } | Self::NotPermitted { .. } | Self::OtherPermit => {
                "nothing was signed; report this, for it should not happen"
            }
        }
        .into()
    }

    /// The amount that it speaks of, in base units.
    pub fn amount(&self) -> Option<Amount> {
        match self {
            Self::NotRising { asked, .. } | Self::AboveDeposit { asked, .. } => Some(*asked),
            Self::NotPermitted { rise, .. } => Some(*rise),
            Self::Beyond(Beyond::Cap { asked, .. }) => Some(*asked),
            _ => None,
        }
    }

    /// Milliseconds after which to try the same again, where that helps.
    pub fn retry_after_ms(&self) -> Option<u64> {
        retry_after_ms_of(self.who_acts())
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self {
            Self::ChannelInUse(channel)
            | Self::UnknownChannel(channel)
            | Self::NotRising { channel, .. }
            | Self::AboveDeposit { channel, .. } => Subject::channel(*channel),
            Self::Beyond(Beyond::Scope { node }) => Subject::node(*node),
            _ => Subject::default(),
        }
    }

    /// What a command ends with: see [`ErrorReport`](crate::ErrorReport::exit_code).
    pub fn exit_code(&self) -> u8 {
        if self.is_retryable() { exit_code_of(self.who_acts()) } else { exit::KEYS }
    }
}
