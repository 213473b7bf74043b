//! The chain over JSON-RPC: any Solana cluster, public, private or on this machine.

use std::{str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use solana_account_decoder_client_types::{UiAccount, UiAccountData, UiAccountEncoding};
use solana_address::Address;
use solana_commitment_config::CommitmentConfig;
use solana_rpc_client::nonblocking::rpc_client::RpcClient;
use solana_rpc_client_api::{
    client_error::{Error as ClientError, ErrorKind},
    config::{RpcAccountInfoConfig, RpcProgramAccountsConfig, RpcSendTransactionConfig, RpcSimulateTransactionConfig},
    filter::{Memcmp, RpcFilterType},
    request::RpcError,
};
use solana_signature::Signature;
use solana_transaction::versioned::VersionedTransaction;
use solana_transaction_error::TransactionError;
use solana_transaction_status_client_types::{
    TransactionConfirmationStatus, UiReturnDataEncoding, UiTransactionReturnData,
};

use crate::client::{
    Account, AccountFilter, Blockhash, ChainClient, ChainError, Commitment, MAX_FEE_ACCOUNTS, MAX_RECENT_FEES,
    MAX_RETURN_DATA, Simulation, Status, Statuses, check_size,
};

/// A cluster behind a JSON-RPC server. Cloning shares the connection pool.
#[derive(Clone)]
pub struct RpcChain {
    rpc: Arc<RpcClient>,
}

impl RpcChain {
    /// A client of the server at `url` (`http://` or `https://`). Nothing is sent before the first call.
    pub fn new(url: &str) -> Self {
        let rpc =
            RpcClient::new_with_timeout_and_commitment(url.to_owned(), REQUEST_TIMEOUT, CommitmentConfig::confirmed());
        Self { rpc: Arc::new(rpc) }
    }

    /// The server's address.
    pub fn url(&self) -> String {
        self.rpc.url()
    }
}

#[async_trait]
impl ChainClient for RpcChain {
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        Ok(self.rpc.get_genesis_hash().await.map_err(rpc_error)?.to_bytes())
    }

    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        Ok(self.accounts_at(addresses).await?.1)
    }

    async fn program_accounts(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<(Address, Account)>, ChainError> {
        let mut filters = vec![
            RpcFilterType::DataSize(filter.data_len as u64),
            RpcFilterType::Memcmp(Memcmp::new_base58_encoded(0, &[filter.discriminator])),
        ];
        if let Some((offset, key)) = &filter.key {
            filters.push(RpcFilterType::Memcmp(Memcmp::new_base58_encoded(*offset, key.as_ref())));
        }
        let config = RpcProgramAccountsConfig {
            filters: Some(filters),
            account_config: account_config(),
            ..RpcProgramAccountsConfig::default()
        };
        let found = self.rpc.get_program_ui_accounts_with_config(program, config).await.map_err(rpc_error)?;
        let mut accounts = Vec::with_capacity(found.len());
        for (address, account) in found {
            let account = decode_account(&account)?;
            // Asked again here, so that a server that knows fewer filters costs time, not truth.
            if account.owner == *program && filter.matches(&account.data) {
                accounts.push((address, account));
            }
        }
        Ok(accounts)
    }

    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        let (hash, last_valid_block_height) =
            self.rpc.get_latest_blockhash_with_commitment(CommitmentConfig::confirmed()).await.map_err(rpc_error)?;
        Ok(Blockhash { hash, last_valid_block_height })
    }

    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        check_size(transaction)?;
        let signature = transaction
            .signatures
            .first()
            .copied()
            .ok_or_else(|| ChainError::Malformed("the transaction is not signed".into()))?;
        let config = RpcSendTransactionConfig {
            preflight_commitment: Some(CommitmentConfig::confirmed().commitment),
            ..RpcSendTransactionConfig::default()
        };
        match self.rpc.send_transaction_with_config(transaction, config).await.map_err(rpc_error) {
            // Sent before, by us: it has landed, which is what sending again is for.
            Err(ChainError::Refused(TransactionError::AlreadyProcessed)) => Ok(signature),
            other => other,
        }
    }

    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        let seen = self.rpc.get_epoch_info_with_commitment(CommitmentConfig::confirmed()).await.map_err(rpc_error)?;
        let mut statuses = Vec::with_capacity(signatures.len());
        for chunk in signatures.chunks(MAX_SIGNATURES) {
            let answer = self.rpc.get_signature_statuses_with_history(chunk).await.map_err(rpc_error)?;
            if answer.value.len() != chunk.len() {
                return Err(ChainError::Malformed(format!(
                    "{} statuses for {} signatures",
                    answer.value.len(),
                    chunk.len()
                )));
            }
            // Behind one address may be several servers. One that lags knows nothing of what has landed since, and
            // with the height of another its silence would pass for death.
            // r[impl settlement.submit.uncertain_not_dead]
            if answer.context.slot < seen.absolute_slot {
                return Err(ChainError::Unreachable(format!(
                    "its statuses are of slot {}, behind slot {} that it named before",
                    answer.context.slot, seen.absolute_slot
                )));
            }
            statuses.extend(answer.value.into_iter().map(|status| {
                status.map(|status| Status {
                    slot: status.slot,
                    commitment: match status.confirmation_status {
                        Some(TransactionConfirmationStatus::Finalized) => Commitment::Finalized,
                        Some(TransactionConfirmationStatus::Confirmed) => Commitment::Confirmed,
                        Some(TransactionConfirmationStatus::Processed) => Commitment::Processed,
                        // Old servers name no commitment; no count of confirmations means rooted.
                        None if status.confirmations.is_none() => Commitment::Finalized,
                        None => Commitment::Processed,
                    },
                    err: status.err,
                })
            }));
        }
        Ok(Statuses { block_height: seen.block_height, statuses })
    }

    async fn accounts_at(&self, addresses: &[Address]) -> Result<(u64, Vec<Option<Account>>), ChainError> {
        let mut accounts = Vec::with_capacity(addresses.len());
        let mut oldest = None;
        for chunk in addresses.chunks(MAX_ADDRESSES) {
            let config = account_config();
            let answer = self.rpc.get_multiple_ui_accounts_with_config(chunk, config).await.map_err(rpc_error)?;
            if answer.value.len() != chunk.len() {
                return Err(ChainError::Malformed(format!(
                    "{} accounts for {} addresses",
                    answer.value.len(),
                    chunk.len()
                )));
            }
            oldest = Some(oldest.map_or(answer.context.slot, |slot: u64| slot.min(answer.context.slot)));
            for account in answer.value {
                accounts.push(account.as_ref().map(decode_account).transpose()?);
            }
        }
        Ok((oldest.unwrap_or_default(), accounts))
    }

    async fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulation, ChainError> {
        check_size(transaction)?;
        let config = RpcSimulateTransactionConfig {
            sig_verify: false,
            replace_recent_blockhash: true,
            commitment: Some(CommitmentConfig::confirmed()),
            ..RpcSimulateTransactionConfig::default()
        };
        let answer = self.rpc.simulate_transaction_with_config(transaction, config).await.map_err(rpc_error)?.value;
        let err = answer.err.map(TransactionError::from);
        let units = match (answer.units_consumed, &err) {
            (Some(units), _) => units,
            (None, Some(_)) => 0,
            (None, None) => return Err(ChainError::Malformed("a simulation without units".into())),
        };
        let return_data = match answer.return_data {
            Some(UiTransactionReturnData { data: (data, UiReturnDataEncoding::Base64), .. }) => {
                let data = UiAccountData::Binary(data, UiAccountEncoding::Base64);
                let bytes = data.decode().filter(|bytes| bytes.len() <= MAX_RETURN_DATA);
                bytes.ok_or_else(|| ChainError::Malformed("return data is not base64 or too long".into()))?
            }
            None => Vec::new(),
        };
        Ok(Simulation { units, loaded_data_bytes: answer.loaded_accounts_data_size, err, return_data })
    }

    async fn recent_fees(&self, writable: &[Address]) -> Result<Vec<u64>, ChainError> {
        let writable = writable.get(..MAX_FEE_ACCOUNTS).unwrap_or(writable);
        let fees = self.rpc.get_recent_prioritization_fees(writable).await.map_err(rpc_error)?;
        Ok(fees.into_iter().take(MAX_RECENT_FEES).map(|block| block.prioritization_fee).collect())
    }
}

fn account_config() -> RpcAccountInfoConfig {
    RpcAccountInfoConfig {
        encoding: Some(UiAccountEncoding::Base64),
        commitment: Some(CommitmentConfig::confirmed()),
        ..RpcAccountInfoConfig::default()
    }
}

fn decode_account(account: &UiAccount) -> Result<Account, ChainError> {
    let data = account.data.decode().ok_or_else(|| ChainError::Malformed("account data is not base64".into()))?;
    let owner = Address::from_str(&account.owner)
        .map_err(|_| ChainError::Malformed(format!("account owner {:?} is not an address", account.owner)))?;
    Ok(Account { owner, lamports: account.lamports, data })
}

/// Sorts the client's errors: refused by the chain, refused by the server, or not reached at all.
fn rpc_error(error: ClientError) -> ChainError {
    if let Some(refusal) = error.get_transaction_error() {
        return ChainError::Refused(refusal);
    }
    match error.kind() {
        ErrorKind::RpcError(RpcError::RpcResponseError { code, message, .. }) => {
            // Some servers (surfpool is one) put the refusal into words only.
            if let Some(refusal) = refusal_in_words(message) {
                return ChainError::Refused(refusal);
            }
            ChainError::Rpc { code: *code, message: message.clone() }
        }
        ErrorKind::RpcError(RpcError::RpcRequestError(what)) => ChainError::Unreachable(what.clone()),
        ErrorKind::RpcError(RpcError::ParseError(what)) => ChainError::Malformed(format!("expected {what}")),
        ErrorKind::RpcError(RpcError::ForUser(what)) => ChainError::Malformed(what.clone()),
        ErrorKind::SerdeJson(what) => ChainError::Malformed(what.to_string()),
        ErrorKind::Io(_) | ErrorKind::Reqwest(_) | ErrorKind::Middleware(_) => ChainError::Unreachable(words(&error)),
        ErrorKind::SigningError(_) | ErrorKind::TransactionError(_) | ErrorKind::Custom(_) => {
            ChainError::Malformed(error.to_string())
        }
    }
}

fn refusal_in_words(message: &str) -> Option<TransactionError> {
    let already = TransactionError::AlreadyProcessed.to_string();
    let stale = TransactionError::BlockhashNotFound.to_string();
    if message.contains(&already) {
        Some(TransactionError::AlreadyProcessed)
    } else if message.contains(&stale) {
        Some(TransactionError::BlockhashNotFound)
    } else {
        None
    }
}

/// An error and what caused it, in one line: "connection refused" lies at the bottom.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Longest wait for one answer. Public servers take seconds under load; a dead one should not hold a caller long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Most addresses of one getMultipleAccounts call.
const MAX_ADDRESSES: usize = 100;

/// Most signatures of one getSignatureStatuses call.
const MAX_SIGNATURES: usize = 256;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;
    use solana_rpc_client_api::request::RpcRequest;

    use super::*;

    #[tokio::test]
    async fn closed_port_is_unreachable_and_retryable() {
        // Bound and dropped: nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let chain = RpcChain::new(&format!("http://127.0.0.1:{port}"));
        let error = chain.genesis_hash().await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable(_)), "{error}");
        assert!(error.is_retryable());
    }

    /// A server whose epoch info is of slot 100 and whose statuses are of `statuses_slot`.
    fn scripted(statuses_slot: u64) -> RpcChain {
        let epoch = json!({
            "epoch": 0, "slotIndex": 100, "slotsInEpoch": 432_000, "absoluteSlot": 100, "blockHeight": 90,
            "transactionCount": null,
        });
        let statuses = json!({ "context": { "slot": statuses_slot }, "value": [null] });
        let mocks = HashMap::from([(RpcRequest::GetEpochInfo, epoch), (RpcRequest::GetSignatureStatuses, statuses)]);
        RpcChain { rpc: Arc::new(RpcClient::new_mock_with_mocks("succeeds".to_owned(), mocks)) }
    }

    // r[verify settlement.submit.uncertain_not_dead]
    #[tokio::test]
    async fn statuses_of_a_server_that_lags_behind_its_height_count_for_nothing() {
        let error = scripted(99).statuses(&[Signature::default()]).await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable(_)), "{error}");
        assert!(error.is_retryable());
        let answer = scripted(100).statuses(&[Signature::default()]).await.unwrap();
        assert_eq!(answer, Statuses { block_height: 90, statuses: vec![None] });
    }

    #[tokio::test]
    async fn no_addresses_need_no_server() {
        let chain = RpcChain::new("http://127.0.0.1:1");
        assert_eq!(chain.accounts(&[]).await.unwrap(), vec![]);
    }
}
