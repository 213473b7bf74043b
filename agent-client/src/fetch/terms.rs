//! What a fetch may cost and what that counts as, with the same setters for every kind of fetch.

use aro_proto::{Amount, NodeId};

use super::UNBOUNDED;
use crate::agent::Agent;
use crate::budget::Purpose;

/// What a fetch is bound to beside the agent's budget.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// The most that nodes may ask, in base units.
    pub(super) max_price: Amount,
    /// What it costs at most, if somebody knows.
    pub(super) price: Option<Amount>,
    /// Whoever has to be asked has approved as much as it may cost.
    pub(super) is_approved: bool,
    pub(super) class: String,
}

impl Default for Terms {
    fn default() -> Self {
        Self { max_price: UNBOUNDED, price: None, is_approved: false, class: String::new() }
    }
}

impl Terms {
    /// What its cost counts as at a node. It may cost `most`, and no more than any one request.
    pub(super) fn purpose(&self, agent: &Agent, node: NodeId, most: Amount) -> Purpose {
        Purpose::vouchers(node).class(&self.class).request(agent.budget().per_request().min(most))
    }

    /// Above which price somebody has to be asked, if so much is allowed.
    pub(super) fn threshold(&self, agent: &Agent, allowed: Amount) -> Option<Amount> {
        agent.budget().ask_above().filter(|threshold| allowed > *threshold && !self.is_approved)
    }
}

/// The setters of a builder that has `terms`.
macro_rules! terms_setters {
    () => {
        /// The most that nodes may ask for all of it, in base units; default whatever the budget leaves. Where a policy has
        /// somebody asked about it, nodes are asked for their prices first.
        pub fn max_price(mut self, max_price: Amount) -> Self {
            self.terms.max_price = max_price;
            self
        }

        /// Which class of content it is, such as `subtitles`: a policy may cap what each class costs. At most 64 bytes.
        pub fn class(mut self, class: impl Into<String>) -> Self {
            self.terms.class = class.into();
            self
        }

        /// What it costs at most, which the caller knows.
        pub(crate) fn price(mut self, price: Amount) -> Self {
            self.terms.price = Some(price);
            self
        }

        /// Nobody is asked any more about what it may cost.
        pub(crate) fn asks_nobody(mut self) -> Self {
            self.terms.is_approved = true;
            self
        }
    };
}
pub(super) use terms_setters;
