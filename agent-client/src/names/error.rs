//! Why a name cannot be resolved or published, sorted by blame: nodes that know too little, its publisher, or us.

use std::io;
use std::sync::Arc;

use aro_proto::naming::{NameRecord, VerifiedName};
use aro_proto::{Amount, NameAddress, Refusal, WhoActs};
use thiserror::Error;

use crate::error::FetchError;
use crate::report::{Subject, exit, exit_code_of, retry_after_ms_of};

/// Why a name has no meaning for us now.
#[derive(Clone, Debug, Error)]
pub enum NameError {
    /// No node that was asked knows it.
    #[error("no node that was asked knows {name}")]
    NotFound {
        /// The name.
        name: NameAddress,
    },
    /// Every node shows an older record than this wallet has seen before: they are behind, or hold the newer one back.
    #[error("{name} was at number {seen} before, the nodes show {shown}")]
    Stale {
        /// The name.
        name: NameAddress,
        /// The newest number that the nodes show.
        shown: u64,
        /// The newest number ever seen.
        seen: u64,
    },
    /// Its publisher has signed two records under one number, so neither can be told to be the newest.
    #[error("the publisher of {name} has signed two different records under the number {sequence}")]
    TwoRecords {
        /// The name.
        name: NameAddress,
        /// The number.
        sequence: u64,
    },
    /// Its publisher no longer stands by the newest record.
    #[error("the newest record of {name} was valid until {until} (unix seconds)")]
    Expired {
        /// The name.
        name: NameAddress,
        /// Unix seconds.
        until: i64,
    },
    /// Its publisher has withdrawn it.
    #[error("the publisher of {name} has withdrawn it")]
    Withdrawn {
        /// The name.
        name: NameAddress,
    },
    /// The node knows a better record than the one that was published.
    #[error("{refusal}")]
    Outdated {
        /// What the node says.
        refusal: Refusal,
        /// The better record, which its publisher signed.
        current: Box<NameRecord>,
    },
    /// The highest number there is has been used: the name can never mean anything else.
    #[error("{name} has used the last number that there is")]
    Spent {
        /// The name.
        name: NameAddress,
    },
    /// The memory of names cannot be read or written.
    #[error("the wallet's memory of names: {0}")]
    Memory(Arc<io::Error>),
    /// A node could not be asked, or refused.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl NameError {
    pub(super) fn two_records(record: &VerifiedName) -> Self {
        Self::TwoRecords { name: record.record().address(), sequence: record.record().sequence }
    }

    /// The variant's name, for logs and JSON.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "NameNotFound",
            Self::Stale { .. } => "NameStale",
            Self::TwoRecords { .. } => "NameTwoRecords",
            Self::Expired { .. } => "NameExpired",
            Self::Withdrawn { .. } => "NameWithdrawn",
            Self::Outdated { .. } => "NameOutdated",
            Self::Spent { .. } => "NameSpent",
            Self::Memory(_) => "NameMemory",
            Self::Fetch(error) => error.code(),
        }
    }

    /// Who can change this error into an answer.
    pub fn who_acts(&self) -> WhoActs {
        match self {
            Self::NotFound { .. } | Self::Stale { .. } => WhoActs::RetryElsewhere,
            Self::Outdated { .. } => WhoActs::RetryHere,
            Self::TwoRecords { .. }
            | Self::Expired { .. }
            | Self::Withdrawn { .. }
            | Self::Spent { .. }
            | Self::Memory(_) => WhoActs::GiveUp,
            Self::Fetch(error) => error.who_acts(),
        }
    }

    /// True if the same call, here or with other nodes, may work without anybody paying, signing or changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self.who_acts(), WhoActs::RetryHere | WhoActs::RetryElsewhere)
    }

    /// What to do next, for people.
    pub fn next_step(&self) -> String {
        match self {
            Self::NotFound { .. } => "check the publisher and the name, or ask other nodes".into(),
            Self::Stale { .. } => "ask other nodes: these are behind".into(),
            Self::TwoRecords { .. } => "ask the publisher to publish the name anew, from one place".into(),
            Self::Expired { .. } => "ask the publisher to publish the name anew, and check this machine's clock".into(),
            Self::Withdrawn { .. } => "ask the publisher what stands in its place".into(),
            Self::Outdated { .. } => "publish it again: the next number is above the node's".into(),
            Self::Spent { .. } => "choose another name".into(),
            Self::Memory(_) => "check the wallet's folder `names`, its permissions and the space left".into(),
            Self::Fetch(error) => error.next_step(),
        }
    }

    /// The amount that the error speaks of, in base units.
    pub fn amount(&self) -> Option<Amount> {
        match self {
            Self::Fetch(error) => error.amount(),
            _ => None,
        }
    }

    /// Milliseconds after which to try the same again here, where that helps.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::Fetch(error) => error.retry_after_ms(),
            _ => retry_after_ms_of(self.who_acts()),
        }
    }

    /// What it is about.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Fetch(error) => error.subject(),
            _ => Subject::default(),
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Fetch(error) => error.exit_code(),
            Self::TwoRecords { .. } => exit::PROOF,
            Self::Memory(_) => exit::INTERNAL,
            _ => exit_code_of(self.who_acts()),
        }
    }
}
