//! Pays an operator's fees, or the protocol's fees that a node holds, to where they always go.

use pinocchio::{AccountView, Address, ProgramResult, error::ProgramError};
use settlement_interface::{
    Key,
    accounts::{Config, NodeView, OperatorView, discriminator},
    errors::SettlementError,
    instructions::WithdrawFees,
};

use crate::{
    account::{self, load, same},
    entrypoint::Call,
    ledger::{asked, take},
    refuse::{refusal, require},
    token::{self, Payout},
};

/// See [`WithdrawFees`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [source, destination, vault, config_account, token_program] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let amount = WithdrawFees::from_bytes(account::instruction(data)?).amount;
    token::is_token_program(token_program)?;
    let config = account::config(config_account, program)?;
    token::is_vault(vault, &config)?;
    let (payout, amount) = draw(program, source, &config, amount)?;
    require(same(&payout, destination.address()), SettlementError::BadTokenAccount)?;
    token::check_payout(destination, &config)?;
    Payout { vault, destination, config: config_account, config_bump: config.bump, amount }.pay()
}

/// Takes the amount from the source's ledger and tells where it goes.
fn draw(program: &Address, source: &mut AccountView, config: &Config, amount: u64) -> Result<(Key, u64), ProgramError> {
    require(source.owned_by(program), SettlementError::WrongOwner)?;
    let kind = source.try_borrow()?.first().copied();
    if kind == Some(discriminator::OPERATOR) {
        let mut bytes = load(source, program, discriminator::OPERATOR)?;
        let mut operator = OperatorView::new(&mut bytes);
        let amount = asked(operator.fees(), amount);
        operator.set_fees(take(operator.fees(), amount)?);
        Ok((operator.payout(), amount))
    } else {
        let mut bytes = load(source, program, discriminator::NODE)?;
        let mut node = NodeView::new(&mut bytes);
        let amount = asked(node.protocol_fees(), amount);
        node.set_protocol_fees(take(node.protocol_fees(), amount)?);
        Ok((config.treasury, amount))
    }
}
