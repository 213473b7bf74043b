//! A node's folder: its keys and its settings.
//!
//! ```text
//! config.json   settings, written once by `init`
//! node.key      transport key      owner.key   cold key, unless another was given
//! contents/     see `add`          ledger.redb vouchers          control.sock   while it serves
//! publishing/   broken-off uploads names.redb  publishers' names
//! ```

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aro_proto::transport::Congestion;
use aro_proto::{AgentId, SecretKey, Tariff};
use node_server::{FeeKey, NodeConfig, OperatorEndpoint, PublishConfig, Publishers};
use serde::{Deserialize, Serialize};
use settlement_chain::{Address, ChainClient, Keypair, connect, keyfile};

use crate::output::Failure;

/// `config.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// JSON-RPC server of the chain, or several with commas between: then none of them is believed alone.
    pub(crate) rpc_url: String,
    /// The settlement program.
    pub(crate) program_id: String,
    /// UDP address to serve on.
    pub(crate) listen: SocketAddr,
    /// Host that addresses name.
    #[serde(default)]
    pub(crate) public_host: Option<String>,
    /// Sockets on the address, for machines with many cores.
    #[serde(default)]
    pub(crate) endpoints: Option<usize>,
    /// Connections at once.
    #[serde(default)]
    pub(crate) max_connections: Option<usize>,
    /// Connections at once from one address.
    #[serde(default)]
    pub(crate) max_connections_per_ip: Option<usize>,
    /// Bytes of small contents that are kept in memory.
    #[serde(default)]
    pub(crate) small_contents_bytes: Option<usize>,
    /// Base units of $ARO per MiB.
    pub(crate) price_per_mib: u64,
    /// Who may publish here, and on which terms; nobody if it is not there.
    #[serde(default)]
    pub(crate) publish: Option<PublishSettings>,
    /// `<operator id>@<host>:<port>` of each that gets vouchers. An older file has one `operator`.
    #[serde(default, alias = "operator", deserialize_with = "one_or_many")]
    pub(crate) operators: Vec<String>,
    /// Key file of the fee key, for the node's own settlements.
    #[serde(default)]
    pub(crate) fee_keypair: Option<PathBuf>,
    /// Milliseconds between handoffs.
    #[serde(default)]
    pub(crate) handoff_interval_ms: Option<u64>,
    /// Milliseconds between looks at the chain.
    #[serde(default)]
    pub(crate) follow_interval_ms: Option<u64>,
    /// Seconds after which an unused channel is handed over to be closed.
    #[serde(default)]
    pub(crate) close_idle_after_s: Option<u64>,
    /// Seconds after which an unsettled voucher is offered again.
    #[serde(default)]
    pub(crate) reoffer_interval_s: Option<u64>,
    /// Seconds without a look at the chain after which little more is lent.
    #[serde(default)]
    pub(crate) stale_after_s: Option<u64>,
    /// Content bytes that are lent while the chain cannot be seen.
    #[serde(default)]
    pub(crate) max_blind_bytes: Option<u64>,
    /// Bytes' worth that all channels of one owner may owe together.
    #[serde(default)]
    pub(crate) max_owed_bytes_per_owner: Option<u64>,
    /// Congestion control: `cubic`, `new-reno` or `bbr`.
    #[serde(default)]
    pub(crate) congestion: Congestion,
    /// Bytes of the largest packet within a network of one's own.
    #[serde(default)]
    pub(crate) packet_bytes: Option<u16>,
    /// Bytes of the largest packet elsewhere.
    #[serde(default)]
    pub(crate) internet_packet_bytes: Option<u16>,
    /// Bytes of memory for what is asked for most.
    #[serde(default)]
    pub(crate) hot_bytes: Option<usize>,
}

/// `publish` of `config.json`. What is not there has the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PublishSettings {
    /// The keys that may publish.
    pub(crate) publishers: Vec<String>,
    /// Whether everybody may who pays; the price must then not be zero.
    pub(crate) anybody_who_pays: bool,
    /// Base units of $ARO per MiB that is taken.
    pub(crate) price_per_mib: u64,
    /// Bytes of the largest content.
    pub(crate) max_content_bytes: Option<u64>,
    /// Bytes that one publisher may have here.
    pub(crate) quota_bytes_per_publisher: Option<u64>,
    /// Bytes that all publishers may have here together.
    pub(crate) quota_bytes: Option<u64>,
    /// Bytes of an uploaded content that may stay in the system's page cache.
    pub(crate) page_cache_bytes: Option<u64>,
    /// Names that one publisher may have here.
    pub(crate) names_per_publisher: Option<usize>,
    /// Names that all publishers may have here together.
    pub(crate) names: Option<usize>,
}

impl PublishSettings {
    fn config(&self) -> Result<PublishConfig, Failure> {
        let wrong = |message: String| Failure::usage(message, "correct `publish` in config.json");
        if self.anybody_who_pays && self.price_per_mib == 0 {
            return Err(wrong("anybody who pays may publish, but the price is 0".into()));
        }
        let keys = self.publishers.iter().map(|key| key.parse()).collect::<Result<BTreeSet<AgentId>, _>>();
        let keys = keys.map_err(|error| wrong(error.to_string()))?;
        let publishers = match (self.anybody_who_pays, keys.is_empty()) {
            (true, _) => Publishers::WhoPays,
            (false, true) => Publishers::Nobody,
            (false, false) => Publishers::Listed(keys),
        };
        let default = PublishConfig::default();
        Ok(PublishConfig {
            publishers,
            tariff: Tariff { per_mib: self.price_per_mib },
            max_content_bytes: self.max_content_bytes.unwrap_or(default.max_content_bytes),
            quota_bytes_per_publisher: self.quota_bytes_per_publisher.unwrap_or(default.quota_bytes_per_publisher),
            quota_bytes: self.quota_bytes.unwrap_or(default.quota_bytes),
            page_cache_bytes: self.page_cache_bytes.unwrap_or(default.page_cache_bytes),
            max_names_per_publisher: self.names_per_publisher.unwrap_or(default.max_names_per_publisher),
            max_names: self.names.unwrap_or(default.max_names),
            ..default
        })
    }
}

/// A node's folder with its settings read.
pub(crate) struct Folder {
    pub(crate) dir: PathBuf,
    pub(crate) settings: Settings,
}

impl Folder {
    /// Reads the settings.
    pub(crate) fn open(dir: &Path) -> Result<Self, Failure> {
        let path = dir.join(CONFIG);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::usage(format!("{}: {error}", path.display()), "make a node first: aro-node init")
        })?;
        let settings = serde_json::from_str(&text).map_err(|error| {
            Failure::usage(format!("{}: {error}", path.display()), "correct the settings, or make the node anew")
        })?;
        Ok(Self { dir: dir.to_owned(), settings })
    }

    /// Writes the settings of a new node; refuses to replace others.
    pub(crate) fn write(dir: &Path, settings: &Settings) -> Result<(), Failure> {
        let path = dir.join(CONFIG);
        let text = serde_json::to_string_pretty(settings).map_err(Failure::internal)?;
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(|error| {
            Failure::usage(format!("{}: {error}", path.display()), "choose another --dir, or remove the old node")
        })?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(Failure::internal)
    }

    /// Adds an operator to those that get vouchers, in the place of one with the same key; durable, or nothing.
    pub(crate) fn add_operator(&mut self, endpoint: &OperatorEndpoint) -> Result<(), Failure> {
        let id = format!("{}@", endpoint.id);
        self.settings.operators.retain(|operator| !operator.starts_with(&id));
        self.settings.operators.insert(0, endpoint.to_string());
        let text = serde_json::to_string_pretty(&self.settings).map_err(Failure::internal)?;
        let (path, fresh) = (self.dir.join(CONFIG), self.dir.join(NEW_CONFIG));
        let replace = || {
            let mut file = std::fs::File::create(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)
        };
        replace().map_err(|error: std::io::Error| Failure::internal(format!("{}: {error}", path.display())))
    }

    /// Whether a node was made here.
    pub(crate) fn exists(dir: &Path) -> bool {
        dir.join(CONFIG).exists()
    }

    /// The settings as the library takes them.
    pub(crate) fn node_config(&self) -> Result<NodeConfig, Failure> {
        let Settings { listen, ref public_host, price_per_mib, .. } = self.settings;
        let operators = self.settings.operators.iter().map(|text| text.parse::<OperatorEndpoint>()).collect();
        let operators: Result<Vec<_>, _> = operators;
        let mut config = NodeConfig {
            listen,
            public_host: public_host.clone(),
            tariff: Tariff { per_mib: price_per_mib },
            publish: self.settings.publish.clone().unwrap_or_default().config()?,
            program: self.program_id()?,
            operators: operators.map_err(|error| Failure::usage(error, "correct `operators` in config.json"))?,
            ..NodeConfig::new(&self.dir)
        };
        let Settings { handoff_interval_ms, follow_interval_ms, close_idle_after_s, .. } = self.settings;
        let Settings { reoffer_interval_s, stale_after_s, max_blind_bytes, max_owed_bytes_per_owner, .. } =
            self.settings;
        let Settings { endpoints, max_connections, max_connections_per_ip, small_contents_bytes, .. } = self.settings;
        config.endpoints = endpoints.unwrap_or(config.endpoints);
        config.max_connections = max_connections.unwrap_or(config.max_connections);
        config.max_connections_per_ip = max_connections_per_ip.unwrap_or(config.max_connections_per_ip);
        config.small_contents_bytes = small_contents_bytes.unwrap_or(config.small_contents_bytes);
        config.transport.congestion = self.settings.congestion;
        let transport = &mut config.transport;
        transport.packet_bytes = self.settings.packet_bytes.unwrap_or(transport.packet_bytes);
        let internet_packet_bytes = self.settings.internet_packet_bytes;
        transport.internet_packet_bytes = internet_packet_bytes.unwrap_or(transport.internet_packet_bytes);
        config.hot_bytes = self.settings.hot_bytes.unwrap_or(config.hot_bytes);
        config.reoffer_interval_s = reoffer_interval_s.unwrap_or(config.reoffer_interval_s);
        config.stale_after_s = stale_after_s.unwrap_or(config.stale_after_s);
        config.max_blind_bytes = max_blind_bytes.unwrap_or(config.max_blind_bytes);
        config.max_owed_bytes_per_owner = max_owed_bytes_per_owner.unwrap_or(config.max_owed_bytes_per_owner);
        config.handoff_interval_ms = handoff_interval_ms.unwrap_or(config.handoff_interval_ms);
        config.follow_interval_ms = follow_interval_ms.unwrap_or(config.follow_interval_ms);
        config.close_idle_after_s = close_idle_after_s.unwrap_or(config.close_idle_after_s);
        Ok(config)
    }

    pub(crate) fn program_id(&self) -> Result<Address, Failure> {
        let program = self.settings.program_id.parse();
        program.map_err(|_| Failure::usage("program_id is not an address", "correct `program_id` in config.json"))
    }

    /// The chain behind the servers of the settings; none is asked yet.
    pub(crate) fn chain(&self) -> Result<Arc<dyn ChainClient>, Failure> {
        connect(&self.settings.rpc_url).map_err(|error| Failure::usage(error, "correct `rpc_url` in config.json"))
    }

    /// The transport key.
    pub(crate) fn key(&self) -> Result<SecretKey, Failure> {
        Ok(secret_key(&keyfile::read(&self.dir.join(NODE_KEY))?))
    }

    pub(crate) fn owner_key(&self) -> PathBuf {
        self.dir.join(OWNER_KEY)
    }

    /// The fee key: of this file, or of the one that the settings name, if any.
    pub(crate) fn fee_key(&self, given: Option<&Path>) -> Result<Option<FeeKey>, Failure> {
        let path = given.or(self.settings.fee_keypair.as_deref());
        Ok(path.map(keyfile::read).transpose()?.map(FeeKey::new))
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        Many(Vec<String>),
        One(Option<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::Many(many) => many,
        OneOrMany::One(one) => one.into_iter().collect(),
    })
}

/// A Solana key as this protocol's.
pub(crate) fn secret_key(keypair: &Keypair) -> SecretKey {
    SecretKey::from_bytes(keypair.secret_bytes())
}

const CONFIG: &str = "config.json";
/// The settings on their way.
const NEW_CONFIG: &str = "config.json.new";
pub(crate) const NODE_KEY: &str = "node.key";
pub(crate) const OWNER_KEY: &str = "owner.key";
