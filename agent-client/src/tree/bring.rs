//! One portion of a tree: what a node has, proven, and put in its places.

use std::path::PathBuf;
use std::sync::Arc;

use aro_proto::manifest::Entry;
use aro_proto::merkle::{ByteRanges, GroupSize};
use aro_proto::message::Quote;
use aro_proto::{AgentId, Amount, ByteCount, Charge, ContentId, NodeAddress, Tariff};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::allowance::Allowance;
use super::folder::TargetFolder;
use super::plan::Wanted;
use super::{Meter, TreeError, UNBOUNDED, blocking, joined};
use crate::agent::Agent;
use crate::error::{FetchError, Misbehaviour};
use crate::fetch::{FetchReport, Preference, Tap};

/// What the portions of one tree share.
pub(super) struct Fetching {
    pub(super) agent: Agent,
    pub(super) folder: Arc<TargetFolder>,
    pub(super) allowance: Allowance,
    pub(super) meter: Meter,
    pub(super) publisher: AgentId,
    pub(super) prefer: Preference,
    pub(super) class: String,
}

/// What was fetched.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Brought {
    pub(super) verified_bytes: u64,
    pub(super) wire_bytes: u64,
    pub(super) requests: u64,
    pub(super) paid: Amount,
}

impl Brought {
    pub(super) fn of(report: &FetchReport) -> Self {
        let requests = report.sources.iter().map(|source| source.requests).sum();
        let FetchReport { verified_bytes, wire_bytes, paid, .. } = *report;
        Self { verified_bytes, wire_bytes, requests, paid }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.verified_bytes += other.verified_bytes;
        self.wire_bytes += other.wire_bytes;
        self.requests += other.requests;
        self.paid = self.paid.saturating_add(other.paid);
    }
}

/// What came of small contents that one node was asked for.
pub(super) struct Together {
    pub(super) brought: Brought,
    /// What the node does not give, each with its reason.
    pub(super) lacked: Vec<(Wanted, FetchError)>,
    /// What did not come because the request broke off.
    pub(super) rest: Vec<Wanted>,
    pub(super) failed: Option<FetchError>,
}

impl Fetching {
    /// One content, straight into a file, from all these nodes at once. Each is given with what it asks.
    pub(super) async fn alone(&self, one: &Wanted, nodes: &[(NodeAddress, Tariff)]) -> Result<FetchReport, TreeError> {
        let claimed = one.claimed();
        let (first, quote) = self.first_quote(one, nodes).await?;
        let charge = self.reserve_at_most(nodes, quote.tariff, claimed).await?;
        let allowed = charge.to_amount().unwrap_or(UNBOUNDED);
        let others = nodes.iter().map(|(node, _)| node).filter(|node| node.node() != first.node()).cloned();
        let share = Share::new(&self.meter);
        let (total, mut ran_over) = watch::channel(claimed);
        let shown = share.clone();
        let mut fetch = self.agent.fetch(&first.with_content(one.content)).sources(others).prefer(self.prefer);
        fetch = fetch.class(&self.class);
        if nodes.len() == 1 {
            fetch = fetch.price(quote.price);
        }
        let fetch = fetch.max_price(allowed).asks_nobody().progress(move |now| {
            shown.show(now.proven_bytes.min(claimed), now.spent);
            total.send_if_modified(|total| std::mem::replace(total, now.total_bytes.max(*total)) < now.total_bytes);
        });
        let fetched = tokio::select! {
            fetched = fetch.to_file(self.folder.part_path(one.content)) => fetched,
            // It quoted one size and sends more: never more of the disk than was claimed.
            Ok(larger) = async { ran_over.wait_for(|total| *total > claimed).await.map(|total| *total) } => {
                share.forget();
                return Err(self.prove_size_at_any(nodes, one, larger).await);
            }
        };
        let report = match fetched {
            Ok(report) => report,
            Err(error) => {
                share.forget();
                self.release_unpaid(charge, &error);
                return Err(of_entry(one, error));
            }
        };
        share.show(claimed * one.places.len() as u64, report.paid);
        let tariff_of =
            |id| nodes.iter().find(|(node, _)| node.node() == id).map_or(quote.tariff, |(_, tariff)| *tariff);
        self.settle(charge, report.sources.iter().map(|source| (tariff_of(source.node), source.verified_bytes)));
        if let Some(entry) = liar(one, report.size) {
            return Err(self.mismatch(entry, report.size));
        }
        self.place(vec![(one.clone(), None)]).await?;
        Ok(report)
    }

    /// The first quote for the size that the manifest claims, of all nodes that are asked at once. Where none says so, the
    /// content's last group tells who lies.
    async fn first_quote(
        &self,
        one: &Wanted,
        nodes: &[(NodeAddress, Tariff)],
    ) -> Result<(NodeAddress, Quote), TreeError> {
        let mut asked = JoinSet::new();
        for (node, _) in nodes {
            let (agent, node, address) = (self.agent.clone(), node.clone(), node.with_content(one.content));
            asked.spawn(async move { (node, agent.quote(&address, ByteRanges::all()).await) });
        }
        let (mut other, mut failed) = (None, None);
        while let Some(answer) = asked.join_next().await {
            match joined(answer).map_err(|error| TreeError::target(PathBuf::new(), error))? {
                (node, Ok(quote)) if liar(one, quote.size.get()).is_none() => return Ok((node, quote)),
                (node, Ok(quote)) => other = other.or(Some((node, quote))),
                (_, Err(error)) => failed = Some(error),
            }
        }
        match (other, failed) {
            (Some((node, quote)), _) => Err(self.prove_size(&node, one, quote.size.get(), &quote.tariff).await),
            (None, failed) => Err(of_entry(one, failed.unwrap_or(FetchError::NotFound { content: one.content }))),
        }
    }

    /// Sets aside what the bytes come to at the dearest of the nodes that may be used, or where that is too much, at the
    /// price of the one that is.
    async fn reserve_at_most(
        &self,
        nodes: &[(NodeAddress, Tariff)],
        quoted: Tariff,
        bytes: u64,
    ) -> Result<Charge, TreeError> {
        let cheapest = nodes.iter().map(|(_, tariff)| *tariff).min_by_key(|tariff| tariff.per_mib).unwrap_or(quoted);
        let most = self.prefer.dearest(cheapest).per_mib;
        let used = nodes.iter().map(|(_, tariff)| tariff.per_mib).filter(|per_mib| *per_mib <= most);
        let dearest = Tariff { per_mib: used.max().unwrap_or_default().max(quoted.per_mib) };
        match self.allowance.try_reserve(dearest, bytes) {
            Some(charge) => Ok(charge),
            None => self.allowance.reserve(quoted, bytes).await,
        }
    }

    /// Many small contents of one node under one signature. What comes before something breaks is kept.
    pub(super) async fn together(
        &self,
        node: &NodeAddress,
        tariff: &Tariff,
        wanted: &[Wanted],
        tap: Arc<Tap>,
    ) -> Result<Together, TreeError> {
        let Some(first) = wanted.first() else {
            let (brought, lacked, rest) = (Brought::default(), Vec::new(), Vec::new());
            return Ok(Together { brought, lacked, rest, failed: None });
        };
        let bytes: u64 = wanted.iter().map(Wanted::claimed).sum();
        let charge = self.allowance.reserve(*tariff, bytes).await?;
        let allowed = charge.to_amount().unwrap_or(UNBOUNDED);
        let contents: Vec<ContentId> = wanted.iter().map(|one| one.content).collect();
        // All of them in one request.
        let many = self.agent.fetch_many(&node.with_content(first.content), contents).in_flight(2 * wanted.len());
        let many = many.max_price(allowed).price(allowed).asks_nobody().class(&self.class).tap(Arc::clone(&tap));
        let fetched = many.to_bytes(bytes).await;
        let taken = tap.take();
        self.settle(charge, [(*tariff, taken.verified_bytes)]);
        let (mut whole, mut lie) = (Vec::new(), None);
        let mut missing: Vec<&Wanted> = wanted.iter().collect();
        for (content, bytes) in taken.contents {
            let Some(at) = missing.iter().position(|one| one.content == content) else { continue };
            let one = missing.remove(at);
            match liar(one, bytes.len() as u64) {
                Some(entry) => lie = lie.or_else(|| Some(self.mismatch(entry, bytes.len() as u64))),
                None => whole.push((one.clone(), Some(bytes))),
            }
        }
        let bytes: u64 = whole.iter().flat_map(|(one, _)| &one.places).map(|entry| entry.size).sum();
        self.place(whole).await?;
        self.meter.change(|now| {
            now.bytes += bytes;
            now.spent = now.spent.saturating_add(taken.paid);
        });
        if let Some(lie) = lie {
            return Err(lie);
        }
        let (mut lacked, mut rest, mut failed) = (Vec::new(), Vec::new(), None);
        match fetched {
            Ok((_, fetched)) => {
                for (one, fetched) in wanted.iter().zip(fetched) {
                    if let Err(error) = fetched {
                        lacked.push((one.clone(), error));
                    }
                }
            }
            Err(error) => {
                rest = missing.into_iter().cloned().collect();
                failed = match self.find_lie(node, tariff, &rest, &error).await {
                    None => Some(error),
                    Some(TreeError::Entry { error, .. }) => Some(error),
                    Some(lie) => return Err(lie),
                };
            }
        }
        let brought = Brought {
            verified_bytes: taken.verified_bytes,
            wire_bytes: taken.wire_bytes,
            requests: taken.requests,
            paid: taken.paid,
        };
        Ok(Together { brought, lacked, rest, failed })
    }

    /// Whether a fetch of many failed because one of them is larger than its manifest claims.
    async fn find_lie(
        &self,
        node: &NodeAddress,
        tariff: &Tariff,
        wanted: &[Wanted],
        error: &FetchError,
    ) -> Option<TreeError> {
        let is_too_much = matches!(error, FetchError::TooLarge { .. } | FetchError::PriceTooHigh { .. })
            || matches!(error, FetchError::BudgetExceeded(_) | FetchError::Misbehaved { .. });
        if !is_too_much {
            return None;
        }
        for one in wanted {
            let quoted = self.agent.quote(&node.with_content(one.content), ByteRanges::all()).await;
            if let Some(size) = quoted.ok().map(|quote| quote.size.get()).filter(|size| liar(one, *size).is_some()) {
                return Some(self.prove_size(node, one, size, tariff).await);
            }
        }
        None
    }

    /// The node shows another size than the manifest: the content's last group proves which of the two is wrong.
    // r[impl manifest.size.proven]
    async fn prove_size(&self, node: &NodeAddress, one: &Wanted, shown: u64, tariff: &Tariff) -> TreeError {
        let ranges = shown.checked_sub(1).and_then(|last| ByteRanges::single(last, shown).ok());
        let ranges = ranges.unwrap_or_else(ByteRanges::all);
        let allowed = match self.allowance.reserve(*tariff, GroupSize::KIB16.bytes()).await {
            Ok(charge) => charge.to_amount().unwrap_or(UNBOUNDED),
            Err(error) => return error,
        };
        let lied = || of_entry(one, FetchError::misbehaved(node.node(), Misbehaviour::Quote));
        let last = self.agent.fetch(&node.with_content(one.content)).ranges(ranges).class(&self.class);
        let last = last.max_price(allowed).asks_nobody().to_bytes(1);
        match last.await {
            Ok((report, _)) => {
                self.meter.change(|now| now.spent = now.spent.saturating_add(report.paid));
                let entry = liar(one, report.size).filter(|_| report.size_proven);
                entry.map_or_else(lied, |entry| self.mismatch(entry, report.size))
            }
            Err(FetchError::TooLarge { .. }) => lied(),
            Err(error) => of_entry(one, error),
        }
    }

    /// The same where any of several nodes may have shown it: whoever lies, the publisher or all that were asked.
    async fn prove_size_at_any(&self, nodes: &[(NodeAddress, Tariff)], one: &Wanted, shown: u64) -> TreeError {
        let mut last = None;
        for (node, tariff) in nodes {
            match self.prove_size(node, one, shown, tariff).await {
                error @ TreeError::Entry { .. } => last = Some(error),
                proven => return proven,
            }
        }
        last.unwrap_or_else(|| of_entry(one, FetchError::NotFound { content: one.content }))
    }

    fn mismatch(&self, entry: &Entry, proven: u64) -> TreeError {
        let (name, claimed, publisher) = (entry.name.clone(), entry.size, self.publisher);
        TreeError::ManifestMismatch { name, claimed, proven, publisher }
    }

    /// Writes what is in memory, and moves everything to its places.
    async fn place(&self, whole: Vec<(Wanted, Option<Vec<u8>>)>) -> Result<(), TreeError> {
        let folder = Arc::clone(&self.folder);
        let files: u64 = whole.iter().map(|(one, _)| one.places.len() as u64).sum();
        blocking(move || {
            let mut written = Vec::new();
            for (one, bytes) in &whole {
                let name = || one.places.first().map_or_else(String::new, |entry| entry.name.to_string());
                if let Some(bytes) = bytes {
                    folder.write_part(one.content, bytes).map_err(|error| TreeError::target(name(), error))?;
                    written.push(one.content);
                }
            }
            if !written.is_empty() {
                folder.sync(&written).map_err(|error| TreeError::target(PathBuf::new(), error))?;
            }
            for (one, _) in &whole {
                let placed = folder.place(one.content, &one.places);
                placed.map_err(|(name, error)| TreeError::target(name, error))?;
            }
            Ok(())
        })
        .await?;
        self.meter.change(|now| now.files += files);
        Ok(())
    }

    /// Of a charge, only what these bytes come to at their prices is owed.
    fn settle(&self, charge: Charge, brought: impl IntoIterator<Item = (Tariff, u64)>) {
        let cost = brought.into_iter().fold(Charge::ZERO, |sum, (tariff, bytes)| {
            sum.checked_add(tariff.charge(ByteCount::new(bytes))).unwrap_or(charge)
        });
        self.allowance.release(charge.saturating_sub(cost));
    }

    /// Gives a charge back if the error came before any byte; otherwise some of it may be paid, and it stays spent.
    fn release_unpaid(&self, charge: Charge, error: &FetchError) {
        let is_unpaid = matches!(
            error,
            FetchError::NotFound { .. }
                | FetchError::NoChannel { .. }
                | FetchError::WrongNodeKey { .. }
                | FetchError::WrongChain { .. }
        );
        if is_unpaid {
            self.allowance.release(charge);
        }
    }
}

/// What one file adds to the tree's progress. Clones share it.
#[derive(Clone)]
struct Share {
    meter: Meter,
    shown: Arc<std::sync::Mutex<(u64, Amount)>>,
}

impl Share {
    fn new(meter: &Meter) -> Self {
        Self { meter: meter.clone(), shown: Arc::default() }
    }

    /// Replaces what was shown before.
    fn show(&self, bytes: u64, spent: Amount) {
        let mut shown = self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = std::mem::replace(&mut *shown, (bytes, spent));
        self.meter.change(|now| {
            now.bytes = (now.bytes + bytes).saturating_sub(before.0);
            now.spent = now.spent.saturating_add(spent).saturating_sub(before.1);
        });
    }

    /// The bytes come again from elsewhere; what was spent is spent.
    fn forget(&self) {
        let spent = self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1;
        self.show(0, spent);
    }
}

/// The first place of the content that claims another size.
fn liar(one: &Wanted, size: u64) -> Option<&Entry> {
    one.places.iter().find(|entry| entry.size != size)
}

pub(super) fn of_entry(one: &Wanted, error: FetchError) -> TreeError {
    match one.places.first() {
        Some(entry) => TreeError::Entry { name: entry.name.clone(), error },
        None => TreeError::Fetch(error),
    }
}
