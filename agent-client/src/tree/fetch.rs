//! A whole tree from one node or several: the manifest first, then what the folder lacks of its files, a few portions at
//! once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aro_proto::limits::MAX_MANIFEST_BYTES;
use aro_proto::manifest::{Entry, Manifest, SignedManifest};
use aro_proto::{Address, AgentId, Amount, ByteCount, Charge, ContentId, NodeAddress, Tariff};
use serde::{Serialize, Serializer};

use super::allowance::Allowance;
use super::bring::{Brought, Fetching};
use super::folder::TargetFolder;
use super::plan::portions;
use super::spread::Spread;
use super::{Meter, TreeError, TreeProgress, UNBOUNDED, blocking};
use crate::agent::Agent;
use crate::error::FetchError;
use crate::fetch::{Preference, SourceReport};

/// A fetch of a whole tree being put together; [`to_folder`](Self::to_folder) runs it.
///
/// Dropping the running future cancels it: what was proven is paid, files that are in their place stay, and the same
/// call again goes on from there.
#[must_use = "nothing is fetched until to_folder is awaited"]
pub struct FetchTreeBuilder {
    agent: Agent,
    manifest: ContentId,
    /// The manifest's own first.
    nodes: Vec<NodeAddress>,
    prefer: Preference,
    max_price: Option<Amount>,
    class: String,
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
    /// What each node brought of the files, in the order in which they were named.
    pub sources: Vec<SourceReport>,
    /// From the call to the end, in whole milliseconds where it is written out.
    #[serde(rename = "elapsed_ms", serialize_with = "as_millis")]
    pub elapsed: Duration,
}

impl FetchTreeBuilder {
    pub(crate) fn new(agent: Agent, manifest: Address) -> Self {
        let nodes = vec![NodeAddress::from(&manifest)];
        let (manifest, meter, prefer) = (manifest.content(), Meter::default(), Preference::default());
        let class = String::new();
        Self { agent, manifest, nodes, prefer, max_price: None, class, max_bytes: MAX_TREE_BYTES, meter }
    }

    /// Further nodes that may have manifest and files. All of them are used at once, as [`prefer`](Self::prefer) says: large files
    /// come from several side by side, small ones are spread over them. What one fails to bring the others do.
    pub fn also_from(mut self, nodes: impl IntoIterator<Item = NodeAddress>) -> Self {
        for node in nodes {
            if self.nodes.iter().all(|known| known.node() != node.node()) {
                self.nodes.push(node);
            }
        }
        self
    }

    /// What counts where several nodes have the files; default [`Preference::Balanced`].
    pub fn prefer(mut self, preference: Preference) -> Self {
        self.prefer = preference;
        self
    }

    /// The most that manifest and files together may cost, in base units; default whatever the budget leaves. What all
    /// missing files come to is held against it before the first of them is paid. Where a policy has somebody asked, it is
    /// about all of that at once, at the dearest node that may be used, and again only if it becomes dearer. Each node's
    /// channel is rounded up by itself, so of several nodes each but the first may add one base unit to either.
    pub fn max_price(mut self, max_price: Amount) -> Self {
        self.max_price = Some(max_price);
        self
    }

    /// Which class of content it is; a policy may cap what each class costs. At most 64 bytes.
    pub fn class(mut self, class: impl Into<String>) -> Self {
        self.class = class.into();
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
        let Self { agent, manifest: id, nodes, prefer, max_price, class, max_bytes, meter } = self;
        let allowance = Allowance::new(agent.clone(), nodes[0].node(), Some(id), max_price.unwrap_or(UNBOUNDED));
        let mut done = Brought::default();
        let manifest = fetch_manifest(&agent, id, &nodes, (prefer, &class), &allowance, &mut done).await?;
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
        let fetching = Arc::new(Fetching { agent, folder, allowance, meter, publisher, prefer, class });
        let portions = portions(missing, nodes.len());
        let fetched = Spread::new(Arc::clone(&fetching), &nodes, portions).run().await;
        fetching.folder.finish();
        let (brought, sources) = fetched?;
        done.add(&brought);
        Ok(FetchTreeReport {
            manifest: id,
            publisher,
            files,
            kept_files,
            bytes: claimed,
            verified_bytes: done.verified_bytes,
            wire_bytes: done.wire_bytes,
            paid: done.paid,
            sources,
            elapsed: started.elapsed(),
        })
    }
}

/// Fetches and verifies the manifest itself, from all nodes as any content: one that is silent holds up nobody.
async fn fetch_manifest(
    agent: &Agent,
    id: ContentId,
    nodes: &[NodeAddress],
    (prefer, class): (Preference, &str),
    allowance: &Allowance,
    done: &mut Brought,
) -> Result<Manifest, TreeError> {
    let fetch = agent.fetch(&nodes[0].with_content(id)).sources(nodes[1..].iter().cloned()).prefer(prefer);
    let fetch = fetch.class(class).max_price(allowance.most());
    let (report, bytes) = fetch.to_bytes(MAX_MANIFEST_BYTES as u64).await?;
    done.add(&Brought::of(&report));
    for source in report.sources.iter().filter(|source| source.verified_bytes > 0) {
        let node = nodes.iter().find(|node| node.node() == source.node);
        let tariff = match node {
            Some(node) => tariff_of(agent, node).await.ok(),
            None => None,
        };
        // Where it is gone by now, what it was paid is as near as anybody knows.
        let paid = Charge::from_amount(source.paid);
        allowance.paid(tariff.map_or(paid, |tariff| tariff.charge(ByteCount::new(source.verified_bytes))))?;
    }
    let manifest = SignedManifest::from_bytes(&bytes).and_then(|signed| signed.verify());
    manifest.map_err(|error| TreeError::Manifest { content: id, error })
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
pub(super) async fn tariff_of(agent: &Agent, node: &NodeAddress) -> Result<Tariff, FetchError> {
    let session = agent.session(&node.with_content(ContentId::from_bytes([0; 32]))).await?;
    let limit_ms = agent.config().answer_timeout_ms;
    let ready = session.wait_for("waiting for the node's hello", limit_ms, |status| status.hello.is_some());
    Ok(ready.await?.hello.map(|hello| hello.tariff).unwrap_or_default())
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn as_millis<S: Serializer>(elapsed: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// Bytes of the largest tree, if the caller does not say otherwise: 64 GiB.
const MAX_TREE_BYTES: u64 = 64 << 30;
