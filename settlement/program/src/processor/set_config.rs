//! Changes the program's parameters. None of them touches money that is in the program already.

use pinocchio::ProgramResult;
use settlement_interface::{errors::SettlementError, instructions::SetConfig};

use crate::{
    account::{self, same},
    entrypoint::Call,
    parameters,
    refuse::{refusal, require},
    token,
};

/// See [`SetConfig`].
// r[impl settlement.config.admin]
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [admin, config_account, treasury] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let new = SetConfig::from_bytes(account::instruction(data)?);
    account::signed(admin)?;
    let mut config = account::config(config_account, program)?;
    require(same(&config.admin, admin.address()), SettlementError::Unauthorised)?;
    require(new.paused <= 1, SettlementError::MalformedData)?;
    parameters::check(new.protocol_fee_bps, new.max_operator_fee_bps, new.payout_delay_s)?;
    // A treasury that was closed must not hold a pause up.
    if !same(&config.treasury, treasury.address()) {
        token::check_payout(treasury, &config)?;
        config.treasury = *treasury.address().as_array();
    }
    config.paused = new.paused;
    config.max_grace_s = new.max_grace_s;
    config.protocol_fee_bps = new.protocol_fee_bps;
    config.max_operator_fee_bps = new.max_operator_fee_bps;
    config.payout_delay_s = new.payout_delay_s;
    config.pending_admin = new.pending_admin;
    config_account.try_borrow_mut()?.copy_from_slice(&config.to_bytes());
    Ok(())
}
