//! Worlds of many sources on one clock: slow, silent, dying, lying and dear ones. One printed integer makes a world
//! again.

use std::collections::BTreeSet;

use super::*;

const GROUP: u64 = 64 << 10;
const MIB: u64 = 1 << 20;
const STEP: Duration = Duration::from_millis(10);

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.roll() % (range.end - range.start)
    }

    fn strikes(&mut self, percent: u64) -> bool {
        self.roll() % 100 < percent
    }
}

/// A source as it really is.
#[derive(Clone, Debug)]
struct Truth {
    /// Bytes a second, and from when on.
    rates: Vec<(Duration, u64)>,
    latency: Duration,
    per_mib: u64,
    /// Cannot be reached in these times; what runs breaks.
    down: Vec<Range<Duration>>,
    /// Sends nothing in these times.
    silent: Vec<Range<Duration>>,
    /// Sends a wrong group when it comes to it.
    lies_at: Option<u64>,
    /// Asks this much from the given time on; what was asked for before is still served.
    raises: Option<(Duration, u64)>,
}

impl Truth {
    fn at(rate: u64) -> Self {
        Self {
            rates: vec![(Duration::ZERO, rate)],
            latency: 10 * MS,
            per_mib: 100,
            down: Vec::new(),
            silent: Vec::new(),
            lies_at: None,
            raises: None,
        }
    }

    fn rate(&self, now: Duration) -> u64 {
        let is_silent = self.silent.iter().any(|times| times.contains(&now));
        let rate = self.rates.iter().rfind(|(from, _)| *from <= now).map_or(0, |(_, rate)| *rate);
        if is_silent { 0 } else { rate }
    }

    fn is_down(&self, now: Duration) -> bool {
        self.down.iter().any(|times| times.contains(&now))
    }

    fn tariff(&self, now: Duration) -> Tariff {
        let raised = self.raises.filter(|(from, _)| *from <= now).map(|(_, per_mib)| per_mib);
        Tariff { per_mib: raised.unwrap_or(self.per_mib) }
    }
}

/// A segment on its way.
struct Stream {
    id: SegmentId,
    source: usize,
    tariff: Tariff,
    starts: Duration,
    /// Bytes that arrived, the last group unproven.
    arrived: u64,
    start: u64,
    end: u64,
}

impl Stream {
    fn position(&self) -> u64 {
        let at = self.start + self.arrived;
        if at >= self.end { self.end } else { at / GROUP * GROUP }
    }
}

struct World {
    seed: u64,
    now: Duration,
    total: u64,
    plan: Plan,
    truths: Vec<Truth>,
    scheduler: Scheduler,
    joins: Vec<(Duration, usize)>,
    streams: Vec<Stream>,
    /// How often each group was proven.
    proven: Vec<u8>,
    /// Groups that nobody has proven, and times that one was proven again.
    lacks: u64,
    twice: u64,
    paid: Vec<u64>,
    /// Segments that were cut, however often.
    cuts: BTreeSet<SegmentId>,
    asks: usize,
    /// Bytes that were asked for while another source was to bring them.
    doubled: u64,
    blamed: Vec<usize>,
}

const MS: Duration = Duration::from_millis(1);

impl World {
    fn new(seed: u64, total: u64, truths: Vec<Truth>, adjust: impl FnOnce(&mut Plan)) -> Self {
        let mut plan = Plan {
            group: GROUP,
            allowed: Amount::new(u64::MAX),
            prefer: Preference::Fastest,
            hedge: None,
            window: None,
        };
        adjust(&mut plan);
        let count = truths.len();
        let mut scheduler = Scheduler::new(plan, count);
        scheduler.set_work(total);
        Self {
            seed,
            now: Duration::ZERO,
            total,
            plan,
            truths,
            scheduler,
            joins: Vec::new(),
            streams: Vec::new(),
            proven: vec![0; usize::try_from(total.div_ceil(GROUP)).unwrap()],
            lacks: total.div_ceil(GROUP),
            twice: 0,
            paid: vec![0; count],
            cuts: BTreeSet::new(),
            asks: 0,
            doubled: 0,
            blamed: Vec::new(),
        }
    }

    /// Runs to the end; the time that it took, or none if nobody is left.
    fn run(&mut self) -> Option<Duration> {
        while self.now < Duration::from_secs(3_600) {
            self.act();
            self.check();
            match self.scheduler.standing() {
                Standing::Runs => {}
                Standing::Done => {
                    assert!(self.proven.iter().all(|times| *times >= 1), "seed {}: bytes lack", self.seed);
                    return Some(self.now);
                }
                Standing::Stuck { .. } => return None,
            }
            self.now += STEP;
            self.flow();
        }
        panic!("seed {}: no end in sight, {:?}", self.seed, self.scheduler);
    }

    fn act(&mut self) {
        for turn in 0.. {
            assert!(turn < 1_000, "seed {}: it never rests", self.seed);
            let Some(action) = self.scheduler.poll_action(self.now) else { break };
            match action {
                Action::Join(SourceId(source)) => {
                    self.joins.push((self.now + self.truths[source].latency * 2, source));
                }
                Action::Ask { segment, source: SourceId(source), range } => {
                    self.asks += 1;
                    assert!(range.start < range.end && range.end <= self.total, "seed {}", self.seed);
                    assert!(range.start.is_multiple_of(GROUP), "seed {}: {range:?}", self.seed);
                    assert!(range.end.is_multiple_of(GROUP) || range.end == self.total, "seed {}", self.seed);
                    let running = self.streams.iter().filter(|stream| stream.source == source).count();
                    assert!(running < 2, "seed {}: one runs, one waits", self.seed);
                    if let Some(window) = self.plan.window {
                        let lowest = self.proven.iter().position(|times| *times == 0).unwrap() as u64 * GROUP;
                        assert!(range.end <= lowest + window, "seed {}: {range:?} is too far ahead", self.seed);
                    }
                    let meets = |stream: &&Stream| stream.position() < range.end && range.start < stream.end;
                    let is_double = self.streams.iter().any(|stream| meets(&stream));
                    self.doubled += if is_double { range.end - range.start } else { 0 };
                    let truth = &self.truths[source];
                    let starts = self.now + truth.latency * 2;
                    let tariff = self.scheduler.sources[source].tariff;
                    let Range { start, end } = range;
                    self.streams.push(Stream { id: segment, source, tariff, starts, arrived: 0, start, end });
                }
                Action::Cut { segment, end } => {
                    self.cuts.insert(segment);
                    let stream = self.streams.iter_mut().find(|stream| stream.id == segment);
                    let Some(stream) = stream else { continue };
                    stream.end = stream.end.min(end.max(stream.position()));
                    let end = stream.end;
                    self.scheduler.handle_cut(self.now, segment, end);
                }
            }
        }
    }

    fn flow(&mut self) {
        let now = self.now;
        for (_, source) in self.joins.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            if self.truths[source].is_down(now) {
                self.scheduler.handle_failed(now, SourceId(source), Failure::Passing);
            } else {
                self.scheduler.handle_joined(now, SourceId(source), self.truths[source].tariff(now));
            }
        }
        let sharing = |streams: &[Stream], source| {
            streams.iter().filter(|stream| stream.source == source && stream.starts <= now).count() as u64
        };
        let shares: Vec<u64> = (0..self.truths.len()).map(|source| sharing(&self.streams, source).max(1)).collect();
        let mut ended = Vec::new();
        for (index, stream) in self.streams.iter_mut().enumerate() {
            let truth = &self.truths[stream.source];
            if truth.is_down(now) {
                ended.push((index, Some(Failure::Passing)));
                continue;
            }
            if truth.tariff(now) != stream.tariff && stream.arrived == 0 && stream.starts <= now {
                // Price too high: it was asked at the old price.
                ended.push((index, Some(Failure::Passing)));
                continue;
            }
            let before = stream.position();
            if stream.starts <= now {
                stream.arrived += truth.rate(now) * STEP.as_millis() as u64 / 1_000 / shares[stream.source];
            }
            let mut position = stream.position();
            let lie = truth.lies_at.filter(|at| (before..position).contains(at));
            if let Some(at) = lie {
                position = at / GROUP * GROUP;
                stream.arrived = position - stream.start;
            }
            for group in before.div_ceil(GROUP)..position.div_ceil(GROUP) {
                let times = &mut self.proven[usize::try_from(group).unwrap()];
                *times += 1;
                assert!(*times <= 2, "seed {}: bytes came three times", self.seed);
                self.lacks -= u64::from(*times == 1);
                self.twice += u64::from(*times == 2);
            }
            self.paid[stream.source] += (position - before) * stream.tariff.per_mib;
            // Progress is looked at now and then only.
            if now.as_millis().is_multiple_of(50) {
                self.scheduler.handle_progress(now, stream.id, position);
            }
            if lie.is_some() {
                ended.push((index, Some(Failure::Final)));
            } else if position == stream.end {
                ended.push((index, None));
            }
        }
        for (index, failure) in ended.into_iter().rev() {
            let stream = self.streams.remove(index);
            self.scheduler.handle_ended(now, stream.id, stream.position());
            if let Some(failure) = failure {
                if failure == Failure::Final {
                    self.blamed.push(stream.source);
                }
                self.scheduler.handle_failed(now, SourceId(stream.source), failure);
            }
        }
    }

    /// What holds after every step.
    fn check(&self) {
        let seed = self.seed;
        let paid: u64 = self.paid.iter().map(|parts| parts.div_ceil(MIB)).sum();
        assert!(paid <= self.plan.allowed.get(), "seed {seed}: {paid} paid");
        let twice = self.twice;
        if self.plan.hedge.is_none() {
            assert_eq!(twice, 0, "seed {seed}: bytes came twice");
        }
        assert!(twice * GROUP < self.doubled + GROUP, "seed {seed}: {twice} groups came twice");
        assert!(self.scheduler.hedged <= self.plan.hedge.unwrap_or_default(), "seed {seed}");
        // What the scheduler has seen is never more than what is there, and nothing is lost on the way.
        let (left, lacks) = (self.scheduler.left(), self.lacks * GROUP);
        assert!(left + GROUP > lacks, "seed {seed}: {left} of {lacks}");
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Hundredths of the ideal time.
fn over_ideal(took: Duration, total: u64, rates: &[u64]) -> u128 {
    let ideal = u128::from(total) * 1_000 / u128::from(rates.iter().sum::<u64>());
    took.as_millis() * 100 / ideal
}

#[test]
fn sources_of_any_rates_end_together() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let count = dice.within(1..9);
        let rates: Vec<u64> = (0..count).map(|_| dice.within(200_000..5_000_000)).collect();
        let total = rates.iter().sum::<u64>() * dice.within(5..30) + dice.within(0..GROUP);
        let mut world = World::new(seed, total, rates.iter().map(|rate| Truth::at(*rate)).collect(), |_| {});
        let took = world.run().unwrap();
        let over = over_ideal(took, total, &rates);
        assert!(over <= 112, "seed {seed}: {over} % of the ideal, {rates:?}, {} cuts", world.cuts.len());
        assert!(world.cuts.len() <= 4 + rates.len() * 2, "seed {seed}: {} cuts", world.cuts.len());
    }
}

#[test]
fn three_equal_sources_waste_nothing() {
    let mut world = World::new(0, 512 * MIB, vec![Truth::at(12_000_000); 3], |_| {});
    let took = world.run().unwrap();
    let over = took.as_millis() * 1_000 / (512 * u128::from(MIB) / 36_000);
    assert!(over <= 1_012, "{over} thousandths of the ideal");
    assert_eq!(world.cuts.len(), 0, "no stream is cancelled where all keep their rate");
    assert!(world.asks < 150, "{} requests", world.asks);
}

#[test]
fn one_of_three_that_becomes_slow_at_half_time_holds_up_nobody() {
    for total in [64, 128, 256, 512] {
        let total = total * MIB;
        let half = Duration::from_millis(total / 36_000 / 2);
        let mut truths = vec![Truth::at(12_000_000); 3];
        truths[1].rates.push((half, 120_000));
        let mut world = World::new(0, total, truths, |_| {});
        let took = world.run().unwrap();
        // Half of it at three, half at two.
        let ideal = half.as_millis() + u128::from(total) / 2 / 24_120;
        let over = took.as_millis() * 100 / ideal;
        assert!(over <= 118, "{over} % of the ideal for {total} bytes");
        assert!(world.cuts.len() <= 4, "{} cuts", world.cuts.len());
    }
}

#[test]
fn a_source_that_falls_silent_is_left_alone_and_tried_again() {
    let mut truths = vec![Truth::at(5_000_000); 2];
    truths[0].silent.push(ms(2_000)..ms(9_000));
    let mut world = World::new(0, 200 * MIB, truths, |_| {});
    let took = world.run().unwrap();
    // Two sources but for 7 s.
    let ideal = (200 * MIB / 10_000 + 3_500) as u128;
    assert!(took.as_millis() * 100 / ideal <= 125, "{took:?} against {ideal} ms");
    assert!(world.scheduler.proven(SourceId(0)) > 40 * MIB, "it came back");
}

#[test]
fn a_liar_is_out_for_good_and_what_it_proved_stays() {
    let mut truths = vec![Truth::at(5_000_000); 3];
    truths[2].lies_at = Some(99 * MIB + 5);
    for lucky in 0..3 {
        truths.rotate_left(lucky);
        let mut world = World::new(lucky as u64, 100 * MIB, truths.clone(), |_| {});
        assert!(world.run().is_some());
        for blamed in &world.blamed {
            assert!(world.scheduler.is_out(SourceId(*blamed)) && truths[*blamed].lies_at.is_some());
        }
    }
    let mut truth = Truth::at(5_000_000);
    truth.lies_at = Some(50 * MIB);
    let mut world = World::new(9, 100 * MIB, vec![truth], |_| {});
    assert_eq!(world.run(), None, "nobody else is left");
    assert_eq!(world.scheduler.proven(SourceId(0)) / MIB * MIB, 50 * MIB);
}

#[test]
fn cheap_sources_are_preferred_until_they_fail() {
    let mut truths = vec![Truth::at(4_000_000); 3];
    truths[0].per_mib = 1_000;
    truths[1].per_mib = 180;
    for (prefer, used) in [
        (Preference::Cheapest, [false, false, true]),
        (Preference::Balanced, [false, true, true]),
        (Preference::Fastest, [true, true, true]),
    ] {
        let mut world = World::new(0, 80 * MIB, truths.clone(), |plan| plan.prefer = prefer);
        assert!(world.run().is_some());
        let proven = [0, 1, 2].map(|source| world.scheduler.proven(SourceId(source)) > 0);
        assert_eq!(proven, used, "{prefer:?}");
    }
    // The cheap ones die: the dear one finishes it.
    truths[1].down.push(ms(3_000)..ms(600_000));
    truths[2].down.push(ms(2_000)..ms(600_000));
    let mut world = World::new(0, 80 * MIB, truths, |plan| plan.prefer = Preference::Cheapest);
    assert!(world.run().is_some());
    assert!(world.scheduler.proven(SourceId(0)) > 60 * MIB);
}

#[test]
fn a_dear_source_gets_only_what_leaves_enough_for_the_rest() {
    let mut truths = vec![Truth::at(2_000_000), Truth::at(20_000_000)];
    truths[1].per_mib = 300;
    // 100 MiB at 100, and 40 MiB of them at 200 more.
    let mut world = World::new(0, 100 * MIB, truths.clone(), |plan| plan.allowed = Amount::new(18_000));
    assert!(world.run().is_some());
    let dear = world.scheduler.proven(SourceId(1));
    assert!((38 * MIB..=40 * MIB).contains(&dear), "{dear}");
    assert!(world.scheduler.is_too_dear(SourceId(1)));

    // Enough for the cheap one to the unit; not enough by one.
    let mut world = World::new(0, 100 * MIB, truths.clone(), |plan| plan.allowed = Amount::new(10_000));
    assert!(world.run().is_some());
    assert_eq!((world.paid[0] / MIB, world.paid[1]), (10_000, 0));
    let mut world = World::new(0, 100 * MIB, truths.clone(), |plan| plan.allowed = Amount::new(9_999));
    assert_eq!(world.run(), None);
    assert_eq!(world.scheduler.standing(), Standing::Stuck { price: Some(Amount::new(10_000)) });
    assert_eq!(world.paid, [0, 0], "nothing is bought of what cannot be finished");

    // It raises its price half-way: not a unit more than allowed is spent, and the fetch ends.
    truths[0].raises = Some((ms(10_000), 5_000));
    let mut world = World::new(0, 100 * MIB, truths[..1].to_vec(), |plan| plan.allowed = Amount::new(10_000));
    assert_eq!(world.run(), None);
    assert!(matches!(world.scheduler.standing(), Standing::Stuck { price: Some(price) } if price.get() > 10_000));
}

#[test]
fn a_tail_is_asked_for_twice_only_within_its_cap() {
    // It keeps a rate that is measured, and falls silent for the very end.
    let mut truths = vec![Truth::at(3_000_000), Truth::at(3_000_000)];
    truths[0].silent.push(ms(3_300)..ms(600_000));
    let time = |hedge: Option<u64>| {
        let adjust = |plan: &mut Plan| plan.hedge = hedge.map(Amount::new);
        let mut world = World::new(0, 20 * MIB + 7, truths.clone(), adjust);
        let took = world.run().unwrap();
        (took, world.scheduler.hedged)
    };
    let (plain, nothing) = time(None);
    assert_eq!(nothing, Amount::ZERO);
    let (hedged, cost) = time(Some(1_000));
    assert!(hedged <= plain && cost.get() <= 1_000, "{hedged:?} with, {plain:?} without");
    let (_, capped) = time(Some(1));
    assert!(capped.get() <= 1);
}

#[test]
fn nothing_is_asked_for_far_ahead_where_order_matters() {
    for seed in 0..50 {
        let mut dice = Dice(seed);
        let truths = (0..dice.within(1..6)).map(|_| Truth::at(dice.within(500_000..9_000_000))).collect();
        let mut world = World::new(seed, 40 * MIB, truths, |plan| plan.window = Some(8 * MIB));
        assert!(world.run().is_some());
    }
}

#[test]
fn the_end_comes_first_where_the_size_is_in_doubt() {
    let mut scheduler = World::new(0, 10 * MIB + 5, vec![Truth::at(1_000_000)], |_| {}).scheduler;
    scheduler.fetch_end_first();
    let _ = scheduler.poll_action(ms(0));
    scheduler.handle_joined(ms(1), SourceId(0), Tariff::default());
    let Some(Action::Ask { range, .. }) = scheduler.poll_action(ms(1)) else { panic!("it is asked") };
    assert_eq!(range, 10 * MIB..10 * MIB + 5);
    let Some(Action::Ask { range, .. }) = scheduler.poll_action(ms(1)) else { panic!("it is asked for more") };
    assert_eq!(range.start, 0);
}

#[test]
fn a_parked_source_is_asked_for_nothing_until_it_is_released() {
    let mut scheduler = World::new(0, 10 * MIB, vec![Truth::at(1_000_000)], |_| {}).scheduler;
    let _ = scheduler.poll_action(ms(0));
    scheduler.handle_joined(ms(1), SourceId(0), Tariff::default());
    scheduler.park(SourceId(0));
    assert_eq!(scheduler.poll_action(ms(1)), None);
    assert_eq!(scheduler.standing(), Standing::Stuck { price: None });
    scheduler.release(SourceId(0));
    assert!(matches!(scheduler.poll_action(ms(2)), Some(Action::Ask { .. })));
}

#[test]
fn a_source_that_is_held_up_by_missing_bytes_may_be_asked_for_them() {
    let truths = vec![Truth::at(1_000_000); 2];
    let mut scheduler = World::new(0, 10 * MIB, truths, |plan| plan.window = Some(4 * MIB)).scheduler;
    while scheduler.poll_action(ms(0)).is_some() {}
    scheduler.handle_joined(ms(1), SourceId(0), Tariff::default());
    scheduler.handle_joined(ms(1), SourceId(1), Tariff::default());
    let mut asked = Vec::new();
    while let Some(Action::Ask { segment, source, range }) = scheduler.poll_action(ms(1)) {
        asked.push((segment, source, range));
    }
    let of = |wanted| asked.iter().filter(move |(_, source, _)| *source == SourceId(wanted));
    assert_eq!((of(0).count(), of(1).count()), (2, 2), "one runs, one waits: {asked:?}");
    for (segment, _, range) in of(0) {
        scheduler.handle_ended(ms(2), *segment, range.start);
    }
    scheduler.handle_failed(ms(2), SourceId(0), Failure::Final);
    assert_eq!(scheduler.poll_action(ms(2)), None, "the other one has its hands full");
    of(1).for_each(|(segment, ..)| scheduler.handle_held(ms(3), *segment, true));
    let Some(Action::Ask { source, range, .. }) = scheduler.poll_action(ms(3)) else { panic!("nobody is asked") };
    assert_eq!((source, range.start), (SourceId(1), 0));
}

/// Everything at once.
fn wild(seed: u64) {
    let mut dice = Dice(seed);
    let count = dice.within(1..8);
    let times = |dice: &mut Dice, most: u64| {
        let from = dice.within(0..20_000);
        ms(from)..ms(from + dice.within(1..most))
    };
    let mut truths: Vec<Truth> = (0..count)
        .map(|_| {
            let mut truth = Truth::at(dice.within(100_000..10_000_000));
            truth.latency = ms(dice.within(1..150));
            truth.per_mib = [0, 100, 100, 150, 900][usize::try_from(dice.within(0..5)).unwrap()];
            if dice.strikes(40) {
                truth.rates.push((ms(dice.within(0..15_000)), dice.within(1_000..10_000_000)));
            }
            if dice.strikes(30) {
                truth.down.push(times(&mut dice, 60_000));
            }
            if dice.strikes(30) {
                truth.silent.push(times(&mut dice, 60_000));
            }
            if dice.strikes(20) {
                truth.lies_at = Some(dice.within(0..60 * MIB));
            }
            if dice.strikes(20) {
                truth.raises = Some((ms(dice.within(0..20_000)), dice.within(1..2_000)));
            }
            truth
        })
        .collect();
    let total = dice.within(1..80 * MIB);
    let is_solid = dice.strikes(70);
    if is_solid {
        truths.push(Truth::at(1_000_000));
    }
    let budget = if dice.strikes(40) { dice.within(1..20_000) } else { u64::MAX };
    let prefers = [Preference::Fastest, Preference::Cheapest, Preference::Balanced];
    let prefer = prefers[usize::try_from(dice.within(0..3)).unwrap()];
    let hedge = dice.strikes(40).then(|| Amount::new(dice.within(0..500)));
    let window = dice.strikes(30).then(|| dice.within(4..32) * MIB);
    let mut world = World::new(seed, total, truths, |plan| {
        (plan.allowed, plan.prefer, plan.hedge, plan.window) = (Amount::new(budget), prefer, hedge, window);
    });
    let took = world.run();
    assert!(took.is_some() || !is_solid || budget < u64::MAX, "seed {seed}: a good source was there to the end");
}

#[test]
fn wild_worlds_end_with_every_byte_once_and_within_the_budget() {
    for seed in 0..150 {
        wild(seed);
    }
}
