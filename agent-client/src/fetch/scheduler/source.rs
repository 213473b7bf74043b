//! One source: where it stands, what it charges, how fast it is.

use std::time::Duration;

use aro_proto::{Charge, Tariff};

use super::meter::Meter;

/// What the scheduler knows of one node.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) state: State,
    /// What it says that content costs; a guess until it is ready for the first time.
    pub(super) tariff: Tariff,
    pub(super) meter: Meter,
    /// What its proven bytes cost, exactly.
    pub(super) used: Charge,
    /// Bytes that it proved, those included that another one proved as well.
    pub(super) proven: u64,
    /// Times that it failed since it last proved something.
    failures: u32,
    was_ready: bool,
    /// Its price is what keeps it from being asked.
    pub(super) too_dear: bool,
}

/// Where a source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Being connected, and asked what it has and charges.
    Joining,
    /// Can be asked.
    Ready,
    /// Has the content, but says something of it that is not settled yet.
    Parked,
    /// Failed, and is tried again at this time.
    Cooling { until: Duration },
    /// Out for this fetch.
    Out,
}

/// How a source failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It may work again in a moment.
    Passing,
    /// It lied, or can never serve this fetch.
    Final,
}

impl Source {
    pub(super) fn new() -> Self {
        Self {
            state: State::Joining,
            tariff: Tariff::default(),
            meter: Meter::default(),
            used: Charge::ZERO,
            proven: 0,
            failures: 0,
            was_ready: false,
            too_dear: false,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// It was never ready, and may still become so.
    pub(super) fn is_awaited(&self) -> bool {
        !self.was_ready && self.state == State::Joining
    }

    /// Its price is known, and it may bring the rest.
    pub(super) fn may_still_serve(&self) -> bool {
        self.was_ready && !matches!(self.state, State::Out | State::Parked)
    }

    pub(super) fn joined(&mut self, tariff: Tariff) {
        self.state = State::Ready;
        self.tariff = tariff;
        self.was_ready = true;
    }

    pub(super) fn failed(&mut self, now: Duration, failure: Failure) {
        match (failure, self.state) {
            (_, State::Out) => {}
            (Failure::Final, _) => self.state = State::Out,
            // What else broke with it is the same failure.
            (Failure::Passing, State::Cooling { .. }) => {}
            (Failure::Passing, _) => {
                self.meter.forget(now);
                self.failures += 1;
                let doubled = FIRST_COOLDOWN * (1 << (self.failures - 1).min(MAX_DOUBLINGS));
                let most = if self.was_ready { MAX_FAILURES } else { MAX_TRIES };
                self.state = if self.failures > most { State::Out } else { State::Cooling { until: now + doubled } };
            }
        }
    }

    pub(super) fn proved(&mut self, now: Duration, bytes: u64) {
        self.meter.add(now, bytes);
        self.proven = self.proven.saturating_add(bytes);
        self.failures = 0;
    }
}

/// How long a source is left alone after its first failure; each further one doubles it.
const FIRST_COOLDOWN: Duration = Duration::from_millis(250);
/// The longest pause is 4 s.
const MAX_DOUBLINGS: u32 = 4;
/// A source that fails more often than this without proving anything in between is given up.
const MAX_FAILURES: u32 = 5;
/// The same for one that could not be joined at all so far.
const MAX_TRIES: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_a_source_that_proves_nothing_is_given_up() {
        let mut source = Source::new();
        let mut pauses = Vec::new();
        for _ in 0..MAX_FAILURES {
            source.joined(Tariff::default());
            source.failed(Duration::from_secs(1), Failure::Passing);
            let State::Cooling { until } = source.state else { panic!("{:?}", source.state) };
            pauses.push((until - Duration::from_secs(1)).as_millis());
            let cooling = source.state;
            source.failed(Duration::from_secs(2), Failure::Passing);
            assert_eq!(source.state, cooling, "one break fails every segment once");
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000]);
        source.joined(Tariff::default());
        source.proved(Duration::from_secs(3), 1);
        source.failed(Duration::from_secs(3), Failure::Passing);
        assert_eq!(source.state, State::Cooling { until: Duration::from_millis(3_250) });
        for _ in 0..MAX_FAILURES {
            source.joined(Tariff::default());
            source.failed(Duration::from_secs(3), Failure::Passing);
        }
        assert_eq!(source.state, State::Out);
    }

    #[test]
    fn a_source_that_cannot_be_joined_is_tried_once_more() {
        let mut source = Source::new();
        source.failed(Duration::ZERO, Failure::Passing);
        assert!(matches!(source.state, State::Cooling { .. }));
        source.state = State::Joining;
        source.failed(Duration::ZERO, Failure::Passing);
        assert_eq!(source.state, State::Out);
    }
}
