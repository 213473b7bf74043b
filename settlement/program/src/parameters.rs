//! What a config may say, whoever the admin is.

use pinocchio::ProgramResult;
use settlement_interface::{
    accounts::MAX_PAYOUT_DELAY_S,
    errors::SettlementError,
    fees::{MAX_OPERATOR_FEE_BPS, MAX_PROTOCOL_FEE_BPS},
};

use crate::refuse::require;

/// Fees in basis points and the delay in seconds must lie within the ceilings.
///
/// # Errors
/// [`SettlementError::FeeTooHigh`], [`SettlementError::DelayTooLong`].
// r[impl settlement.config.ceilings]
#[inline(always)]
pub fn check(protocol_fee_bps: u16, max_operator_fee_bps: u16, payout_delay_s: u32) -> ProgramResult {
    require(protocol_fee_bps <= MAX_PROTOCOL_FEE_BPS, SettlementError::FeeTooHigh)?;
    require(max_operator_fee_bps <= MAX_OPERATOR_FEE_BPS, SettlementError::FeeTooHigh)?;
    require(payout_delay_s <= MAX_PAYOUT_DELAY_S, SettlementError::DelayTooLong)
}
