//! What registering a node and registering an operator share.

use pinocchio::{AccountView, Address, error::ProgramError};
use settlement_interface::accounts::Config;

use crate::{account, token};

/// The accounts that both list.
pub struct Registration<'a> {
    /// Pays the rent.
    pub payer: &'a AccountView,
    /// Where payouts will go.
    pub payout: &'a AccountView,
    /// The config.
    pub config: &'a mut AccountView,
    /// The system program.
    pub system: &'a AccountView,
}

impl Registration<'_> {
    /// Checks them and reads the config.
    ///
    /// # Errors
    /// Those of [`account::signed`], [`account::is_system_program`], [`account::config`] and
    /// [`token::check_payout`].
    #[inline(always)]
    pub fn check(self, program: &Address) -> Result<Config, ProgramError> {
        account::signed(self.payer)?;
        account::is_system_program(self.system)?;
        let config = account::config(self.config, program)?;
        token::check_payout(self.payout, &config)?;
        Ok(config)
    }
}
