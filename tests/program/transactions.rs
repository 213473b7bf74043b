//! Transactions in the two formats that carry large batches, with their exact lengths. LiteSVM executes any length, so
//! whoever sends here is held to the network's limits.

use settlement_chain::{Address, Instruction, Keypair, Signer, VersionedMessage, VersionedTransaction, check_size};
use solana_message::{
    AddressLookupTableAccount, v0,
    v1::{self, TransactionConfig},
};

use crate::ledger::{Outcome, World};

/// How a transaction is written.
#[derive(Clone)]
pub enum Format {
    /// Up to 1,232 bytes, addresses by their place in a table on chain. An instruction of its own sets the compute
    /// limit.
    V0(AddressLookupTableAccount),
    /// Up to 4,096 bytes. A limit that is not set is a limit of zero, so both are.
    V1(TransactionConfig),
}

impl Format {
    pub const fn v1() -> Self {
        let config = TransactionConfig::empty();
        Self::V1(config.with_compute_unit_limit(MAX_COMPUTE).with_loaded_accounts_data_size_limit(MAX_LOADED))
    }
}

/// The most that a transaction may ask for.
const MAX_COMPUTE: u32 = 1_400_000;
const MAX_LOADED: u32 = 64 * 1024 * 1024;

impl World {
    /// Writes and signs, by whichever of the given keys and the world's own are asked for.
    pub fn signed(&self, format: &Format, instructions: &[Instruction], signers: &[&Keypair]) -> VersionedTransaction {
        let (payer, blockhash) = (self.payer.pubkey(), self.svm.latest_blockhash());
        let message = match format {
            Format::V0(table) => {
                let tables = std::slice::from_ref(table);
                let instructions = [&[compute_limit()], instructions].concat();
                VersionedMessage::V0(v0::Message::try_compile(&payer, &instructions, tables, blockhash).unwrap())
            }
            Format::V1(config) => VersionedMessage::V1(
                v1::Message::try_compile_with_config(&payer, instructions, blockhash, *config).unwrap(),
            ),
        };
        let asked = usize::from(message.header().num_required_signatures);
        let keys: Vec<&Keypair> = message.static_account_keys()[..asked]
            .iter()
            .filter_map(|address| {
                let own = [&self.payer, &self.sponsor, &self.admin];
                own.into_iter().chain(signers.iter().copied()).find(|key| key.pubkey() == *address)
            })
            .collect();
        VersionedTransaction::try_new(message, &keys).unwrap()
    }

    /// Sends what fits the network; the world's blockhash moves on.
    pub fn send_signed(&mut self, transaction: VersionedTransaction) -> Outcome {
        check_size(&transaction).unwrap();
        let outcome = self.svm.send_transaction(transaction).map_err(|failed| failed.err);
        self.svm.expire_blockhash();
        outcome
    }

    /// A table on chain with these addresses.
    pub fn lookup_table(&mut self, addresses: Vec<Address>) -> AddressLookupTableAccount {
        let mut data = vec![0; 56];
        data[0] = 1; // an initialised table
        data[4..12].fill(0xff); // never deactivated
        for address in &addresses {
            data.extend_from_slice(address.as_ref());
        }
        let key = self.place(LOOKUP_TABLE_PROGRAM, data);
        AddressLookupTableAccount { key, addresses }
    }
}

fn compute_limit() -> Instruction {
    let mut data = vec![2]; // SetComputeUnitLimit
    data.extend(MAX_COMPUTE.to_le_bytes());
    Instruction { program_id: COMPUTE_BUDGET, accounts: Vec::new(), data }
}

const COMPUTE_BUDGET: Address = Address::from_str_const("ComputeBudget111111111111111111111111111111");
const LOOKUP_TABLE_PROGRAM: Address = Address::from_str_const("AddressLookupTab1e1111111111111111111111111");
