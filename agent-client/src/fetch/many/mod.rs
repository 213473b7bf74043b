//! Many small contents of one node: a signature and a stream for dozens of them, several such requests at once.
//!
//! What a single fetch promises holds for each content: checked heads, nothing unproven to the caller, nothing unproven
//! paid. What is paid is settled once, at the end.

mod answer;
mod shared;
mod tap;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aro_proto::limits::MAX_FETCH_ITEMS;
use aro_proto::{Address, Amount, ContentId};
use serde::Serialize;
use tokio::task::JoinSet;

use super::account::acknowledged;
use super::request::hello;
use super::terms::{Terms, terms_setters};
use super::{UNBOUNDED, as_millis, refusal};
use crate::agent::Agent;
use crate::budget::{Approval, Purpose, Spending};
use crate::error::FetchError;
use crate::transport::Session;
use crate::wallet::{Lack, Provider};
use shared::{Allowance, Batch, Outcome, Part, Shared};
pub(crate) use tap::Tap;

/// A fetch of many contents being put together; [`to_bytes`](Self::to_bytes) runs it.
///
/// Dropping the running future cancels it: what was proven is paid, the rest is not owed.
#[must_use = "nothing is fetched until to_bytes is awaited"]
pub struct FetchManyBuilder {
    agent: Agent,
    node: Address,
    contents: Vec<ContentId>,
    terms: Terms,
    in_flight: usize,
    tap: Option<Arc<Tap>>,
}

/// What a fetch of many contents brought and cost.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FetchManyReport {
    /// Contents that came, whole and proven.
    pub fetched: u64,
    /// Contents that the node does not have, or does not give.
    pub refused: u64,
    /// Content bytes proven, all of which are billed.
    pub verified_bytes: u64,
    /// Bytes of the answers on their streams, proofs and heads included.
    pub wire_bytes: u64,
    /// Signed requests that it took.
    pub requests: u64,
    /// What it added to the channel's bill, in base units.
    pub paid: Amount,
    /// Whether the node acknowledged the last voucher in time. If not, it gets it again at the next connection.
    pub acknowledged: bool,
    /// From the call to the end, in whole milliseconds where it is written out.
    #[serde(rename = "elapsed_ms", serialize_with = "as_millis")]
    pub elapsed: Duration,
}

/// One content of many: its bytes, or why there are none.
pub type Fetched = Result<Vec<u8>, FetchError>;

impl FetchManyBuilder {
    pub(crate) fn new(agent: Agent, node: Address, contents: Vec<ContentId>) -> Self {
        Self { agent, node, contents, terms: Terms::default(), in_flight: IN_FLIGHT, tap: None }
    }

    terms_setters!();

    /// Lets every content go there as it comes; the results are then without their bytes.
    pub(crate) fn tap(mut self, tap: Arc<Tap>) -> Self {
        self.tap = Some(tap);
        self
    }

    /// How many contents are asked for at once; default 64. More hides longer round trips, and as much more is in
    /// memory and on its way when something breaks.
    pub fn in_flight(mut self, contents: usize) -> Self {
        self.in_flight = contents.max(1);
        self
    }

    /// Fetches everything into memory, at most `limit` bytes in all. The results stand in the order of the contents; one
    /// that the node does not have is an error in its place, and the others come all the same.
    ///
    /// # Errors
    /// What ends the whole fetch; see [`FetchError`].
    pub async fn to_bytes(self, limit: u64) -> Result<(FetchManyReport, Vec<Fetched>), FetchError> {
        let started = Instant::now();
        let agent = &self.agent;
        let mut provider = Provider::new(agent, self.node.node());
        let session = loop {
            let session = agent.session(&self.node).await?;
            if session.channel().is_some() || hello(&session, agent.config()).await?.is_free() {
                break session;
            }
            // The node would only find out after waiting for a binding. What it will take nobody knows yet.
            let _ = provider.lack(FetchError::NoChannel { node: session.node() }).await?;
            provider.open(Amount::ZERO).await?;
        };
        let purpose = self.terms.purpose(agent, session.node(), UNBOUNDED);
        let mut parts = self.parts();
        let most = self.terms.max_price;
        let mut shared = Shared {
            session: Arc::clone(&session),
            agent: agent.clone(),
            allowance: Allowance::new(most.min(purpose.left()), limit),
            provides: provider.may_provide(),
            purpose: purpose.clone(),
            tap: self.tap.clone(),
        };
        let approved = self.approved(&shared, &mut parts).await?;
        if approved < UNBOUNDED {
            shared.allowance = Allowance::new(most.min(purpose.left()).min(approved), limit);
        }
        let shared = Arc::new(shared);
        // However it ends, also if nobody waits for it any more: what is proven is paid now.
        let paying = PaysAtTheEnd(Arc::clone(&session));
        let fetched = self.run_rounds(&shared, provider, parts).await;
        drop(paying);
        // Who asks others for the rest does not wait for one that failed.
        let is_left = self.tap.is_some() && fetched.is_err();
        let acknowledged = acknowledged(&session, if is_left { 0 } else { agent.config().credit_timeout_ms }).await;
        let done = match fetched {
            Ok(done) => done,
            Err(error) => return Err(self.explain(error, &purpose).await),
        };
        let mut report = FetchManyReport {
            fetched: 0,
            refused: 0,
            verified_bytes: 0,
            wire_bytes: done.wire_bytes,
            requests: done.requests,
            paid: done.paid,
            acknowledged,
            elapsed: started.elapsed(),
        };
        let results: Vec<Fetched> = done.results.into_iter().flatten().collect();
        for result in &results {
            match result {
                Ok(bytes) => {
                    report.fetched += 1;
                    report.verified_bytes += bytes.len() as u64;
                }
                Err(_) => report.refused += 1,
            }
        }
        Ok((report, results))
    }

    /// In which requests the contents are asked for.
    fn parts(&self) -> Vec<Part> {
        let mut parts = self.divided(&self.contents);
        // What all cost is what the only part costs.
        if let [only] = &mut parts[..] {
            only.price = self.terms.price;
        }
        parts
    }

    fn divided(&self, contents: &[ContentId]) -> Vec<Part> {
        let chunks = contents.chunks(self.each()).enumerate();
        chunks.map(|(place, contents)| Part { place, contents: contents.to_vec(), price: None }).collect()
    }

    /// Contents of one request.
    fn each(&self) -> usize {
        self.in_flight.div_ceil(REQUESTS).min(MAX_FETCH_ITEMS)
    }

    /// The most that may be spent as far as anybody was asked: the threshold without asking, and a price above it once
    /// somebody has approved it. The node says what each part costs before anything is brought.
    async fn approved(&self, shared: &Shared, parts: &mut [Part]) -> Result<Amount, FetchError> {
        let (agent, purpose, node) = (&self.agent, &shared.purpose, shared.session.node());
        let most = self.terms.max_price;
        let allowed = most.min(agent.budget().left(purpose));
        let Some(threshold) = self.terms.threshold(agent, allowed) else { return Ok(UNBOUNDED) };
        let mut amount = Amount::ZERO;
        for part in parts {
            let price = shared.price_of(&part.contents).await?;
            part.price = Some(price);
            amount = amount.saturating_add(price);
        }
        // Parts are rounded up, each by itself.
        let amount = self.terms.price.map_or(amount, |price| price.min(amount));
        if amount > allowed {
            let error = FetchError::PriceTooHigh { price: amount, allowed: most };
            return Err(self.explain(error, purpose).await);
        }
        let content = None;
        agent.approve(Approval { amount, threshold, node, content, spending: Spending::Vouchers }).await?;
        Ok(amount.max(threshold))
    }

    /// Runs the requests; what the deposit did not cover is asked for again once it has grown.
    async fn run_rounds(
        &self,
        shared: &Arc<Shared>,
        mut provider: Provider,
        mut parts: Vec<Part>,
    ) -> Result<Brought, FetchError> {
        let mut brought = Brought::default();
        brought.results.resize_with(self.contents.len(), || None);
        let mut wanted: Vec<usize> = (0..self.contents.len()).collect();
        loop {
            let mut places = wanted.iter().copied();
            for batch in self.run(shared, parts).await? {
                brought.requests += 1;
                brought.wire_bytes += batch.wire_bytes;
                brought.paid = brought.paid.saturating_add(batch.paid);
                for (result, place) in batch.results.into_iter().zip(&mut places) {
                    brought.results[place] = Some(result);
                }
            }
            wanted.retain(|place| matches!(brought.results[*place], Some(Err(FetchError::DepositExhausted { .. }))));
            let Some(Some(Err(short))) = wanted.first().map(|place| &brought.results[*place]) else {
                return Ok(brought);
            };
            let grown = match provider.lack(short.clone()).await {
                Ok(Lack::Deposit { channel, missing }) => provider.top_up(&shared.session, channel, missing).await,
                Ok(Lack::Channel | Lack::Nothing) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = grown {
                wanted.iter().for_each(|place| brought.results[*place] = Some(Err(error.clone())));
                return Ok(brought);
            }
            let contents: Vec<ContentId> = wanted.iter().map(|place| self.contents[*place]).collect();
            parts = self.divided(&contents);
        }
    }

    /// Runs the requests and returns what they brought in their order. However it ends, none of them runs any more.
    async fn run(&self, shared: &Arc<Shared>, parts: Vec<Part>) -> Result<Vec<Batch>, FetchError> {
        let mut running = JoinSet::new();
        let stopped = async {
            match &self.tap {
                Some(tap) => tap.stopped().await,
                None => std::future::pending().await,
            }
        };
        let started = Instant::now();
        let done = tokio::select! {
            done = self.run_all(shared, parts, &mut running) => done,
            () = stopped => {
                let waited_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                Err(FetchError::Timeout { doing: "bringing many contents", waited_ms })
            }
        };
        running.shutdown().await;
        done
    }

    /// [`REQUESTS`] at once. One that cannot be had beside others is asked again once one of them has ended.
    async fn run_all(
        &self,
        shared: &Arc<Shared>,
        parts: Vec<Part>,
        running: &mut JoinSet<(Part, bool, Result<Outcome, FetchError>)>,
    ) -> Result<Vec<Batch>, FetchError> {
        let at_once = self.in_flight.div_ceil(self.each());
        let mut done: Vec<Option<Batch>> = Vec::new();
        done.resize_with(parts.len(), || None);
        let (mut waiting, mut short) = (VecDeque::from(parts), Vec::new());
        let mut ways = at_once;
        loop {
            while running.len() < ways
                && let Some(part) = waiting.pop_front()
            {
                let shared = Arc::clone(shared);
                let is_alone = ways == 1 || (running.is_empty() && waiting.is_empty());
                running.spawn(async move {
                    let outcome = shared.fetch(&part, !is_alone).await;
                    (part, is_alone, outcome)
                });
            }
            let Some(ended) = running.join_next().await else { break };
            match ended {
                Ok((part, is_alone, outcome)) => match outcome? {
                    Outcome::Came(batch) => {
                        done[part.place] = Some(batch);
                        ways = at_once;
                        waiting.extend(short.drain(..));
                    }
                    Outcome::Short { error, .. } if is_alone => return Err(error),
                    Outcome::Short { price, .. } => short.push(Part { price, ..part }),
                },
                Err(panicked) => match panicked.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => return Err(shared.session.broken(&quinn::ConnectionError::LocallyClosed)),
                },
            }
            if running.is_empty() && !short.is_empty() {
                // Each was in the other's way, or none of them fits.
                ways = 1;
                waiting.extend(short.drain(..));
            }
        }
        Ok(done.into_iter().flatten().collect())
    }

    /// Our own budget is not the node's fault, and a channel that is gone is looked up.
    async fn explain(&self, error: FetchError, purpose: &Purpose) -> FetchError {
        match error {
            FetchError::ChannelUnusable { channel } => {
                self.agent.forget_channel(self.node.node(), channel).await;
                FetchError::ChannelUnusable { channel }
            }
            FetchError::PriceTooHigh { price, .. } if price <= self.terms.max_price => {
                refusal(&self.agent, purpose, price)
            }
            other => other,
        }
    }
}

/// Has everything proven paid when dropped.
struct PaysAtTheEnd(Arc<Session>);

impl Drop for PaysAtTheEnd {
    fn drop(&mut self) {
        self.0.control().flush_payment();
    }
}

/// What all requests brought.
#[derive(Default)]
struct Brought {
    /// One for each content, in its place.
    results: Vec<Option<Fetched>>,
    requests: u64,
    wire_bytes: u64,
    paid: Amount,
}

/// Contents at once, unless said otherwise.
const IN_FLIGHT: usize = 64;
/// Requests that they are divided into: while one is waited for, another arrives.
const REQUESTS: usize = 2;
