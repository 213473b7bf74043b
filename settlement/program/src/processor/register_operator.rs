//! Creates an operator account.

use pinocchio::ProgramResult;
use settlement_interface::{
    accounts::{Operator, VERSION, discriminator},
    errors::SettlementError,
    fees::MAX_OPERATOR_FEE_BPS,
    instructions::RegisterOperator,
    seeds,
};

use crate::{
    account,
    create::NewParty,
    entrypoint::Call,
    refuse::{refusal, require},
    register::Registration,
};

/// See [`RegisterOperator`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [payer, authority, operator_account, payout, config, system] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let fee_bps = RegisterOperator::from_bytes(account::instruction(data)?).fee_bps;
    account::signed(authority)?;
    let config = Registration { payer, payout, config, system }.check(program)?;
    let highest_bps = config.max_operator_fee_bps.min(MAX_OPERATOR_FEE_BPS);
    require(fee_bps <= highest_bps, SettlementError::FeeTooHigh)?;

    let key = authority.address().as_array();
    let (seed, space) = (seeds::OPERATOR, Operator::LEN as u64);
    let bump = NewParty { program, payer, account: operator_account, seed, key, space }.create()?;
    let operator = Operator {
        discriminator: discriminator::OPERATOR,
        version: VERSION,
        bump,
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
