//! How much compute a transaction asks for: an upper bound for each kind of instruction.
//!
//! The base fee does not depend on the limit; it only reserves room in a block. So the bounds are generous, and
//! not simulated: a simulation is one more round trip, and stale by the time the transaction lands.

use settlement_interface::instructions::{ReclaimBatch, tag};
use solana_address::Address;
use solana_instruction::Instruction;

use crate::{
    instructions::SYSTEM_PROGRAM,
    tokens::{ASSOCIATED_TOKEN_PROGRAM, TOKEN_PROGRAM},
};

/// Compute units that `instruction` takes at most, whoever's program it calls.
pub fn compute_units(instruction: &Instruction) -> u32 {
    if instruction.program_id == SYSTEM_PROGRAM {
        return 1_000;
    }
    if instruction.program_id == TOKEN_PROGRAM {
        return 10_000;
    }
    if instruction.program_id == ASSOCIATED_TOKEN_PROGRAM {
        return 60_000;
    }
    let entries = |head: usize| u32::try_from(instruction.accounts.len().saturating_sub(head)).unwrap_or(u32::MAX);
    let per_entry = |units: u32, count: u32| BATCH_HEAD.saturating_add(units.saturating_mul(count));
    match instruction.data.first().copied() {
        Some(tag::SETTLE_BATCH) => per_entry(VOUCHER, entries(2)),
        Some(tag::CLOSE_BATCH) => per_entry(VOUCHER, entries(3)),
        Some(tag::OPEN_BATCH) => per_entry(OPEN, entries(5) / 2),
        Some(tag::FINALIZE_BATCH) => per_entry(LEDGER, entries(0)),
        Some(tag::RECLAIM_BATCH) if instruction.data.len() == ReclaimBatch::LEN => per_entry(LEDGER, entries(2)),
        Some(tag::INIT_CONFIG | tag::REGISTER_NODE | tag::REGISTER_OPERATOR | tag::DEPOSIT) => 150_000,
        _ => 60_000,
    }
}

/// The instruction that sets the transaction's limit to what `instructions` take together.
pub(super) fn limit(instructions: &[Instruction]) -> Instruction {
    let sum = instructions.iter().map(compute_units).fold(OWN, u32::saturating_add).min(MAX_TRANSACTION);
    let mut data = vec![SET_COMPUTE_UNIT_LIMIT];
    data.extend_from_slice(&sum.to_le_bytes());
    Instruction { program_id: COMPUTE_BUDGET, accounts: vec![], data }
}

const COMPUTE_BUDGET: Address = Address::from_str_const("ComputeBudget111111111111111111111111111111");
const SET_COMPUTE_UNIT_LIMIT: u8 = 2;

/// Units of the compute budget instruction itself.
const OWN: u32 = 300;
/// Units of a batch before its first entry.
const BATCH_HEAD: u32 = 10_000;
/// Units of one voucher: a strict verification (18,954 measured) and its ledger entries.
const VOUCHER: u32 = 28_000;
/// Units of opening one channel: an account is created.
const OPEN: u32 = 30_000;
/// Units of moving integers between two accounts.
const LEDGER: u32 = 6_000;
/// The most that a transaction may ask.
const MAX_TRANSACTION: u32 = 1_400_000;

#[cfg(test)]
mod tests {
    use settlement_interface::instructions::VoucherEntry;

    use super::*;
    use crate::{Program, instructions};

    #[test]
    fn limit_grows_with_entries_and_stops_at_the_maximum() {
        let (program, node) = (Program::local(), Address::new_from_array([1; 32]));
        let voucher = (Address::new_from_array([2; 32]), VoucherEntry { signature: [0; 64], cumulative: 1 }, 0);
        let batch =
            |entries| instructions::settle_batch(&program, &node, &SYSTEM_PROGRAM, &vec![voucher.clone(); entries]);
        assert_eq!(compute_units(&batch(7)) - compute_units(&batch(6)), VOUCHER);
        let data = limit(&[batch(60)]).data;
        assert_eq!(data[1..], MAX_TRANSACTION.to_le_bytes());
    }
}
