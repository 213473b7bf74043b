//! Asking for ranges of contents, and the head of each answer.

use serde::{Deserialize, Serialize};

use super::message;
use crate::amount::{Amount, ByteCount};
use crate::ids::ContentId;
use crate::limits::MAX_FETCH_ITEMS;
use crate::merkle::ByteRanges;

/// Ranges of one content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchItem {
    /// The content.
    pub content: ContentId,
    /// Which bytes; answered in whole chunk groups.
    pub ranges: ByteRanges,
}

/// Asks for one or many contents under one signature. The answer is, for each item in order, a [`FetchHead`]
/// and the encoding, or a [`Refused`](super::Refused) in their place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// What to fetch.
    pub items: Vec<FetchItem>,
    /// Log2 of the chunk group in BLAKE3 chunks: 4 (16 KiB) to 6 (64 KiB).
    pub group_log2: u8,
    /// The most that all items together may cost; a node that wants more answers with its price.
    // r[impl request.max_price]
    pub max_price: Amount,
}
message!(Fetch = 0x22, check: |m| (1..=MAX_FETCH_ITEMS).contains(&m.items.len()));

/// Goes before an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchHead {
    /// The content's size: a claim until the last chunk proves it.
    pub size: ByteCount,
    /// Content bytes that follow, proofs not counted: what is billed once proven.
    pub content_bytes: ByteCount,
    /// Their price.
    pub price: Amount,
}
message!(FetchHead = 0x23);
