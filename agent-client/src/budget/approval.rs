//! Asking somebody before a large amount is let go.

use aro_proto::{Amount, ContentId, NodeId};
use async_trait::async_trait;
use thiserror::Error;

use super::purpose::Spending;

/// What somebody is asked to allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Approval {
    /// The most that it will cost, or lock up, in base units.
    pub amount: Amount,
    /// Up to which nobody is asked, in base units.
    pub threshold: Amount,
    /// Who gets it.
    pub node: NodeId,
    /// For which content, if it is for one; of a whole tree its manifest.
    pub content: Option<ContentId>,
    /// Spent, or locked in a channel.
    pub spending: Spending,
}

/// Somebody who can allow amounts above the policy's threshold. Caps hold all the same.
#[async_trait]
pub trait Approver: Send + Sync {
    /// Whether it may be spent. Nothing is signed before this returns.
    async fn approve(&self, approval: &Approval) -> bool;
}

/// Nobody has allowed an amount above the threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{amount} $ARO are above {threshold} $ARO and nobody has approved them")]
pub struct NotApproved {
    /// What it would cost, or lock up, in base units.
    pub amount: Amount,
    /// Up to which nobody is asked, in base units.
    pub threshold: Amount,
}

impl NotApproved {
    /// What to do next, for people.
    pub const NEXT_STEP: &str =
        "approve it on a terminal or with --yes, or raise the threshold: aro budget set --ask-above";
}
