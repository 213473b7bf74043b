//! How much compute a transaction asks for: an upper bound for each kind of instruction.
//!
//! The base fee does not depend on the limit; it only reserves room in a block. So the bounds are generous. They
//! serve who sends a few transactions, and where no server simulates; an operator asks a simulation first.

use settlement_interface::instructions::{ReclaimBatch, tag};
use solana_instruction::Instruction;

use super::message::MAX_COMPUTE_UNITS;
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

/// Compute units that `instructions` take together at most, with those that set the limits.
pub(super) fn estimated_units(instructions: &[Instruction]) -> u32 {
    instructions.iter().map(compute_units).fold(OWN, u32::saturating_add).min(MAX_COMPUTE_UNITS)
}

/// Units of the instructions that set a legacy transaction's limits and price.
const OWN: u32 = 600;
/// Units of a batch before its first entry.
const BATCH_HEAD: u32 = 10_000;
/// Units of one voucher: a strict verification (18,954 measured) and its ledger entries.
const VOUCHER: u32 = 28_000;
/// Units of opening one channel: an account is created.
const OPEN: u32 = 30_000;
/// Units of moving integers between two accounts.
const LEDGER: u32 = 6_000;

#[cfg(test)]
mod tests {
    use settlement_interface::instructions::VoucherEntry;

    use solana_address::Address;

    use super::*;
    use crate::{Program, instructions};

    #[test]
    fn limit_grows_with_entries_and_stops_at_the_maximum() {
        let (program, node) = (Program::local(), Address::new_from_array([1; 32]));
        let voucher = (Address::new_from_array([2; 32]), VoucherEntry { signature: [0; 64], cumulative: 1 }, 0);
        let batch =
            |entries| instructions::settle_batch(&program, &node, &SYSTEM_PROGRAM, &vec![voucher.clone(); entries]);
        assert_eq!(compute_units(&batch(7)) - compute_units(&batch(6)), VOUCHER);
        assert_eq!(estimated_units(&[batch(60)]), MAX_COMPUTE_UNITS);
    }
}
