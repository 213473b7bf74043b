//! A chain client that counts: how often a server was asked, and how often it had no answer.

use std::sync::Arc;

use async_trait::async_trait;
use settlement_chain::{
    Account, AccountFilter, Address, Blockhash, ChainClient, ChainError, ConnectError, RpcChain, ServerHealth, Servers,
    Signature, Simulation, Statuses, VersionedTransaction,
};

use super::Metrics;

/// The chain behind a comma-separated list of servers, each counted under its place in the list.
///
/// # Errors
/// [`ConnectError`] names the address that cannot be used.
pub fn connect_metered(urls: &str, metrics: &Arc<Metrics>) -> Result<Arc<dyn ChainClient>, ConnectError> {
    // Finds what is wrong with the list, and asks nothing.
    settlement_chain::connect(urls)?;
    let urls = urls.split(',').map(str::trim).filter(|url| !url.is_empty());
    let member = |(index, url): (usize, &str)| {
        let server = RpcChain::new(url);
        let name = server.place();
        let counted: Arc<dyn ChainClient> = Arc::new(MeteredChain::new(Arc::new(server), index, Arc::clone(metrics)));
        (name, counted)
    };
    // One alone is watched as several are.
    Ok(Arc::new(Servers::new(urls.enumerate().map(member).collect())))
}

/// Counts what goes through it. The server's index in the configuration is its label: its address may hold a secret.
pub struct MeteredChain {
    inner: Arc<dyn ChainClient>,
    server: usize,
    metrics: Arc<Metrics>,
}

impl MeteredChain {
    /// Counts for the server of this index.
    pub fn new(inner: Arc<dyn ChainClient>, server: usize, metrics: Arc<Metrics>) -> Self {
        Self { inner, server, metrics }
    }

    fn counted<T>(&self, answer: Result<T, ChainError>) -> Result<T, ChainError> {
        // A refused transaction is an answer.
        let is_answer = matches!(answer, Ok(_) | Err(ChainError::Refused(_) | ChainError::TooLarge { .. }));
        self.metrics.rpc(self.server, is_answer);
        answer
    }
}

#[async_trait]
impl ChainClient for MeteredChain {
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        self.counted(self.inner.genesis_hash().await)
    }

    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        self.counted(self.inner.accounts(addresses).await)
    }

    async fn program_accounts(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<(Address, Account)>, ChainError> {
        self.counted(self.inner.program_accounts(program, filter).await)
    }

    async fn program_accounts_by_server(
        &self,
        program: &Address,
        filter: &AccountFilter,
    ) -> Result<Vec<Vec<(Address, Account)>>, ChainError> {
        self.counted(self.inner.program_accounts_by_server(program, filter).await)
    }

    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        self.counted(self.inner.latest_blockhash().await)
    }

    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        self.counted(self.inner.send(transaction).await)
    }

    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        self.counted(self.inner.statuses(signatures).await)
    }

    async fn is_past(&self, signature: &Signature, block_height: u64) -> Result<bool, ChainError> {
        self.counted(self.inner.is_past(signature, block_height).await)
    }

    async fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulation, ChainError> {
        self.counted(self.inner.simulate(transaction).await)
    }

    async fn recent_fees(&self, writable: &[Address]) -> Result<Vec<u64>, ChainError> {
        self.counted(self.inner.recent_fees(writable).await)
    }

    async fn accounts_at(&self, addresses: &[Address]) -> Result<(u64, Vec<Option<Account>>), ChainError> {
        self.counted(self.inner.accounts_at(addresses).await)
    }

    async fn accounts_by_server(
        &self,
        addresses: &[Address],
        least: usize,
    ) -> Result<Vec<Vec<Option<Account>>>, ChainError> {
        self.counted(self.inner.accounts_by_server(addresses, least).await)
    }

    async fn clock(&self) -> Result<i64, ChainError> {
        self.counted(self.inner.clock().await)
    }

    fn health(&self) -> Vec<ServerHealth> {
        self.inner.health()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_server_of_the_list_is_counted_under_its_place() {
        let metrics = Arc::new(Metrics::new());
        // Ports of the loopback that nothing listens at.
        let chain = connect_metered("http://127.0.0.1:1, http://127.0.0.1:2", &metrics).unwrap();
        assert!(chain.genesis_hash().await.is_err());
        let text = metrics.to_text();
        for server in ["0", "1"] {
            let series = format!("aro_settle_rpc_errors_total{{server=\"{server}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&series));
            assert!(line.is_some_and(|count| count != "0"), "{series} in {text}");
        }
        assert!(!text.contains("aro_settle_server_up{"), "nobody watches yet");
        metrics.watch_servers(&chain);
        let text = metrics.to_text();
        for series in ["server_up{server=\"1\"} 0", "server_lag_slots{server=\"0\"} 0", "server_absent{server=\"0\"} 0"]
        {
            assert!(text.contains(&format!("aro_settle_{series}\n")), "{series} in {text}");
        }
        assert!(text.contains("aro_settle_server_contradictions_total 0\n"), "{text}");
        let alone = connect_metered("http://127.0.0.1:1", &metrics).unwrap();
        assert_eq!(alone.health().len(), 1, "one alone is watched as well");
        for wrong in ["", "http://127.0.0.1:1,http://127.0.0.1:1", "not an address"] {
            assert!(connect_metered(wrong, &metrics).is_err(), "{wrong}");
        }
    }
}
