//! What an operator is told before it starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use aro_proto::Amount;
use aro_proto::limits::EXCHANGE_TIMEOUT_MS;
use settlement_chain::{Address, Program};

use crate::batch::Rules;
use crate::intake::WatchFor;
use crate::submit::{FeePolicy, FormatChoice};
use crate::vouchers::StoreUrl;

/// How an operator runs. `Default` fits a local chain; set at least `dir`.
#[derive(Clone, Debug)]
pub struct OperatorConfig {
    /// Where the database lies. Default: the working directory.
    pub dir: PathBuf,
    /// What keeps vouchers and journal. Default: a redb file in `dir`; PostgreSQL where several machines share them.
    pub store: StoreUrl,
    /// Milliseconds without news after which another operator of the same database settles instead. Default 30,000;
    /// less takes over sooner, and wanders when the database has a bad moment.
    pub lease_ttl_ms: u64,
    /// Days for which the audit trail is kept; 0, the default, keeps it for good. A row takes some 500 bytes.
    pub history_days: u32,
    /// UDP address to take vouchers at; port 0 is any free one. Default 127.0.0.1:0.
    pub listen: SocketAddr,
    /// The settlement program. Default: that of local chains.
    pub program: Address,
    /// When settling is due.
    pub rules: Rules,
    /// How transactions are written. Default: version 1 where the cluster takes it, else legacy.
    pub format: FormatChoice,
    /// What is offered for a place in a block, and how much of it may be spent.
    pub fees: FeePolicy,
    /// Whether channels are closed when their node asks; else they are only settled. Default true.
    pub close_when_asked: bool,
    /// Seconds after its start for which an operator closes no channel because of a wish that was stored before, unless
    /// its node says it anew, as nodes do at least once an hour: the database may be an old backup, and closing is
    /// final. Default 86,400; lower closes sooner for nodes that are gone, and gives others less time to be heard.
    pub wish_wait_s: u64,
    /// Milliseconds between settling rounds. Default 60,000. A wish to close does not wait for the next round. 0 does
    /// nothing unless asked: no rounds, no watchtower, no sweeps.
    pub settle_interval_ms: u64,
    /// Milliseconds between sweeps, which search the chain for channels to finalize and reclaim. Default 600,000; lower
    /// costs heavy questions to the Solana server.
    pub sweep_interval_ms: u64,
    /// The operator's fees are paid out when they reach this. Default none: they wait for `aro-settle withdraw`.
    pub withdraw_fees_above: Option<Amount>,
    /// For which nodes of other operators closing channels are watched as well. Default nobody; it costs fees and earns
    /// none.
    pub watch_for: WatchFor,
    /// TCP address of the metrics page. Default none. Keep it on loopback or behind a wall.
    pub metrics_listen: Option<SocketAddr>,
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
    /// Milliseconds for which facts read from the chain are good enough to judge a handoff by. Default 2,000; keep it
    /// well below what finality takes on the chain, some 12,000.
    pub chain_cache_ms: u64,
}

impl Default for OperatorConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("."),
            store: StoreUrl::default(),
            lease_ttl_ms: 30_000,
            history_days: 0,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            program: Program::local().id,
            rules: Rules::default(),
            format: FormatChoice::Auto,
            fees: FeePolicy::default(),
            close_when_asked: true,
            wish_wait_s: 86_400,
            settle_interval_ms: 60_000,
            sweep_interval_ms: 600_000,
            withdraw_fees_above: None,
            watch_for: WatchFor::Nobody,
            metrics_listen: None,
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
