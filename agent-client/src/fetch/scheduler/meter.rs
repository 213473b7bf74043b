//! How fast a source is: bytes proven over the last moments in which it had something to send.

use std::collections::VecDeque;
use std::time::Duration;

/// Measures one source on a clock that runs only while it has something to send.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// Since when it has been busy without a break.
    since: Option<Duration>,
    /// For how long it was busy before.
    busy: Duration,
    /// From where on its clock the measure counts.
    from: Duration,
    /// Time on its clock and bytes, the oldest first.
    samples: VecDeque<(Duration, u64)>,
    bytes: u64,
}

impl Meter {
    /// It has something to send from now on; nothing if it had before.
    pub(super) fn begin(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    /// It has nothing to send any more, or is held up by us.
    pub(super) fn pause(&mut self, now: Duration) {
        self.busy = self.clock(now);
        self.since = None;
    }

    /// What was measured so far says nothing of what comes.
    pub(super) fn forget(&mut self, now: Duration) {
        self.from = self.clock(now);
        self.samples.clear();
    }

    pub(super) fn add(&mut self, now: Duration, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        let clock = self.clock(now);
        match self.samples.back_mut() {
            Some((at, sum)) if clock.saturating_sub(*at) < SLOT => *sum = sum.saturating_add(bytes),
            _ => self.samples.push_back((clock, bytes)),
        }
        while self.samples.front().is_some_and(|(at, _)| clock.saturating_sub(*at) > SPAN) {
            self.samples.pop_front();
        }
    }

    /// Bytes a second over its last busy second; none before it was busy for long enough.
    pub(super) fn rate(&self, now: Duration) -> Option<u64> {
        let clock = self.clock(now);
        let from = self.from.max(clock.saturating_sub(SPAN));
        let span = clock.saturating_sub(from);
        let bytes = self.samples.iter().filter(|(at, _)| *at >= from).map(|(_, bytes)| bytes).sum();
        (span >= LEAST_SPAN).then(|| per_second(bytes, span))
    }

    /// Bytes a second over all its busy time.
    pub(super) fn overall(&self, now: Duration) -> u64 {
        per_second(self.bytes, self.clock(now))
    }

    fn clock(&self, now: Duration) -> Duration {
        self.busy + self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

fn per_second(bytes: u64, span: Duration) -> u64 {
    let nanos = span.as_nanos().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

/// How far back a measure looks.
const SPAN: Duration = Duration::from_secs(1);
/// How long a source is busy before its measure counts.
const LEAST_SPAN: Duration = Duration::from_millis(300);
/// Bytes that come this close together are one sample.
const SLOT: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_rate_follows_the_last_busy_second() {
        let mut meter = Meter::default();
        meter.begin(100 * MS);
        assert_eq!(meter.rate(300 * MS), None);
        for tick in 1..=30 {
            meter.add(100 * MS + tick * 100 * MS, 1_000);
        }
        assert_eq!(meter.rate(3_100 * MS), Some(11_000), "both ends of the span count");
        // A break does not count.
        meter.pause(3_100 * MS);
        assert_eq!(meter.rate(60_000 * MS), Some(11_000));
        meter.begin(60_000 * MS);
        // It falls silent.
        assert_eq!(meter.rate(60_500 * MS), Some(6_000));
        assert_eq!(meter.rate(62_000 * MS), Some(0));
        assert_eq!(meter.overall(62_000 * MS), 6_000);
        meter.forget(63_000 * MS);
        assert_eq!(meter.rate(63_200 * MS), None);
        meter.add(63_300 * MS, 3_000);
        assert_eq!(meter.rate(63_500 * MS), Some(6_000));
    }
}
