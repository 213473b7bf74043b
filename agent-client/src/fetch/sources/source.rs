//! What the driver knows of one source, and what its errors mean.

use std::sync::Arc;

use aro_proto::{Address, Amount, Tariff};

use super::report::{LeftOut, SourceReport};
use crate::error::FetchError;
use crate::fetch::scheduler::Failure;
use crate::transport::Session;

/// One source's books.
pub(super) struct Source {
    pub(super) address: Address,
    pub(super) session: Option<Arc<Session>>,
    pub(super) tariff: Tariff,
    /// The size that it claims.
    pub(super) claims: Option<u64>,
    pub(super) is_parked: bool,
    pub(super) paid: Amount,
    pub(super) requests: u64,
    pub(super) verified_bytes: u64,
    /// What went wrong last, or for good.
    pub(super) error: Option<FetchError>,
}

impl Source {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            session: None,
            tariff: Tariff::default(),
            claims: None,
            is_parked: false,
            paid: Amount::ZERO,
            requests: 0,
            verified_bytes: 0,
            error: None,
        }
    }

    /// What it failed with is for good.
    pub(super) fn is_out(&self) -> bool {
        self.error.as_ref().is_some_and(|error| weigh(error) == Weight::OfSource(Failure::Final))
    }

    pub(super) fn report(&self, bytes_per_second: u64, error: Option<&FetchError>) -> SourceReport {
        SourceReport {
            node: self.address.node(),
            verified_bytes: self.verified_bytes,
            paid: self.paid,
            requests: self.requests,
            bytes_per_second,
            left_out: error.map(LeftOut::new),
        }
    }
}

/// What an error means for the fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// No other source changes it.
    OfFetch,
    /// Others may do better.
    OfSource(Failure),
}

/// Weighs an error.
pub(crate) fn weigh(error: &FetchError) -> Weight {
    match error {
        FetchError::TooLarge { .. }
        | FetchError::NotApproved(_)
        | FetchError::Request(_)
        | FetchError::Source(_)
        | FetchError::Sink(_)
        | FetchError::Wallet(_) => Weight::OfFetch,
        FetchError::NotFound { .. }
        | FetchError::NoChannel { .. }
        | FetchError::DepositExhausted { .. }
        | FetchError::ChannelUnusable { .. }
        | FetchError::Money(_)
        | FetchError::Proof { .. }
        | FetchError::Misbehaved { .. }
        | FetchError::WrongChain { .. }
        | FetchError::WrongNodeKey { .. }
        | FetchError::NoSource { .. } => Weight::OfSource(Failure::Final),
        // A budget that others hold now may be free in a moment.
        FetchError::BudgetExceeded(_)
        | FetchError::PriceTooHigh { .. }
        | FetchError::Refused(_)
        | FetchError::Unreachable { .. }
        | FetchError::Timeout { .. }
        | FetchError::Chain(_) => Weight::OfSource(Failure::Passing),
    }
}
