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
    vault::Exit,
};

/// See [`WithdrawFees`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [source, destination, vault, config, token_program] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let amount = WithdrawFees::from_bytes(account::instruction(data)?).amount;
    let exit = Exit::open(program, vault, config, token_program)?;
    let (payout, amount) = draw(program, source, &exit.config, amount)?;
    require(same(&payout, destination.address()), SettlementError::BadTokenAccount)?;
    exit.pay(destination, amount)
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
