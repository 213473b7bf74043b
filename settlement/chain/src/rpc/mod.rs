//! The chain over JSON-RPC: any Solana cluster, public, private or on this machine.

mod answer;
mod http;
#[cfg(test)]
mod scripted;

use std::time::Duration;

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use solana_address::Address;
use solana_signature::Signature;
use solana_transaction::versioned::VersionedTransaction;
use solana_transaction_error::TransactionError;

use self::{
    answer::{AtSlot, BlockFee, EpochInfo, KeyedAccount, RawAccount, RawBlockhash, RawSimulation, RawStatus},
    http::Server,
};
use crate::client::{
    Account, AccountFilter, Blockhash, ChainClient, ChainError, MAX_FEE_ACCOUNTS, MAX_RECENT_FEES, Simulation,
    Statuses, check_size, wire_bytes,
};

/// A cluster behind a JSON-RPC server. Cloning shares the connections.
#[derive(Clone)]
pub struct RpcChain {
    server: Server,
}

impl RpcChain {
    /// A client of the server at `url` (`http://` or `https://`). Nothing is sent before the first call.
    pub fn new(url: &str) -> Self {
        Self { server: Server::new(url, REQUEST_TIMEOUT) }
    }

    /// The server's address, with whatever key it holds: not for logs.
    pub fn url(&self) -> String {
        self.server.url().to_owned()
    }

    /// Scheme, host and port of the server: what may be shown.
    pub fn place(&self) -> String {
        self.server.place()
    }

    /// True if the address can be one at all.
    pub(crate) fn is_valid(&self) -> bool {
        self.server.is_valid()
    }

    async fn call<T: serde::de::DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, ChainError> {
        self.server.call(method, params, MAX_ANSWER).await
    }
}

#[async_trait]
impl ChainClient for RpcChain {
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        let hash: String = self.call("getGenesisHash", json!([])).await?;
        Ok(answer::hash(&hash)?.to_bytes())
    }

    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        Ok(self.accounts_at(addresses).await?.1)
    }

    async fn program_accounts(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<(Address, Account)>, ChainError> {
        let memcmp = |offset: usize, base58: String| json!({ "memcmp": { "offset": offset, "bytes": base58 } });
        let discriminator = bs58::encode([filter.discriminator]).into_string();
        let mut filters = vec![json!({ "dataSize": filter.data_len }), memcmp(0, discriminator)];
        filters.extend(filter.key.as_ref().map(|(offset, key)| memcmp(*offset, key.to_string())));
        let config = json!({ "encoding": "base64", "commitment": CONFIRMED, "filters": filters });
        let params = json!([program.to_string(), config]);
        let found: Vec<KeyedAccount> = self.server.call("getProgramAccounts", params, MAX_PROGRAM_ACCOUNTS).await?;
        let mut accounts = Vec::with_capacity(found.len());
        for KeyedAccount { pubkey, account } in found {
            let account = account.decode()?;
            // Asked again here, so that a server that knows fewer filters costs time, not truth.
            if account.owner == *program && filter.matches(&account.data) {
                accounts.push((answer::address(&pubkey)?, account));
            }
        }
        Ok(accounts)
    }

    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        let answer: AtSlot<RawBlockhash> =
            self.call("getLatestBlockhash", json!([{ "commitment": CONFIRMED }])).await?;
        answer.value.decode()
    }

    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        check_size(transaction)?;
        let signature = transaction
            .signatures
            .first()
            .copied()
            .ok_or_else(|| ChainError::Malformed("the transaction is not signed".into()))?;
        let config = json!({ "encoding": "base64", "preflightCommitment": CONFIRMED });
        let params = json!([BASE64.encode(wire_bytes(transaction)?), config]);
        match self.call::<String>("sendTransaction", params).await {
            // Sent before, by us: it has landed, which is what sending again is for.
            Ok(_) | Err(ChainError::Refused(TransactionError::AlreadyProcessed)) => Ok(signature),
            Err(error) => Err(error),
        }
    }

    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        let seen: EpochInfo = self.call("getEpochInfo", json!([{ "commitment": CONFIRMED }])).await?;
        let mut statuses = Vec::with_capacity(signatures.len());
        for chunk in signatures.chunks(MAX_SIGNATURES) {
            let asked: Vec<String> = chunk.iter().map(Signature::to_string).collect();
            let params = json!([asked, { "searchTransactionHistory": true }]);
            let answer: AtSlot<Vec<Option<RawStatus>>> = self.call("getSignatureStatuses", params).await?;
            as_many("statuses", answer.value.len(), chunk.len())?;
            // Behind one address may be several servers. One that lags knows nothing of what has landed since, and
            // with the height of another its silence would pass for death.
            // r[impl settlement.submit.uncertain_not_dead]
            if answer.context.slot < seen.absolute_slot {
                return Err(ChainError::Unreachable(format!(
                    "its statuses are of slot {}, behind slot {} that it named before",
                    answer.context.slot, seen.absolute_slot
                )));
            }
            for status in answer.value {
                statuses.push(status.as_ref().map(RawStatus::decode).transpose()?);
            }
        }
        Ok(Statuses { block_height: seen.block_height, statuses })
    }

    async fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulation, ChainError> {
        check_size(transaction)?;
        let config = json!({
            "encoding": "base64", "commitment": CONFIRMED, "sigVerify": false, "replaceRecentBlockhash": true,
        });
        let params = json!([BASE64.encode(wire_bytes(transaction)?), config]);
        let answer: AtSlot<RawSimulation> = self.call("simulateTransaction", params).await?;
        answer.value.decode()
    }

    async fn recent_fees(&self, writable: &[Address]) -> Result<Vec<u64>, ChainError> {
        let writable = writable.get(..MAX_FEE_ACCOUNTS).unwrap_or(writable);
        let writable: Vec<String> = writable.iter().map(Address::to_string).collect();
        let fees: Vec<BlockFee> = self.call("getRecentPrioritizationFees", json!([writable])).await?;
        Ok(fees.into_iter().take(MAX_RECENT_FEES).map(|block| block.prioritization_fee).collect())
    }

    async fn accounts_at(&self, addresses: &[Address]) -> Result<(u64, Vec<Option<Account>>), ChainError> {
        let mut accounts = Vec::with_capacity(addresses.len());
        let mut oldest = None;
        for chunk in addresses.chunks(MAX_ADDRESSES) {
            let asked: Vec<String> = chunk.iter().map(Address::to_string).collect();
            let params = json!([asked, { "encoding": "base64", "commitment": CONFIRMED }]);
            let answer: AtSlot<Vec<Option<RawAccount>>> = self.call("getMultipleAccounts", params).await?;
            as_many("accounts", answer.value.len(), chunk.len())?;
            oldest = Some(oldest.map_or(answer.context.slot, |slot: u64| slot.min(answer.context.slot)));
            for account in answer.value {
                accounts.push(account.as_ref().map(RawAccount::decode).transpose()?);
            }
        }
        Ok((oldest.unwrap_or_default(), accounts))
    }
}

fn as_many(what: &str, found: usize, asked: usize) -> Result<(), ChainError> {
    if found == asked {
        Ok(())
    } else {
        Err(ChainError::Malformed(format!("{found} {what} where {asked} were asked for")))
    }
}

/// Two thirds of the stake have voted for it: what every read and every simulation looks at.
const CONFIRMED: &str = "confirmed";

/// Longest wait for one answer. Public servers take seconds under load; a dead one should not hold a caller long.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Most addresses of one getMultipleAccounts call.
const MAX_ADDRESSES: usize = 100;

/// Most signatures of one getSignatureStatuses call.
const MAX_SIGNATURES: usize = 256;

/// Most bytes of an answer: a program's code in base64 fits.
const MAX_ANSWER: usize = 32 << 20;

/// Most bytes of all accounts that match a filter: some 500,000 channels.
const MAX_PROGRAM_ACCOUNTS: usize = 256 << 20;

#[cfg(test)]
mod tests {
    use super::{scripted::Script, *};

    #[tokio::test]
    async fn closed_port_is_unreachable_and_retryable() {
        // Bound and dropped: nobody listens there.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let chain = RpcChain::new(&format!("http://127.0.0.1:{port}"));
        let error = chain.genesis_hash().await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable(_)), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
        assert!(error.is_retryable());
    }

    #[tokio::test]
    async fn address_that_cannot_be_one_is_told_without_asking_anybody() {
        for url in ["", "localhost:8899", "ftp://host", "http://", "http:// host"] {
            let error = RpcChain::new(url).genesis_hash().await.unwrap_err();
            assert!(error.to_string().contains("http://HOST:PORT"), "{url}: {error}");
        }
    }

    /// A server whose epoch info is of slot 100 and whose statuses are of `statuses_slot`.
    async fn lagging(statuses_slot: u64) -> RpcChain {
        let epoch = json!({ "absoluteSlot": 100, "blockHeight": 90, "epoch": 0 });
        let statuses = json!({ "context": { "slot": statuses_slot }, "value": [null] });
        Script::new().result(epoch).result(statuses).serve().await
    }

    // r[verify settlement.submit.uncertain_not_dead]
    #[tokio::test]
    async fn statuses_of_a_server_that_lags_behind_its_height_count_for_nothing() {
        let error = lagging(99).await.statuses(&[Signature::default()]).await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable(_)), "{error}");
        assert!(error.is_retryable());
        let answer = lagging(100).await.statuses(&[Signature::default()]).await.unwrap();
        assert_eq!(answer, Statuses { block_height: 90, statuses: vec![None] });
    }

    #[tokio::test]
    async fn no_addresses_need_no_server() {
        let chain = RpcChain::new("http://127.0.0.1:1");
        assert_eq!(chain.accounts(&[]).await.unwrap(), vec![]);
    }

    #[tokio::test]
    async fn answers_of_the_wrong_number_or_shape_are_malformed() {
        let account = json!({ "lamports": 5, "owner": "11111111111111111111111111111111", "data": ["AQI=", "base64"] });
        let at = |value: Value| json!({ "context": { "slot": 7 }, "value": value });
        let ask = async |value: Value| {
            let chain = Script::new().result(at(value)).serve().await;
            chain.accounts_at(&[Address::default()]).await
        };
        let (slot, accounts) = ask(json!([account])).await.unwrap();
        assert_eq!((slot, accounts[0].as_ref().unwrap().data.as_slice()), (7, [1, 2].as_slice()));
        for value in [json!([]), json!([null, null]), json!([7]), json!({}), json!(null)] {
            let error = ask(value.clone()).await.unwrap_err();
            assert!(matches!(error, ChainError::Malformed(_)), "{value}: {error}");
        }
        for data in [json!(["AQI=", "base58"]), json!(["%", "base64"])] {
            let mut account = account.clone();
            account["data"] = data;
            assert!(matches!(ask(json!([account])).await, Err(ChainError::Malformed(_))));
        }
    }

    #[tokio::test]
    async fn simulation_tells_limits_failure_and_returned_bytes() {
        let value = json!({
            "err": { "InstructionError": [0, { "Custom": 1 }] }, "unitsConsumed": 150, "loadedAccountsDataSize": 4096,
            "returnData": { "programId": "11111111111111111111111111111111", "data": ["Kg==", "base64"] },
        });
        let chain = Script::new().result(json!({ "context": { "slot": 7 }, "value": value })).serve().await;
        let simulation = chain.simulate(&VersionedTransaction::default()).await.unwrap();
        assert_eq!((simulation.units, simulation.loaded_data_bytes), (150, Some(4096)));
        assert_eq!((simulation.err.is_some(), simulation.return_data), (true, vec![42]));
    }

    #[tokio::test]
    async fn recent_fees_are_bounded() {
        let blocks: Vec<Value> = (0..600).map(|slot| json!({ "slot": slot, "prioritizationFee": slot })).collect();
        let chain = Script::new().result(json!(blocks)).serve().await;
        let many = vec![Address::default(); 300];
        let fees = chain.recent_fees(&many).await.unwrap();
        assert_eq!(fees, (0..MAX_RECENT_FEES as u64).collect::<Vec<_>>());
    }
}
