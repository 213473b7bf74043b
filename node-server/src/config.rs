//! What a node is set to.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use aro_proto::limits::{EXCHANGE_TIMEOUT_MS, IDLE_TIMEOUT_MS, PAYMENT_TIMEOUT_MS};
use aro_proto::{NodeId, Tariff};
use settlement_chain::{Address, Program};

/// A node's settings. Only the folder has no default; [`NodeConfig::new`] fills in the rest.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Folder of contents and ledger; created if needed.
    pub dir: PathBuf,
    /// UDP address to serve on. Default 127.0.0.1, any free port.
    pub listen: SocketAddr,
    /// Host that addresses name, if it is not the one listened on.
    pub public_host: Option<String>,
    /// The price list. Default free.
    pub tariff: Tariff,
    /// Address of the settlement program. Default that of local chains.
    pub program: Address,
    /// Who settles for this node; without one, vouchers only gather.
    pub operator: Option<OperatorEndpoint>,
    /// Milliseconds between handoffs to the operator. Default 60,000. Lower costs the operator work, higher leaves
    /// more unsettled if this disk is lost.
    pub handoff_interval_ms: u64,
    /// Milliseconds between looks at the chain. Default 5,000; each costs one RPC call.
    pub follow_interval_ms: u64,
    /// Seconds without request or voucher after which an open channel is handed over to be closed. Default one day.
    pub close_idle_after_s: u64,
    /// Connections at once. Default 4,096; each may hold some 34 MiB at worst.
    pub max_connections: usize,
    /// Connections at once from one IPv4 address or IPv6 /64 network. Default 256.
    pub max_connections_per_ip: usize,
    /// Fetches at once, over all connections. Default 4,096; each holds at most two batches, half a MiB. One
    /// connection may have a sixteenth of them.
    pub max_requests: usize,
    /// Milliseconds that a peer has to complete a hello or request. Default 10,000.
    pub exchange_timeout_ms: u64,
    /// Milliseconds after the hello in which a request that costs money waits for a bind. Default 5,000.
    pub bind_timeout_ms: u64,
    /// Milliseconds that a stream waits at an exhausted credit window. Default 15,000.
    pub payment_timeout_ms: u64,
    /// Milliseconds for which an agent may leave a full receive window unread. Default 30,000.
    pub stall_timeout_ms: u64,
    /// Milliseconds after which a connection with no bound channel and no open request is closed. Default 60,000.
    pub idle_unbound_ms: u64,
    /// Milliseconds that running requests have to finish when the node stops. Default 10,000.
    pub shutdown_grace_ms: u64,
}

/// Where an operator takes vouchers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorEndpoint {
    /// Its transport key.
    pub id: NodeId,
    /// `host:port`.
    pub address: String,
}

impl NodeConfig {
    /// Defaults, for a folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            public_host: None,
            tariff: Tariff::default(),
            program: Program::local().id,
            operator: None,
            handoff_interval_ms: 60_000,
            follow_interval_ms: 5_000,
            close_idle_after_s: 24 * 60 * 60,
            max_connections: 4_096,
            max_connections_per_ip: 256,
            max_requests: 4_096,
            exchange_timeout_ms: EXCHANGE_TIMEOUT_MS,
            bind_timeout_ms: 5_000,
            payment_timeout_ms: PAYMENT_TIMEOUT_MS,
            stall_timeout_ms: IDLE_TIMEOUT_MS,
            idle_unbound_ms: 60_000,
            shutdown_grace_ms: 10_000,
        }
    }
}

/// Why a text is not an operator's endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an operator: write <operator id>@<host>:<port>")]
pub struct OperatorEndpointError(String);

/// Reads `<operator id>@<host>:<port>`.
impl std::str::FromStr for OperatorEndpoint {
    type Err = OperatorEndpointError;
    fn from_str(text: &str) -> Result<Self, OperatorEndpointError> {
        let parsed = text.split_once('@').and_then(|(id, address)| {
            let (host, port) = address.rsplit_once(':')?;
            port.parse::<u16>().ok().filter(|_| !host.is_empty())?;
            Some(Self { id: id.parse().ok()?, address: address.to_owned() })
        });
        parsed.ok_or_else(|| OperatorEndpointError(text.chars().take(128).collect()))
    }
}

impl std::fmt::Display for OperatorEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.id, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_reads_back_and_anything_else_is_refused() {
        let id = NodeId::from_bytes([7; 32]);
        let text = format!("{id}@127.0.0.1:4434");
        assert_eq!(text.parse::<OperatorEndpoint>().unwrap().to_string(), text);
        for bad in ["", "x@127.0.0.1:1", &format!("{id}"), &format!("{id}@host"), &format!("{id}@:1")] {
            assert!(bad.parse::<OperatorEndpoint>().is_err(), "{bad}");
        }
    }
}
