//! Hands the admin's office over, by the signature of the key that takes it: an office given to a wrong address would
//! be lost.

use pinocchio::ProgramResult;
use settlement_interface::{accounts::NO_KEY, errors::SettlementError, instructions::AcceptAdmin};

use crate::{
    account::{self, same},
    entrypoint::Call,
    refuse::{refusal, require},
};

/// See [`AcceptAdmin`].
// r[impl settlement.config.two_step]
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [pending_admin, config_account] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    account::instruction::<{ AcceptAdmin::LEN }>(data)?;
    account::signed(pending_admin)?;
    let mut config = account::config(config_account, program)?;
    let is_proposed = config.pending_admin != NO_KEY && same(&config.pending_admin, pending_admin.address());
    require(is_proposed, SettlementError::Unauthorised)?;
    config.admin = config.pending_admin;
    config.pending_admin = NO_KEY;
    config_account.try_borrow_mut()?.copy_from_slice(&config.to_bytes());
    Ok(())
}
