//! The vault: how tokens enter and leave it.

use pinocchio::{
    AccountView, Address, ProgramResult,
    cpi::{Seed, Signer},
    error::ProgramError,
};
use settlement_interface::{accounts::Config, errors::SettlementError, seeds};

use crate::{
    account::{self, same},
    invoke::{Use, invoke_signed},
    refuse::require,
    token::{self, TOKEN_PROGRAM},
};

/// The account must be the vault that the config names.
///
/// # Errors
/// [`SettlementError::WrongAddress`].
#[inline(always)]
pub fn is_vault(account: &AccountView, config: &Config) -> ProgramResult {
    require(same(&config.vault, account.address()), SettlementError::WrongAddress)
}

/// Moves `amount` base units into the vault, by the signature of the source's authority.
pub fn pay_in(source: &AccountView, vault: &AccountView, authority: &AccountView, amount: u64) -> ProgramResult {
    let accounts = [(source, Use::Write), (vault, Use::Write), (authority, Use::Sign)];
    invoke_signed(&TOKEN_PROGRAM, &transfer(amount), accounts, &[])
}

/// The way out of the vault: the three accounts that every withdrawal lists last, checked.
pub struct Exit<'a> {
    /// The program's parameters.
    pub config: Config,
    config_account: &'a AccountView,
    vault: &'a AccountView,
}

impl<'a> Exit<'a> {
    /// Checks vault, config and token program.
    ///
    /// # Errors
    /// [`SettlementError::WrongProgram`], [`SettlementError::WrongAddress`], and those of [`account::config`].
    #[inline(always)]
    pub fn open(
        program: &Address,
        vault: &'a AccountView,
        config_account: &'a mut AccountView,
        token_program: &AccountView,
    ) -> Result<Self, ProgramError> {
        token::is_token_program(token_program)?;
        let config = account::config(config_account, program)?;
        is_vault(vault, &config)?;
        Ok(Self { config, config_account, vault })
    }

    /// Moves `amount` base units to the destination. The caller has taken them from a ledger.
    ///
    /// # Errors
    /// [`SettlementError::BadTokenAccount`].
    pub fn pay(&self, destination: &AccountView, amount: u64) -> ProgramResult {
        token::check_payout(destination, &self.config)?;
        let bump = [self.config.bump];
        let seeds = [Seed::from(seeds::CONFIG), Seed::from(&bump)];
        let accounts = [(self.vault, Use::Write), (destination, Use::Write), (self.config_account, Use::Sign)];
        invoke_signed(&TOKEN_PROGRAM, &transfer(amount), accounts, &[Signer::from(&seeds)])
    }
}

fn transfer(amount: u64) -> [u8; 9] {
    let mut data = [3; 9]; // Transfer
    data[1..].copy_from_slice(&amount.to_le_bytes());
    data
}
