//! A whole tree from one node or several: the manifest first, then what the folder lacks of its files, a few portions at
//! once.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aro_proto::limits::MAX_MANIFEST_BYTES;
use aro_proto::manifest::{Entry, Manifest, SignedManifest};
use aro_proto::merkle::{ByteRanges, GroupSize};
use aro_proto::{Address, AgentId, Amount, ByteCount, Charge, ContentId, NodeAddress, Tariff, WhoActs};
use serde::{Serialize, Serializer};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::folder::TargetFolder;
use super::plan::{Portion, Wanted, portions};
use super::{Allowance, Meter, TreeError, TreeProgress, UNBOUNDED};
use crate::agent::Agent;
use crate::error::{FetchError, Misbehaviour};
use crate::fetch::FetchReport;

/// A fetch of a whole tree being put together; [`to_folder`](Self::to_folder) runs it.
///
/// Dropping the running future cancels it: what was proven is paid, files that are in their place stay, and the same
/// call again goes on from there.
#[must_use = "nothing is fetched until to_folder is awaited"]
pub struct FetchTreeBuilder {
    agent: Agent,
    manifest: ContentId,
    nodes: Vec<NodeAddress>,
    max_price: Option<Amount>,
    max_bytes: u64,
    meter: Meter,
}

/// What a fetch of a tree brought and cost.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FetchTreeReport {
    /// The manifest, in base58 where it is written out.
    #[serde(serialize_with = "as_text")]
    pub manifest: ContentId,
    /// Who signed it.
    #[serde(serialize_with = "as_text")]
    pub publisher: AgentId,
    /// Files of the tree.
    pub files: u64,
    /// Those of them that were in their place before.
    pub kept_files: u64,
    /// Bytes of all files, each proven.
    pub bytes: u64,
    /// Content bytes that were fetched, the manifest's included: what is billed.
    pub verified_bytes: u64,
    /// Bytes of all answers on their streams, proofs included.
    pub wire_bytes: u64,
    /// What the tree added to the channels' bills, in base units.
    pub paid: Amount,
    /// From the call to the end, in whole milliseconds where it is written out.
    #[serde(rename = "elapsed_ms", serialize_with = "as_millis")]
    pub elapsed: Duration,
}

impl FetchTreeBuilder {
    pub(crate) fn new(agent: Agent, manifest: Address) -> Self {
        let nodes = vec![NodeAddress::from(&manifest)];
        let (manifest, meter) = (manifest.content(), Meter::default());
        Self { agent, manifest, nodes, max_price: None, max_bytes: MAX_TREE_BYTES, meter }
    }

    /// Further nodes, asked in their order for what those before them do not give.
    pub fn also_from(mut self, nodes: impl IntoIterator<Item = NodeAddress>) -> Self {
        for node in nodes {
            if !self.nodes.contains(&node) {
                self.nodes.push(node);
            }
        }
        self
    }

    /// The most that manifest and files together may cost, in base units; default whatever the budget leaves. What all
    /// missing files come to is held against it before the first of them is paid.
    pub fn max_price(mut self, max_price: Amount) -> Self {
        self.max_price = Some(max_price);
        self
    }

    /// The most that all files may have together, in bytes; default 64 GiB. No file takes more of the disk than its
    /// manifest claims for it.
    pub fn max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Called as bytes are proven and files come to their place. It must not block.
    pub fn progress(mut self, report: impl Fn(TreeProgress) + Send + Sync + 'static) -> Self {
        self.meter.report = Some(Arc::new(report));
        self
    }

    /// Fetches into a folder, which is made if need be. Nothing is written outside it, whatever lies in it and whatever
    /// the manifest says. A file takes its place only when it is whole, proven and on disk; one that is there already
    /// with the same bytes is not fetched again; any other of that name is replaced.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub async fn to_folder(self, path: impl AsRef<Path>) -> Result<FetchTreeReport, TreeError> {
        let started = Instant::now();
        let path = path.as_ref().to_owned();
        let Self { agent, manifest: id, nodes, max_price, max_bytes, meter } = self;
        let allowance = Allowance::new(max_price.unwrap_or(UNBOUNDED));
        let mut done = Done::default();
        let manifest = fetch_manifest(&agent, id, &nodes, &allowance, &mut done).await?;
        meter.change(|now| now.spent = done.paid);
        let claimed = manifest.claimed_bytes();
        if claimed > max_bytes {
            return Err(TreeError::TooLarge { claimed, limit: max_bytes });
        }
        let (publisher, files) = (manifest.publisher(), manifest.entries().len() as u64);
        let (folder, missing) = open(path.clone(), manifest).await?;
        let kept_files = files - missing.len() as u64;
        let missing_bytes: u64 = missing.iter().map(|entry| entry.size).sum();
        meter.change(|now| {
            (now.files, now.total_files) = (kept_files, files);
            (now.bytes, now.total_bytes) = (claimed - missing_bytes, claimed);
        });
        let fetching = Fetching { agent, nodes, folder, allowance, meter, publisher };
        let fetching = Arc::new(fetching);
        let fetched = match fetching.check_price(missing_bytes).await {
            Ok(()) => Arc::clone(&fetching).run(portions(missing)).await,
            Err(error) => Err(error),
        };
        fetching.folder.finish();
        done.add(&fetched?);
        Ok(FetchTreeReport {
            manifest: id,
            publisher,
            files,
            kept_files,
            bytes: claimed,
            verified_bytes: done.verified_bytes,
            wire_bytes: done.wire_bytes,
            paid: done.paid,
            elapsed: started.elapsed(),
        })
    }
}

/// What was fetched.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    verified_bytes: u64,
    wire_bytes: u64,
    paid: Amount,
}

impl Done {
    fn of(report: &FetchReport) -> Self {
        Self { verified_bytes: report.verified_bytes, wire_bytes: report.wire_bytes, paid: report.paid }
    }

    fn add(&mut self, other: &Self) {
        self.verified_bytes += other.verified_bytes;
        self.wire_bytes += other.wire_bytes;
        self.paid = self.paid.saturating_add(other.paid);
    }
}

/// What the portions of one tree share.
struct Fetching {
    agent: Agent,
    nodes: Vec<NodeAddress>,
    folder: Arc<TargetFolder>,
    allowance: Allowance,
    meter: Meter,
    publisher: AgentId,
}

impl Fetching {
    /// Runs the portions, a few at once, until all have come or one has failed.
    async fn run(self: Arc<Self>, portions: Vec<Portion>) -> Result<Done, TreeError> {
        let (mut waiting, mut running, mut done) = (VecDeque::from(portions), JoinSet::new(), Done::default());
        loop {
            while running.len() < AT_ONCE
                && let Some(portion) = waiting.pop_front()
            {
                let this = Arc::clone(&self);
                running.spawn(async move { this.fetch(portion).await });
            }
            let failed = match running.join_next().await {
                None => return Ok(done),
                Some(Ok(Ok(fetched))) => {
                    done.add(&fetched);
                    continue;
                }
                Some(Ok(Err(error))) => error,
                Some(Err(panicked)) => match panicked.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(ended) => TreeError::target(PathBuf::new(), std::io::Error::other(ended)),
                },
            };
            // The others are over when this returns, so that the same call again finds the folder free.
            running.shutdown().await;
            return Err(failed);
        }
    }

    /// Asks one node after the other for what is still missing of a portion.
    async fn fetch(&self, portion: Portion) -> Result<Done, TreeError> {
        let mut done = Done::default();
        let mut failed = None;
        let mut rest = portion;
        for node in &self.nodes {
            let fetched = match &rest {
                Portion::Alone(one) => self.alone(node, one).await.map(|fetched| (fetched, None)),
                Portion::Together(wanted) => self.together(node, wanted).await,
            };
            match fetched {
                Ok((fetched, None)) => {
                    done.add(&fetched);
                    return Ok(done);
                }
                Ok((fetched, Some((missing, error)))) => {
                    done.add(&fetched);
                    rest = Portion::Together(missing);
                    failed = Some(error);
                }
                Err(error) if is_elsewhere(&error) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or(TreeError::PriceTooHigh { price: UNBOUNDED, allowed: self.allowance.most }))
    }

    /// One content, straight into a file.
    async fn alone(&self, node: &NodeAddress, one: &Wanted) -> Result<Done, TreeError> {
        let (address, claimed) = (node.with_content(one.content), one.claimed());
        let quote = self.agent.quote(&address, ByteRanges::all()).await.map_err(|error| of_entry(one, error))?;
        if liar(one, quote.size.get()).is_some() {
            return Err(self.prove_size(node, one, quote.size.get(), &quote.tariff).await);
        }
        let charge = quote.tariff.charge(ByteCount::new(claimed));
        let allowed = self.reserve(charge)?;
        let share = Share::new(&self.meter);
        let (total, mut ran_over) = watch::channel(claimed);
        let shown = share.clone();
        let fetch = self.agent.fetch(&address).max_price(allowed).price(quote.price).progress(move |now| {
            shown.show(now.proven_bytes.min(claimed), now.spent);
            total.send_if_modified(|total| std::mem::replace(total, now.total_bytes.max(*total)) < now.total_bytes);
        });
        let fetched = tokio::select! {
            fetched = fetch.to_file(self.folder.part_path(one.content)) => fetched,
            // It quoted one size and sends more: never more of the disk than was claimed.
            Ok(larger) = async { ran_over.wait_for(|total| *total > claimed).await.map(|total| *total) } => {
                share.forget();
                return Err(self.prove_size(node, one, larger, &quote.tariff).await);
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
        if let Some(entry) = liar(one, report.size) {
            return Err(self.mismatch(entry, report.size));
        }
        self.place(vec![(one.clone(), None)]).await?;
        Ok(Done::of(&report))
    }

    /// Many small contents under one signature. What the node does not give is returned, with its reason.
    async fn together(&self, node: &NodeAddress, wanted: &[Wanted]) -> Result<(Done, Rest), TreeError> {
        let Some(first) = wanted.first() else { return Ok((Done::default(), None)) };
        let tariff = tariff_of(&self.agent, node).await.map_err(|error| of_entry(first, error))?;
        let bytes: u64 = wanted.iter().map(Wanted::claimed).sum();
        let charge = tariff.charge(ByteCount::new(bytes));
        let allowed = self.reserve(charge)?;
        let contents: Vec<ContentId> = wanted.iter().map(|one| one.content).collect();
        // All of them in one request.
        let many = self.agent.fetch_many(&node.with_content(first.content), contents).in_flight(2 * wanted.len());
        let (report, fetched) = match many.max_price(allowed).price(allowed).to_bytes(bytes).await {
            Ok(done) => done,
            Err(error) => {
                if let Some(lie) = self.find_lie(node, wanted, &tariff, &error).await {
                    return Err(lie);
                }
                self.release_unpaid(charge, &error);
                return Err(of_entry(first, error));
            }
        };
        let (mut whole, mut missing, mut refused, mut lie) = (Vec::new(), Vec::new(), None, None);
        for (one, fetched) in wanted.iter().zip(fetched) {
            match fetched {
                Ok(bytes) => match liar(one, bytes.len() as u64) {
                    Some(entry) => lie = lie.or_else(|| Some(self.mismatch(entry, bytes.len() as u64))),
                    None => whole.push((one.clone(), Some(bytes))),
                },
                Err(error) => {
                    self.allowance.release(tariff.charge(ByteCount::new(one.claimed())));
                    refused.get_or_insert(of_entry(one, error));
                    missing.push(one.clone());
                }
            }
        }
        let bytes: u64 = whole.iter().map(|(one, _)| one.places.iter().map(|entry| entry.size).sum::<u64>()).sum();
        self.place(whole).await?;
        self.meter.change(|now| {
            now.bytes += bytes;
            now.spent = now.spent.saturating_add(report.paid);
        });
        if let Some(lie) = lie {
            return Err(lie);
        }
        let done = Done { verified_bytes: report.verified_bytes, wire_bytes: report.wire_bytes, paid: report.paid };
        Ok((done, refused.map(|error| (missing, error))))
    }

    /// Whether a fetch of many failed because one of them is larger than its manifest claims.
    async fn find_lie(
        &self,
        node: &NodeAddress,
        wanted: &[Wanted],
        tariff: &Tariff,
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
        let group = tariff.charge(ByteCount::new(GroupSize::KIB16.bytes()));
        let allowed = match self.reserve(group) {
            Ok(allowed) => allowed,
            Err(error) => return error,
        };
        let lied = || of_entry(one, FetchError::misbehaved(node.node(), Misbehaviour::Quote));
        let last = self.agent.fetch(&node.with_content(one.content)).ranges(ranges).max_price(allowed).to_bytes(1);
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

    /// What everything missing comes to at the first node, before anything of it is asked for.
    async fn check_price(&self, bytes: u64) -> Result<(), TreeError> {
        let Some(node) = self.nodes.first().filter(|_| bytes > 0 && self.allowance.most < UNBOUNDED) else {
            return Ok(());
        };
        // A node that cannot be asked has its say when it is asked for a file.
        let Ok(tariff) = tariff_of(&self.agent, node).await else { return Ok(()) };
        let charge = tariff.charge(ByteCount::new(bytes));
        self.reserve(charge)?;
        self.allowance.release(charge);
        Ok(())
    }

    /// Sets a charge aside; what the request for it may cost.
    fn reserve(&self, charge: Charge) -> Result<Amount, TreeError> {
        let allowed = self.allowance.most;
        self.allowance.reserve(charge).map_err(|price| TreeError::PriceTooHigh { price, allowed })?;
        Ok(charge.to_amount().unwrap_or(UNBOUNDED))
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

/// What a node did not give, and why not.
type Rest = Option<(Vec<Wanted>, TreeError)>;

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

/// Fetches and verifies the manifest itself.
async fn fetch_manifest(
    agent: &Agent,
    id: ContentId,
    nodes: &[NodeAddress],
    allowance: &Allowance,
    done: &mut Done,
) -> Result<Manifest, TreeError> {
    let mut failed = None;
    for node in nodes {
        let fetch = agent.fetch(&node.with_content(id)).max_price(allowance.most);
        match fetch.to_bytes(MAX_MANIFEST_BYTES as u64).await {
            Ok((report, bytes)) => {
                done.add(&Done::of(&report));
                let charge = tariff_of(agent, node).await?.charge(ByteCount::new(report.verified_bytes));
                let allowed = allowance.most;
                allowance.reserve(charge).map_err(|price| TreeError::PriceTooHigh { price, allowed })?;
                let manifest = SignedManifest::from_bytes(&bytes).and_then(|signed| signed.verify());
                return manifest.map_err(|error| TreeError::Manifest { content: id, error });
            }
            Err(error) => {
                let error = TreeError::Fetch(error);
                if !is_elsewhere(&error) {
                    return Err(error);
                }
                failed = Some(error);
            }
        }
    }
    Err(failed.unwrap_or(TreeError::Fetch(FetchError::NotFound { content: id })))
}

/// Opens the target and looks which entries are not in their place yet.
async fn open(path: PathBuf, manifest: Manifest) -> Result<(Arc<TargetFolder>, Vec<Entry>), TreeError> {
    blocking(move || {
        let folder = TargetFolder::open(&path).map_err(|error| TreeError::target(&path, error))?;
        let mut missing = Vec::new();
        for entry in manifest.entries() {
            // What cannot be read is fetched again.
            if !folder.has(entry).unwrap_or(false) {
                missing.push(entry.clone());
            }
        }
        Ok((Arc::new(folder), missing))
    })
    .await
}

/// What a node asks, from its hello.
async fn tariff_of(agent: &Agent, node: &NodeAddress) -> Result<Tariff, FetchError> {
    let session = agent.session(&node.with_content(ContentId::from_bytes([0; 32]))).await?;
    let limit_ms = agent.config().answer_timeout_ms;
    let ready = session.wait_for("waiting for the node's hello", limit_ms, |status| status.hello.is_some());
    Ok(ready.await?.hello.map(|hello| hello.tariff).unwrap_or_default())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TreeError> + Send + 'static,
) -> Result<T, TreeError> {
    let ended = |ended| Err(TreeError::target(PathBuf::new(), std::io::Error::other(ended)));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(ended)
}

/// The first place of the content that claims another size.
fn liar(one: &Wanted, size: u64) -> Option<&Entry> {
    one.places.iter().find(|entry| entry.size != size)
}

fn of_entry(one: &Wanted, error: FetchError) -> TreeError {
    match one.places.first() {
        Some(entry) => TreeError::Entry { name: entry.name.clone(), error },
        None => TreeError::Fetch(error),
    }
}

/// Whether another node may do better.
fn is_elsewhere(error: &TreeError) -> bool {
    matches!(error, TreeError::Fetch(_) | TreeError::Entry { .. })
        && matches!(error.who_acts(), WhoActs::RetryElsewhere | WhoActs::RetryHere)
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn as_millis<S: Serializer>(elapsed: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// Portions at once: while some are waited for, others arrive or are written.
const AT_ONCE: usize = 4;
/// Bytes of the largest tree, if the caller does not say otherwise: 64 GiB.
const MAX_TREE_BYTES: u64 = 64 << 30;
