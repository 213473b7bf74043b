//! What a fetch tells of each of its sources.

use std::time::Duration;

use aro_proto::{Amount, NodeId};
use serde::{Serialize, Serializer};

use crate::error::FetchError;
use crate::fetch::request::Answer;
use crate::receipts::Check;

/// What one source brought and cost, and why it was left out, if it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceReport {
    /// The node, in base58 where it is written out.
    #[serde(serialize_with = "as_text")]
    pub node: NodeId,
    /// Content bytes that it proved. All of them are billed.
    pub verified_bytes: u64,
    /// What that added to the bill of its channel, in base units: the sources of a fetch sum to what it paid.
    pub paid: Amount,
    /// Requests that it was sent.
    pub requests: u64,
    /// Bytes a second while it had something to bring.
    pub bytes_per_second: u64,
    /// Why it was not asked for more; none if it worked to the end.
    pub left_out: Option<LeftOut>,
}

/// Why a source was left out, for good or when the fetch ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// The error's code; see [`FetchError::code`].
    pub code: &'static str,
    /// The same for people.
    pub message: String,
    /// What it did, if it lied.
    pub blame: Option<Blame>,
}

/// The evidence against a node: what it sent that is not the content, or how it broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blame {
    /// The node, in base58 where it is written out.
    #[serde(serialize_with = "as_text")]
    pub node: NodeId,
    /// The chunk group that was wrong or missing, in groups of the request; none if no single group was.
    pub group: Option<u64>,
    /// The first content byte that could not be proven; none if it broke the protocol otherwise.
    pub offset: Option<u64>,
    /// What was wrong.
    pub error: String,
}

/// What the requests of one fetch came to, over all its sources.
#[derive(Debug, Default)]
pub(in crate::fetch) struct Brought {
    pub(in crate::fetch) verified_bytes: u64,
    pub(in crate::fetch) wire_bytes: u64,
    pub(in crate::fetch) paid: Amount,
    pub(in crate::fetch) vouchers: u64,
    pub(in crate::fetch) requests: u64,
    pub(in crate::fetch) acknowledged: bool,
    pub(in crate::fetch) receipt: Check,
    pub(in crate::fetch) sources: Vec<SourceReport>,
}

impl Brought {
    pub(in crate::fetch) fn add(&mut self, answer: &Answer, acknowledged: bool, receipt: Check) {
        self.verified_bytes += answer.decoder.proven_bytes();
        self.wire_bytes += answer.wire_bytes;
        self.paid = self.paid.saturating_add(answer.account.cost());
        self.vouchers += answer.account.vouchers();
        self.requests += 1;
        self.acknowledged = acknowledged;
        self.receipt = receipt;
    }
}

impl SourceReport {
    /// Of the one source that brought everything.
    pub(in crate::fetch) fn alone(node: NodeId, brought: &Brought, took: Duration) -> Self {
        let micros = took.as_micros().max(1);
        Self {
            node,
            verified_bytes: brought.verified_bytes,
            paid: brought.paid,
            requests: brought.requests,
            bytes_per_second: u64::try_from(u128::from(brought.verified_bytes) * 1_000_000 / micros)
                .unwrap_or(u64::MAX),
            left_out: None,
        }
    }
}

impl LeftOut {
    pub(crate) fn new(error: &FetchError) -> Self {
        Self { code: error.code(), message: error.to_string(), blame: Blame::of(error) }
    }
}

impl Blame {
    /// The evidence in an error, if it is one that blames the node.
    pub(super) fn of(error: &FetchError) -> Option<Self> {
        match error {
            FetchError::Proof { group, offset, node, source, .. } => Some(Self {
                node: *node,
                group: group.map(|group| group.get()),
                offset: Some(*offset),
                error: source.to_string(),
            }),
            FetchError::Misbehaved { node, what } => {
                Some(Self { node: *node, group: None, offset: None, error: what.to_string() })
            }
            _ => None,
        }
    }
}

fn as_text<S: Serializer>(node: &NodeId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(node)
}
