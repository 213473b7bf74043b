//! The way in: reads the first byte of the data and hands over to the instruction of that tag.

use pinocchio::{AccountView, Address, ProgramResult};
use settlement_interface::{errors::SettlementError, instructions::tag};

use crate::{processor, refuse::refusal};

#[cfg(any(target_os = "solana", target_arch = "bpf"))]
pinocchio::program_entrypoint!(process);

/// One instruction as it arrived. A struct, because SBF passes at most five arguments.
pub struct Call<'a> {
    /// This program's id.
    pub program: &'a Address,
    /// The accounts, in the order that the instruction documents.
    pub accounts: &'a mut [AccountView],
    /// The data, tag included.
    pub data: &'a [u8],
}

/// Runs one instruction.
///
/// # Errors
/// [`SettlementError::MalformedData`] for an unknown tag, else whatever the instruction refuses with.
#[inline(always)]
pub fn process(program: &Address, accounts: &mut [AccountView], data: &[u8]) -> ProgramResult {
    dispatch(Call { program, accounts, data })
}

#[inline(never)]
fn dispatch(call: Call<'_>) -> ProgramResult {
    let Some(instruction) = call.data.first() else {
        return Err(refusal(SettlementError::MalformedData));
    };
    match *instruction {
        tag::SETTLE_BATCH => processor::settle_batch::process(call),
        tag::CLOSE_BATCH => processor::close_batch::process(call),
        tag::OPEN_BATCH => processor::open_batch::process(call),
        tag::TOP_UP => processor::top_up::process(call),
        tag::DEPOSIT => processor::deposit::process(call),
        tag::WITHDRAW_AVAILABLE => processor::withdraw_available::process(call),
        tag::REQUEST_CLOSE => processor::request_close::process(call),
        tag::FINALIZE_BATCH => processor::finalize_batch::process(call),
        tag::RECLAIM_BATCH => processor::reclaim_batch::process(call),
        tag::WITHDRAW_EARNED => processor::withdraw_earned::process(call),
        tag::WITHDRAW_FEES => processor::withdraw_fees::process(call),
        tag::REGISTER_NODE => processor::register_node::process(call),
        tag::REGISTER_OPERATOR => processor::register_operator::process(call),
        tag::INIT_CONFIG => processor::init_config::process(call),
        tag::SET_CONFIG => processor::set_config::process(call),
        tag::ACCEPT_ADMIN => processor::accept_admin::process(call),
        tag::UPDATE_NODE => processor::update_node::process(call),
        _ => Err(refusal(SettlementError::MalformedData)),
    }
}
