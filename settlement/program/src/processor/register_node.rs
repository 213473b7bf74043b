//! Creates a node account, signed by the node's transport key so that nobody can take another's id.

use pinocchio::{ProgramResult, cpi::Seed};
use settlement_interface::{
    accounts::{Node, VERSION, discriminator},
    errors::SettlementError,
    instructions::RegisterNode,
    seeds,
};

use crate::{
    account,
    create::{NewAccount, derive},
    entrypoint::Call,
    refuse::{refusal, require},
    token,
};

/// See [`RegisterNode`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [payer, owner, id, node_account, payout, config, operator_account, system] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let instruction = RegisterNode::from_bytes(account::instruction(data)?);
    account::signed(payer)?;
    account::signed(owner)?;
    // r[impl settlement.node.id_signs]
    account::signed(id)?;
    account::is_system_program(system)?;
    let config = account::config(config, program)?;
    require(instruction.min_grace_s <= config.max_grace_s, SettlementError::BadGrace)?;
    token::check_payout(payout, &config)?;
    let operator = account::operator_slot(operator_account, program)?;
    let operator_fee_bps = operator.map_or(0, |operator| operator.fee_bps);
    let highest_bps = instruction.max_operator_fee_bps.min(config.max_operator_fee_bps);
    require(operator_fee_bps <= highest_bps, SettlementError::FeeTooHigh)?;

    let key = id.address().as_array();
    let bump = [derive(&[seeds::NODE, key], node_account, program)?];
    let seeds = [Seed::from(seeds::NODE), Seed::from(key), Seed::from(&bump)];
    NewAccount { payer, account: node_account, owner: program, space: Node::LEN as u64, seeds: &seeds }.create()?;
    let node = Node {
        discriminator: discriminator::NODE,
        version: VERSION,
        bump: bump[0],
        reserved_head: [0; 5],
        id: *key,
        owner: *owner.address().as_array(),
        // The system program's address is zeros: no operator.
        operator: *operator_account.address().as_array(),
        payout: *payout.address().as_array(),
        earned: 0,
        protocol_fees: 0,
        min_grace_s: instruction.min_grace_s,
        operator_fee_bps,
        reserved: [0; 66],
    };
    node_account.try_borrow_mut()?.copy_from_slice(&node.to_bytes());
    Ok(())
}
