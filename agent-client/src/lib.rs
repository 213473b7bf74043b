//! The ARO agent: fetches content by address, pays for it chunk by chunk, and proves every byte before it counts.
//!
//! It does not choose nodes or open channels by itself: later layers do. It holds no more than a few MiB of a content in
//! memory, whatever its size, and trusts a node with nothing but one credit window.
//!
//! The two types that matter: [`Agent`], which fetches, and [`Wallet`], which signs. Between them stands the
//! [`BudgetGuard`]: the wallet signs a voucher only against a [`SpendPermit`], and only the guard makes one.
//!
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//!
//! use agent_client::{Agent, Wallet};
//! use settlement_chain::RpcChain;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let agent = Agent::builder()
//!     .chain(Arc::new(RpcChain::new("http://127.0.0.1:8899")))
//!     .wallet(Wallet::open(Path::new("wallet"))?)
//!     .budget("2.5".parse()?)
//!     .build()
//!     .await?;
//! let address: aro_proto::Address = std::env::args().nth(1).ok_or("give an aro:// address")?.parse()?;
//! agent.wallet().deposit("10".parse()?).await?;
//! let _ = agent.open_channel(address.node(), "5".parse()?, None).await?;
//! let report = agent.fetch(&address).max_price("1".parse()?).to_file("film.mkv").await?;
//! assert!(report.size_proven);
//! agent.close().await;
//! # Ok(()) }
//! ```
//!
//! | module      | idea                                                                    |
//! |-------------|-------------------------------------------------------------------------|
//! | `agent`     | the handle: chain, wallet, budget, and one connection for each node     |
//! | `fetch`     | request, receive and verify, write, report                              |
//! | `publish`   | hash, upload what the node lacks, pay for what it takes, check its receipt |
//! | `tree`      | whole folders: a manifest and its files, there and back                 |
//! | `names`     | what names mean: the newest record of all nodes, and never an older one  |
//! | `wallet`    | keys, the durable record of what was signed, channels and money on chain |
//! | `budget`    | caps that hold across all fetches: reserve, commit, release             |
//! | `transport` | sockets, connections, frames, the control stream                        |
//! | `error`     | what went wrong, who must act, what to do next                          |
//! | `config`    | timeouts and queues                                                     |

mod agent;
mod budget;
mod config;
mod error;
mod fetch;
mod names;
mod publish;
mod transport;
mod tree;
mod wallet;

pub use agent::{Agent, AgentBuilder, BuildError};
pub use budget::{BudgetExceeded, BudgetGuard, SpendPermit, Spending};
pub use config::AgentConfig;
pub use error::{FetchError, Misbehaviour};
pub use fetch::{FetchBuilder, FetchManyBuilder, FetchManyReport, FetchReader, FetchReport, Fetched, Progress};
pub use names::{NameError, PublishNameBuilder};
pub use publish::{PublishBuilder, PublishReport, PublishSource};
pub use tree::{FetchTreeBuilder, FetchTreeReport, PublishTreeBuilder, PublishTreeReport, TreeError, TreeProgress};
pub use wallet::{
    ChannelInfo, ChannelPhase, Money, MoneyError, OpenedChannel, Place, Reclaimed, Wallet, WalletError, WalletStatus,
};
