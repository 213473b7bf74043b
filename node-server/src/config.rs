//! What a node is set to.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use aro_proto::limits::{
    EXCHANGE_TIMEOUT_MS, IDLE_TIMEOUT_MS, MAX_WINDOW_BYTES, NAMES, NAMES_PER_PUBLISHER, PAYMENT_TIMEOUT_MS,
    PUBLISH_CONTENT_BYTES, PUBLISH_PARTIAL_BYTES, PUBLISH_PARTIAL_KEEP_S, PUBLISH_QUOTA, PUBLISH_QUOTA_PER_PUBLISHER,
    PUBLISHES_AT_ONCE, PUBLISHES_AT_ONCE_PER_PUBLISHER,
};
use aro_proto::message::PublishTerms;
use aro_proto::transport::TransportSettings;
use aro_proto::{AgentId, NodeId, Tariff};
use settlement_chain::{Address, Keypair, Program, Signer};

use crate::content::DEFAULT_HOT_BYTES;

/// A node's settings. Only the folder has no default; [`NodeConfig::new`] fills in the rest.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Folder of contents and ledger; created if needed.
    pub dir: PathBuf,
    /// UDP address to serve on. Default 127.0.0.1, any free port.
    pub listen: SocketAddr,
    /// Sockets on that address, each with a driver of its own. Default 1, which fills two cores; one for every two cores
    /// of a bigger machine. With several, the system (Linux) divides agents among them by their addresses, and an agent
    /// whose address changes has to connect anew.
    pub endpoints: usize,
    /// Host that addresses name, if it is not the one listened on.
    pub public_host: Option<String>,
    /// The price list. Default free.
    pub tariff: Tariff,
    /// Who may give contents to this node, and on which terms. Default nobody.
    pub publish: PublishConfig,
    /// Address of the settlement program. Default that of local chains.
    pub program: Address,
    /// Who gets this node's vouchers; without any, they only gather. The one that the node's account names on chain may
    /// also close channels; the others are second watchtowers and only settle. Each costs one connection a handoff.
    pub operators: Vec<OperatorEndpoint>,
    /// Pays the fees when this node itself settles a closing channel that its operators have left alone. It needs SOL
    /// and nothing else: whoever settles, the money goes to the node's ledger. Default none: then nobody does.
    pub fee_key: Option<FeeKey>,
    /// Milliseconds between handoffs to the operator. Default 60,000. Lower costs the operator work, higher leaves
    /// more unsettled if this disk is lost.
    pub handoff_interval_ms: u64,
    /// Seconds after which a voucher that is not settled is offered again to an operator that has acknowledged it, for
    /// that one may have lost it since. Default one hour, which costs 200 bytes a channel.
    pub reoffer_interval_s: u64,
    /// Milliseconds between looks at the chain. Default 5,000; each costs two RPC calls.
    pub follow_interval_ms: u64,
    /// Seconds without a look at the chain after which a close might be running unseen, and only
    /// [`max_blind_bytes`](Self::max_blind_bytes) more are lent. Default 120; never above a quarter of the shortest
    /// grace. Higher bears longer outages of the RPC server and risks more.
    pub stale_after_s: u64,
    /// Content bytes that are delivered for pay, to all agents together, while the chain cannot be seen. Default 16 MiB.
    pub max_blind_bytes: u64,
    /// Bytes' worth that all channels of one owner may owe together. Default 128 MiB, the largest window of one channel: opening many channels then gains nothing. Less: one channel still has its own
    /// window, and several of one owner wait for each other's payments.
    pub max_owed_bytes_per_owner: u64,
    /// Milliseconds between sends of the same bytes when the node settles itself. Default 1,000; less where a short
    /// grace asks for it.
    pub resend_interval_ms: u64,
    /// Lamports that one settlement of the node's own pays at most on top of its base fee: a little where a channel is
    /// closing, more where others pay too or earlier ones did not land. An hour costs at most forty times as much, however
    /// often the node is started in it. Default 100,000.
    pub max_priority_lamports: u64,
    /// Seconds without request or voucher after which an open channel is handed over to be closed. Default one day.
    pub close_idle_after_s: u64,
    /// Congestion control of what the node sends, and the largest packets that it takes and looks for. Default CUBIC,
    /// which others may outrun on lossy paths and starve there; 6,500 bytes within a network of one's own and 1,452
    /// elsewhere.
    pub transport: TransportSettings,
    /// Bytes of memory for what is asked for most, kept as it goes on the wire. Default 64 MiB. More: memory.
    pub hot_bytes: usize,
    /// Connections at once. Default 4,096; each may hold some 34 MiB at worst.
    pub max_connections: usize,
    /// Connections at once from one IPv4 address or IPv6 /64 network. Default 256.
    pub max_connections_per_ip: usize,
    /// Fetches at once, over all connections. Default 4,096; each holds at most one batch, a quarter MiB, beside what
    /// is in flight. One
    /// connection may have a sixteenth of them.
    pub max_requests: usize,
    /// Bytes of small contents (64 KiB or less each) that are kept in memory. Default 64 MiB; 0 keeps none. More serves
    /// more of them without a look at the disk, and takes that much memory.
    pub small_contents_bytes: usize,
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

/// What a node takes from publishers, and from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishConfig {
    /// Who may publish. Default nobody.
    pub publishers: Publishers,
    /// The price of content bytes that are taken. Default free, which goes with listed publishers only.
    pub tariff: Tariff,
    /// Bytes of the largest content. Default 16 GiB.
    pub max_content_bytes: u64,
    /// Bytes that one publisher may have here, broken-off uploads included. Default 64 GiB.
    pub quota_bytes_per_publisher: u64,
    /// Bytes that all publishers may have here together. Default 256 GiB. Raise it only with the disk.
    pub quota_bytes: u64,
    /// Names that one publisher may have here. Default 1,024.
    pub max_names_per_publisher: usize,
    /// Names that all publishers may have here together. Default 100,000, some 30 MB on disk; they never go away.
    pub max_names: usize,
    /// Bytes of an uploaded content that may stay in the system's page cache. Default 64 MiB: a larger one is written
    /// past it where the system can, which is faster and pushes nothing else out of memory; not so a stream, whose id
    /// nobody knows before its end. More: what is fetched right after its upload need not come from the disk.
    pub page_cache_bytes: u64,
    /// Uploads at once. Default 64; each holds three batches and the packets of another two, 1.25 MiB.
    pub max_at_once: usize,
    /// Uploads at once of one publisher. Default 8.
    pub max_at_once_per_publisher: usize,
    /// Seconds for which a broken-off upload is kept, so that it can go on. Default one day.
    pub partial_keep_s: u64,
    /// Bytes of broken-off uploads that are kept; beyond it the oldest go first. Default 16 GiB.
    pub max_partial_bytes: u64,
}

/// Who may publish at a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Publishers {
    /// Nobody: contents are only added by hand.
    #[default]
    Nobody,
    /// These keys, which sign the requests.
    Listed(BTreeSet<AgentId>),
    /// Anybody whose channel pays for it; the price must not be zero.
    WhoPays,
}

impl Default for PublishConfig {
    fn default() -> Self {
        Self {
            publishers: Publishers::Nobody,
            tariff: Tariff::default(),
            max_content_bytes: PUBLISH_CONTENT_BYTES,
            quota_bytes_per_publisher: PUBLISH_QUOTA_PER_PUBLISHER,
            quota_bytes: PUBLISH_QUOTA,
            max_names_per_publisher: NAMES_PER_PUBLISHER,
            max_names: NAMES,
            page_cache_bytes: 64 << 20,
            max_at_once: PUBLISHES_AT_ONCE,
            max_at_once_per_publisher: PUBLISHES_AT_ONCE_PER_PUBLISHER,
            partial_keep_s: PUBLISH_PARTIAL_KEEP_S,
            max_partial_bytes: PUBLISH_PARTIAL_BYTES,
        }
    }
}

impl PublishConfig {
    /// What the node's hello says of it; none if it takes nothing.
    pub(crate) fn terms(&self) -> Option<PublishTerms> {
        let is_open = self.publishers != Publishers::Nobody;
        is_open.then_some(PublishTerms { tariff: self.tariff, max_content_bytes: self.max_content_bytes })
    }

    // r[impl publish.authorised]
    pub(crate) fn allows(&self, publisher: &AgentId) -> bool {
        match &self.publishers {
            Publishers::Nobody => false,
            Publishers::Listed(keys) => keys.contains(publisher),
            Publishers::WhoPays => !self.tariff.is_free(),
        }
    }
}

/// A key that pays fees. It shows its address and never its secret.
#[derive(Clone)]
pub struct FeeKey(Arc<Keypair>);

impl FeeKey {
    /// Wraps a key.
    pub fn new(key: Keypair) -> Self {
        Self(Arc::new(key))
    }

    /// Where its SOL lies.
    pub fn address(&self) -> Address {
        self.0.pubkey()
    }

    pub(crate) fn signer(&self) -> &Keypair {
        &self.0
    }
}

impl std::fmt::Debug for FeeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FeeKey({})", self.address())
    }
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
            endpoints: 1,
            public_host: None,
            tariff: Tariff::default(),
            publish: PublishConfig::default(),
            program: Program::local().id,
            operators: Vec::new(),
            fee_key: None,
            handoff_interval_ms: 60_000,
            reoffer_interval_s: 60 * 60,
            follow_interval_ms: 5_000,
            stale_after_s: 120,
            max_blind_bytes: 16 << 20,
            max_owed_bytes_per_owner: MAX_WINDOW_BYTES,
            resend_interval_ms: 1_000,
            max_priority_lamports: 100_000,
            close_idle_after_s: 24 * 60 * 60,
            transport: TransportSettings::default(),
            hot_bytes: DEFAULT_HOT_BYTES,
            max_connections: 4_096,
            max_connections_per_ip: 256,
            max_requests: 4_096,
            small_contents_bytes: 64 << 20,
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

    // r[verify publish.authorised]
    #[test]
    fn nobody_publishes_by_default_and_nobody_unlisted_for_nothing() {
        let (listed, other) = (AgentId::from_bytes([1; 32]), AgentId::from_bytes([2; 32]));
        let allowed = |publishers, per_mib| {
            let config = PublishConfig { publishers, tariff: Tariff { per_mib }, ..PublishConfig::default() };
            [config.allows(&listed), config.allows(&other)]
        };
        assert_eq!(PublishConfig::default().terms(), None);
        assert_eq!(allowed(Publishers::Nobody, 1), [false, false]);
        assert_eq!(allowed(Publishers::Listed([listed].into()), 0), [true, false]);
        assert_eq!(allowed(Publishers::WhoPays, 1), [true, true]);
        assert_eq!(allowed(Publishers::WhoPays, 0), [false, false]);
    }

    #[test]
    fn a_fee_key_in_a_log_shows_its_address_only() {
        let key = FeeKey::new(Keypair::new_from_array([7; 32]));
        assert_eq!(format!("{key:?}"), format!("FeeKey({})", key.address()));
    }
}
