//! Pays a node's earnings to its stored payout, and nowhere else.

use pinocchio::ProgramResult;
use settlement_interface::{
    accounts::{NodeView, discriminator},
    errors::SettlementError,
    instructions::WithdrawEarned,
};

use crate::{
    account::{self, load, same},
    entrypoint::Call,
    ledger::{asked, take},
    refuse::{refusal, require},
    token::{self, Payout},
};

/// See [`WithdrawEarned`].
// r[impl settlement.payout.stored]
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [authority, node_account, operator, payout, vault, config_account, token_program] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let amount = WithdrawEarned::from_bytes(account::instruction(data)?).amount;
    token::is_token_program(token_program)?;
    let node = account::node(node_account, program)?;
    let operator = account::operator_of(&node, operator, program)?;
    account::acts_for_node(authority, &node, operator.as_ref())?;
    let config = account::config(config_account, program)?;
    token::is_vault(vault, &config)?;
    require(same(&node.payout, payout.address()), SettlementError::BadTokenAccount)?;
    token::check_payout(payout, &config)?;

    let amount = asked(node.earned, amount);
    let left = take(node.earned, amount)?;
    NodeView::new(&mut *load(node_account, program, discriminator::NODE)?).set_earned(left);
    Payout { vault, destination: payout, config: config_account, config_bump: config.bump, amount }.pay()
}
