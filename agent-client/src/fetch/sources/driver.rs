//! Runs a fetch from many sources: does what the scheduler says, and tells it what came of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aro_proto::merkle::GroupSize;
use aro_proto::{Address, Amount, ByteCount, NodeId, Tariff};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::layout::Layout;
use super::report::{Brought, SourceReport};
use super::source::{Source, Weight, weigh};
use super::task::{Errand, Fetched, Joined, join};
use super::track::Track;
use crate::agent::Agent;
use crate::budget::Purpose;
use crate::error::{FetchError, Misbehaviour, SourceError};
use crate::fetch::account::acknowledged;
use crate::fetch::progress::{Progress, Reporter};
use crate::fetch::request::{Request, delivered_bytes};
use crate::fetch::scheduler::{Action, Plan, Preference, Scheduler, SegmentId, SourceId, Standing};
use crate::fetch::sink::{Output, Written};

/// One fetch from several sources, while it runs. Dropped, it cancels everything: what was proven is paid.
pub(super) struct Driver<'a> {
    agent: &'a Agent,
    output: &'a Output,
    terms: Terms<'a>,
    started: Instant,
    scheduler: Scheduler,
    sources: Vec<Source>,
    layout: Option<Layout>,
    /// The content's size, once a source has proven it.
    proven_size: Option<u64>,
    running: HashMap<SegmentId, Running>,
    tasks: JoinSet<Done>,
    /// Which source or segment a task is for, should it be cut off.
    owners: HashMap<Id, Owner>,
    brought: Brought,
    /// Sizes that the work was laid out for.
    tried: Vec<u64>,
    /// Bytes that were proven before the work was laid out.
    before: u64,
    reported: u64,
}

/// What a fetch is bound to.
pub(super) struct Terms<'a> {
    pub(super) asked: &'a aro_proto::merkle::ByteRanges,
    pub(super) group: GroupSize,
    /// Most bytes that the caller takes.
    pub(super) limit: u64,
    pub(super) purpose: &'a Purpose,
    /// What nodes have asked by their quotes, where somebody has approved those: none of them gets more.
    pub(super) quoted: &'a [(NodeId, Tariff)],
    pub(super) plan: Plan,
    pub(super) progress: &'a Reporter,
}

struct Running {
    source: usize,
    track: Arc<Track>,
}

#[derive(Clone, Copy)]
enum Owner {
    Source(usize),
    Segment(SegmentId),
}

enum Done {
    Joined(usize, Result<Joined, FetchError>),
    Fetched(SegmentId, Fetched),
}

impl<'a> Driver<'a> {
    pub(super) fn new(agent: &'a Agent, output: &'a Output, addresses: Vec<Address>, terms: Terms<'a>) -> Self {
        let scheduler = Scheduler::new(terms.plan, addresses.len());
        Self {
            agent,
            output,
            terms,
            started: Instant::now(),
            scheduler,
            sources: addresses.into_iter().map(Source::new).collect(),
            layout: None,
            proven_size: None,
            running: HashMap::new(),
            tasks: JoinSet::new(),
            owners: HashMap::new(),
            brought: Brought::default(),
            tried: Vec::new(),
            before: 0,
            reported: 0,
        }
    }

    /// Runs to the end, whichever it is; what was proven is paid either way.
    pub(super) async fn run(mut self) -> Result<(Brought, Written), FetchError> {
        let brought_all = self.bring().await;
        // Nothing is left half-way: what still runs is cut, counted and paid.
        self.wind_up().await;
        let written = async { if brought_all.is_ok() { self.output.finish().await.map(Some) } else { Ok(None) } };
        let (acknowledged, written) = tokio::join!(self.settle(), written);
        brought_all?;
        let written = written?.ok_or_else(|| self.no_source())?;
        self.brought.acknowledged = acknowledged;
        self.brought.sources = self.reports();
        Ok((self.brought, written))
    }

    async fn bring(&mut self) -> Result<(), FetchError> {
        while self.output.missing().is_some() {
            self.look();
            while let Some(action) = self.scheduler.poll_action(self.now()) {
                self.act(action);
            }
            match self.scheduler.standing() {
                Standing::Done if self.running.is_empty() => match self.layout.take() {
                    // More gaps than one list of ranges names: the next ones.
                    Some(layout) => self.lay_out(layout.size())?,
                    None => return Err(self.no_source()),
                },
                Standing::Stuck { price } if self.running.is_empty() => self.try_another_claim(price)?,
                Standing::Done | Standing::Stuck { .. } | Standing::Runs => self.wait().await?,
            }
        }
        Ok(())
    }

    /// Waits until something happens, or it is time to look.
    async fn wait(&mut self) -> Result<(), FetchError> {
        let until = self.started + self.scheduler.poll_timeout(self.now());
        tokio::select! {
            done = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => match done {
                Some(done) => self.handle(done),
                None => Ok(()),
            },
            () = sleep_until(until) => Ok(()),
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn proven(&self) -> u64 {
        (0..self.sources.len()).map(|source| self.scheduler.proven(SourceId(source))).sum()
    }

    /// Tells the scheduler where every segment is.
    fn look(&mut self) {
        let now = self.now();
        let mut wire_bytes = self.brought.wire_bytes;
        for (id, running) in &self.running {
            let place = running.track.place();
            self.scheduler.handle_progress(now, *id, place.position);
            self.scheduler.handle_held(now, *id, place.is_held);
            wire_bytes += place.wire_bytes;
        }
        let Some(layout) = &self.layout else { return };
        let proven = self.proven();
        let total = (self.before + layout.total()).max(proven);
        let progress =
            || Progress { proven_bytes: proven, total_bytes: total, wire_bytes, spent: self.scheduler.spent() };
        self.reported = self.terms.progress.step(self.reported, progress, proven, total);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Join(SourceId(index)) => {
                let Some(source) = self.sources.get(index) else { return };
                // Where the price decides, a channel is opened only where something is fetched.
                let opens = self.terms.plan.prefer != Preference::Cheapest;
                let joining = join(self.agent.clone(), source.address.clone(), self.terms.group, opens);
                let task = self.tasks.spawn(async move { Done::Joined(index, joining.await) });
                self.owners.insert(task.id(), Owner::Source(index));
            }
            Action::Cut { segment, end } => self.cut(segment, end),
            Action::Ask { segment, source: SourceId(index), range } => {
                let Some(source) = self.sources.get_mut(index) else { return };
                let (Some(layout), Some(size)) = (&self.layout, source.claims) else {
                    return;
                };
                let track = Arc::new(Track::new(&range));
                self.running.insert(segment, Running { source: index, track: Arc::clone(&track) });
                source.requests += 1;
                if matches!(source.error, Some(FetchError::PriceTooHigh { .. })) {
                    source.error = None;
                }
                // Its own price and nothing more: a node that raises it is heard first.
                let price = source.tariff.price(ByteCount::new(range.end - range.start)).unwrap_or_default();
                let request = Request {
                    content: source.address.content(),
                    ranges: layout.ranges(&range).expect("a stretch has no more ranges than what it is a part of"),
                    group: self.terms.group,
                    allowed: price,
                    price: Some(price),
                    limit: u64::MAX,
                    purpose: self.terms.purpose.at(source.address.node()),
                };
                let (agent, address, output) = (self.agent.clone(), source.address.clone(), self.output.clone());
                let is_bound = source.session.as_ref().is_some_and(|session| session.channel().is_some());
                let opens = !is_bound && !source.tariff.is_free();
                let errand = Errand { agent, address, request, size, opens, output, track };
                let task = self.tasks.spawn(async move { Done::Fetched(segment, errand.run().await) });
                self.owners.insert(task.id(), Owner::Segment(segment));
            }
        }
    }

    fn cut(&mut self, segment: SegmentId, end: u64) {
        let now = self.now();
        if let Some(running) = self.running.get(&segment) {
            let end = running.track.cut(end);
            self.scheduler.handle_progress(now, segment, running.track.place().position);
            self.scheduler.handle_cut(now, segment, end);
        }
    }

    fn handle(&mut self, done: Result<(Id, Done), JoinError>) -> Result<(), FetchError> {
        let now = self.now();
        match done {
            Ok((id, done)) => {
                self.owners.remove(&id);
                match done {
                    Done::Joined(source, Ok(joined)) => self.joined(now, source, joined),
                    Done::Joined(source, Err(error)) => self.failed(now, source, error),
                    Done::Fetched(segment, fetched) => self.fetched(now, segment, fetched),
                }
            }
            Err(broken) => match broken.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down, and with it everyone who could look at this.
                Err(broken) => {
                    let error = FetchError::Unreachable { place: "a task".into(), why: broken.to_string() };
                    match self.owners.remove(&broken.id()) {
                        Some(Owner::Segment(segment)) => self.fetched(now, segment, Fetched::failed(error)),
                        Some(Owner::Source(source)) => self.failed(now, source, error),
                        None => Ok(()),
                    }
                }
            },
        }
    }

    fn joined(&mut self, now: Duration, index: usize, joined: Joined) -> Result<(), FetchError> {
        let Joined { session, tariff, size } = joined;
        let Some(source) = self.sources.get_mut(index) else { return Ok(()) };
        let contradicts = source.claims.is_some_and(|before| before != size);
        if contradicts || self.proven_size.is_some_and(|proven| proven != size) {
            let error = FetchError::misbehaved(session.node(), Misbehaviour::Size(size));
            return self.failed(now, index, error);
        }
        let quoted = self.terms.quoted.iter().find(|(node, _)| *node == session.node()).map(|(_, quoted)| *quoted);
        if let Some(quoted) = quoted.filter(|quoted| quoted.per_mib < tariff.per_mib) {
            let price = |tariff: Tariff| tariff.price(ByteCount::new(size)).unwrap_or(Amount::new(u64::MAX));
            let error = FetchError::PriceTooHigh { price: price(tariff), allowed: price(quoted) };
            return self.failed(now, index, error);
        }
        (source.session, source.tariff, source.claims) = (Some(session), tariff, Some(size));
        self.scheduler.handle_joined(now, SourceId(index), tariff);
        match &self.layout {
            None => self.lay_out(size)?,
            Some(layout) if layout.size() != size => {
                // One of them lies. The end of the content tells who.
                source.is_parked = true;
                self.scheduler.park(SourceId(index));
                if layout.proves_size() {
                    self.scheduler.fetch_end_first();
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Lays out what is missing of a content of this size.
    fn lay_out(&mut self, size: u64) -> Result<(), FetchError> {
        let delivered = delivered_bytes(self.terms.asked, size);
        if delivered > self.terms.limit {
            return Err(FetchError::TooLarge { size: delivered, limit: self.terms.limit });
        }
        let Some(missing) = self.output.missing() else { return Ok(()) };
        let layout = Layout::new(&missing.answered(size, self.terms.group));
        self.scheduler.set_work(layout.total());
        self.before = self.proven();
        self.tried.push(size);
        self.layout = Some(layout);
        Ok(())
    }

    /// Nobody is left who brings a content of the size that the work was laid out for. Another claim may be the right
    /// one.
    fn try_another_claim(&mut self, price: Option<Amount>) -> Result<(), FetchError> {
        let claims = self.sources.iter().filter(|source| source.is_parked).filter_map(|source| source.claims);
        let untried = claims.filter(|claim| !self.tried.contains(claim)).min();
        let Some(size) = untried else { return Err(self.stuck(price)) };
        for (index, source) in self.sources.iter_mut().enumerate() {
            source.is_parked = source.claims.is_some_and(|claim| claim != size);
            if source.is_parked {
                self.scheduler.park(SourceId(index));
            } else {
                self.scheduler.release(SourceId(index));
            }
        }
        self.lay_out(size)
    }

    fn fetched(&mut self, now: Duration, segment: SegmentId, fetched: Fetched) -> Result<(), FetchError> {
        let Some(running) = self.running.remove(&segment) else { return Ok(()) };
        self.scheduler.handle_ended(now, segment, running.track.place().position);
        self.brought.wire_bytes += fetched.wire_bytes;
        self.brought.verified_bytes += fetched.verified_bytes;
        self.brought.paid = self.brought.paid.saturating_add(fetched.paid);
        self.brought.vouchers += fetched.vouchers;
        if let Some(source) = self.sources.get_mut(running.source) {
            source.session = fetched.session.or(source.session.take());
            source.paid = source.paid.saturating_add(fetched.paid);
            source.verified_bytes += fetched.verified_bytes;
            // A price that was too high stands until it is asked at another, whatever still comes at the old one.
            let is_priced_out = matches!(source.error, Some(FetchError::PriceTooHigh { .. }));
            if fetched.verified_bytes > 0 && !source.is_out() && !is_priced_out {
                source.error = None;
            }
            if fetched.size_proven && self.proven_size.is_none() {
                self.proven_size = source.claims;
                self.blame_other_claims(now)?;
            }
        }
        match fetched.error {
            Some(error) => self.failed(now, running.source, error),
            None => Ok(()),
        }
    }

    /// The size is a fact: whoever claimed another one has lied.
    fn blame_other_claims(&mut self, now: Duration) -> Result<(), FetchError> {
        let differs = |source: &Source| source.claims.filter(|claim| Some(*claim) != self.proven_size);
        let liars: Vec<(usize, u64)> =
            self.sources.iter().enumerate().filter_map(|(index, source)| Some((index, differs(source)?))).collect();
        for (index, claim) in liars {
            let node = self.sources[index].address.node();
            self.failed(now, index, FetchError::misbehaved(node, Misbehaviour::Size(claim)))?;
        }
        Ok(())
    }

    /// A source failed: it is left alone for a while or for good. What no source can help ends the fetch.
    fn failed(&mut self, now: Duration, index: usize, error: FetchError) -> Result<(), FetchError> {
        let failure = match weigh(&error) {
            Weight::OfFetch => return Err(error),
            Weight::OfSource(failure) => failure,
        };
        let Some(source) = self.sources.get_mut(index) else { return Ok(()) };
        tracing::debug!(node = %source.address.node(), %error, ?failure, "a source failed");
        let (agent, node) = (self.agent.clone(), source.address.node());
        match error {
            // The next try hears its price anew.
            FetchError::PriceTooHigh { .. } => drop(tokio::spawn(async move { agent.forget_session(node).await })),
            FetchError::ChannelUnusable { channel } => {
                drop(tokio::spawn(async move { agent.forget_channel(node, channel).await }));
            }
            _ => {}
        }
        // What blames it stands, whatever broke with it.
        if !source.is_out() {
            source.error = Some(error);
        }
        self.scheduler.handle_failed(now, SourceId(index), failure);
        Ok(())
    }

    /// Ends what still runs, and counts it.
    async fn wind_up(&mut self) {
        let running: Vec<SegmentId> = self.running.keys().copied().collect();
        running.into_iter().for_each(|segment| self.cut(segment, 0));
        while !self.running.is_empty()
            && let Some(done) = self.tasks.join_next_with_id().await
        {
            // The fetch has its end, whatever comes of this.
            let _ = self.handle(done);
        }
        self.look();
    }

    /// Has everything proven paid, and waits for those nodes to acknowledge it that worked to the end. Not for long:
    /// the slowest of several holds up nobody, and what it does not acknowledge now it hears again at the next
    /// connection.
    async fn settle(&self) -> bool {
        let limit_ms = self.agent.config().credit_timeout_ms.min(MOST_SETTLING_MS);
        let mut settling = JoinSet::new();
        let paid = self.sources.iter().filter(|source| !source.paid.is_zero());
        for (session, works) in paid.filter_map(|source| Some((source.session.clone()?, source.error.is_none()))) {
            session.control().flush_payment();
            settling.spawn(async move { acknowledged(&session, if works { limit_ms } else { 0 }).await });
        }
        settling.join_all().await.into_iter().all(|acknowledged| acknowledged)
    }

    /// What the fetch ends with when nobody is left: the price, if that alone holds it, or every source's cause.
    fn stuck(&self, price: Option<Amount>) -> FetchError {
        match price {
            Some(price) if self.sources.iter().all(|source| source.error.is_none()) => {
                FetchError::PriceTooHigh { price, allowed: self.terms.plan.allowed }
            }
            _ => self.no_source(),
        }
    }

    fn no_source(&self) -> FetchError {
        let causes = self.sources.iter().enumerate().filter_map(|(index, source)| {
            let error = source.error.clone().or_else(|| self.too_dear(index))?;
            Some(SourceError { node: source.address.node(), error })
        });
        FetchError::NoSource { causes: causes.collect() }
    }

    /// The error of a source whose price alone keeps it out.
    fn too_dear(&self, index: usize) -> Option<FetchError> {
        let (price, allowed) = (self.scheduler.cost_at(SourceId(index)), self.terms.plan.allowed);
        self.scheduler.is_too_dear(SourceId(index)).then_some(FetchError::PriceTooHigh { price, allowed })
    }

    fn reports(&self) -> Vec<SourceReport> {
        let now = self.now();
        let report = |(index, source): (usize, &Source)| {
            let error = source.error.clone().or_else(|| self.too_dear(index));
            source.report(self.scheduler.rate(SourceId(index), now), error.as_ref())
        };
        self.sources.iter().enumerate().map(report).collect()
    }
}

/// Time for the nodes to acknowledge the last vouchers.
const MOST_SETTLING_MS: u64 = 1_000;
