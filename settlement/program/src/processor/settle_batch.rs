//! Settles vouchers; anyone may, for the money can only go where it always goes.

use pinocchio::ProgramResult;
use settlement_interface::errors::SettlementError;

use crate::{
    account::{self, same},
    batch::{After, Settlement, Vouchers},
    entrypoint::Call,
    refuse::{refusal, require},
};

/// See [`settlement_interface::instructions::VoucherBatch`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [node_account, operator_account, channels @ ..] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let vouchers = Vouchers::parse(data)?;
    let node = account::node(node_account, program)?;
    require(same(&node.operator, operator_account.address()), SettlementError::WrongParty)?;
    let settlement = Settlement {
        program,
        node_account,
        operator_fee_bps: node.operator_fee_bps,
        operator_account,
        vouchers: &vouchers,
        after: After::Unchanged,
    };
    settlement.run(channels)
}
