//! The open streams of a channel and what they may still cost: the bookkeeping that payer and payee share.

use std::collections::HashMap;

use thiserror::Error;

use crate::amount::{Amount, ByteCount};
use crate::tariff::{Charge, Tariff};

/// Names one request on a channel. The caller chooses it, unique among the open streams of all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey(pub u64);

/// Why a stream's count cannot move: the caller's mistake, not the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum CountError {
    #[error("stream {} is not open", .0.0)]
    Unknown(StreamKey),
    #[error("stream {} has {left:?} left", .stream.0)]
    Beyond { stream: StreamKey, left: ByteCount },
}

/// Open streams, each with its price, its total and how much of it has been counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams {
    open: HashMap<StreamKey, Progress>,
    /// Sum over open streams of the charge for what is not yet counted.
    reserved: Charge,
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    tariff: Tariff,
    total: ByteCount,
    counted: ByteCount,
}

impl Streams {
    pub(super) fn contains(&self, stream: StreamKey) -> bool {
        self.open.contains_key(&stream)
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// What the open streams may still cost.
    pub(super) fn reserved(&self) -> Charge {
        self.reserved
    }

    /// By how much the deposit falls short of `spent`, all reservations and this new stream. `None` if it holds.
    pub(super) fn missing(&self, spent: Charge, deposit: Amount, tariff: &Tariff, total: ByteCount) -> Option<Amount> {
        let needed = spent.checked_add(self.reserved).and_then(|sum| sum.checked_add(tariff.charge(total)));
        let needed = needed.and_then(Charge::to_amount);
        match needed {
            Some(needed) if needed <= deposit => None,
            Some(needed) => Some(needed.saturating_sub(deposit)),
            None => Some(Amount::new(u64::MAX)),
        }
    }

    /// Opens a stream that [`missing`](Self::missing) found room for.
    pub(super) fn open(&mut self, stream: StreamKey, tariff: &Tariff, total: ByteCount) {
        self.reserved = add(self.reserved, tariff.charge(total));
        self.open.insert(stream, Progress { tariff: *tariff, total, counted: ByteCount::ZERO });
    }

    /// What a stream is billed at.
    pub(super) fn tariff(&self, stream: StreamKey) -> Result<Tariff, CountError> {
        self.open.get(&stream).map(|progress| progress.tariff).ok_or(CountError::Unknown(stream))
    }

    /// The prices of the open streams.
    pub(super) fn tariffs(&self) -> impl Iterator<Item = Tariff> + '_ {
        self.open.values().map(|progress| progress.tariff)
    }

    /// Lets a stream bring more, which [`missing`](Self::missing) found room for.
    pub(super) fn grow(&mut self, stream: StreamKey, more: ByteCount) -> Result<(), CountError> {
        let progress = self.open.get_mut(&stream).ok_or(CountError::Unknown(stream))?;
        progress.total = ByteCount::new(progress.total.get().saturating_add(more.get()));
        let charge = progress.tariff.charge(more);
        self.reserved = add(self.reserved, charge);
        Ok(())
    }

    /// Checks that `bytes` more fit the stream's total.
    pub(super) fn check(&self, stream: StreamKey, bytes: ByteCount) -> Result<(), CountError> {
        let progress = self.open.get(&stream).ok_or(CountError::Unknown(stream))?;
        let left = progress.total.saturating_sub(progress.counted);
        if bytes > left { Err(CountError::Beyond { stream, left }) } else { Ok(()) }
    }

    /// Counts `bytes`: their charge leaves the reservation and is returned.
    pub(super) fn count(&mut self, stream: StreamKey, bytes: ByteCount) -> Result<Charge, CountError> {
        self.check(stream, bytes)?;
        let progress = self.open.get_mut(&stream).ok_or(CountError::Unknown(stream))?;
        progress.counted = progress.counted.saturating_add(bytes);
        let charge = progress.tariff.charge(bytes);
        self.reserved = self.reserved.saturating_sub(charge);
        Ok(charge)
    }

    /// Closes a stream, releases what it did not use, and returns what it counted and at which price.
    pub(super) fn close(&mut self, stream: StreamKey) -> Result<(ByteCount, Tariff), CountError> {
        let progress = self.open.remove(&stream).ok_or(CountError::Unknown(stream))?;
        let unused = progress.total.saturating_sub(progress.counted);
        self.reserved = self.reserved.saturating_sub(progress.tariff.charge(unused));
        Ok((progress.counted, progress.tariff))
    }
}

/// Adds charges that the deposit bounds: a deposit has 64 bits, a charge 128.
pub(super) fn add(a: Charge, b: Charge) -> Charge {
    a.checked_add(b).expect("charges stay below the deposit's 2^84 parts")
}
