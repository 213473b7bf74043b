//! Saying what a name means, and asking for it.

use serde::{Deserialize, Serialize};

use super::message;
use crate::error::Refusal;
use crate::ids::AgentId;
use crate::naming::{Name, SignedNameRecord};

/// Gives a node what a name of the signer means from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishName {
    /// The record, signed by its publisher by itself: it holds wherever it is shown.
    pub record: SignedNameRecord,
}
message!(PublishName = 0x2a, check: |m| m.record.is_within_bounds());

/// The record is durable at the node, and what it answers with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameTaken {
    /// The record's sequence number.
    pub sequence: u64,
}
message!(NameTaken = 0x2b);

/// The record does not count: the node knows a better one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRefused {
    /// Why.
    pub refusal: Refusal,
    /// The best record that the node knows.
    pub current: SignedNameRecord,
}
message!(NameRefused = 0x2c, check: |m| m.refusal.is_within_bounds() && m.current.is_within_bounds());

/// Asks what a name means. Free, and needs no channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolve {
    /// Whose name.
    pub publisher: AgentId,
    /// The name.
    pub name: Name,
}
message!(Resolve = 0x2d);

/// The best record that the node knows; its signature is for whoever reads it to verify.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The record.
    pub record: SignedNameRecord,
}
message!(Resolved = 0x2e, check: |m| m.record.is_within_bounds());
