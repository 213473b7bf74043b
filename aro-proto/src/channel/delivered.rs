//! What came of the streams of one binding, so that its agent's word can settle them later than their end.

use super::streams::add;
use crate::tariff::Charge;

/// The ended streams of one binding that brought content: what they were billed on the agent's word, and what without it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Proven, as the agent has said.
    pub(super) confirmed: Charge,
    /// Billed, as far as the transport knows: whole and acknowledged, or what a lost stream had acknowledged.
    pub(super) presumed: Charge,
    /// Taken off the bill as on its way when its connection was lost. It may have arrived all the same.
    pub(super) withdrawn: Charge,
}

impl Delivered {
    /// Counts another stream's.
    pub fn add(&mut self, other: Self) {
        self.confirmed = add(self.confirmed, other.confirmed);
        self.presumed = add(self.presumed, other.presumed);
        self.withdrawn = add(self.withdrawn, other.withdrawn);
    }

    /// True if nothing is left that the agent's word could change.
    pub fn is_settled(&self) -> bool {
        self.presumed == Charge::ZERO && self.withdrawn == Charge::ZERO
    }
}
