//! Settles last vouchers and closes their channels. Only for the node: closing with an old voucher would rob it.

use pinocchio::ProgramResult;
use settlement_interface::errors::SettlementError;

use crate::{
    account,
    batch::{After, Settlement, Vouchers},
    entrypoint::Call,
    refuse::refusal,
};

/// See [`settlement_interface::instructions::VoucherBatch`].
// r[impl channel.close.node_only]
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [authority, node_account, operator_account, channels @ ..] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let vouchers = Vouchers::parse(data)?;
    let node = account::node(node_account, program)?;
    let operator = account::operator_of(&node, operator_account, program)?;
    account::acts_for_node(authority, &node, operator.as_ref())?;
    let settlement = Settlement {
        program,
        node_account,
        operator_fee_bps: node.operator_fee_bps,
        operator_account,
        vouchers: &vouchers,
        after: After::Closed,
    };
    settlement.run(channels)
}
