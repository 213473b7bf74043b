//! Changes a node: its operator and shortest grace at once, its payout after the delay. What stays as it is is not
//! judged anew, so no later config and no closed payout can hold a node with an operator that it wants to leave.

use pinocchio::ProgramResult;
use settlement_interface::{errors::SettlementError, instructions::UpdateNode};

use crate::{
    account::{self, same},
    entrypoint::Call,
    payout,
    refuse::{refusal, require},
};

/// See [`UpdateNode`].
// r[impl settlement.node.update]
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [owner, node_account, payout_account, config, operator_account] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let new = UpdateNode::from_bytes(account::instruction(data)?);
    account::signed(owner)?;
    let config = account::config(config, program)?;
    let mut node = account::node(node_account, program)?;
    require(same(&node.owner, owner.address()), SettlementError::Unauthorised)?;

    let is_grace_possible = new.min_grace_s == node.min_grace_s || new.min_grace_s <= config.max_grace_s;
    require(is_grace_possible, SettlementError::BadGrace)?;
    node.min_grace_s = new.min_grace_s;

    let operator = account::operator_slot(operator_account, program)?;
    if !same(&node.operator, operator_account.address()) {
        node.operator_fee_bps = operator.map_or(0, |operator| operator.fee_bps);
        require(node.operator_fee_bps <= config.max_operator_fee_bps, SettlementError::FeeTooHigh)?;
        node.operator = *operator_account.address().as_array();
    }
    require(node.operator_fee_bps <= new.max_operator_fee_bps, SettlementError::FeeTooHigh)?;

    payout::choose(&mut node, payout_account, &config, account::now()?)?;
    node_account.try_borrow_mut()?.copy_from_slice(&node.to_bytes());
    Ok(())
}
