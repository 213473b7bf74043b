//! What becomes of a packet on a link, by arithmetic alone: no socket and no clock, so it can be tested to the
//! nanosecond.

use std::time::Duration;

use crate::faulty::Dice;

/// What one direction of a path does to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTerms {
    /// From the link's head to its end, one way.
    pub delay: Duration,
    /// Packets lost by chance, of a million.
    pub loss_ppm: u32,
    /// Bits a second that the link carries; none for as many as come.
    pub rate_bit_s: Option<u64>,
    /// Bytes that wait before the link at most; what comes on top is dropped. Without a rate nothing waits.
    pub queue_bytes: u64,
    /// Bytes of the largest packet that passes, IP and UDP heads included. Larger ones vanish, and nobody is told.
    pub mtu: usize,
}

impl LinkTerms {
    /// Nothing but a delay.
    #[must_use]
    pub const fn delay(delay: Duration) -> Self {
        Self { delay, loss_ppm: 0, rate_bit_s: None, queue_bytes: u64::MAX, mtu: usize::MAX }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then, counted from the link's start.
    Arrives(Duration),
    /// Chance took it.
    Lost,
    /// The queue was full.
    Dropped,
    /// It is larger than what passes.
    TooLarge,
}

/// One direction of a path: a queue with a bound, a rate, a delay, and seeded loss. Packets never overtake.
#[derive(Clone, Debug)]
pub struct Link {
    terms: LinkTerms,
    dice: Dice,
    /// When the link has carried all that waits, counted from its start.
    free_at: Duration,
}

impl Link {
    /// An idle link. The same seed loses the same packets of a sequence.
    #[must_use]
    pub const fn new(terms: LinkTerms, seed: u64) -> Self {
        Self { terms, dice: Dice::new(seed), free_at: Duration::ZERO }
    }

    /// From now on it carries so many bits a second. What waits already leaves at the rate that it came at, and is measured
    /// against the queue at the new one.
    pub const fn set_rate(&mut self, rate_bit_s: u64) {
        self.terms.rate_bit_s = Some(rate_bit_s);
    }

    /// From now on only packets of so many bytes pass, IP and UDP heads included.
    pub const fn narrow(&mut self, mtu: usize) {
        self.terms.mtu = mtu;
    }

    /// Takes a packet of so many bytes, without its heads, at a time that never falls.
    pub fn take(&mut self, now: Duration, bytes: usize) -> Fate {
        if bytes + HEADERS > self.terms.mtu {
            return Fate::TooLarge;
        }
        if self.dice.below(MILLION) < u64::from(self.terms.loss_ppm) {
            return Fate::Lost;
        }
        let Some(rate) = self.terms.rate_bit_s else { return Fate::Arrives(now + self.terms.delay) };
        let bytes = (bytes + HEADERS) as u64;
        let waits = self.free_at.saturating_sub(now);
        let queued = u128::from(rate) * waits.as_nanos() / (8 * NANOS);
        if queued + u128::from(bytes) > u128::from(self.terms.queue_bytes) {
            return Fate::Dropped;
        }
        let carries = u128::from(bytes) * 8 * NANOS / u128::from(rate.max(1));
        self.free_at = self.free_at.max(now) + Duration::from_nanos(u64::try_from(carries).unwrap_or(u64::MAX));
        Fate::Arrives(self.free_at + self.terms.delay)
    }
}

const MILLION: u64 = 1_000_000;
const NANOS: u128 = 1_000_000_000;
/// Bytes of the IPv4 and UDP headers, which a real link carries too.
const HEADERS: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_link_without_a_rate_only_delays() {
        let mut link = Link::new(LinkTerms::delay(20 * MS), 1);
        for now in [Duration::ZERO, 3 * MS, 3 * MS, 9 * MS] {
            assert_eq!(link.take(now, 1_400), Fate::Arrives(now + 20 * MS));
        }
    }

    #[test]
    fn packets_follow_each_other_at_the_rate_and_the_queue_has_an_end() {
        // A packet of 1,000 bytes, headers included, takes a millisecond; three may wait.
        let terms = LinkTerms { rate_bit_s: Some(8_000_000), queue_bytes: 3_000, ..LinkTerms::delay(10 * MS) };
        let mut link = Link::new(terms, 1);
        let fates: Vec<Fate> = (0..5).map(|_| link.take(Duration::ZERO, 972)).collect();
        let arrives = |ms: u32| Fate::Arrives(ms * MS);
        assert_eq!(fates, [arrives(11), arrives(12), arrives(13), Fate::Dropped, Fate::Dropped]);
        assert_eq!(link.take(2 * MS, 972), arrives(14));
        // An idle link starts anew.
        assert_eq!(link.take(100 * MS, 972), arrives(111));
    }

    #[test]
    fn a_rate_that_changes_holds_for_what_comes_then() {
        let terms = LinkTerms { rate_bit_s: Some(8_000_000), queue_bytes: 20_000, ..LinkTerms::delay(Duration::ZERO) };
        let mut link = Link::new(terms, 1);
        let arrives = |ms: u32| Fate::Arrives(ms * MS);
        assert_eq!([link.take(Duration::ZERO, 972), link.take(Duration::ZERO, 972)], [arrives(1), arrives(2)]);
        link.set_rate(800_000);
        assert_eq!(link.take(Duration::ZERO, 972), arrives(12));
        link.set_rate(8_000_000);
        assert_eq!(link.take(Duration::ZERO, 972), arrives(13));
    }

    #[test]
    fn what_is_larger_than_the_link_carries_vanishes_and_takes_no_place() {
        let mut link = Link::new(LinkTerms { mtu: 1_500, ..LinkTerms::delay(MS) }, 1);
        let mut fates = |sizes: [usize; 2]| sizes.map(|size| link.take(Duration::ZERO, size));
        assert_eq!(fates([1_472, 1_473]), [Fate::Arrives(MS), Fate::TooLarge]);
        link.narrow(1_228);
        assert_eq!([1_200, 1_201].map(|size| link.take(Duration::ZERO, size)), [Fate::Arrives(MS), Fate::TooLarge]);
    }

    #[test]
    fn loss_is_as_frequent_as_said_and_the_same_for_one_seed() {
        let terms = LinkTerms { loss_ppm: 10_000, ..LinkTerms::delay(MS) };
        let lost = |seed| {
            let mut link = Link::new(terms, seed);
            (0..100_000).map(|_| link.take(Duration::ZERO, 100) == Fate::Lost).collect::<Vec<_>>()
        };
        let first = lost(7);
        assert_eq!(first, lost(7));
        assert_ne!(first, lost(8));
        let count = first.iter().filter(|lost| **lost).count();
        assert!((800..1_200).contains(&count), "{count}");
    }
}
