//! The eight questions that ARO asks of a chain, and the values that answer them.

use std::{pin::Pin, sync::Arc};

use async_trait::async_trait;
use solana_address::Address;
use solana_hash::Hash;
use solana_message::VersionedMessage;
use solana_signature::Signature;
use solana_transaction::versioned::VersionedTransaction;
use solana_transaction_error::TransactionError;

use crate::servers::ServerHealth;

/// A chain. Implementations read at commitment "confirmed" and keep no state between calls that a caller could
/// observe, so one client serves any number of tasks.
#[async_trait]
pub trait ChainClient: Send + Sync + 'static {
    /// Which chain this is: two clusters never share it.
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError>;

    /// The accounts at these addresses, in this order, any number of them; `None` where there is none.
    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError>;

    /// All accounts of a program that match the filter, in no particular order.
    async fn program_accounts(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<(Address, Account)>, ChainError>;

    /// The same accounts as each server that answers shows them, in no particular order: for what one of them must not
    /// decide.
    async fn program_accounts_by_server(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<Vec<(Address, Account)>>, ChainError> {
        Ok(vec![self.program_accounts(program, filter).await?])
    }

    /// A blockhash to sign with, and how long it is good for.
    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError>;

    /// Hands a signed transaction to the chain. `Ok` means accepted for processing, not landed; the same bytes
    /// may be sent again at any time. [`ChainError::Refused`] means that this attempt had no effect.
    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError>;

    /// What has become of transactions, in this order, any number of them. The block height is read before the
    /// statuses, and they are of no older a view: a transaction that is unknown here although its last valid height lies below is dead.
    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError>;

    /// True once no block at or below this height can take the transaction any more, whatever is said of it: the
    /// question where what is said is contradictory.
    async fn is_past(&self, _: &Signature, block_height: u64) -> Result<bool, ChainError> {
        Ok(self.statuses(&[]).await?.block_height > block_height)
    }

    /// What a transaction would do if it landed now. Signatures may be blank and the blockhash stale: neither is
    /// looked at. A transaction that would fail is an answer ([`Simulation::err`]), not an error.
    async fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulation, ChainError>;

    /// What transactions that wrote to any of these accounts paid on top of the base fee, in micro-lamports per
    /// compute unit: one figure for each recent block, in no particular order, at most [`MAX_RECENT_FEES`]. Empty
    /// if the chain has none. Of many accounts only the first [`MAX_FEE_ACCOUNTS`] count.
    async fn recent_fees(&self, writable: &[Address]) -> Result<Vec<u64>, ChainError>;

    /// The same as [`Self::accounts`], with the slot that the answer is of, so that two answers can be told apart
    /// by age; 0 if the chain does not say.
    async fn accounts_at(&self, addresses: &[Address]) -> Result<(u64, Vec<Option<Account>>), ChainError> {
        Ok((0, self.accounts(addresses).await?))
    }

    /// The same accounts as each server that answers shows them, that of the highest slot first: for what one of them
    /// must not decide. Of several at least `least` must answer.
    async fn accounts_by_server(
        &self,
        addresses: &[Address],
        _least: usize,
    ) -> Result<Vec<Vec<Option<Account>>>, ChainError> {
        Ok(vec![self.accounts(addresses).await?])
    }

    /// The chain's time in unix seconds: what the program compares deadlines and expiries with.
    async fn clock(&self) -> Result<i64, ChainError> {
        let accounts = self.accounts(&[CLOCK]).await?;
        clock_of(accounts.first().and_then(Option::as_ref))
    }

    /// How each of the servers behind this has been doing, where there are several.
    fn health(&self) -> Vec<ServerHealth> {
        Vec::new()
    }
}

/// What a chain's answer is awaited as.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ChainError>> + Send + 'a>>;

/// So that a chain of any kind can be handed on as one.
#[async_trait]
impl<T: ChainClient + ?Sized> ChainClient for Arc<T> {
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        (**self).genesis_hash().await
    }
    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        (**self).accounts(addresses).await
    }
    async fn program_accounts(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<(Address, Account)>, ChainError> {
        (**self).program_accounts(program, filter).await
    }
    async fn program_accounts_by_server(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<Vec<(Address, Account)>>, ChainError> {
        (**self).program_accounts_by_server(program, filter).await
    }
    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        (**self).latest_blockhash().await
    }
    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        (**self).send(transaction).await
    }
    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        (**self).statuses(signatures).await
    }
    async fn is_past(&self, signature: &Signature, block_height: u64) -> Result<bool, ChainError> {
        (**self).is_past(signature, block_height).await
    }
    async fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulation, ChainError> {
        (**self).simulate(transaction).await
    }
    async fn recent_fees(&self, writable: &[Address]) -> Result<Vec<u64>, ChainError> {
        (**self).recent_fees(writable).await
    }
    async fn accounts_at(&self, addresses: &[Address]) -> Result<(u64, Vec<Option<Account>>), ChainError> {
        (**self).accounts_at(addresses).await
    }
    async fn accounts_by_server(
        &self,
        addresses: &[Address],
        least: usize,
    ) -> Result<Vec<Vec<Option<Account>>>, ChainError> {
        (**self).accounts_by_server(addresses, least).await
    }
    async fn clock(&self) -> Result<i64, ChainError> {
        (**self).clock().await
    }
    fn health(&self) -> Vec<ServerHealth> {
        (**self).health()
    }
}

/// An account as it lies on chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The program that owns it.
    pub owner: Address,
    /// Its balance in lamports.
    pub lamports: u64,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// Which of a program's accounts are wanted: all conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountFilter {
    /// The first byte of the data.
    pub discriminator: u8,
    /// The length of the data in bytes.
    pub data_len: usize,
    /// A key at an offset of the data, if given.
    pub key: Option<(usize, Address)>,
}

impl AccountFilter {
    /// True if the account's data meets every condition.
    pub fn matches(&self, data: &[u8]) -> bool {
        data.len() == self.data_len
            && data.first() == Some(&self.discriminator)
            && self.key.as_ref().is_none_or(|(offset, key)| {
                offset.checked_add(32).and_then(|end| data.get(*offset..end)) == Some(key.as_ref())
            })
    }
}

/// A blockhash and the last block height at which a transaction signed with it can land.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blockhash {
    /// Goes into the message.
    pub hash: Hash,
    /// Above this block height the transaction is dead if it has not landed.
    pub last_valid_block_height: u64,
}

/// What has become of some transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// The chain's confirmed height, read before the statuses.
    pub block_height: u64,
    /// One for each signature that was asked for; `None` if the chain does not know it.
    pub statuses: Vec<Option<Status>>,
}

/// A transaction that the chain knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The slot that it landed in.
    pub slot: u64,
    /// How sure the chain is.
    pub commitment: Commitment,
    /// Why it failed, if it did; a failed transaction changed nothing but the fee payer's balance.
    pub err: Option<TransactionError>,
}

/// How sure the chain is of a transaction, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Commitment {
    /// One validator has executed it; a fork may still drop it.
    Processed,
    /// Two thirds of the stake have voted for its block.
    Confirmed,
    /// It cannot be undone.
    Finalized,
}

/// What a transaction would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Simulation {
    /// Compute units that it takes, up to where it fails if it does.
    pub units: u64,
    /// Bytes of account data that it loads, as the loaded-data limit counts them; `None` if the server does not say.
    pub loaded_data_bytes: Option<u32>,
    /// Why it would fail, if it would.
    pub err: Option<TransactionError>,
    /// What its last instruction returned, at most [`MAX_RETURN_DATA`] bytes.
    pub return_data: Vec<u8>,
}

/// Why the chain gave no answer, or not the wished one.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The server could not be reached, did not answer in time, or asked to come back later.
    #[error("the Solana RPC server cannot be reached: {0}; check its address and that it runs, then retry")]
    Unreachable(String),
    /// The server answered with an error of its own.
    #[error("the Solana RPC server answered with error {code}: {message}")]
    Rpc {
        /// JSON-RPC error code.
        code: i64,
        /// The server's words.
        message: String,
    },
    /// The server's answer makes no sense.
    #[error("the Solana RPC server's answer is malformed: {0}; use another server")]
    Malformed(String),
    /// The transaction was tried and refused before it could land: nothing has changed.
    #[error("the chain refused the transaction: {0}")]
    Refused(TransactionError),
    /// The transaction has more bytes than its version allows: split it.
    #[error("a transaction of {bytes} bytes is above the limit of {limit}; split it")]
    TooLarge {
        /// Its serialized size.
        bytes: usize,
        /// [`MAX_LEGACY_TRANSACTION`] or [`MAX_V1_TRANSACTION`].
        limit: usize,
    },
    /// The transaction names more accounts than its version allows: split it.
    #[error("a transaction of {accounts} accounts is above the limit of {limit}; split it")]
    TooManyAccounts {
        /// Accounts that it names, each counted once.
        accounts: usize,
        /// [`MAX_V1_ACCOUNTS`].
        limit: usize,
    },
    /// Servers that should be of one chain say different things about it.
    #[error("the Solana RPC servers contradict each other: {0}; if this lasts, find out which of them is wrong")]
    Disagreement(String),
}

impl ChainError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            // Servers that have fallen behind catch up.
            Self::Unreachable(_) | Self::Disagreement(_) => true,
            // Node behind or unhealthy, block or slot not yet there: JSON-RPC's server-side range as Solana uses it.
            Self::Rpc { code, .. } => matches!(code, -32004 | -32005 | -32014 | -32016),
            Self::Refused(error) => matches!(
                error,
                TransactionError::BlockhashNotFound
                    | TransactionError::AccountInUse
                    | TransactionError::ClusterMaintenance
                    | TransactionError::WouldExceedMaxBlockCostLimit
                    | TransactionError::WouldExceedMaxAccountCostLimit
                    | TransactionError::WouldExceedAccountDataBlockLimit
                    | TransactionError::ProgramCacheHitMaxLimit
            ),
            Self::Malformed(_) | Self::TooLarge { .. } | Self::TooManyAccounts { .. } => false,
        }
    }
}

/// Most figures that [`ChainClient::recent_fees`] gives: servers keep 150 blocks.
pub const MAX_RECENT_FEES: usize = 512;

/// Most accounts that [`ChainClient::recent_fees`] looks at.
pub const MAX_FEE_ACCOUNTS: usize = 128;

/// Most bytes that a transaction returns.
pub const MAX_RETURN_DATA: usize = 1024;

/// Most bytes of a legacy or v0 transaction: one IPv6 packet.
pub const MAX_LEGACY_TRANSACTION: usize = 1232;

/// Most bytes of a v1 transaction.
pub const MAX_V1_TRANSACTION: usize = 4096;

/// Most accounts of a v1 transaction.
pub const MAX_V1_ACCOUNTS: usize = 64;

/// The transaction's wire size in bytes, if it is within its version's limit.
///
/// Clusters refuse larger ones, LiteSVM does not: both clients ask here before they send.
// r[impl settlement.transaction.size]
pub fn check_size(transaction: &VersionedTransaction) -> Result<usize, ChainError> {
    let bytes = wire_bytes(transaction)?.len();
    let limit = match transaction.message {
        VersionedMessage::Legacy(_) | VersionedMessage::V0(_) => MAX_LEGACY_TRANSACTION,
        VersionedMessage::V1(_) => MAX_V1_TRANSACTION,
    };
    if bytes > limit { Err(ChainError::TooLarge { bytes, limit }) } else { Ok(bytes) }
}

/// The transaction as it goes over the wire.
pub(crate) fn wire_bytes(transaction: &VersionedTransaction) -> Result<Vec<u8>, ChainError> {
    wincode::serialize(transaction).map_err(|e| ChainError::Malformed(format!("transaction does not serialize: {e}")))
}

/// Offset of `unix_timestamp` in the Clock sysvar: after slot, epoch start, epoch and leader schedule epoch.
const CLOCK_UNIX_TIMESTAMP: usize = 32;

/// Address of the Clock sysvar.
pub const CLOCK: Address = Address::from_str_const("SysvarC1ock11111111111111111111111111111111");

/// The unix seconds of a Clock sysvar account.
pub fn clock_of(account: Option<&Account>) -> Result<i64, ChainError> {
    account
        .and_then(|account| account.data.get(CLOCK_UNIX_TIMESTAMP..)?.first_chunk::<8>())
        .map(|bytes| i64::from_le_bytes(*bytes))
        .ok_or_else(|| ChainError::Malformed("the Clock sysvar is missing or too short".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_needs_length_discriminator_and_key() {
        let key = Address::new_from_array([7; 32]);
        let filter = AccountFilter { discriminator: 5, data_len: 40, key: Some((8, key)) };
        let mut data = vec![0; 40];
        data[0] = 5;
        data[8..].copy_from_slice(key.as_ref());
        assert!(filter.matches(&data));

        let mut other = data.clone();
        other[0] = 4;
        assert!(!filter.matches(&other));
        let mut other = data.clone();
        other[39] ^= 1;
        assert!(!filter.matches(&other));
        data.push(0);
        assert!(!filter.matches(&data));

        let beyond = AccountFilter { key: Some((9, key)), ..filter.clone() };
        assert!(!beyond.matches(&data[..40]));
        let wrapping = AccountFilter { key: Some((usize::MAX, key)), ..filter };
        assert!(!wrapping.matches(&data[..40]));
    }

    #[test]
    fn clock_reads_the_timestamp_and_refuses_short_accounts() {
        let mut account = Account { owner: Address::default(), lamports: 1, data: vec![0; 40] };
        account.data[32..].copy_from_slice(&1_800_000_000_i64.to_le_bytes());
        assert_eq!(clock_of(Some(&account)).unwrap(), 1_800_000_000);
        account.data.truncate(39);
        assert!(matches!(clock_of(Some(&account)), Err(ChainError::Malformed(_))));
        assert!(matches!(clock_of(None), Err(ChainError::Malformed(_))));
    }
}
