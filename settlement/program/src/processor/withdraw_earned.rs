//! Pays a node's earnings to its stored payout, and nowhere else.

use pinocchio::ProgramResult;
use settlement_interface::{errors::SettlementError, instructions::WithdrawEarned};

use crate::{
    account::{self, same},
    entrypoint::Call,
    ledger::{asked, take},
    payout,
    refuse::{refusal, require},
    vault::Exit,
};

/// See [`WithdrawEarned`].
// r[impl settlement.payout.stored]
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [authority, node_account, operator, destination, vault, config, token_program] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let amount = WithdrawEarned::from_bytes(account::instruction(data)?).amount;
    let mut node = account::node(node_account, program)?;
    let operator = account::operator_of(&node, operator, program)?;
    account::acts_for_node(authority, &node, operator.as_ref())?;
    let exit = Exit::open(program, vault, config, token_program)?;
    payout::promote(&mut node, account::now()?);
    require(same(&node.payout, destination.address()), SettlementError::BadTokenAccount)?;

    let amount = asked(node.earned, amount);
    node.earned = take(node.earned, amount)?;
    node_account.try_borrow_mut()?.copy_from_slice(&node.to_bytes());
    exit.pay(destination, amount)
}
