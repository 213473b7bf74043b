//! Creates an operator account.

use pinocchio::{ProgramResult, cpi::Seed};
use settlement_interface::{
    accounts::{Operator, VERSION, discriminator},
    errors::SettlementError,
    instructions::RegisterOperator,
    seeds,
};

use crate::{
    account,
    create::{NewAccount, derive},
    entrypoint::Call,
    refuse::{refusal, require},
    token,
};

/// See [`RegisterOperator`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [payer, authority, operator_account, payout, config, system] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let fee_bps = RegisterOperator::from_bytes(account::instruction(data)?).fee_bps;
    account::signed(payer)?;
    account::signed(authority)?;
    account::is_system_program(system)?;
    let config = account::config(config, program)?;
    require(fee_bps <= config.max_operator_fee_bps, SettlementError::FeeTooHigh)?;
    token::check_payout(payout, &config)?;

    let key = authority.address().as_array();
    let bump = [derive(&[seeds::OPERATOR, key], operator_account, program)?];
    let seeds = [Seed::from(seeds::OPERATOR), Seed::from(key), Seed::from(&bump)];
    let space = Operator::LEN as u64;
    NewAccount { payer, account: operator_account, owner: program, space, seeds: &seeds }.create()?;
    let operator = Operator {
        discriminator: discriminator::OPERATOR,
        version: VERSION,
        bump: bump[0],
        reserved_head: [0; 5],
        authority: *key,
        payout: *payout.address().as_array(),
        fees: 0,
        fee_bps,
        reserved: [0; 14],
    };
    operator_account.try_borrow_mut()?.copy_from_slice(&operator.to_bytes());
    Ok(())
}
