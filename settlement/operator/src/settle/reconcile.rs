//! Before intake opens: what an earlier life left behind, held against what the chain says now.

use settlement_chain::submit::{Outcome, outcome};

use super::{SettleError, Settler, snapshot, standing};
use crate::metrics::Standing;
use crate::vouchers::Lease;

/// What was found at boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reconciled {
    /// Journal entries that have landed.
    pub(crate) landed: usize,
    /// Journal entries that can never land, or failed: forgotten, their vouchers are planned anew.
    pub(crate) void: usize,
    /// Journal entries of which nobody knows: their channels wait.
    pub(crate) open: usize,
    /// How the stored vouchers stand beside the chain.
    pub(crate) standing: Standing,
}

impl Settler {
    /// Asks the chain about every journal entry and every stored voucher. Nothing is sent.
    ///
    /// # Errors
    /// The chain did not answer: what is open stays open, which is safe, for the journal's closes hold.
    pub(crate) async fn reconcile(&self) -> Result<Reconciled, SettleError> {
        let mut found = Reconciled::default();
        // The journal is the holder's: whoever else starts only looks.
        let leads = matches!(self.book.lead().await?, Lease::Held(_));
        for entry in self.book.pending().await? {
            let prepared = &entry.prepared;
            match outcome(&*self.chain, &prepared.signature, prepared.last_valid_block_height).await? {
                Outcome::Landed { .. } => found.landed = found.landed.saturating_add(1),
                Outcome::Dead if leads => {
                    self.submitter.forget(&entry).await?;
                    found.void = found.void.saturating_add(1);
                }
                // A failure that is not confirmed may still become something else.
                Outcome::Dead | Outcome::Failed { .. } | Outcome::Live => found.open = found.open.saturating_add(1),
            }
        }
        let vouchers = self.book.vouchers().await?;
        let facts = snapshot::stored(&*self.chain, &self.program, &vouchers).await?;
        found.standing = standing(&facts, &vouchers);
        self.metrics.standing(&found.standing);
        Ok(found)
    }
}
