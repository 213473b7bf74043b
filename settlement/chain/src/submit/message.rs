//! From instructions to the bytes that are signed: the two formats, and what a transaction may take and offers.

use solana_address::Address;
use solana_hash::Hash;
use solana_instruction::Instruction;
use solana_message::{Message, VersionedMessage, v1};
use solana_signature::Signature;
use solana_transaction::versioned::VersionedTransaction;

use super::compute::estimated_units;
use crate::{
    ChainError, Simulation,
    client::{MAX_LEGACY_TRANSACTION, MAX_V1_ACCOUNTS, MAX_V1_TRANSACTION, check_size},
};

/// How a transaction is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransactionFormat {
    /// At most 1,232 bytes; every cluster takes it. Limits and fee are instructions of their own.
    #[default]
    Legacy,
    /// At most 4,096 bytes and 64 accounts; limits and fee lie in the header.
    V1,
}

impl TransactionFormat {
    /// Most bytes of a transaction, signatures included.
    pub const fn max_bytes(self) -> usize {
        match self {
            Self::Legacy => MAX_LEGACY_TRANSACTION,
            Self::V1 => MAX_V1_TRANSACTION,
        }
    }

    /// The format's name, for people and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::V1 => "v1",
        }
    }
}

/// What a transaction may take, and what it offers for its place in a block. Its size does not depend on these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How it is written.
    pub format: TransactionFormat,
    /// Compute units that it may take, at most [`MAX_COMPUTE_UNITS`].
    pub compute_units: u32,
    /// Bytes of account data that it may load, at most [`MAX_LOADED_DATA`].
    pub loaded_data_bytes: u32,
    /// Micro-lamports offered per compute unit of the limit, on top of the base fee.
    pub price: u64,
}

impl Terms {
    /// Generous limits for these instructions, without asking a chain, and no priority fee.
    pub fn estimate(format: TransactionFormat, instructions: &[Instruction]) -> Self {
        Self { format, compute_units: estimated_units(instructions), loaded_data_bytes: MAX_LOADED_DATA, price: 0 }
    }

    /// The limits to simulate with: what the transaction really takes is to be found out.
    pub const fn widest(format: TransactionFormat) -> Self {
        Self { format, compute_units: MAX_COMPUTE_UNITS, loaded_data_bytes: MAX_LOADED_DATA, price: 0 }
    }

    /// Limits that a simulation asks for, with a margin: state may have moved by the time the transaction lands.
    /// The limits count in what a block can hold and in what the priority fee costs, so they should not be too wide.
    #[must_use]
    pub fn with_limits_of(self, simulation: &Simulation) -> Self {
        let units = simulation.units.saturating_add(simulation.units / UNITS_MARGIN_PART).saturating_add(UNITS_MARGIN);
        let compute_units = u32::try_from(units).unwrap_or(u32::MAX).min(MAX_COMPUTE_UNITS);
        let loaded_data_bytes = simulation.loaded_data_bytes.map_or(MAX_LOADED_DATA, |bytes| {
            let wanted = bytes.saturating_add(bytes / LOADED_MARGIN_PART).max(1);
            wanted.checked_next_multiple_of(LOADED_PAGE).unwrap_or(MAX_LOADED_DATA).min(MAX_LOADED_DATA)
        });
        Self { compute_units, loaded_data_bytes, ..self }
    }

    /// The same at another price.
    #[must_use]
    pub const fn at_price(self, price: u64) -> Self {
        Self { price, ..self }
    }

    /// Lamports that the price comes to: what is paid on top of the base fee, whether the limit is used up or not.
    pub fn priority_fee(&self) -> u64 {
        let micro_lamports = u128::from(self.price).saturating_mul(u128::from(self.compute_units));
        u64::try_from(micro_lamports.div_ceil(MICRO_LAMPORTS)).unwrap_or(u64::MAX)
    }
}

/// The highest price, in micro-lamports per compute unit, at which `compute_units` cost at most `lamports`.
pub fn price_within(lamports: u64, compute_units: u32) -> u64 {
    let micro_lamports = u128::from(lamports).saturating_mul(MICRO_LAMPORTS);
    let price = micro_lamports.checked_div(u128::from(compute_units)).unwrap_or_default();
    u64::try_from(price).unwrap_or(u64::MAX)
}

/// Lamports that a transaction offers on top of the base fee, whoever made it.
pub fn offered_priority_fee(transaction: &VersionedTransaction) -> u64 {
    if let VersionedMessage::V1(message) = &transaction.message {
        return message.config.priority_fee.unwrap_or_default();
    }
    let keys = transaction.message.static_account_keys();
    let (mut units, mut price) = (MAX_COMPUTE_UNITS, 0);
    for instruction in transaction.message.instructions() {
        if keys.get(usize::from(instruction.program_id_index)) != Some(&COMPUTE_BUDGET) {
            continue;
        }
        match instruction.data.split_first() {
            Some((&SET_COMPUTE_UNIT_LIMIT, value)) => units = value.try_into().map_or(units, u32::from_le_bytes),
            Some((&SET_COMPUTE_UNIT_PRICE, value)) => price = value.try_into().map_or(price, u64::from_le_bytes),
            _ => {}
        }
    }
    Terms { format: TransactionFormat::Legacy, compute_units: units, loaded_data_bytes: 0, price }.priority_fee()
}

/// Bytes that the transaction of `instructions` has on the wire, signatures and limits included: for planners, who
/// must know before anything is signed. Compare with [`TransactionFormat::max_bytes`].
///
/// Exact: the message is built as it will be signed, and what is blank in it has a fixed length.
///
/// # Errors
/// [`ChainError::TooManyAccounts`] where the format cannot write it at any length.
pub fn wire_size(
    format: TransactionFormat,
    payer: &Address,
    instructions: &[Instruction],
) -> Result<usize, ChainError> {
    let message = message(&Terms::widest(format), payer, instructions, Hash::default())?;
    match check_size(&unsigned(message)) {
        Ok(bytes) | Err(ChainError::TooLarge { bytes, .. }) => Ok(bytes),
        Err(error) => Err(error),
    }
}

/// The message of these instructions under these terms, for the payer and others to sign.
pub(super) fn message(
    terms: &Terms,
    payer: &Address,
    instructions: &[Instruction],
    blockhash: Hash,
) -> Result<VersionedMessage, ChainError> {
    match terms.format {
        TransactionFormat::Legacy => {
            let mut all = limits(terms).to_vec();
            all.extend_from_slice(instructions);
            Ok(VersionedMessage::Legacy(Message::new_with_blockhash(&all, Some(payer), &blockhash)))
        }
        TransactionFormat::V1 => {
            let config = v1::TransactionConfig::empty()
                .with_priority_fee(terms.priority_fee())
                .with_compute_unit_limit(terms.compute_units)
                .with_loaded_accounts_data_size_limit(terms.loaded_data_bytes);
            let message = v1::Message::try_compile_with_config(payer, instructions, blockhash, config)
                .map_err(|error| ChainError::Malformed(format!("the transaction cannot be written: {error}")))?;
            let accounts = message.account_keys.len();
            if accounts > MAX_V1_ACCOUNTS {
                return Err(ChainError::TooManyAccounts { accounts, limit: MAX_V1_ACCOUNTS });
            }
            Ok(VersionedMessage::V1(message))
        }
    }
}

/// With blank signatures: to be measured or simulated.
pub(super) fn unsigned(message: VersionedMessage) -> VersionedTransaction {
    let signatures = vec![Signature::default(); usize::from(message.header().num_required_signatures)];
    VersionedTransaction { signatures, message }
}

/// All three always, so that no transaction's size depends on its terms.
fn limits(terms: &Terms) -> [Instruction; 3] {
    let instruction = |tag: u8, value: &[u8]| {
        let data = [[tag].as_slice(), value].concat();
        Instruction { program_id: COMPUTE_BUDGET, accounts: Vec::new(), data }
    };
    [
        instruction(SET_COMPUTE_UNIT_LIMIT, &terms.compute_units.to_le_bytes()),
        instruction(SET_COMPUTE_UNIT_PRICE, &terms.price.to_le_bytes()),
        instruction(SET_LOADED_DATA_LIMIT, &terms.loaded_data_bytes.to_le_bytes()),
    ]
}

/// The most compute units that a transaction may ask for.
pub const MAX_COMPUTE_UNITS: u32 = 1_400_000;

/// The most bytes of account data that a transaction may load.
pub const MAX_LOADED_DATA: u32 = 64 << 20;

const COMPUTE_BUDGET: Address = Address::from_str_const("ComputeBudget111111111111111111111111111111");
const SET_COMPUTE_UNIT_LIMIT: u8 = 2;
const SET_COMPUTE_UNIT_PRICE: u8 = 3;
const SET_LOADED_DATA_LIMIT: u8 = 4;

const MICRO_LAMPORTS: u128 = 1_000_000;

/// A tenth of the simulated units is added to them.
const UNITS_MARGIN_PART: u64 = 10;
/// And this many, for the shortest transactions.
const UNITS_MARGIN: u64 = 1_000;
/// A quarter of the simulated bytes is added to them: an account may be created or grow.
const LOADED_MARGIN_PART: u32 = 4;
/// Loaded bytes are charged by the page.
const LOADED_PAGE: u32 = 32 << 10;

#[cfg(test)]
mod tests {
    use solana_keypair::Keypair;
    use solana_signer::Signer;

    use super::*;
    use crate::{Program, instructions, tokens};

    const FORMATS: [TransactionFormat; 2] = [TransactionFormat::Legacy, TransactionFormat::V1];

    fn address(byte: u8) -> Address {
        Address::new_from_array([byte; 32])
    }

    #[test]
    fn planned_size_is_the_size_that_is_sent_whatever_the_terms() {
        let payer = Keypair::new();
        let instructions = [tokens::transfer_lamports(&payer.pubkey(), &address(1), 5)];
        for format in FORMATS {
            let planned = wire_size(format, &payer.pubkey(), &instructions).unwrap();
            for terms in [Terms::widest(format), Terms::estimate(format, &instructions).at_price(u64::MAX)] {
                let message = message(&terms, &payer.pubkey(), &instructions, Hash::new_from_array([9; 32])).unwrap();
                let signed = VersionedTransaction::try_new(message, &[&payer]).unwrap();
                assert_eq!(check_size(&signed).unwrap(), planned);
            }
        }
    }

    #[test]
    fn both_limits_of_a_v1_transaction_are_always_set() {
        for terms in [Terms::widest(TransactionFormat::V1), Terms::estimate(TransactionFormat::V1, &[])] {
            let VersionedMessage::V1(message) = message(&terms, &address(1), &[], Hash::default()).unwrap() else {
                panic!("asked for v1");
            };
            assert_eq!(message.config.compute_unit_limit, Some(terms.compute_units));
            assert_eq!(message.config.loaded_accounts_data_size_limit, Some(terms.loaded_data_bytes));
            assert!(terms.loaded_data_bytes > 0 && message.config.priority_fee == Some(0));
        }
    }

    #[test]
    fn v1_takes_64_accounts_and_not_one_more() {
        let finalize = |count: u8| {
            let channels: Vec<Address> = (0..count).map(|n| address(100 + n)).collect();
            wire_size(TransactionFormat::V1, &address(1), &[instructions::finalize_batch(&Program::local(), &channels)])
        };
        assert!(finalize(62).unwrap() < MAX_V1_TRANSACTION);
        assert!(matches!(finalize(63), Err(ChainError::TooManyAccounts { accounts: 65, limit: 64 })));
    }

    #[test]
    fn limits_follow_the_simulation_with_a_margin_and_never_leave_the_clusters_bounds() {
        let limits = |units, loaded_data_bytes| {
            let simulation = Simulation { units, loaded_data_bytes, ..Simulation::default() };
            let terms = Terms::widest(TransactionFormat::V1).with_limits_of(&simulation);
            (terms.compute_units, terms.loaded_data_bytes)
        };
        assert_eq!(limits(100_000, Some(40_000)), (111_000, 65_536));
        assert_eq!(limits(0, Some(0)), (1_000, 32_768));
        assert_eq!(limits(1_390_000, None), (MAX_COMPUTE_UNITS, MAX_LOADED_DATA));
        assert_eq!(limits(u64::MAX, Some(u32::MAX)), (MAX_COMPUTE_UNITS, MAX_LOADED_DATA));
    }

    #[test]
    fn fee_is_what_the_price_comes_to_rounded_up_and_is_read_back_from_both_formats() {
        let payer = address(1);
        for format in FORMATS {
            for (units, price, lamports) in [(200_000, 0, 0), (200_000, 1, 1), (200_000, 7_500, 1_500), (3, 333_334, 2)]
            {
                let terms = Terms { compute_units: units, price, ..Terms::widest(format) };
                assert_eq!(terms.priority_fee(), lamports);
                let transaction = unsigned(message(&terms, &payer, &[], Hash::default()).unwrap());
                assert_eq!(offered_priority_fee(&transaction), lamports);
            }
        }
        for (lamports, units) in [(5_000, 700_000), (1, 1_400_000), (u64::MAX, 1), (0, 5)] {
            let price = price_within(lamports, units);
            let terms = Terms { compute_units: units, price, ..Terms::widest(TransactionFormat::V1) };
            assert!(terms.priority_fee() <= lamports);
        }
        assert_eq!(price_within(5, 0), 0);
    }
}
