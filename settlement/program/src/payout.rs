//! Where a node's earnings go, and how another account takes that place: not at once, so that an owner whose key was
//! stolen sees it coming and withdraws to the old payout first.

use pinocchio::{AccountView, ProgramResult};
use settlement_interface::{
    accounts::{Config, NO_KEY, Node},
    errors::SettlementError,
};

use crate::{account::same, refuse::refusal, token};

/// Writes a pending payout into the payout's place if its second has come.
// r[impl settlement.payout.delay]
pub fn promote(node: &mut Node, now: i64) {
    if node.is_payout_due(now) {
        node.payout = node.pending_payout;
        forget(node);
    }
}

/// The owner names a payout: the present one takes a pending wish back, the pending one waits on, another begins to
/// wait. `now` is in unix seconds.
///
/// # Errors
/// [`SettlementError::BadTokenAccount`] if another one could not be paid, [`SettlementError::Overflow`].
// r[impl settlement.payout.delay]
pub fn choose(node: &mut Node, payout: &AccountView, config: &Config, now: i64) -> ProgramResult {
    promote(node, now);
    if same(&node.payout, payout.address()) {
        forget(node);
        return Ok(());
    }
    token::check_payout(payout, config)?;
    if node.payout_from == 0 || !same(&node.pending_payout, payout.address()) {
        let from = now.checked_add(i64::from(config.payout_delay_s));
        node.payout_from = from.ok_or(refusal(SettlementError::Overflow))?;
        node.pending_payout = *payout.address().as_array();
    }
    Ok(())
}

fn forget(node: &mut Node) {
    node.pending_payout = NO_KEY;
    node.payout_from = 0;
}
