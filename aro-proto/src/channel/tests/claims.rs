//! Could break: what a killed agent is billed once the next one says what it had proven: honest agents pay what they proved,
//! liars gain no more than by going away once, nothing is lost or made, and no binding's word touches another's streams.
//!
//! `ARO_SIM_SEED=n` runs one world.

use std::collections::BTreeMap;

use super::simulation::seeds;
use super::world::Random;
use super::*;
use crate::channel::window::{counting_allowance, lending_limit};
use crate::tariff::Charge;

const A: StreamKey = StreamKey(4);
const B: StreamKey = StreamKey(8);
const ANY: Charge = Charge::from_parts(u128::MAX);

/// Paid for 16 MiB, and then a stream of 8 MiB that is sent as far as the window lets it: whole.
fn with_a_stream_on_its_way() -> Payee {
    let mut payee = Payee::new(terms(100_000), TARIFF, Some(durable(1_600)));
    payee.begin(A, bytes(8 * MIB)).unwrap();
    for _ in 0..8 * MIB / BATCH_BYTES {
        assert_eq!(payee.may_send(A, bytes(BATCH_BYTES)), Ok(Permit::Granted));
    }
    payee
}

fn lost(payee: &mut Payee, acknowledged: u64, unsent: u64) -> Delivered {
    payee.lost(A, InFlight { acknowledged: bytes(acknowledged), unsent: bytes(unsent) }).unwrap().delivered
}

fn mib(count: u64) -> Charge {
    TARIFF.charge(bytes(count * MIB))
}

fn claimed(off: Charge, again: Charge) -> Claimed {
    Claimed { off, again }
}

// r[verify bind.replace.proven]
#[test]
fn what_had_arrived_and_was_not_proven_comes_off_and_what_was_proven_on_its_way_is_billed_again() {
    for (acknowledged, unsent, proven, expected) in [
        // Two of four that arrived were proven; two never left, and two were on their way.
        (4, 2, 2, claimed(mib(2), Charge::ZERO)),
        // Of the two on their way one was proven.
        (4, 2, 5, claimed(Charge::ZERO, mib(1))),
        (4, 2, 4, claimed(Charge::ZERO, Charge::ZERO)),
        // Nobody can have proven what never left.
        (4, 2, 8, claimed(Charge::ZERO, mib(2))),
        (8, 0, 0, claimed(mib(8), Charge::ZERO)),
        (0, 8, 8, claimed(Charge::ZERO, Charge::ZERO)),
    ] {
        let mut payee = with_a_stream_on_its_way();
        // Leaves the allowance and the window the room for all of it.
        payee.credit(durable(2_400));
        payee.refresh(&ChannelTerms { settled: units(16_000), ..terms(100_000) });
        let delivered = lost(&mut payee, acknowledged * MIB, unsent * MIB);
        let billed = payee.billed();
        assert_eq!(payee.claimed(delivered, mib(proven), ANY), expected, "{proven} proven");
        let after = billed.checked_add(expected.again).unwrap().checked_sub(expected.off);
        assert_eq!(Some(payee.billed()), after);
        assert_eq!(payee.disputed(), Charge::ZERO);
    }
}

// r[verify bind.replace.proven]
#[test]
fn the_word_of_a_binding_covers_all_its_streams_and_takes_back_nothing_that_was_said() {
    let mut payee = with_a_stream_on_its_way();
    let mut delivered = Delivered::default();
    // One ends as cancelled with half of it proven, one whole; the transport of the third had all of it acknowledged.
    delivered.add(payee.end(A, Some(bytes(7 * MIB))).unwrap().delivered);
    payee.credit(durable(2_300));
    for (stream, end) in [(A, true), (B, false)] {
        payee.begin(stream, bytes(MIB)).unwrap();
        for _ in 0..4 {
            payee.may_send(stream, bytes(BATCH_BYTES)).unwrap();
        }
        delivered.add(match end {
            true => payee.end(stream, None).unwrap().delivered,
            false => {
                payee.lost(stream, InFlight { acknowledged: bytes(MIB), ..InFlight::default() }).unwrap().delivered
            }
        });
    }
    let billed = payee.billed();
    for (proven, off) in [(9, mib(0)), (8, mib(1)), (7, mib(2)), (3, mib(2)), (0, mib(2))] {
        let mut payee = payee.clone();
        assert_eq!(payee.claimed(delivered, mib(proven), ANY), claimed(off, Charge::ZERO), "{proven} proven");
        assert_eq!(payee.billed(), billed.checked_sub(off).unwrap());
    }
    let mut settled = Delivered::default();
    settled.add(payee.end(B, None).map_or(settled, |settled| settled.delivered));
    assert!(settled.is_settled() && !delivered.is_settled());
    assert_eq!(payee.claimed(settled, ANY, ANY), claimed(Charge::ZERO, Charge::ZERO), "of an unknown binding");
}

// r[verify bind.replace.proven]
#[test]
fn what_there_is_no_room_for_is_paid_and_comes_off_as_paying_makes_room() {
    let mut payee = with_a_stream_on_its_way();
    let delivered = lost(&mut payee, 8 * MIB, 0);
    // Another stream's death has taken the allowance and most of the window.
    payee.credit(durable(2_400));
    for stream in [A, B, A, B] {
        payee.begin(stream, bytes(24 * MIB)).unwrap();
        while payee.may_send(stream, bytes(BATCH_BYTES)) == Ok(Permit::Granted) {}
        payee.lost(stream, InFlight::default()).unwrap();
    }
    let (billed, off) = (payee.billed(), payee.claimed(delivered, mib(1), ANY).off);
    let kept = mib(7).checked_sub(off).unwrap();
    assert!(kept > mib(4) && payee.begin(A, bytes(MIB)).is_ok(), "{kept:?}");
    assert_eq!(payee.billed(), billed.checked_sub(off).unwrap());
    // Sixteen MiB more make room for eight in the window, and for one in the allowance.
    payee.end(A, None).unwrap();
    payee.credit(durable(4_000));
    assert_eq!(payee.billed(), billed.checked_sub(mib(7)).unwrap());
    payee.credit(durable(8_000));
    assert_eq!(payee.billed(), billed.checked_sub(mib(7)).unwrap(), "once");
}

// r[verify bind.replace.proven]
// r[verify channel.window]
// r[verify channel.reserve]
#[test]
fn what_is_billed_again_stays_within_deposit_window_and_what_the_owner_may_owe() {
    let on_its_way = || {
        let mut payee = with_a_stream_on_its_way();
        let delivered = lost(&mut payee, 0, 0);
        assert_eq!((payee.owed(), payee.billed()), (Charge::ZERO, mib(16)));
        (payee, delivered)
    };
    let (mut payee, delivered) = on_its_way();
    assert_eq!(payee.claimed(delivered, ANY, ANY), claimed(Charge::ZERO, mib(8)));
    let (mut payee, delivered) = on_its_way();
    assert_eq!(payee.claimed(delivered, ANY, mib(3)), claimed(Charge::ZERO, mib(3)));
    // Another connection has taken the room by now: beside it there is what was lent, and no more.
    let (mut payee, delivered) = on_its_way();
    payee.begin(B, bytes(8 * MIB)).unwrap();
    while payee.may_send(B, bytes(BATCH_BYTES)) == Ok(Permit::Granted) {}
    let (owed, lent) = (payee.owed(), payee.lent());
    let again = payee.claimed(delivered, ANY, ANY).again;
    assert!(again >= lent && payee.lent() == Charge::ZERO, "{again:?} of {lent:?}");
    assert_eq!(payee.owed(), owed.checked_add(again).unwrap());
    assert!(payee.owed() <= Charge::from_amount(payee.window()));
    // Or what is left of the deposit.
    let mut payee = Payee::new(terms(2_500), TARIFF, Some(durable(1_600)));
    payee.begin(A, bytes(8 * MIB)).unwrap();
    while payee.may_send(A, bytes(BATCH_BYTES)) == Ok(Permit::Granted) {}
    let delivered = lost(&mut payee, 0, 0);
    payee.begin(B, bytes(6 * MIB)).unwrap();
    assert_eq!(payee.claimed(delivered, ANY, ANY), claimed(Charge::ZERO, mib(3)));
    assert_eq!(payee.deposit_left(), units(0));
}

/// Payee and bindings of one agent, honest or not, and the sums that must hold.
struct Bindings {
    seed: u64,
    random: Random,
    payee: Payee,
    lies: bool,
    living: BTreeMap<u64, Binding>,
    dead: Vec<Binding>,
    next: u64,
    paid: u64,
    granted: Charge,
    never_left: Charge,
    off: Charge,
    again: Charge,
    /// Truly proven, on all bindings.
    proven: Charge,
    /// By how much claims took off too little, and billed too little again.
    kept: Charge,
    missed: Charge,
}

#[derive(Default)]
struct Binding {
    delivered: Delivered,
    proven: Charge,
    streams: BTreeMap<u64, Stream>,
}

#[derive(Default)]
struct Stream {
    total: u64,
    sent: u64,
    proven: u64,
}

impl Bindings {
    fn new(seed: u64, lies: bool) -> Self {
        let mut random = Random(seed);
        let paid = [0, 150, 800, 4_000][random.index(4)];
        let best = (paid > 0).then(|| durable(paid));
        let zero = Charge::ZERO;
        let payee = Payee::new(terms(10_000_000), TARIFF, best);
        let granted = payee.billed();
        Self {
            seed,
            random,
            payee,
            lies,
            living: BTreeMap::from([(0, Binding::default()), (1, Binding::default())]),
            dead: Vec::new(),
            next: 2,
            paid,
            granted,
            never_left: zero,
            off: zero,
            again: zero,
            proven: granted,
            kept: zero,
            missed: zero,
        }
    }

    fn step(&mut self) {
        match self.random.below(64) {
            0..6 => self.request(),
            6..34 => self.send(),
            34..52 => self.prove(),
            52..56 => self.end(),
            56..61 => self.pay(),
            61 => self.kill(),
            _ => self.claim(),
        }
        self.check();
    }

    fn pick(&mut self) -> Option<(u64, u64)> {
        let all: Vec<_> =
            self.living.iter().flat_map(|(id, binding)| binding.streams.keys().map(|stream| (*id, *stream))).collect();
        self.random.shuffled(all).first().copied()
    }

    fn stream(&mut self, (binding, stream): (u64, u64)) -> &mut Stream {
        self.living.get_mut(&binding).unwrap().streams.get_mut(&stream).unwrap()
    }

    fn request(&mut self) {
        let total = (1 + self.random.below(8 * MIB / BATCH_BYTES)) * BATCH_BYTES;
        let ids: Vec<_> = self.living.keys().copied().collect();
        let id = self.random.shuffled(ids)[0];
        match self.payee.begin(StreamKey(self.next), bytes(total)) {
            Ok(()) => {
                let stream = Stream { total, ..Stream::default() };
                self.living.get_mut(&id).unwrap().streams.insert(self.next, stream);
                self.next += 1;
            }
            Err(error) => assert!(self.lies, "seed {}: {error}", self.seed),
        }
    }

    fn send(&mut self) {
        let Some(picked) = self.pick() else { return };
        let (key, stream) = (StreamKey(picked.1), self.stream(picked));
        if stream.sent < stream.total && self.payee.may_send(key, bytes(BATCH_BYTES)) == Ok(Permit::Granted) {
            self.stream(picked).sent += BATCH_BYTES;
            self.granted = self.granted.checked_add(TARIFF.charge(bytes(BATCH_BYTES))).unwrap();
        }
    }

    fn prove(&mut self) {
        let Some(picked) = self.pick() else { return };
        let groups = (self.stream(picked).sent - self.stream(picked).proven) / GROUP;
        if groups > 0 {
            let more = (1 + self.random.below(groups)) * GROUP;
            self.stream(picked).proven += more;
            let charge = TARIFF.charge(bytes(more));
            let binding = self.living.get_mut(&picked.0).unwrap();
            binding.proven = binding.proven.checked_add(charge).unwrap();
            self.proven = self.proven.checked_add(charge).unwrap();
        }
    }

    /// Whole, if all of it is proven, or cancelled by a liar.
    fn end(&mut self) {
        let Some(picked) = self.pick() else { return };
        let Stream { total, proven, .. } = *self.stream(picked);
        let is_whole = proven == total;
        if !is_whole && !self.lies {
            return;
        }
        let said = if is_whole { None } else { Some(bytes(proven / 2)) };
        let settled = self.payee.end(StreamKey(picked.1), said).unwrap();
        let binding = self.living.get_mut(&picked.0).unwrap();
        binding.streams.remove(&picked.1);
        binding.delivered.add(settled.delivered);
        self.off = self.off.checked_add(settled.forgiven).unwrap();
    }

    /// For all that is proven; a liar for some of it.
    fn pay(&mut self) {
        let most = if self.lies { self.payee.billed() } else { self.proven };
        let most = most.to_amount().unwrap().get().min(self.payee.billed().to_amount().unwrap().get());
        let rise = most.saturating_sub(self.paid);
        let rise = if self.lies { rise / 3 } else { rise };
        if rise > 0 {
            self.paid += rise;
            let before = self.payee.billed();
            self.payee.credit(durable(self.paid));
            // What claims had no room for.
            let off = before.checked_sub(self.payee.billed()).unwrap();
            self.off = self.off.checked_add(off).unwrap();
            self.kept = self.kept.saturating_sub(off);
        }
    }

    /// Nothing is said: the transport knows in whole batches what arrived, and at most what never left.
    fn kill(&mut self) {
        let ids: Vec<_> = self.living.keys().copied().collect();
        let id = self.random.shuffled(ids)[0];
        let mut binding = self.living.remove(&id).unwrap();
        self.living.insert(self.next, Binding::default());
        self.next += 1;
        for (key, stream) in std::mem::take(&mut binding.streams) {
            let left = stream.sent - self.random.below(stream.sent - stream.proven + 1) / GROUP * GROUP;
            let arrived = left - self.random.below(left - stream.proven + 1);
            let seen = InFlight {
                acknowledged: bytes(arrived / BATCH_BYTES * BATCH_BYTES),
                unsent: bytes((stream.sent - left) / 2),
            };
            let lost = self.payee.lost(StreamKey(key), seen).unwrap();
            binding.delivered.add(lost.delivered);
            self.off = self.off.checked_add(lost.off).unwrap();
            self.never_left = self.never_left.checked_add(TARIFF.charge(seen.unsent)).unwrap();
        }
        self.dead.push(binding);
    }

    fn claim(&mut self) {
        if self.dead.is_empty() {
            return;
        }
        let Binding { delivered, proven, .. } = self.dead.swap_remove(self.random.index(self.dead.len()));
        let word = match self.random.below(4) {
            _ if !self.lies => proven,
            0 => Charge::ZERO,
            1 => Charge::from_parts(u128::from(self.random.next())),
            2 => ANY,
            _ => proven,
        };
        let Claimed { off, again } = self.payee.claimed(delivered, word, ANY);
        self.off = self.off.checked_add(off).unwrap();
        self.again = self.again.checked_add(again).unwrap();
        let (billed, proven) = (delivered.presumed, proven.saturating_sub(delivered.confirmed));
        let (too_much, too_little) = (billed.saturating_sub(proven), proven.saturating_sub(billed));
        if !self.lies && off < too_much {
            let limit = lending_limit(self.payee.paid(), &TARIFF);
            assert_eq!((self.forgiven(), self.payee.lent()), (self.allowance(), limit), "seed {}", self.seed);
        }
        self.kept = self.kept.checked_add(too_much.saturating_sub(off)).unwrap();
        self.missed = self.missed.checked_add(too_little.saturating_sub(again)).unwrap();
    }

    /// All that may have arrived.
    fn left(&self) -> Charge {
        self.granted.checked_sub(self.never_left).unwrap()
    }

    fn forgiven(&self) -> Charge {
        self.left().checked_sub(self.payee.billed().checked_add(self.payee.lent()).unwrap()).unwrap()
    }

    fn allowance(&self) -> Charge {
        counting_allowance(self.payee.paid(), &TARIFF)
    }

    fn check(&self) {
        let (seed, payee) = (self.seed, &self.payee);
        let billed = self.granted.checked_add(self.again).unwrap().checked_sub(self.off);
        assert_eq!(Some(payee.billed()), billed, "seed {seed}: something was billed twice or not at all");
        let window = Charge::from_amount(payee.window());
        let at_risk = payee.owed().checked_add(payee.lent()).unwrap();
        assert!(at_risk <= window, "seed {seed}: {at_risk:?} at risk");
        let (forgiven, allowance) = (self.forgiven(), self.allowance());
        assert!(forgiven <= allowance, "seed {seed}: {forgiven:?} forgiven");
        // So whatever an agent says, it has for nothing at most what one has that goes away once.
        let gained = self.left().saturating_sub(Charge::from_amount(payee.paid()));
        assert!(gained <= allowance.checked_add(window).unwrap(), "seed {seed}: {gained:?} for nothing");
        assert!(payee.billed() <= Charge::from_amount(payee.terms().deposit), "seed {seed}");
    }
}

// r[verify bind.replace.proven]
// r[verify channel.lost.settle]
#[test]
fn liars_gain_no_more_by_what_they_say_of_the_dead_than_by_going_away_once() {
    for seed in seeds(300..348) {
        let mut world = Bindings::new(seed, true);
        for _ in 0..1_500 {
            world.step();
        }
        assert!(world.next > 20, "seed {seed}: the world did nothing");
    }
}

// r[verify bind.replace.proven]
#[test]
fn honest_agents_that_are_killed_pay_what_they_proved() {
    let mut exact = 0;
    for seed in seeds(400..448) {
        let mut world = Bindings::new(seed, false);
        for _ in 0..1_500 {
            world.step();
        }
        while world.pick().is_some() {
            world.kill();
        }
        while !world.dead.is_empty() {
            world.claim();
            world.check();
        }
        let truly = world.proven.checked_add(world.kept).unwrap().checked_sub(world.missed);
        assert_eq!(Some(world.payee.billed()), truly, "seed {seed}: neither proven nor kept for want of room");
        exact += u32::from(world.kept == Charge::ZERO && world.missed == Charge::ZERO);
    }
    assert!(exact > 24, "only {exact} of 48 are exact");
}

/// The same window, filled by disputes and by what is lent, is not given twice.
// r[verify channel.cancel.settle]
// r[verify channel.lost.settle]
#[test]
fn what_is_lent_and_what_is_disputed_share_the_window() {
    let mut payee = Payee::new(terms(100_000), TARIFF, Some(durable(8_000)));
    let window = Charge::from_amount(payee.window());
    let streams = 0..32;
    for stream in streams.clone() {
        payee.begin(StreamKey(stream), bytes(24 * MIB)).unwrap();
    }
    let mut sum = 0;
    for stream in streams {
        while payee.may_send(StreamKey(stream), bytes(BATCH_BYTES)) == Ok(Permit::Granted) {
            sum += BATCH_BYTES;
        }
        if stream == 0 {
            payee.lost(StreamKey(stream), InFlight::default()).unwrap();
            assert!(payee.lent() > Charge::ZERO && payee.lent() <= lending_limit(units(8_000), &TARIFF));
        } else {
            payee.end(StreamKey(stream), Some(bytes(0))).unwrap();
        }
        assert!(payee.owed().checked_add(payee.lent()).unwrap() <= window);
    }
    assert!(matches!(payee.begin(A, bytes(1)), Err(BeginError::Unpaid { .. })));
    let most = counting_allowance(units(8_000), &TARIFF).checked_add(window).unwrap();
    assert!(TARIFF.charge(bytes(sum)) <= most, "{sum} bytes for nothing");
}

const GROUP: u64 = 16 << 10;
