//! Creates a node account, signed by the node's transport key so that nobody can take another's id.

use pinocchio::ProgramResult;
use settlement_interface::{
    accounts::{NO_KEY, Node, VERSION, discriminator},
    errors::SettlementError,
    instructions::RegisterNode,
    seeds,
};

use crate::{
    account,
    create::NewParty,
    entrypoint::Call,
    refuse::{refusal, require},
    register::Registration,
};

/// See [`RegisterNode`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [payer, owner, id, node_account, payout, config, operator_account, system] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let instruction = RegisterNode::from_bytes(account::instruction(data)?);
    account::signed(owner)?;
    // r[impl settlement.node.id_signs]
    account::signed(id)?;
    let config = Registration { payer, payout, config, system }.check(program)?;
    require(instruction.min_grace_s <= config.max_grace_s, SettlementError::BadGrace)?;
    let operator = account::operator_slot(operator_account, program)?;
    let operator_fee_bps = operator.map_or(0, |operator| operator.fee_bps);
    let highest_bps = instruction.max_operator_fee_bps.min(config.max_operator_fee_bps);
    require(operator_fee_bps <= highest_bps, SettlementError::FeeTooHigh)?;

    let key = id.address().as_array();
    let (seed, space) = (seeds::NODE, Node::LEN as u64);
    let bump = NewParty { program, payer, account: node_account, seed, key, space }.create()?;
    let node = Node {
        discriminator: discriminator::NODE,
        version: VERSION,
        bump,
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
        reserved_middle: [0; 2],
        pending_payout: NO_KEY,
        payout_from: 0,
        reserved: [0; 24],
    };
    node_account.try_borrow_mut()?.copy_from_slice(&node.to_bytes());
    Ok(())
}
