//! A whole folder to a node: a few files at once, and in the end the manifest that names them.

use std::collections::VecDeque;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aro_proto::manifest::{Entry, SignedManifest, check_entries};
use aro_proto::{Address, AgentId, Amount, ByteCount, Charge, ContentId, NodeAddress, RefusalCode, Tariff};
use serde::{Serialize, Serializer};
use tokio::task::JoinSet;

use super::allowance::Allowance;
use super::walk::{Found, walk};
use super::{Meter, TreeError, TreeProgress, UNBOUNDED, joined};
use crate::agent::Agent;
use crate::error::FetchError;
use crate::publish::{PublishReport, PublishSource};

/// A folder being published; [`run`](Self::run) runs it.
///
/// Dropping the running future cancels it: files that are at the node stay there, and the same call again pays only for
/// what is missing.
#[must_use = "nothing is published until run is awaited"]
pub struct PublishTreeBuilder {
    agent: Agent,
    node: NodeAddress,
    folder: PathBuf,
    skip_special: bool,
    max_price: Option<Amount>,
    class: String,
    meter: Meter,
}

/// What publishing a tree brought and cost.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublishTreeReport {
    /// Where the manifest can be fetched now, and with it the tree.
    #[serde(serialize_with = "as_text")]
    pub address: Address,
    /// The manifest.
    #[serde(serialize_with = "as_text")]
    pub manifest: ContentId,
    /// The key that signed it.
    #[serde(serialize_with = "as_text")]
    pub publisher: AgentId,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Content bytes that the node did not have, the manifest's included: what is billed.
    pub taken_bytes: u64,
    /// Bytes sent, proofs included.
    pub wire_bytes: u64,
    /// What the tree added to the channel's bill, in base units.
    pub paid: Amount,
    /// Links, pipes and other things that are no files, and were left out as asked.
    pub skipped: Vec<PathBuf>,
    /// From the call to the end, in whole milliseconds where it is written out.
    #[serde(rename = "elapsed_ms", serialize_with = "as_millis")]
    pub elapsed: Duration,
}

impl PublishTreeBuilder {
    pub(crate) fn new(agent: Agent, node: NodeAddress, folder: PathBuf) -> Self {
        let (max_price, class, meter) = (None, String::new(), Meter::default());
        Self { agent, node, folder, skip_special: false, max_price, class, meter }
    }

    /// Leaves links, pipes, sockets and devices out; default refuses them, before anything is sent.
    pub fn skip_special(mut self, skip: bool) -> Self {
        self.skip_special = skip;
        self
    }

    /// The most that files and manifest together may cost, in base units; default whatever the budget leaves. Where a
    /// policy has somebody asked, it is about all of that at once; what the node has already costs nothing.
    pub fn max_price(mut self, max_price: Amount) -> Self {
        self.max_price = Some(max_price);
        self
    }

    /// Which class of content it is; a policy may cap what each class costs. At most 64 bytes.
    pub fn class(mut self, class: impl Into<String>) -> Self {
        self.class = class.into();
        self
    }

    /// Called as the node takes bytes, and for each file that it has. It must not block.
    pub fn progress(mut self, report: impl Fn(TreeProgress) + Send + Sync + 'static) -> Self {
        self.meter.report = Some(Arc::new(report));
        self
    }

    /// Publishes. Returns when every file and the manifest are durable at the node.
    ///
    /// # Errors
    /// See [`TreeError`].
    pub async fn run(self) -> Result<PublishTreeReport, TreeError> {
        let started = Instant::now();
        let Self { agent, node, folder, skip_special, max_price, class, meter } = self;
        let (found, drafts, skipped) = read_folder(folder.clone(), skip_special).await?;
        let (files, bytes) = (found.len() as u64, found.iter().map(|file| file.size).sum());
        meter.change(|now| (now.total_files, now.total_bytes) = (files, bytes));
        let tariff = tariff_of(&agent, &node).await?;
        let allowance = Allowance::new(agent.clone(), node.node(), None, max_price.unwrap_or(UNBOUNDED));
        // Contents have one length, whatever they are, and so has the manifest. What the node has already costs nothing.
        let draft = SignedManifest::sign(drafts, agent.keys().signer_key()).map_err(TreeError::Unpublishable)?;
        allowance.expect(Tariff::default(), tariff, bytes + draft.to_bytes().len() as u64).await?;
        let publishing = Publishing { agent, node, tariff, class, allowance, meter };
        let (entries, mut sums) = publishing.files(found).await?;

        let signed = SignedManifest::sign(entries, publishing.agent.keys().signer_key());
        let signed = signed.map_err(TreeError::Unpublishable)?;
        let report = publishing.manifest(&signed, &folder).await?;
        sums.add(&report);
        Ok(PublishTreeReport {
            address: report.address,
            manifest: report.content,
            publisher: signed.claimed_publisher(),
            files,
            bytes: sums.bytes - report.size,
            taken_bytes: sums.taken_bytes,
            wire_bytes: sums.wire_bytes,
            paid: sums.paid,
            skipped,
            elapsed: started.elapsed(),
        })
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    bytes: u64,
    taken_bytes: u64,
    wire_bytes: u64,
    paid: Amount,
}

impl Sums {
    fn add(&mut self, report: &PublishReport) {
        self.bytes += report.size;
        self.taken_bytes += report.taken_bytes;
        self.wire_bytes += report.wire_bytes;
        self.paid = self.paid.saturating_add(report.paid);
    }
}

/// What the uploads of one tree share.
struct Publishing {
    agent: Agent,
    node: NodeAddress,
    tariff: Tariff,
    class: String,
    allowance: Allowance,
    meter: Meter,
}

/// An upload that has ended.
struct Ended {
    file: Found,
    reserved: Charge,
    outcome: Result<PublishReport, FetchError>,
}

impl Publishing {
    /// Uploads all files, a few at once, and says what they are.
    async fn files(&self, found: Vec<Found>) -> Result<(Vec<Entry>, Sums), TreeError> {
        let (mut waiting, mut running) = (VecDeque::from(found), JoinSet::new());
        let (mut entries, mut sums, mut put_off) = (Vec::new(), Sums::default(), 0);
        loop {
            while running.len() < AT_ONCE
                && let Some(file) = waiting.pop_front()
            {
                match self.allowance.reserve(self.tariff, file.size).await {
                    Ok(charge) => drop(running.spawn(self.upload(file, charge))),
                    // What the node turns out to have is given back.
                    Err(TreeError::PriceTooHigh { .. }) if !running.is_empty() => {
                        waiting.push_front(file);
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            let Some(ended) = running.join_next().await else { break };
            let ended = joined(ended).map_err(|error| TreeError::source(PathBuf::new(), error))?;
            let Ended { file, reserved, outcome } = ended;
            match outcome {
                Ok(report) => {
                    self.allowance.release(reserved);
                    self.allowance.paid(self.tariff.charge(ByteCount::new(report.taken_bytes)))?;
                    sums.add(&report);
                    self.meter.change(|now| {
                        (now.files, now.bytes) = (now.files + 1, now.bytes + report.size);
                        now.spent = now.spent.saturating_add(report.paid);
                    });
                    entries.push(entry(&file, report.content, report.size));
                }
                // The same bytes under another name are on their way, or the node has much to do: later, alone.
                Err(FetchError::Refused(refusal))
                    if refusal.code() == RefusalCode::OverCapacity && put_off < PUT_OFF_AT_MOST =>
                {
                    self.allowance.release(reserved);
                    self.allowance.waits_for(file.size);
                    put_off += 1;
                    waiting.push_back(file);
                    if running.is_empty() {
                        tokio::time::sleep(PATIENCE).await;
                    }
                }
                Err(FetchError::Source(error)) => return Err(TreeError::Source { path: file.path, error }),
                Err(error) => return Err(TreeError::Entry { name: file.name, error }),
            }
        }
        Ok((entries, sums))
    }

    fn upload(&self, file: Found, reserved: Charge) -> impl Future<Output = Ended> + Send + 'static {
        let allowed = reserved.to_amount().unwrap_or(UNBOUNDED);
        let publish = self.agent.publish(&self.node, &file.path).class(&self.class).max_price(allowed).asks_nobody();
        async move { Ended { outcome: publish.run().await, file, reserved } }
    }

    /// Uploads the manifest, through a file: so the node takes it only if it does not have it.
    async fn manifest(&self, signed: &SignedManifest, folder: &std::path::Path) -> Result<PublishReport, TreeError> {
        let failed = |error| TreeError::source(folder, error);
        let bytes = signed.to_bytes();
        let charge = self.allowance.reserve(self.tariff, bytes.len() as u64).await?;
        let allowed = charge.to_amount().unwrap_or(UNBOUNDED);
        let written = tokio::task::spawn_blocking(move || {
            let mut file = tempfile::NamedTempFile::new()?;
            file.write_all(&bytes).and_then(|()| file.flush())?;
            Ok(file)
        });
        let file = written.await.map_err(|error| failed(std::io::Error::other(error)))?.map_err(failed)?;
        let publish = self.agent.publish(&self.node, PublishSource::from(file.path()));
        let report = publish.class(&self.class).max_price(allowed).asks_nobody().run().await?;
        self.meter.change(|now| now.spent = now.spent.saturating_add(report.paid));
        Ok(report)
    }
}

fn entry(file: &Found, content: ContentId, size: u64) -> Entry {
    let media_type = mime_guess::from_path(file.name.as_str()).first_raw().and_then(|text| text.parse().ok());
    Entry { name: file.name.clone(), content, size, media_type, executable: file.executable }
}

/// Looks through a folder; names that cannot be one tree are refused before anything is sent. The entries stand for contents
/// that nobody has read yet.
async fn read_folder(folder: PathBuf, skip_special: bool) -> Result<(Vec<Found>, Vec<Entry>, Vec<PathBuf>), TreeError> {
    let looked = tokio::task::spawn_blocking(move || {
        let (found, skipped) = walk(&folder, skip_special)?;
        let unread = ContentId::from_bytes([0; 32]);
        let entries: Vec<Entry> = found.iter().map(|file| entry(file, unread, file.size)).collect();
        check_entries(&entries).map_err(TreeError::Unpublishable)?;
        Ok((found, entries, skipped))
    });
    looked.await.unwrap_or_else(|ended| Err(TreeError::source(PathBuf::new(), std::io::Error::other(ended))))
}

/// What a node asks for uploads, from its hello; one that takes none says so itself when it is asked.
async fn tariff_of(agent: &Agent, node: &NodeAddress) -> Result<Tariff, FetchError> {
    let session = agent.session(&node.with_content(ContentId::from_bytes([0; 32]))).await?;
    let limit_ms = agent.config().answer_timeout_ms;
    let ready = session.wait_for("waiting for the node's hello", limit_ms, |status| status.hello.is_some());
    Ok(ready.await?.hello.and_then(|hello| hello.publish).map(|terms| terms.tariff).unwrap_or_default())
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn as_millis<S: Serializer>(elapsed: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// Uploads at once: what a node takes on one connection.
const AT_ONCE: usize = aro_proto::limits::MAX_PUBLISHES_PER_CONNECTION;
/// Times that files of one tree are put off because the node has too much to do.
const PUT_OFF_AT_MOST: u32 = 64;
/// Before a file that was put off is tried again, if nothing else is to be done.
const PATIENCE: Duration = Duration::from_millis(250);
