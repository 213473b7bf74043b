//! Every slot of every instruction, given what it must not take: the wrong owner, discriminator, version, length,
//! address or party, or without the right to write or the signature. Each is refused with the error that the table
//! in [`roles`] states, or is one of the skips that the spec documents, and changes nothing.
//!
//! The slots come from the interface's own table, and each needs a role there: a new instruction without one fails.

mod attempts;
mod roles;

use std::collections::BTreeSet;

use settlement_chain::{Address, Instruction, InstructionError, TransactionError};
use settlement_interface::{errors::SettlementError as E, instructions::table};
use solana_account::Account;

use self::attempts::attempts_at;
use crate::{
    cases::{self, Case},
    ledger::{Outcome, PROGRAM, TOKEN_PROGRAM, assert_refused, skipped},
};

/// What must come of a wrong account.
#[derive(Clone, Copy, Debug)]
enum Expect {
    Refused(E),
    /// The runtime or the token program refuses it, or this program with whichever error.
    Fails,
    /// The one entry of the batch is skipped.
    Skipped,
}

/// One wrong way to fill a slot.
struct Attempt {
    what: String,
    /// Accounts as they lie on chain for this once.
    accounts: Vec<(Address, Account)>,
    instruction: Instruction,
    expect: Expect,
}

#[test]
fn each_case_succeeds_as_it_stands_and_is_what_the_table_says() {
    for mut case in cases::all() {
        let instruction = case.instruction.clone();
        for (index, meta) in instruction.accounts.iter().enumerate() {
            let slot = case.slot(index);
            assert_eq!(
                (meta.is_signer, meta.is_writable),
                (slot.signer, slot.writable),
                "{}, {}",
                case.name,
                slot.name
            );
        }
        let outcome = case.send(&instruction);
        assert!(outcome.is_ok(), "{}: {outcome:?}", case.name);
        case.world.assert_solvent();
    }
}

#[test]
// r[verify settlement.accounts.checked]
fn every_slot_of_every_instruction_takes_only_the_right_account() {
    let (mut tried, mut attempts, mut wrong) = (BTreeSet::new(), 0, Vec::new());
    for mut case in cases::all() {
        for index in 0..case.instruction.accounts.len() {
            let slot = case.slot(index);
            for attempt in attempts_at(&case, index, slot) {
                wrong.extend(try_once(&mut case, slot.name, attempt));
                attempts += 1;
                tried.insert((case.table.name, slot.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {attempts} attempts:\n{}", wrong.len(), wrong.join("\n"));
    for instruction in table::ALL {
        for slot in instruction.accounts {
            assert!(
                tried.contains(&(instruction.name, slot.name)),
                "{}: nothing tried at {}",
                instruction.name,
                slot.name
            );
        }
    }
    println!("{attempts} attempts at {} slots", tried.len());
}

/// Says what is wrong, if anything is. The world is as before afterwards.
fn try_once(case: &mut Case, slot: &str, attempt: Attempt) -> Option<String> {
    let Attempt { what, accounts, instruction, expect } = attempt;
    let name = format!("{}, {slot}: {what}", case.name);
    let honest: Vec<_> = accounts
        .iter()
        .map(|(address, _)| (*address, case.world.svm.get_account(address).unwrap_or_default()))
        .collect();
    for (address, account) in accounts {
        case.world.svm.set_account(address, account).unwrap();
    }
    let before = everything(case, &instruction);
    let outcome = case.send(&instruction);
    let is_as_expected = match (expect, &outcome) {
        (Expect::Refused(error), Err(TransactionError::InstructionError(0, InstructionError::Custom(code)))) => {
            *code == error.code()
        }
        (Expect::Fails, Err(TransactionError::InstructionError(0, _))) => true,
        (Expect::Skipped, Ok(done)) => skipped(done) == 1,
        _ => false,
    };
    let has_changed = before != everything(case, &instruction);
    for (address, account) in honest {
        case.world.svm.set_account(address, account).unwrap();
    }
    if !is_as_expected {
        return Some(format!("{name}: {expect:?} expected, {}", say(&outcome)));
    }
    has_changed.then(|| format!("{name}: something has changed"))
}

/// All that the program or the token program could have changed.
fn everything(case: &Case, instruction: &Instruction) -> Vec<(Address, Account)> {
    let svm = &case.world.svm;
    let mut all = svm.get_program_accounts(&PROGRAM);
    all.extend(svm.get_program_accounts(&TOKEN_PROGRAM));
    let named = instruction.accounts.iter().map(|meta| meta.pubkey);
    // Whoever pays the transaction's fee has less afterwards.
    let named = named.filter(|address| *address != case.world.payer_address());
    all.extend(named.map(|address| (address, svm.get_account(&address).unwrap_or_default())));
    all.sort_by_key(|(address, _)| *address);
    all
}

fn say(outcome: &Outcome) -> String {
    match outcome {
        Ok(_) => "but it was done".into(),
        Err(TransactionError::InstructionError(0, InstructionError::Custom(code))) => {
            format!("got {:?} ({code})", E::from_code(*code))
        }
        Err(other) => format!("got {other:?}"),
    }
}

#[test]
fn accounts_and_data_come_in_exact_number() {
    for mut case in cases::all() {
        println!("{}", case.name);
        let honest = case.instruction.clone();
        // Where every account belongs to an entry, a list of none is a batch of none.
        let repeats = case.table.accounts.last().is_some_and(|slot| slot.repeated) && case.table.entry.is_none();
        let mut shorter = honest.clone();
        shorter.accounts.pop();
        let expected = if repeats { E::BadBatch } else { E::MissingAccount };
        assert_refused(case.send(&shorter), expected);
        let mut none = honest.clone();
        none.accounts.clear();
        let expected = if case.table.accounts[0].repeated { E::BadBatch } else { E::MissingAccount };
        assert_refused(case.send(&none), expected);
        if !repeats {
            let mut longer = honest.clone();
            longer.accounts.push(longer.accounts[0].clone());
            assert_refused(case.send(&longer), E::MissingAccount);
        }

        for change in [1isize, -1, 8] {
            let mut other = honest.clone();
            let len = honest.data.len().checked_add_signed(change).unwrap();
            other.data.resize(len, 0);
            if len > 0 {
                assert_refused(case.send(&other), E::MalformedData);
            }
        }
    }
}

#[test]
fn an_unknown_or_missing_tag_is_refused() {
    let mut case = cases::all().swap_remove(0);
    for data in [vec![], vec![table::ALL.len() as u8], vec![255; 9]] {
        let instruction = Instruction { data, ..case.instruction.clone() };
        assert_refused(case.send(&instruction), E::MalformedData);
    }
}
