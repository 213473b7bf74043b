//! What an operator is told before it starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use aro_proto::Amount;
use aro_proto::limits::EXCHANGE_TIMEOUT_MS;
use settlement_chain::{Address, Program};

use crate::submit::{FeePolicy, FormatChoice};
use crate::vouchers::StoreUrl;

/// How an operator runs. `Default` fits a local chain; set at least `dir`.
#[derive(Clone, Debug)]
pub struct OperatorConfig {
    /// Where the database lies. Default: the working directory.
    pub dir: PathBuf,
    /// What keeps vouchers and journal. Default: a redb file in `dir`; PostgreSQL where several machines share them.
    pub store: StoreUrl,
    /// UDP address to take vouchers at; port 0 is any free one. Default 127.0.0.1:0.
    pub listen: SocketAddr,
    /// The settlement program. Default: that of local chains.
    pub program: Address,
    /// Settling an open channel is not worth it below this much unsettled. Default 0.01 $ARO; lower costs more fees.
    pub min_settle: Amount,
    /// How transactions are written. Default: version 1 where the cluster takes it, else legacy.
    pub format: FormatChoice,
    /// What is offered for a place in a block, and how much of it may be spent.
    pub fees: FeePolicy,
    /// Whether channels are closed when their node asks; else they are only settled. Default true.
    pub close_when_asked: bool,
    /// Milliseconds between settling rounds; 0 settles only when asked. Default 60,000. A wish to close does not wait
    /// for the next round.
    pub settle_interval_ms: u64,
    /// Connections at once. Default 1,024; each costs some 100 KiB and up to its receive window of 1 MiB.
    pub max_connections: usize,
    /// Connections at once from one IP address. Default 64.
    pub max_connections_per_ip: usize,
    /// Milliseconds that a connection may last before its hello has come. Default 10,000.
    pub hello_timeout_ms: u64,
    /// Milliseconds that a connection may last at all; nodes dial again when they have news. Default 600,000.
    pub max_connection_age_ms: u64,
    /// Handoffs that may read chain and database at once; more are told to come back. Default 32.
    pub max_handoffs_at_once: usize,
    /// Milliseconds for which facts read from the chain are good enough to judge a handoff by. Default 2,000.
    pub chain_cache_ms: u64,
}

impl Default for OperatorConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("."),
            store: StoreUrl::default(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            program: Program::local().id,
            min_settle: Amount::new(10_000),
            format: FormatChoice::Auto,
            fees: FeePolicy::default(),
            close_when_asked: true,
            settle_interval_ms: 60_000,
            max_connections: 1_024,
            max_connections_per_ip: 64,
            hello_timeout_ms: EXCHANGE_TIMEOUT_MS,
            max_connection_age_ms: 600_000,
            max_handoffs_at_once: 32,
            chain_cache_ms: 2_000,
        }
    }
}

impl OperatorConfig {
    /// The file of vouchers and journal, where the store is a file.
    pub fn database(&self) -> PathBuf {
        self.dir.join("operator.redb")
    }

    /// The socket at which a running operator takes commands.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }
}
