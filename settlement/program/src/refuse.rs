//! Refusals: how an error of the interface becomes the program's result.

use pinocchio::{ProgramResult, error::ProgramError};
use settlement_interface::errors::SettlementError;

/// The error as the runtime reports it.
#[inline(always)]
pub const fn refusal(error: SettlementError) -> ProgramError {
    ProgramError::Custom(error.code())
}

/// Refuses with `error` unless `condition` holds.
#[inline(always)]
pub const fn require(condition: bool, error: SettlementError) -> ProgramResult {
    if condition { Ok(()) } else { Err(refusal(error)) }
}
