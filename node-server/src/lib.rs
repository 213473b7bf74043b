//! A node: serves content over QUIC, verified by the agent and paid per chunk.
//!
//! It does not hash what it serves (that was done once, when the content came in), settles nothing on chain that its
//! operators settle in time, and asks the chain nothing while it answers requests (it follows its channels beforehand).
//!
//! The two types that matter are [`Node`], which starts from a [`NodeConfig`], a key and a chain, and
//! [`RunningNode`], which ends with [`RunningNode::shutdown`] so that nothing is lost.
//!
//! ```no_run
//! use std::sync::Arc;
//! use aro_proto::{SecretKey, Tariff};
//! use node_server::{Node, NodeConfig};
//! use settlement_chain::RpcChain;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config = NodeConfig { tariff: Tariff { per_mib: 100 }, ..NodeConfig::new("node") };
//! let chain = Arc::new(RpcChain::new("http://127.0.0.1:8899"));
//! let node = Node::start(config, SecretKey::from_bytes(&[7; 32]), chain).await?;
//! let stored = node.store().add_file("film.mp4".as_ref())?;
//! println!("{}", node.address_of(stored.id)?);
//! node.shutdown().await?;
//! # Ok(()) }
//! ```
//!
//! | module      | idea                                                                     |
//! |-------------|--------------------------------------------------------------------------|
//! | `node`      | start, status, shutdown                                                  |
//! | `transport` | endpoint, frames, connections, the control stream                        |
//! | `service`   | requests: describe, fetch, publish, names                                |
//! | `content`   | contents on disk: imported or uploaded, hashed once, read in batches     |
//! | `channels`  | one payee for each channel, and the follower that keeps them current     |
//! | `ledger`    | vouchers in redb, by group commit, before they give credit               |
//! | `names`     | publishers' names: the newest record of each, durable                    |
//! | `handoff`   | the best vouchers to the operators, until the chain has taken them       |
//! | `watch`     | closing channels that no operator settles in time: the node does         |
//! | `account`   | the node's account on chain: register, change, withdraw                  |

mod account;
mod channels;
mod config;
mod content;
mod error;
mod handoff;
mod ledger;
mod names;
mod node;
mod service;
mod shared;
mod status;
mod transport;
mod watch;

pub use account::{
    AccountError, NodeChange, NodeTerms, Registered, Registration, Withdrawn, register, update, withdraw,
};
pub use config::{FeeKey, NodeConfig, OperatorEndpoint, OperatorEndpointError, PublishConfig, Publishers};
pub use content::{ContentStore, StoreError, Stored, StoredContent};
pub use error::{HandoffError, ShutdownError, StartError};
pub use handoff::{HandedVoucher, HandoffReport};
pub use ledger::LedgerError;
pub use names::NameStoreError;
pub use node::{Node, RunningNode};
pub use status::{ChannelStatus, NodeStatus, OperatorStatus, of_stopped as status_of_stopped};
pub use watch::{SettleError, SettleReport, SettledVoucher, of_ledger as settle_stopped};
