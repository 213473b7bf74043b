//! Receipts and accounts: one entry for each request that brought or took something, with its node's signature where the
//! node gives one.
//!
//! Entries are noted where a request ends, on every way out, and written by a thread of their own, many at once: no byte
//! waits for them. What is spent does not hang on them; that is in the budget's and the channels' own tables.

mod scribe;
mod store;

use aro_proto::merkle::ByteRanges;
use aro_proto::message::{Delivery, Receipt, SignedPublishReceipt, list_id};
use aro_proto::{Amount, ChannelId, ContentId, NodeId};
use serde::{Serialize, Serializer};

pub(crate) use scribe::{EntryKey, Scribe};
pub use store::{By, Totals};
pub(crate) use store::{each, totals};

/// One request's account, as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number in this ledger, rising.
    pub entry: u64,
    /// Unix seconds of its end, by this machine's clock.
    pub at: i64,
    /// What was done.
    pub kind: EntryKind,
    /// The node, in base58 where it is written out.
    #[serde(serialize_with = "as_text")]
    pub node: NodeId,
    /// The channel that paid; none where nothing was to be paid.
    #[serde(serialize_with = "as_text_or_null")]
    pub channel: Option<ChannelId>,
    /// The content; of several under one request the BLAKE3 root of their ids, one after another.
    #[serde(serialize_with = "as_text")]
    pub content: ContentId,
    /// How many contents the request was for.
    pub contents: u32,
    /// Which bytes of the one content were asked for, as `START-END` with the last byte, and `START-` to its end.
    #[serde(serialize_with = "as_spans")]
    pub ranges: Option<ByteRanges>,
    /// Content bytes that were proven, or taken by the node.
    pub bytes: u64,
    /// What they added to the channel's bill, in base units.
    pub amount: Amount,
    /// The caller's class of content; empty for none.
    pub class: String,
    /// What its node has signed for it, if it has.
    #[serde(serialize_with = "is_there", rename = "signed")]
    pub receipt: Option<Word>,
    /// A receipt came that was not for it, or not signed by its node.
    pub refuted: bool,
}

/// A node's signed word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// For what it has delivered, to this and other requests.
    Delivered(Receipt),
    /// For what it has taken.
    Published(SignedPublishReceipt),
}

/// What a request did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// Content came.
    Fetch,
    /// Content went.
    Publish,
}

/// What a request is for, as its account is kept.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) kind: EntryKind,
    pub(crate) content: ContentId,
    pub(crate) contents: u32,
    pub(crate) ranges: Option<ByteRanges>,
}

/// What the check of an entry's receipt found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// The node has signed for this very entry.
    Valid,
    /// The node has signed nothing that is kept here; the bytes were proven all the same.
    #[default]
    Unsigned,
    /// What is kept is not the node's signature for this entry.
    Wrong,
}

impl Subject {
    /// Ranges of one content that is fetched.
    pub(crate) fn fetch(content: ContentId, ranges: ByteRanges) -> Self {
        Self { kind: EntryKind::Fetch, content, contents: 1, ranges: Some(ranges) }
    }

    /// Several whole contents that are fetched.
    pub(crate) fn fetch_many(contents: &[ContentId]) -> Self {
        let count = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        match contents {
            [one] => Self::fetch(*one, ByteRanges::all()),
            several => {
                let content = list_id(several.iter().copied());
                Self { kind: EntryKind::Fetch, content, contents: count, ranges: None }
            }
        }
    }

    /// A content that is published; its id is known at the end if not before.
    pub(crate) fn publish(content: Option<ContentId>) -> Self {
        let content = content.unwrap_or(ContentId::from_bytes([0; 32]));
        Self { kind: EntryKind::Publish, content, contents: 1, ranges: None }
    }
}

impl Entry {
    /// Checks the node's signature, and that it is for this entry.
    pub fn check(&self) -> Check {
        let holds = match &self.receipt {
            _ if self.refuted => false,
            None => return Check::Unsigned,
            Some(Word::Published(signed)) => signed
                .verify(&self.node)
                .is_ok_and(|receipt| receipt.content == self.content && receipt.taken.get() == self.bytes),
            Some(Word::Delivered(signed)) => signed.verify(&self.node).is_ok_and(|receipt| {
                let is_this = |delivery: &Delivery| {
                    delivery.content == self.content
                        && delivery.contents == self.contents
                        && delivery.bytes.get() == self.bytes
                        && delivery.amount <= receipt.cumulative
                        && self.ranges.as_ref().is_none_or(|ranges| *ranges == delivery.ranges)
                };
                Some(receipt.channel) == self.channel && receipt.deliveries.iter().any(is_this)
            }),
        };
        if holds { Check::Valid } else { Check::Wrong }
    }

    /// The asked ranges as text.
    pub fn spans(&self) -> Option<String> {
        let ranges = self.ranges.as_ref()?;
        let spans = ranges.iter().map(|range| match range.end {
            u64::MAX => format!("{}-", range.start),
            end => format!("{}-{}", range.start, end.saturating_sub(1)),
        });
        Some(spans.collect::<Vec<_>>().join(","))
    }
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn as_text_or_null<T: std::fmt::Display, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}

fn as_spans<S: Serializer>(ranges: &Option<ByteRanges>, to: S) -> Result<S::Ok, S::Error> {
    let Some(ranges) = ranges else { return to.serialize_none() };
    let spans = ranges.iter().map(|range| match range.end {
        u64::MAX => format!("{}-", range.start),
        end => format!("{}-{}", range.start, end.saturating_sub(1)),
    });
    to.serialize_str(&spans.collect::<Vec<_>>().join(","))
}

fn is_there<T, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bool(value.is_some())
}

#[cfg(test)]
mod tests;
