//! Which source fetches which segment: a machine without clock, sockets or tasks.
//!
//! The work is a line of bytes from 0 to its end, whatever ranges of the content it stands for. Sources are given
//! contiguous segments of it, sized by what they bring in two seconds, smaller towards the end, so that all of them end
//! together. One segment runs at each source, and one more is asked for just before it ends. Only where that does not
//! do, because somebody became slow or fell silent, is the tail of a running segment cut off and given to others: a cut
//! cancels a stream, and what it had in flight strains the channel's allowance.
//!
//! Four kinds of method: getters; `handle_*`, which take in what happened; commands; and `poll_*`, to be called until
//! they give nothing more. Time is counted from any fixed moment.

mod assign;
mod meter;
mod money;
mod pool;
mod source;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use aro_proto::{Amount, Tariff};

pub use money::{Preference, PreferenceError};
pub(crate) use source::Failure;

use pool::Pool;
use source::{Source, State};

/// Plans one fetch from several sources.
#[derive(Debug)]
pub(crate) struct Scheduler {
    plan: Plan,
    pool: Pool,
    /// The end of the work; none before it is known.
    total: Option<u64>,
    sources: Vec<Source>,
    segments: BTreeMap<SegmentId, Segment>,
    next_segment: u64,
    actions: VecDeque<Action>,
    /// Until when a choice by price waits for sources that have not said theirs.
    chooses_at: Option<Duration>,
    /// The last group is fetched before anything else.
    end_first: bool,
    /// What has been asked for twice, in base units at the second source.
    hedged: Amount,
}

/// What holds for a whole fetch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Segments begin and end at multiples of this, but for the end of the work.
    pub(crate) group: u64,
    /// The most that the fetch may cost, over all sources.
    pub(crate) allowed: Amount,
    pub(crate) prefer: Preference,
    /// What asking for the tail twice may cost; none if nothing is asked for twice.
    pub(crate) hedge: Option<Amount>,
    /// How far ahead of the lowest missing byte anything is asked for; none if order does not matter.
    pub(crate) window: Option<u64>,
}

/// A source, by its place in the list that the fetch began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourceId(pub(crate) usize);

/// A stretch of work that one source was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentId(u64);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Connect to the source and ask what it has and charges; then say [`handle_joined`](Scheduler::handle_joined) or
    /// [`handle_failed`](Scheduler::handle_failed).
    Join(SourceId),
    /// Ask the source for this stretch. It ends with [`handle_ended`](Scheduler::handle_ended).
    Ask {
        /// Names it from now on.
        segment: SegmentId,
        /// Who is asked.
        source: SourceId,
        /// What for.
        range: Range<u64>,
    },
    /// Let the segment end here, or where it is by now if that is further; say which with
    /// [`handle_cut`](Scheduler::handle_cut).
    Cut {
        /// Which.
        segment: SegmentId,
        /// Its new end.
        end: u64,
    },
}

/// Where a fetch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Goes on.
    Runs,
    /// Everything is proven.
    Done,
    /// Nobody is left who may bring the rest. `price` is what it would cost in all, if that is what holds it.
    Stuck {
        /// In base units; above what is allowed.
        price: Option<Amount>,
    },
}

#[derive(Clone, Debug)]
struct Segment {
    source: usize,
    tariff: Tariff,
    position: u64,
    end: u64,
    /// A cut that is not confirmed yet, and where.
    cutting: Option<u64>,
    /// The segment of another source that brings the same bytes.
    twin: Option<SegmentId>,
    /// What it was to bring is there by way of its twin, or it is not wanted any more: its rest is nobody's work.
    is_spare: bool,
    /// Held up by whoever takes the bytes, not by its source.
    is_held: bool,
    /// When it last moved, or was asked for.
    moved_at: Duration,
}

impl Segment {
    fn left(&self) -> u64 {
        self.end - self.position
    }
}

// Getters.
impl Scheduler {
    /// Where the fetch stands; ask again after [`poll_action`](Self::poll_action) gave nothing.
    pub(crate) fn standing(&self) -> Standing {
        let busy = self.segments.values().any(|segment| !segment.is_spare);
        if self.total.is_some() && self.pool.is_empty() && !busy {
            return Standing::Done;
        }
        let hopes = |source: &Source| match source.state {
            State::Joining | State::Cooling { .. } => true,
            State::Ready => self.total.is_none() || (!source.too_dear && self.is_asked_at(source.tariff)),
            State::Parked | State::Out => false,
        };
        if busy || !self.actions.is_empty() || self.sources.iter().any(hopes) {
            return Standing::Runs;
        }
        let price = self.sources.iter().any(|source| source.too_dear).then(|| self.expected_cost());
        Standing::Stuck { price: price.filter(|price| *price > self.plan.allowed) }
    }

    /// Bytes that nobody has proven yet.
    #[cfg(test)]
    pub(crate) fn left(&self) -> u64 {
        let counted = |(id, segment): (&SegmentId, &Segment)| match segment.twin {
            // Of two that bring the same, the one that is further.
            Some(twin) => {
                let other = self.segments.get(&twin).map_or(u64::MAX, Segment::left);
                if segment.left() < other || (segment.left() == other && *id < twin) { segment.left() } else { 0 }
            }
            None if segment.is_spare => 0,
            None => segment.left(),
        };
        self.pool.bytes() + self.segments.iter().map(counted).sum::<u64>()
    }

    /// Bytes that a source has proven.
    pub(crate) fn proven(&self, source: SourceId) -> u64 {
        self.sources.get(source.0).map_or(0, |source| source.proven)
    }

    /// Bytes a second that a source brought while it had something to bring.
    pub(crate) fn rate(&self, source: SourceId, now: Duration) -> u64 {
        self.sources.get(source.0).map_or(0, |source| source.meter.overall(now))
    }

    /// Whether its price, and nothing else, is why a source is not asked.
    pub(crate) fn is_too_dear(&self, source: SourceId) -> bool {
        self.sources.get(source.0).is_some_and(|source| source.too_dear && source.is_ready())
    }

    /// Whether a source will not be asked for anything any more.
    #[cfg(test)]
    pub(crate) fn is_out(&self, source: SourceId) -> bool {
        self.sources.get(source.0).is_none_or(|source| source.state == State::Out)
    }
}

// Commands.
impl Scheduler {
    /// A fetch from so many sources, each of which is to be joined first.
    pub(crate) fn new(plan: Plan, sources: usize) -> Self {
        Self {
            plan: Plan { group: plan.group.max(1), ..plan },
            pool: Pool::default(),
            total: None,
            sources: vec![Source::new(); sources],
            segments: BTreeMap::new(),
            next_segment: 0,
            actions: (0..sources).map(|source| Action::Join(SourceId(source))).collect(),
            chooses_at: None,
            end_first: false,
            hedged: Amount::ZERO,
        }
    }

    /// Says how much there is to do, from now on and instead of what there was. Nothing may be running.
    pub(crate) fn set_work(&mut self, total: u64) {
        debug_assert!(self.segments.is_empty(), "the work changes only between segments");
        self.total = Some(total);
        self.pool = Pool::new(total);
    }

    /// Has the last group fetched before anything else that is not running yet: it proves the size.
    pub(crate) fn fetch_end_first(&mut self) {
        self.end_first = true;
    }

    /// The source is not asked until it is [released](Self::release).
    pub(crate) fn park(&mut self, source: SourceId) {
        if let Some(source) = self.sources.get_mut(source.0).filter(|source| source.state != State::Out) {
            source.state = State::Parked;
        }
    }

    /// A parked source is ready again.
    pub(crate) fn release(&mut self, source: SourceId) {
        if let Some(source) = self.sources.get_mut(source.0).filter(|source| source.state == State::Parked) {
            source.state = State::Ready;
        }
    }
}

// What happened.
impl Scheduler {
    /// The source is connected, has the content, and charges this.
    pub(crate) fn handle_joined(&mut self, now: Duration, source: SourceId, tariff: Tariff) {
        let Some(found) = self.sources.get_mut(source.0).filter(|found| found.state == State::Joining) else { return };
        found.joined(tariff);
        self.chooses_at.get_or_insert(now + CHOICE_WAIT);
    }

    /// The source failed. What runs there goes on if it can; after a final failure it is cut off.
    pub(crate) fn handle_failed(&mut self, now: Duration, source: SourceId, failure: Failure) {
        let Some(found) = self.sources.get_mut(source.0) else { return };
        found.failed(now, failure);
        if found.state == State::Out {
            self.cut_all(source.0);
        }
    }

    /// So far everything up to here is proven of a segment.
    pub(crate) fn handle_progress(&mut self, now: Duration, segment: SegmentId, position: u64) {
        let Some(found) = self.segments.get_mut(&segment) else { return };
        let position = position.clamp(found.position, found.end);
        let bytes = position - found.position;
        found.position = position;
        let Some(source) = self.sources.get_mut(found.source) else { return };
        if bytes > 0 || found.is_held {
            found.moved_at = now;
        }
        if bytes > 0 {
            source.proved(now, bytes);
            source.charge(found.tariff, bytes);
        }
    }

    /// Whoever takes the bytes of this segment does not keep up, or does again: its source is not to blame.
    pub(crate) fn handle_held(&mut self, now: Duration, segment: SegmentId, is_held: bool) {
        let Some(found) = self.segments.get_mut(&segment) else { return };
        if found.is_held == is_held {
            return;
        }
        found.is_held = is_held;
        found.moved_at = now;
        let Some(source) = self.sources.get_mut(found.source) else { return };
        if is_held { source.meter.pause(now) } else { source.meter.begin(now) }
    }

    /// A cut is made: the segment ends there. It may have been further than was asked.
    pub(crate) fn handle_cut(&mut self, now: Duration, segment: SegmentId, end: u64) {
        let Some(found) = self.segments.get_mut(&segment) else { return };
        if found.cutting.take().is_none_or(|asked| end > asked) {
            // It was further, so that is where it is.
            self.handle_progress(now, segment, end);
        }
        let Some(found) = self.segments.get_mut(&segment) else { return };
        let end = end.clamp(found.position, found.end);
        let tail = end..found.end;
        found.end = end;
        match found.twin.take() {
            // The other one brings it.
            Some(twin) => {
                found.is_spare = true;
                self.unlink(twin);
            }
            None if found.is_spare => {}
            None => self.pool.put(tail),
        }
    }

    /// Nothing more comes of a segment; everything up to here is proven. What lacks goes to others.
    pub(crate) fn handle_ended(&mut self, now: Duration, segment: SegmentId, position: u64) {
        self.handle_progress(now, segment, position);
        let Some(ended) = self.segments.remove(&segment) else { return };
        let is_whole = ended.left() == 0;
        match ended.twin.filter(|twin| self.segments.contains_key(twin)) {
            // All that both were to bring is there.
            Some(twin) if is_whole => self.make_spare(twin),
            // The other one brings it.
            Some(twin) => self.unlink(twin),
            None if ended.is_spare => {}
            None => self.pool.put(ended.position..ended.end),
        }
        let is_idle = !self.segments.values().any(|other| other.source == ended.source);
        if let Some(source) = self.sources.get_mut(ended.source).filter(|_| is_idle) {
            source.meter.pause(now);
        }
    }

    fn unlink(&mut self, twin: SegmentId) {
        if let Some(twin) = self.segments.get_mut(&twin) {
            twin.twin = None;
        }
    }

    /// Nothing of a segment is wanted any more.
    fn make_spare(&mut self, segment: SegmentId) {
        let Some(found) = self.segments.get_mut(&segment) else { return };
        found.is_spare = true;
        found.twin = None;
        found.cutting = Some(found.position);
        self.actions.push_back(Action::Cut { segment, end: found.position });
    }

    fn cut_all(&mut self, source: usize) {
        let actions = &mut self.actions;
        for (id, segment) in self.segments.iter_mut().filter(|(_, segment)| segment.source == source) {
            if segment.left() > 0 && !segment.is_spare {
                segment.cutting = Some(segment.position);
                actions.push_back(Action::Cut { segment: *id, end: segment.position });
            }
        }
    }
}

// What is to be done.
impl Scheduler {
    /// The next thing to do; call it until there is none.
    pub(crate) fn poll_action(&mut self, now: Duration) -> Option<Action> {
        if self.actions.is_empty() {
            self.assign(now);
        }
        self.actions.pop_front()
    }

    /// When to come back at the latest, whatever happens.
    pub(crate) fn poll_timeout(&self, now: Duration) -> Duration {
        let cooling = self.sources.iter().filter_map(|source| match source.state {
            State::Cooling { until } => Some(until),
            _ => None,
        });
        let choice = self.chooses_at.filter(|_| self.sources.iter().any(Source::is_awaited));
        cooling.chain(choice).chain([now + TICK]).filter(|at| *at > now).min().unwrap_or(now + TICK)
    }
}

/// How long a choice by price waits for sources that have not said theirs, from the first that has.
const CHOICE_WAIT: Duration = Duration::from_secs(1);
/// How often progress is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
