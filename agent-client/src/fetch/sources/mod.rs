//! One content from many nodes that nobody trusts: the scheduler plans, a task for each segment fetches, the driver
//! between them keeps the books.

mod driver;
mod layout;
mod report;
mod source;
mod task;
mod track;

use aro_proto::merkle::{ByteRanges, GroupSize};
use aro_proto::{Address, Amount, NodeAddress, NodeId, Tariff};

pub use report::{Blame, LeftOut, SourceReport};

pub(super) use report::Brought;
pub(crate) use source::{Weight, weigh};
pub(super) use track::Track;

use super::progress::Reporter;
use super::scheduler::{Plan, Preference};
use super::sink::{Output, Written};
use crate::agent::Agent;
use crate::budget::Purpose;
use crate::error::FetchError;
use driver::{Driver, Terms};

/// Where else a content is, and how to choose.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    others: Vec<NodeAddress>,
    pub(super) prefer: Preference,
    pub(super) hedge: Option<Amount>,
}

/// What a fetch allows, whichever nodes it uses.
pub(super) struct Allowed<'a> {
    pub(super) asked: &'a ByteRanges,
    pub(super) group: GroupSize,
    /// The most that it may cost over all sources, in base units.
    pub(super) price: Amount,
    /// Most bytes that the caller takes.
    pub(super) limit: u64,
    /// What its cost counts as, at whichever node.
    pub(super) purpose: Purpose,
    /// What nodes asked when somebody approved it.
    pub(super) quoted: Vec<(NodeId, Tariff)>,
}

impl Sources {
    pub(super) fn add(&mut self, node: NodeAddress) {
        self.others.push(node);
    }

    /// Every node once: the address's own first, and of several places of one node the first.
    pub(super) fn addresses(&self, first: &Address) -> Vec<Address> {
        let mut addresses = vec![first.clone()];
        for node in &self.others {
            if addresses.iter().all(|known| known.node() != node.node()) {
                addresses.push(node.with_content(first.content()));
            }
        }
        addresses
    }

    /// Fetches what the output lacks from all these addresses.
    pub(super) async fn bring(
        &self,
        agent: &Agent,
        addresses: Vec<Address>,
        output: &Output,
        allowed: &Allowed<'_>,
        progress: &Reporter,
    ) -> Result<(Brought, Written), FetchError> {
        let lowest = output.missing().and_then(|missing| missing.iter().next()).map_or(0, |range| range.start);
        let horizon = output.horizon();
        let plan = Plan {
            group: allowed.group.bytes(),
            allowed: allowed.price,
            prefer: self.prefer,
            hedge: self.hedge,
            window: (horizon < u64::MAX).then(|| horizon.saturating_sub(lowest)),
        };
        let Allowed { asked, group, limit, .. } = *allowed;
        let (purpose, quoted) = (&allowed.purpose, &allowed.quoted[..]);
        let terms = Terms { asked, group, limit, purpose, quoted, plan, progress };
        Driver::new(agent, output, addresses, terms).run().await
    }
}
