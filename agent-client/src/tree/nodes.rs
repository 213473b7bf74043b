//! The nodes of one tree: what each asks, how it stands and what it brought. No IO and no clock: time is counted from the
//! beginning of the fetch.

use std::time::Duration;

use aro_proto::{Amount, NodeAddress, NodeId, Tariff};

use super::bring::Brought;
use crate::error::FetchError;
use crate::fetch::{Failure, LeftOut, Preference, SourceReport, Weight, weigh};

/// All of them, by their place in the list that the fetch began with.
pub(super) struct Nodes {
    all: Vec<Node>,
    prefer: Preference,
    /// Somebody is asked about the price, and so of every node that says it in time.
    asks: bool,
    /// Until when a choice by price waits for nodes that have not said theirs.
    chooses_at: Option<Duration>,
}

struct Node {
    address: NodeAddress,
    state: State,
    /// What content costs there, once it has said it.
    tariff: Option<Tariff>,
    failures: u32,
    /// Portions that are under way.
    running: usize,
    verified_bytes: u64,
    paid: Amount,
    requests: u64,
    /// For how long it had something to bring, portions side by side counted each.
    worked: Duration,
    left_out: Option<LeftOut>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Is to be asked for its price, from this time on.
    Due(Duration),
    Asked,
    Ready,
    /// For good.
    Out,
}

impl Nodes {
    pub(super) fn new(addresses: &[NodeAddress], prefer: Preference, asks: bool) -> Self {
        let node = |address: &NodeAddress| Node {
            address: address.clone(),
            state: State::Due(Duration::ZERO),
            tariff: None,
            failures: 0,
            running: 0,
            verified_bytes: 0,
            paid: Amount::ZERO,
            requests: 0,
            worked: Duration::ZERO,
            left_out: None,
        };
        Self { all: addresses.iter().map(node).collect(), prefer, asks, chooses_at: None }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn address(&self, node: usize) -> &NodeAddress {
        &self.all[node].address
    }

    pub(super) fn place_of(&self, id: NodeId) -> Option<usize> {
        self.all.iter().position(|node| node.address.node() == id)
    }

    /// The next one that is to be asked for its price; it counts as asked then.
    pub(super) fn next_due(&mut self, now: Duration) -> Option<usize> {
        let due = self.all.iter().position(|node| matches!(node.state, State::Due(at) if at <= now))?;
        self.all[due].state = State::Asked;
        Some(due)
    }

    /// It has said its price.
    pub(super) fn met(&mut self, now: Duration, node: usize, tariff: Tariff) {
        let node = &mut self.all[node];
        node.tariff = Some(tariff);
        if node.state == State::Asked {
            node.state = State::Ready;
        }
        self.chooses_at.get_or_insert(now + CHOICE_WAIT);
    }

    /// It failed: it is left alone for a while, or for good.
    pub(super) fn failed(&mut self, now: Duration, node: usize, error: &FetchError) {
        let found = &mut self.all[node];
        if found.state == State::Out {
            return;
        }
        tracing::debug!(node = %found.address.node(), %error, "a node failed to bring its part of a tree");
        found.left_out = Some(LeftOut::new(error));
        match (weigh(error), found.state) {
            (Weight::OfFetch | Weight::OfSource(Failure::Final), _) => found.state = State::Out,
            // What else broke with it is the same failure.
            (Weight::OfSource(Failure::Passing), State::Due(at)) if at > now => {}
            (Weight::OfSource(Failure::Passing), _) => {
                found.failures += 1;
                let pause = FIRST_PAUSE * (1 << (found.failures - 1).min(MAX_DOUBLINGS));
                let is_out = found.failures > MAX_FAILURES;
                found.state = if is_out { State::Out } else { State::Due(now + pause) };
            }
        }
    }

    /// It lied, as a fetch that it took part in found out.
    pub(super) fn blamed(&mut self, node: usize, left_out: LeftOut) {
        self.all[node].state = State::Out;
        self.all[node].left_out = Some(left_out);
    }

    pub(super) fn begins(&mut self, node: usize) {
        self.all[node].running += 1;
    }

    pub(super) fn ends(&mut self, node: usize, worked: Duration) {
        self.all[node].running -= 1;
        self.worked(node, worked);
    }

    /// It had something to bring for so long.
    pub(super) fn worked(&mut self, node: usize, worked: Duration) {
        self.all[node].worked += worked;
    }

    pub(super) fn brought(&mut self, node: usize, brought: &Brought) {
        let node = &mut self.all[node];
        node.verified_bytes += brought.verified_bytes;
        node.paid = node.paid.saturating_add(brought.paid);
        node.requests += brought.requests;
        if brought.verified_bytes > 0 && node.state != State::Out {
            (node.failures, node.left_out) = (0, None);
        }
    }

    /// The price of content at a node, as it said last.
    pub(super) fn tariff(&self, node: usize) -> Tariff {
        self.all[node].tariff.unwrap_or_default()
    }

    /// Whether nobody is left whose price is worth waiting for.
    pub(super) fn has_chosen(&self, now: Duration) -> bool {
        let is_awaited = |node: &Node| node.tariff.is_none() && matches!(node.state, State::Asked | State::Due(_));
        let has_one = self.all.iter().any(|node| node.state == State::Ready);
        let late = self.chooses_at.is_some_and(|at| now >= at);
        let takes_any = self.prefer == Preference::Fastest && !self.asks;
        has_one && (late || takes_any || !self.all.iter().any(is_awaited))
    }

    /// The lowest price of those that can be asked.
    pub(super) fn cheapest(&self) -> Option<Tariff> {
        let ready = self.all.iter().filter(|node| node.state == State::Ready);
        ready.filter_map(|node| node.tariff).min_by_key(|tariff| tariff.per_mib)
    }

    /// The highest price of those that are asked now.
    pub(super) fn dearest(&self) -> Option<Tariff> {
        let welcome = (0..self.all.len()).filter(|node| self.is_welcome(*node));
        welcome.map(|node| self.tariff(node)).max_by_key(|tariff| tariff.per_mib)
    }

    /// Whether it is asked now, as prices stand.
    pub(super) fn is_welcome(&self, node: usize) -> bool {
        let Some(cheapest) = self.cheapest() else { return false };
        self.all[node].state == State::Ready && self.tariff(node).per_mib <= self.prefer.dearest(cheapest).per_mib
    }

    pub(super) fn running(&self, node: usize) -> usize {
        self.all[node].running
    }

    /// All that may still bring something, those first that can be asked now.
    pub(super) fn usable(&self) -> Vec<usize> {
        let mut usable: Vec<usize> = (0..self.all.len()).filter(|node| !self.is_out(*node)).collect();
        usable.sort_by_key(|node| self.all[*node].state != State::Ready);
        usable
    }

    pub(super) fn is_out(&self, node: usize) -> bool {
        self.all[node].state == State::Out
    }

    /// How long it takes for so many bytes; none if nobody knows.
    pub(super) fn time_for(&self, node: usize, bytes: u64) -> Option<Duration> {
        let node = &self.all[node];
        let micros = node.worked.as_micros() * u128::from(bytes) / u128::from(node.verified_bytes).max(1);
        (node.verified_bytes > 0).then(|| Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }

    /// When to look again, whatever happens.
    pub(super) fn next_look(&self, now: Duration) -> Duration {
        let due = self.all.iter().filter_map(|node| match node.state {
            State::Due(at) => Some(at),
            _ => None,
        });
        due.chain(self.chooses_at).chain([now + TICK]).filter(|at| *at > now).min().unwrap_or(now + TICK)
    }

    /// What each brought, and why it was left out.
    pub(super) fn reports(&self) -> Vec<SourceReport> {
        let report = |node: &Node| {
            let micros = node.worked.as_micros().max(1);
            SourceReport {
                node: node.address.node(),
                verified_bytes: node.verified_bytes,
                paid: node.paid,
                requests: node.requests,
                bytes_per_second: u64::try_from(u128::from(node.verified_bytes) * 1_000_000 / micros)
                    .unwrap_or(u64::MAX),
                left_out: node.left_out.clone(),
            }
        };
        self.all.iter().map(report).collect()
    }
}

/// How long a choice by price waits for nodes that have not said theirs, from the first that has.
const CHOICE_WAIT: Duration = Duration::from_secs(1);
/// How long a node is left alone after its first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause is 2 s.
const MAX_DOUBLINGS: u32 = 3;
/// Failures without anything between them before a node is left out.
const MAX_FAILURES: u32 = 4;
/// How often portions that take long are looked at.
const TICK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use aro_proto::{Address, ContentId, SecretKey};

    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn nodes(count: u8, prefer: Preference) -> Nodes {
        let address = |seed| {
            let node = SecretKey::from_bytes(&[seed; 32]).node_id();
            NodeAddress::from(&Address::new(ContentId::of(b""), node, "host", 1).unwrap())
        };
        let mut nodes = Nodes::new(&(1..=count).map(address).collect::<Vec<_>>(), prefer, false);
        while nodes.next_due(NOW).is_some() {}
        nodes
    }

    fn timeout() -> FetchError {
        FetchError::Timeout { doing: "asking", waited_ms: 1 }
    }

    #[test]
    fn a_choice_by_price_waits_a_moment_for_those_that_have_not_said_theirs() {
        let mut nodes = nodes(3, Preference::Balanced);
        assert!(!nodes.has_chosen(NOW));
        nodes.met(NOW, 0, Tariff { per_mib: 7 });
        assert!(!nodes.has_chosen(NOW) && nodes.has_chosen(NOW + CHOICE_WAIT));
        nodes.met(NOW, 1, Tariff { per_mib: 3 });
        nodes.failed(NOW, 2, &FetchError::NoChannel { node: nodes.address(2).node() });
        assert!(nodes.has_chosen(NOW));
        assert_eq!((nodes.is_welcome(0), nodes.is_welcome(1), nodes.is_welcome(2)), (false, true, false));
        // Where the cheap one is away, the dear one is asked.
        nodes.failed(NOW, 1, &timeout());
        assert!(nodes.is_welcome(0));
    }

    #[test]
    fn a_node_that_keeps_failing_is_left_out_and_one_that_brings_something_is_not() {
        let mut nodes = nodes(2, Preference::Fastest);
        let mut now = NOW;
        for round in 0..=MAX_FAILURES {
            assert!(!nodes.is_out(0) && !nodes.is_out(1), "{round}");
            for node in 0..2 {
                nodes.met(now, node, Tariff { per_mib: 1 });
                nodes.failed(now, node, &timeout());
                nodes.failed(now, node, &timeout());
                assert_eq!(nodes.next_due(now), None, "it is left alone");
            }
            now += FIRST_PAUSE * (1 << MAX_DOUBLINGS);
            while nodes.next_due(now).is_some() {}
            nodes.brought(1, &Brought { verified_bytes: 1, ..Brought::default() });
        }
        assert_eq!((nodes.usable(), nodes.is_out(0)), (vec![1], true));
        assert_eq!(nodes.reports()[0].left_out.as_ref().unwrap().code, "Timeout");
    }
}
