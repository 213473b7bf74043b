//! Every sum of money, checked: a refusal instead of a wrong balance. What leaves one ledger enters another, or
//! the vault pays it out, so the vault always holds what the ledgers owe.
// r[impl settlement.vault.solvent]

use pinocchio::{AccountView, Address, ProgramResult, error::ProgramError};
use settlement_interface::{
    accounts::{NodeView, OperatorView, discriminator},
    errors::SettlementError,
    fees::split,
    instructions::EVERYTHING,
};

use crate::{
    account::load,
    refuse::{refusal, require},
};

/// The sum of two amounts, in base units.
///
/// # Errors
/// [`SettlementError::Overflow`].
#[inline(always)]
pub fn add(balance: u64, amount: u64) -> Result<u64, ProgramError> {
    balance.checked_add(amount).ok_or(refusal(SettlementError::Overflow))
}

/// What is left of `balance` after `amount` left it.
///
/// # Errors
/// [`SettlementError::BadAmount`] if the amount is zero or more than the balance.
#[inline(always)]
pub fn take(balance: u64, amount: u64) -> Result<u64, ProgramError> {
    require(amount > 0, SettlementError::BadAmount)?;
    balance.checked_sub(amount).ok_or(refusal(SettlementError::BadAmount))
}

/// What a withdrawal pays, in base units: the asked amount or, for [`EVERYTHING`], the balance.
#[inline(always)]
pub const fn asked(balance: u64, amount: u64) -> u64 {
    if amount == EVERYTHING { balance } else { amount }
}

/// What the entries of one batch earn together, in base units. The ledgers are written once, at the end.
#[derive(Default)]
pub struct Earnings {
    node: u64,
    operator: u64,
    protocol: u64,
}

impl Earnings {
    /// Adds one entry's rise of the watermark, divided by the two fees.
    ///
    /// # Errors
    /// [`SettlementError::FeeTooHigh`], [`SettlementError::Overflow`].
    #[inline(always)]
    // r[impl settlement.fees.conserved]
    pub fn credit(&mut self, amount: u64, operator_bps: u16, protocol_bps: u16) -> ProgramResult {
        let parts = split(amount, operator_bps, protocol_bps).ok_or(refusal(SettlementError::FeeTooHigh))?;
        self.node = add(self.node, parts.node)?;
        self.operator = add(self.operator, parts.operator)?;
        self.protocol = add(self.protocol, parts.protocol)?;
        Ok(())
    }

    /// Writes the sums to the node's and the operator's accounts. Without an operator there is no operator's part.
    ///
    /// # Errors
    /// [`SettlementError::Overflow`], and those of [`load`].
    pub fn pay(&self, program: &Address, node: &mut AccountView, operator: &mut AccountView) -> ProgramResult {
        let mut bytes = load(node, program, discriminator::NODE)?;
        let mut node = NodeView::new(&mut bytes);
        node.set_earned(add(node.earned(), self.node)?);
        node.set_protocol_fees(add(node.protocol_fees(), self.protocol)?);
        if self.operator > 0 {
            let mut bytes = load(operator, program, discriminator::OPERATOR)?;
            let mut operator = OperatorView::new(&mut bytes);
            operator.set_fees(add(operator.fees(), self.operator)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_refuses_nothing_and_too_much() {
        assert_eq!(take(5, 5), Ok(0));
        assert_eq!(take(5, 0), Err(refusal(SettlementError::BadAmount)));
        assert_eq!(take(5, 6), Err(refusal(SettlementError::BadAmount)));
    }

    #[test]
    fn earnings_refuse_a_sum_beyond_64_bits() {
        let mut earnings = Earnings::default();
        assert!(earnings.credit(u64::MAX, 0, 0).is_ok());
        assert_eq!(earnings.credit(1, 0, 0), Err(refusal(SettlementError::Overflow)));
    }
}
