//! How many entries one transaction carries: the largest batch is built, signed, measured and carried out; one entry
//! more is proven not to fit.

use settlement_chain::{MAX_LEGACY_TRANSACTION, MAX_V1_TRANSACTION, VersionedTransaction, check_size};
use settlement_interface::instructions::MAX_BATCH;

use crate::{
    batches::{Batch, Lot},
    ledger::skipped,
    transactions::Format,
};

/// Accounts that one transaction may lock.
const MAX_ACCOUNTS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    V0WithTable,
    V1,
}

/// Why one entry more does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Full {
    Bytes,
    Accounts,
}

/// The largest batch of each kind in each format.
const LARGEST: [(Batch, Written, usize, Full); 10] = [
    (Batch::Open, Written::V1, 43, Full::Bytes),
    (Batch::Settle, Written::V1, 36, Full::Bytes),
    (Batch::Close, Written::V1, 36, Full::Bytes),
    (Batch::Finalize, Written::V1, 62, Full::Accounts),
    (Batch::Reclaim, Written::V1, 60, Full::Accounts),
    (Batch::Open, Written::V0WithTable, 17, Full::Bytes),
    (Batch::Settle, Written::V0WithTable, 13, Full::Bytes),
    (Batch::Close, Written::V0WithTable, 13, Full::Bytes),
    (Batch::Finalize, Written::V0WithTable, 61, Full::Accounts),
    (Batch::Reclaim, Written::V0WithTable, 59, Full::Accounts),
];

#[test]
// r[verify settlement.transaction.size]
fn the_largest_batches_fit_and_are_carried_out_and_one_entry_more_does_not_fit() {
    let mut found = Vec::new();
    for (batch, written, ..) in LARGEST {
        let mut lot = Lot::new(batch, MAX_BATCH);
        let format = match written {
            Written::V1 => Format::v1(),
            Written::V0WithTable => {
                let all = lot.instruction(MAX_BATCH).accounts.iter().map(|meta| meta.pubkey).collect();
                Format::V0(lot.world.lookup_table(all))
            }
        };
        let build = |lot: &Lot, count| lot.world.signed(&format, &[lot.instruction(count)], &lot.signers());
        let (count, reason) = (1..=MAX_BATCH)
            .find_map(|count| fits(&build(&lot, count)).err().map(|reason| (count - 1, reason)))
            .unwrap_or_else(|| panic!("{batch:?}, {written:?}: {MAX_BATCH} entries fit"));
        let largest = build(&lot, count);
        let bytes = check_size(&largest).unwrap();
        assert_eq!(largest.signatures.len(), 1, "more than one signature is paid for");
        let done = lot.world.send_signed(largest).unwrap();
        println!("{batch:?}, {written:?}: {count} entries, {bytes} bytes, {} CU", done.compute_units_consumed);
        if batch != Batch::Open {
            assert_eq!(skipped(&done), 0);
        }
        lot.world.assert_solvent();
        found.push((batch, written, count, reason));
    }
    assert_eq!(found, LARGEST);
}

#[test]
fn a_close_costs_no_more_than_140_lamports_of_base_fee() {
    const BASE_FEE: usize = 5_000;
    let (.., closes, _) = LARGEST[2];
    assert!(closes >= 36 && BASE_FEE.div_ceil(closes) <= 140);
    let (.., reclaims, _) = LARGEST[4];
    assert!(reclaims >= 58);
}

/// Whether the network would take a transaction of this size.
fn fits(transaction: &VersionedTransaction) -> Result<(), Full> {
    let is_v1 = matches!(transaction.message, settlement_chain::VersionedMessage::V1(_));
    let limit = if is_v1 { MAX_V1_TRANSACTION } else { MAX_LEGACY_TRANSACTION };
    let looked_up = transaction.message.address_table_lookups().unwrap_or_default();
    let looked_up: usize =
        looked_up.iter().map(|table| table.writable_indexes.len() + table.readonly_indexes.len()).sum();
    let accounts = transaction.message.static_account_keys().len() + looked_up;
    match check_size(transaction) {
        Ok(bytes) => assert!(bytes <= limit),
        Err(settlement_chain::ChainError::TooLarge { .. }) => return Err(Full::Bytes),
        // A message of version 1 cannot even be written with more accounts.
        Err(error) => assert!(accounts > MAX_ACCOUNTS, "{error}"),
    }
    if accounts > MAX_ACCOUNTS { Err(Full::Accounts) } else { Ok(()) }
}
