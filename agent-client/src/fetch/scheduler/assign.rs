//! The choice: who gets what next, and who loses what.

use std::time::Duration;

use aro_proto::ByteCount;

use super::source::{Failure, State};
use super::{Action, Scheduler, Segment, SegmentId, SourceId};

impl Scheduler {
    /// Looks at everything once; what it decides stands in the actions.
    pub(super) fn assign(&mut self, now: Duration) {
        self.rejoin(now);
        if self.total.is_none() || self.waits_for_prices(now) {
            return;
        }
        self.drop_stalled(now);
        self.shed_tails(now);
        let mut order: Vec<usize> = (0..self.sources.len()).collect();
        // The fastest first: what it is too late for, nobody else does sooner.
        order.sort_by_key(|source| std::cmp::Reverse(self.rate_of(*source, now)));
        for source in order {
            self.serve(source, now);
        }
    }

    fn rejoin(&mut self, now: Duration) {
        for (index, source) in self.sources.iter_mut().enumerate() {
            if matches!(source.state, State::Cooling { until } if until <= now) {
                source.state = State::Joining;
                self.actions.push_back(Action::Join(SourceId(index)));
            }
        }
    }

    /// Where the price decides, sources that are about to say theirs are waited for, a moment.
    fn waits_for_prices(&self, now: Duration) -> bool {
        let decides = !matches!(self.plan.prefer, super::Preference::Fastest);
        decides && self.chooses_at.is_some_and(|at| now < at) && self.sources.iter().any(super::Source::is_awaited)
    }

    /// A source that brings nothing for a while is left alone for a while, if there is anybody else.
    fn drop_stalled(&mut self, now: Duration) {
        let is_silent = |segment: &&Segment| !segment.is_held && now.saturating_sub(segment.moved_at) >= STALL;
        for source in 0..self.sources.len() {
            let is_other = |(other, found): (usize, &super::Source)| other != source && found.is_ready();
            if !self.sources[source].is_ready() || !self.sources.iter().enumerate().any(is_other) {
                continue;
            }
            let mut running = self.segments.values().filter(|segment| segment.source == source && !segment.is_spare);
            let oldest = running.next();
            // The second one waits for the first.
            if oldest.as_ref().is_some_and(is_silent) && running.all(|segment| is_silent(&segment)) {
                self.sources[source].failed(now, Failure::Passing);
                self.cut_all(source);
            }
        }
    }

    /// A source slower than half the median loses what it would bring much later than others.
    fn shed_tails(&mut self, now: Duration) {
        for source in 0..self.sources.len() {
            let Some(median) = self.median_of_others(source, now) else { continue };
            let rate = self.rate_of(source, now);
            if rate >= median / 2 {
                continue;
            }
            let Some((id, segment)) = self.last_segment(source) else { continue };
            let (position, left) = (segment.position, segment.left());
            let is_small = left < LEAST_TAIL || time_for(left, rate) < TOO_LATE;
            if segment.is_held || is_small || now.saturating_sub(segment.moved_at) >= STALL {
                continue;
            }
            let keep = bytes_in(rate, KEEPS).max(self.plan.group);
            self.cut(id, position.saturating_add(keep));
        }
    }

    /// Gives a source what it has room for.
    fn serve(&mut self, source: usize, now: Duration) {
        loop {
            let ours = || self.segments.values().filter(|segment| segment.source == source);
            // What is held up waits for bytes before it, and those may be nobody's yet.
            let running = ours().filter(|segment| !segment.is_held).count();
            let rate = self.rate_of(source, now);
            let soon = || ours().map(Segment::left).sum::<u64>() <= bytes_in(rate, LEAD);
            let has_room = ours().count() < MOST_SEGMENTS && (running == 0 || (running == 1 && soon()));
            if !self.is_welcome(source) || !has_room {
                return;
            }
            if self.take(source, now) {
                continue;
            }
            // Only a source with nothing to do is worth a cancelled stream, and only one decision at a time.
            if running == 0 && !self.sources[source].too_dear {
                let _ = self.steal(source, now) || self.hedge(source, now);
            }
            return;
        }
    }

    fn is_welcome(&self, source: usize) -> bool {
        let found = &self.sources[source];
        found.is_ready() && self.is_asked_at(found.tariff)
    }

    /// Takes a segment out of the pool.
    fn take(&mut self, source: usize, now: Duration) -> bool {
        if self.pool.is_empty() || self.is_too_slow(source, now) {
            return false;
        }
        let wanted = self.segment_len(source, now);
        let affordable = self.affordable(source, wanted, false);
        self.sources[source].too_dear = affordable == 0;
        if affordable == 0 {
            return false;
        }
        let end = self.total.unwrap_or_default();
        let last = end.saturating_sub(1) / self.plan.group * self.plan.group;
        let first = if self.end_first { self.pool.take_exact(last..end) } else { None };
        let limit = self.plan.window.map_or(u64::MAX, |window| self.frontier().saturating_add(window));
        let Some(range) = first.or_else(|| self.pool.take(affordable, limit / self.plan.group * self.plan.group))
        else {
            return false;
        };
        self.ask(source, range, now);
        true
    }

    /// Whether others, at least twice as fast, bring all that is left before this one brings a group.
    fn is_too_slow(&self, source: usize, now: Duration) -> bool {
        let rate = self.rate_of(source, now);
        let others = (0..self.sources.len())
            .filter(|other| *other != source && self.is_welcome(*other) && !self.sources[*other].too_dear);
        let rates: Vec<u64> = others.map(|other| self.rate_of(other, now)).collect();
        let is_faster = rates.iter().any(|other| *other / 2 >= rate);
        let left = self.segments.values().map(Segment::left).fold(self.pool.bytes(), u64::saturating_add);
        let theirs = time_for(left, rates.into_iter().fold(0, u64::saturating_add));
        is_faster && time_for(self.plan.group, rate) > theirs
    }

    fn ask(&mut self, source: usize, range: std::ops::Range<u64>, now: Duration) -> SegmentId {
        let id = SegmentId(self.next_segment);
        self.next_segment += 1;
        let segment = Segment {
            source,
            tariff: self.sources[source].tariff,
            position: range.start,
            end: range.end,
            cutting: None,
            twin: None,
            is_spare: false,
            is_held: false,
            moved_at: now,
        };
        self.segments.insert(id, segment);
        self.sources[source].meter.begin(now);
        self.actions.push_back(Action::Ask { segment: id, source: SourceId(source), range });
        id
    }

    /// What a source brings in a while, at most half of its share of what is left, in whole groups.
    fn segment_len(&self, source: usize, now: Duration) -> u64 {
        let rate = self.rate_of(source, now);
        let welcome = (0..self.sources.len()).filter(|other| self.is_welcome(*other));
        let together: u64 = welcome.map(|other| self.rate_of(other, now)).fold(0, u64::saturating_add);
        let share = portion(self.pool.bytes(), rate, together) / 2;
        let ahead = self.plan.window.map_or(u64::MAX, |window| portion(window, rate, together) / 2);
        let (paced, least) = match self.sources[source].meter.rate(now) {
            Some(_) => (bytes_in(rate, SEGMENT), bytes_in(rate, LEAST_SEGMENT)),
            None => (FIRST_SEGMENT, LEAST_FIRST),
        };
        let len = paced.min(share).max(least).min(MOST_BYTES).min(ahead).max(1);
        len.next_multiple_of(self.plan.group)
    }

    /// Cuts the tail off the segment that would end last, in proportion to what both sources bring.
    fn steal(&mut self, thief: usize, now: Duration) -> bool {
        let rate = self.rate_of(thief, now);
        for (_, id) in self.latest(thief, now).into_iter().take_while(|(late, _)| *late >= WORTH) {
            let segment = &self.segments[&id];
            let theirs = self.share_of(segment, now);
            let keep = portion(segment.left(), theirs, theirs.saturating_add(rate)).max(bytes_in(theirs, IN_FLIGHT));
            // A source that is silent altogether is not asked again, but dropped.
            let at = segment.position.saturating_add(keep.max(self.plan.group));
            if self.cut(id, at) {
                return true;
            }
        }
        false
    }

    /// Asks a second source for the rest of the last segment too, if it would bring it in half the time.
    fn hedge(&mut self, thief: usize, now: Duration) -> bool {
        let Some(most) = self.plan.hedge else { return false };
        let Some((late, id)) = self.latest(thief, now).first().copied() else { return false };
        let range = self.segments[&id].position..self.segments[&id].end;
        let len = range.end - range.start;
        let rate = self.rate_of(thief, now);
        if len > HEDGED_BYTES || late < WORTH || late < time_for(len, rate) * 2 {
            return false;
        }
        let cost = self.sources[thief].tariff.charge(ByteCount::new(len)).to_amount();
        let Some(hedged) = cost.and_then(|cost| self.hedged.checked_add(cost)) else { return false };
        if hedged > most || self.affordable(thief, len, true) < len {
            return false;
        }
        self.hedged = hedged;
        let twin = self.ask(thief, range, now);
        for (one, other) in [(id, twin), (twin, id)] {
            if let Some(segment) = self.segments.get_mut(&one) {
                segment.twin = Some(other);
            }
        }
        true
    }

    /// Orders a cut at the next group boundary; false if that leaves nothing to cut off.
    fn cut(&mut self, id: SegmentId, at: u64) -> bool {
        let group = self.plan.group;
        let Some(segment) = self.segments.get_mut(&id).filter(|segment| segment.cutting.is_none()) else {
            return false;
        };
        let Some(end) = at.checked_next_multiple_of(group).filter(|end| *end < segment.end) else { return false };
        segment.cutting = Some(end);
        self.actions.push_back(Action::Cut { segment: id, end });
        true
    }

    /// The segments of other sources, those first that would end last, and in what time. Those that are cut already,
    /// doubled, or held up by us, are not looked at.
    fn latest(&self, thief: usize, now: Duration) -> Vec<(Duration, SegmentId)> {
        let open = self.segments.iter().filter(|(_, segment)| {
            let is_free = segment.cutting.is_none() && segment.twin.is_none() && !segment.is_spare && !segment.is_held;
            segment.source != thief && is_free && segment.left() > 0
        });
        let timed = open.map(|(id, segment)| (time_for(segment.left(), self.share_of(segment, now)), *id));
        let mut latest: Vec<_> = timed.collect();
        latest.sort_unstable_by(|one, other| other.cmp(one));
        latest
    }

    /// The segment of a source that was asked for last, if nothing happens to it already.
    fn last_segment(&self, source: usize) -> Option<(SegmentId, &Segment)> {
        let found = self.segments.iter().rfind(|(_, segment)| segment.source == source)?;
        let is_free = found.1.cutting.is_none() && found.1.twin.is_none() && !found.1.is_spare;
        is_free.then_some((*found.0, found.1))
    }

    /// Bytes a second that a segment gets of its source.
    fn share_of(&self, segment: &Segment, now: Duration) -> u64 {
        let running = self.segments.values().filter(|other| other.source == segment.source).count() as u64;
        self.rate_of(segment.source, now) / running.max(1)
    }

    /// Bytes a second of a source: measured, or what others bring, or a guess.
    fn rate_of(&self, source: usize, now: Duration) -> u64 {
        let measured = self.sources[source].meter.rate(now);
        measured.or_else(|| self.median_of_others(source, now)).unwrap_or(GUESS)
    }

    /// The median of the measured rates of the other sources.
    fn median_of_others(&self, source: usize, now: Duration) -> Option<u64> {
        let others = self.sources.iter().enumerate().filter(|(other, found)| *other != source && found.is_ready());
        let mut rates: Vec<u64> = others.filter_map(|(_, found)| found.meter.rate(now)).collect();
        rates.sort_unstable();
        rates.get(rates.len().saturating_sub(1) / 2).copied()
    }

    /// The lowest byte that is not proven.
    fn frontier(&self) -> u64 {
        let running = self.segments.values().filter(|segment| !segment.is_spare).map(|segment| segment.position);
        running.chain(self.pool.first()).min().unwrap_or_default()
    }
}

/// Bytes in a time at so many a second.
fn bytes_in(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_millis() / 1_000).unwrap_or(u64::MAX)
}

/// How long so many bytes take; a year if they never come.
fn time_for(bytes: u64, rate: u64) -> Duration {
    let never = Duration::from_secs(365 * 86_400);
    let millis = u128::from(bytes) * 1_000 / u128::from(rate.max(1));
    u64::try_from(millis).map_or(never, Duration::from_millis).min(never)
}

/// The part of `whole` that `part` is of `all`.
fn portion(whole: u64, part: u64, all: u64) -> u64 {
    u64::try_from(u128::from(whole) * u128::from(part) / u128::from(all.max(1))).unwrap_or(u64::MAX)
}

/// What a segment brings at its source's rate.
const SEGMENT: Duration = Duration::from_secs(2);
/// The same at least, however little is left: a request is not worth less.
const LEAST_SEGMENT: Duration = Duration::from_millis(60);
/// Of a source of unknown rate, however little is left: 256 KiB.
const LEAST_FIRST: u64 = 256 << 10;
/// A segment is not larger: 64 MiB.
const MOST_BYTES: u64 = 64 << 20;
/// Of a source of unknown rate: 4 MiB.
const FIRST_SEGMENT: u64 = 4 << 20;
/// Bytes a second of a source that nothing is known of: 4 MiB.
const GUESS: u64 = 4 << 20;
/// How long before the end of a segment the next one is asked for.
const LEAD: Duration = Duration::from_millis(300);
/// A source that brings nothing for so long is taken for stalled.
const STALL: Duration = Duration::from_secs(2);
/// What a slow source would bring later than this goes to others.
const TOO_LATE: Duration = Duration::from_secs(4);
/// And only if it is worth a cancelled stream: 1 MiB.
const LEAST_TAIL: u64 = 1 << 20;
/// What a slow source keeps when it loses its tail.
const KEEPS: Duration = Duration::from_millis(1_000);
/// A tail is stolen, or doubled, only where it saves about so much.
const WORTH: Duration = Duration::from_millis(250);
/// What is on its way when a stream is cut comes anyway.
const IN_FLIGHT: Duration = Duration::from_millis(60);
/// Segments of one source at once, those that are held up included.
const MOST_SEGMENTS: usize = 8;
/// A longer tail is never asked for twice: 4 MiB.
const HEDGED_BYTES: u64 = 4 << 20;
