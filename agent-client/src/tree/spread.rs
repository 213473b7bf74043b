//! Spreads the portions of a tree over its nodes: each takes the next one when it has room, so that a fast node takes more,
//! and what one fails to bring goes to the others.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aro_proto::{NodeAddress, Tariff};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::bring::{Brought, Fetching, Together, of_entry};
use super::fetch::tariff_of;
use super::nodes::Nodes;
use super::plan::{Portion, Wanted};
use super::{TreeError, joined};
use crate::error::FetchError;
use crate::fetch::{FetchReport, SourceReport, Tap, Weight, weigh};

/// A fetch of all files of a tree, while it runs.
pub(super) struct Spread {
    fetching: Arc<Fetching>,
    nodes: Nodes,
    large: VecDeque<Large>,
    small: VecDeque<Small>,
    tasks: JoinSet<Ended>,
    running: HashMap<u64, Running>,
    large_running: usize,
    started: Instant,
    /// Bytes of all contents that are missing, until their price was held against what is allowed and approved.
    unpriced: Option<u64>,
    brought: Brought,
    next: u64,
    /// What a node failed with last.
    last: Option<FetchError>,
}

struct Large {
    one: Wanted,
    tries: usize,
}

/// Small contents, and the nodes that do not give them.
struct Small {
    wanted: Vec<Wanted>,
    lacked_by: Vec<usize>,
}

/// Small contents that a node is asked for.
struct Running {
    node: usize,
    bytes: u64,
    since: Instant,
    tap: Arc<Tap>,
    lacked_by: Vec<usize>,
    is_stopped: bool,
}

enum Ended {
    Met(usize, Result<Tariff, FetchError>),
    Large(Large, Vec<usize>, Result<FetchReport, TreeError>),
    Small(u64, Result<Together, TreeError>),
}

impl Spread {
    pub(super) fn new(fetching: Arc<Fetching>, nodes: &[NodeAddress], portions: Vec<Portion>) -> Self {
        let asks = fetching.agent.budget().ask_above().is_some();
        let nodes = Nodes::new(nodes, fetching.prefer, asks);
        let bytes = portions.iter().map(Portion::claimed).sum();
        let (mut large, mut small) = (VecDeque::new(), VecDeque::new());
        for portion in portions {
            match portion {
                Portion::Alone(one) => large.push_back(Large { one, tries: 0 }),
                Portion::Together(wanted) => small.push_back(Small { wanted, lacked_by: Vec::new() }),
            }
        }
        Self {
            nodes,
            large,
            small,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            large_running: 0,
            started: Instant::now(),
            unpriced: Some(bytes),
            brought: Brought::default(),
            next: 0,
            last: None,
            fetching,
        }
    }

    /// Runs until all has come or nobody is left who may bring the rest. None of it runs any more when this returns, so
    /// that the same call again finds the folder free.
    pub(super) async fn run(mut self) -> Result<(Brought, Vec<SourceReport>), TreeError> {
        let brought = self.bring().await;
        self.tasks.shutdown().await;
        brought.map(|()| (self.brought, self.nodes.reports()))
    }

    async fn bring(&mut self) -> Result<(), TreeError> {
        while !self.is_done() {
            let now = self.started.elapsed();
            while let Some(node) = self.nodes.next_due(now) {
                let (agent, address) = (self.fetching.agent.clone(), self.nodes.address(node).clone());
                self.tasks.spawn(async move { Ended::Met(node, tariff_of(&agent, &address).await) });
            }
            if self.nodes.has_chosen(now) {
                self.hold_price().await?;
                self.start_large();
                self.start_small();
                self.hurry();
            }
            self.find_hopeless()?;
            let until = self.started + self.nodes.next_look(now);
            tokio::select! {
                Some(ended) = self.tasks.join_next() => {
                    self.handle(joined(ended).map_err(|error| TreeError::target(PathBuf::new(), error))?)?;
                }
                () = sleep_until(until) => {}
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.large.is_empty() && self.small.is_empty() && self.running.is_empty() && self.large_running == 0
    }

    /// What everything missing comes to, before anything of it is asked for.
    async fn hold_price(&mut self) -> Result<(), TreeError> {
        let (Some(bytes), Some(cheapest)) = (self.unpriced, self.nodes.cheapest()) else { return Ok(()) };
        let dearest = self.nodes.dearest().unwrap_or(cheapest);
        self.fetching.allowance.expect(cheapest, dearest, bytes).await?;
        self.unpriced = None;
        Ok(())
    }

    /// Large contents come from all nodes side by side.
    fn start_large(&mut self) {
        while self.large_running < LARGE_AT_ONCE
            && let Some(large) = self.large.pop_front()
        {
            let usable = self.nodes.usable();
            let nodes: Vec<_> =
                usable.iter().map(|node| (self.nodes.address(*node).clone(), self.nodes.tariff(*node))).collect();
            let fetching = Arc::clone(&self.fetching);
            self.large_running += 1;
            self.tasks.spawn(async move {
                let fetched = fetching.alone(&large.one, &nodes).await;
                Ended::Large(large, usable, fetched)
            });
        }
    }

    /// Each node that has room takes the next of what it may have, those with most room first.
    fn start_small(&mut self) {
        loop {
            let has_room = |node: &usize| self.nodes.is_welcome(*node) && self.nodes.running(*node) < SMALL_AT_ONCE;
            let mut free: Vec<usize> = (0..self.nodes.len()).filter(has_room).collect();
            free.sort_by_key(|node| self.nodes.running(*node));
            let next = free.into_iter().find_map(|node| {
                let place = self.small.iter().position(|small| !small.lacked_by.contains(&node))?;
                Some((node, place))
            });
            let Some((node, place)) = next else { return };
            let Some(Small { wanted, lacked_by }) = self.small.remove(place) else { return };
            let bytes = wanted.iter().map(Wanted::claimed).sum();
            let (id, tap, since) = (self.next, Arc::new(Tap::default()), Instant::now());
            self.next += 1;
            let (fetching, address) = (Arc::clone(&self.fetching), self.nodes.address(node).clone());
            let (tariff, tapped) = (self.nodes.tariff(node), Arc::clone(&tap));
            self.nodes.begins(node);
            self.running.insert(id, Running { node, bytes, since, tap, lacked_by, is_stopped: false });
            self.tasks
                .spawn(async move { Ended::Small(id, fetching.together(&address, &tariff, &wanted, tapped).await) });
        }
    }

    /// What a node brings too slowly goes to one that has nothing to do and would have brought it long ago.
    fn hurry(&mut self) {
        if !self.small.is_empty() {
            return;
        }
        for idle in (0..self.nodes.len()).filter(|node| self.nodes.is_welcome(*node) && self.nodes.running(*node) == 0)
        {
            let late = self.running.values_mut().filter(|running| {
                let would_take = self.nodes.time_for(idle, running.bytes).map(|time| time * LATE_BY);
                !running.is_stopped
                    && !running.lacked_by.contains(&idle)
                    && would_take.is_some_and(|time| running.since.elapsed() >= time.max(LATE))
            });
            if let Some(running) = late.min_by_key(|running| running.since) {
                running.is_stopped = true;
                running.tap.stop();
            }
        }
    }

    /// Ends the fetch if something is left that nobody may bring any more.
    fn find_hopeless(&mut self) -> Result<(), TreeError> {
        let is_hopeless = |lacked_by: &[usize]| {
            (0..self.nodes.len()).all(|node| self.nodes.is_out(node) || lacked_by.contains(&node))
        };
        let small = self.small.iter().find(|small| is_hopeless(&small.lacked_by));
        let small = small.and_then(|small| small.wanted.first());
        let large = self.large.front().filter(|_| is_hopeless(&[])).map(|large| &large.one);
        match small.or(large) {
            Some(one) => {
                let error = self.last.take().unwrap_or(FetchError::NotFound { content: one.content });
                Err(of_entry(one, error))
            }
            None => Ok(()),
        }
    }

    fn handle(&mut self, ended: Ended) -> Result<(), TreeError> {
        match ended {
            Ended::Met(node, Ok(tariff)) => self.nodes.met(self.started.elapsed(), node, tariff),
            Ended::Met(node, Err(error)) => return self.failed(node, error, TreeError::Fetch),
            Ended::Large(large, nodes, fetched) => {
                self.large_running -= 1;
                return self.large_ended(large, &nodes, fetched);
            }
            Ended::Small(id, fetched) => {
                let Some(running) = self.running.remove(&id) else { return Ok(()) };
                self.nodes.ends(running.node, running.since.elapsed());
                return self.small_ended(running, fetched?);
            }
        }
        Ok(())
    }

    fn small_ended(&mut self, running: Running, together: Together) -> Result<(), TreeError> {
        let Running { node, lacked_by, .. } = running;
        let Together { brought, lacked, rest, failed } = together;
        self.brought.add(&brought);
        self.nodes.brought(node, &brought);
        let name = rest.first().or(lacked.first().map(|(one, _)| one)).cloned();
        if !rest.is_empty() {
            self.again(rest, lacked_by.clone());
        }
        if let Some((_, error)) = lacked.last() {
            self.last = Some(error.clone());
            let wanted = lacked.into_iter().map(|(one, _)| one).collect();
            let lacked_by = lacked_by.into_iter().chain([node]).collect();
            self.again(wanted, lacked_by);
        }
        match failed {
            Some(error) => self.failed(node, error, |error| match &name {
                Some(one) => of_entry(one, error),
                None => TreeError::Fetch(error),
            }),
            None => Ok(()),
        }
    }

    /// Small contents are to be asked for again.
    fn again(&mut self, wanted: Vec<Wanted>, lacked_by: Vec<usize>) {
        self.fetching.allowance.waits_for(wanted.iter().map(Wanted::claimed).sum());
        self.small.push_front(Small { wanted, lacked_by });
    }

    fn large_ended(
        &mut self,
        large: Large,
        nodes: &[usize],
        fetched: Result<FetchReport, TreeError>,
    ) -> Result<(), TreeError> {
        let report = match fetched {
            Ok(report) => report,
            Err(TreeError::Entry { name, error }) => return self.large_failed(large, nodes, name, error),
            Err(error) => return Err(error),
        };
        self.brought.wire_bytes += report.wire_bytes;
        for source in &report.sources {
            let Some(node) = self.nodes.place_of(source.node) else { continue };
            let SourceReport { verified_bytes, paid, requests, bytes_per_second, .. } = *source;
            let brought = Brought { verified_bytes, wire_bytes: 0, requests, paid };
            self.brought.add(&brought);
            self.nodes.brought(node, &brought);
            let micros = u128::from(verified_bytes) * 1_000_000 / u128::from(bytes_per_second.max(1));
            self.nodes.worked(node, Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)));
            if let Some(left_out) = source.left_out.clone().filter(|left_out| left_out.blame.is_some()) {
                self.nodes.blamed(node, left_out);
            }
        }
        Ok(())
    }

    /// Who is to blame is asked no more; where others are left, they are.
    fn large_failed(
        &mut self,
        large: Large,
        nodes: &[usize],
        name: aro_proto::manifest::EntryName,
        error: FetchError,
    ) -> Result<(), TreeError> {
        let entry = |error| TreeError::Entry { name: name.clone(), error };
        let causes: Vec<(usize, FetchError)> = match (&error, nodes) {
            (FetchError::NoSource { causes }, _) => {
                let causes = causes.iter();
                causes.filter_map(|cause| Some((self.nodes.place_of(cause.node)?, cause.error.clone()))).collect()
            }
            (FetchError::Misbehaved { node, .. } | FetchError::Proof { node, .. }, _) => {
                self.nodes.place_of(*node).map(|node| (node, error.clone())).into_iter().collect()
            }
            (_, [only]) => vec![(*only, error.clone())],
            (_, _) => Vec::new(),
        };
        for (node, cause) in causes {
            self.failed(node, cause, entry)?;
        }
        let tries = large.tries + 1;
        if is_ours(&error) || tries >= self.nodes.len() || self.nodes.usable().is_empty() {
            return Err(entry(error));
        }
        self.fetching.allowance.waits_for(large.one.claimed());
        self.large.push_front(Large { one: large.one, tries });
        Ok(())
    }

    /// A node failed. What no other can help ends the fetch, and so does whatever befalls the only node.
    fn failed(
        &mut self,
        node: usize,
        error: FetchError,
        named: impl FnOnce(FetchError) -> TreeError,
    ) -> Result<(), TreeError> {
        if self.nodes.len() == 1 || is_ours(&error) {
            return Err(named(error));
        }
        self.nodes.failed(self.started.elapsed(), node, &error);
        self.last = Some(error);
        Ok(())
    }
}

/// Whether another node changes nothing about it.
fn is_ours(error: &FetchError) -> bool {
    weigh(error) == Weight::OfFetch || matches!(error, FetchError::BudgetExceeded(_))
}

/// Large contents at once: while some are waited for, others arrive or are written.
const LARGE_AT_ONCE: usize = 3;
/// Portions of small contents at once at each node.
const SMALL_AT_ONCE: usize = 2;
/// What takes longer than this may be taken from a node.
const LATE: Duration = Duration::from_secs(1);
/// If an idle one would have brought it in so many times less.
const LATE_BY: u32 = 3;
