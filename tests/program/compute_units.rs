//! What every instruction costs in compute units, as a committed file: a change that makes one dearer shows.

use std::fmt::Write;

use crate::{
    batches::{Batch, Lot},
    blessed::assert_blessed,
    cases,
    ledger::skipped,
    transactions::Format,
};

/// Entries of the batches that are measured: one, what a legacy transaction holds, what one of version 1 holds, and
/// what the bitmap of skipped entries has room for.
const SIZES: [usize; 4] = [1, 7, 36, 60];

#[test]
fn compute_units_are_those_of_the_committed_file() {
    let mut file = String::from(HEAD);
    for mut case in cases::all() {
        let instruction = case.instruction.clone();
        let done = case.send(&instruction).unwrap();
        writeln!(file, "{:<40} {:>9}", case.name, done.compute_units_consumed).unwrap();
    }
    file.push('\n');
    for batch in Batch::ALL {
        for count in SIZES {
            // More vouchers than one transaction can carry are not measured.
            if matches!(batch, Batch::Open | Batch::Settle | Batch::Close) && count > 36 {
                continue;
            }
            let units = units(batch, count);
            let each = units / count as u64;
            writeln!(file, "{:<20} {count:>3} entries {units:>15} {each:>9} each", batch.name()).unwrap();
        }
    }
    assert_blessed("tests/program/compute_units.txt", &file);
}

#[test]
fn closing_a_full_transaction_stays_within_its_aim() {
    let units = units(Batch::Close, 36);
    assert!(units / 36 <= 19_500, "{} CU for each of 36 closes", units / 36);
}

fn units(batch: Batch, count: usize) -> u64 {
    let mut lot = Lot::new(batch, count);
    let transaction = lot.world.signed(&Format::v1(), &[lot.instruction(count)], &lot.signers());
    let done = lot.world.send_signed(transaction).unwrap();
    if batch != Batch::Open {
        assert_eq!(skipped(&done), 0);
    }
    lot.world.assert_solvent();
    done.compute_units_consumed
}

const HEAD: &str = "\
# Compute units of the committed program in LiteSVM, one call of each instruction, then batches.
# Made by the tests; ARO_UPDATE=1 cargo test -p aro-tests --test program compute_units rewrites it.

";
