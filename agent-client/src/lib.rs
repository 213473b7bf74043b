//! The ARO agent: fetches content by address, pays for it chunk by chunk, and proves every byte before it counts.
//!
//! It does not find nodes by itself: told of several, it fetches from all of them at once. It opens payment channels with
//! what was deposited, tops them up and closes idle ones, within a [`ChannelPolicy`]. It holds no more than a few MiB of a
//! content in memory for each node, whatever its size, and trusts a node with nothing but one credit window.
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
//! let report = agent.fetch(&address).max_price("1".parse()?).to_file("film.mkv").await?;
//! assert!(report.size_proven);
//! agent.close().await;
//! # Ok(()) }
//! ```
//!
//! | module      | idea                                                                    |
//! |-------------|-------------------------------------------------------------------------|
//! | `agent`     | the handle: chain, wallet, budget, and one connection for each node     |
//! | `fetch`     | request, receive and verify, write, report; several nodes for one content |
//! | `publish`   | hash, upload what the node lacks, pay for what it takes, check its receipt |
//! | `tree`      | whole folders: a manifest and its files, there and back                 |
//! | `names`     | what names mean: the newest record of all nodes, and never an older one  |
//! | `wallet`    | keys, the durable record of what was signed, channels and money on chain |
//! | `report`    | what every error says to a program                                      |
//! | `budget`    | caps that hold across all fetches: reserve, commit, release             |
//! | `ledger`    | the one database behind wallet, budget and receipts, for several processes |
//! | `receipts`  | one entry for each request, with its node's signature; daily totals     |
//! | `transport` | sockets, connections, frames, the control stream                        |
//! | `error`     | what went wrong, who must act, what to do next                          |
//! | `config`    | timeouts and queues                                                     |

mod agent;
mod budget;
mod config;
mod error;
mod fetch;
mod ledger;
mod names;
mod publish;
mod receipts;
mod report;
mod transport;
mod tree;
mod wallet;

pub use agent::{Agent, AgentBuilder, BuildError};
pub use budget::{
    Approval, Approver, BudgetError, BudgetExceeded, BudgetGuard, Cap, LineSpent, NotApproved, Policy, PolicyError,
    Purpose, SpendPermit, Spending, Spent, Verdict, WindowCap,
};
pub use config::AgentConfig;
pub use error::{FetchError, Misbehaviour, SourceError};
pub use fetch::{
    Blame, DryRun, FetchBuilder, FetchManyBuilder, FetchManyReport, FetchReader, FetchReport, Fetched, LeftOut,
    Preference, PreferenceError, Progress, ProgressStream, SourceReport,
};
pub use ledger::LedgerError;
pub use names::{NameError, PublishNameBuilder};
pub use publish::{PublishBuilder, PublishReport, PublishSource};
pub use receipts::{By, Check, Entry, EntryKind, Totals, Word};
pub use report::{ErrorReport, Subject};
pub use tree::{FetchTreeBuilder, FetchTreeReport, PublishTreeBuilder, PublishTreeReport, TreeError, TreeProgress};
pub use wallet::{
    ChannelCap, ChannelEvent, ChannelInfo, ChannelPhase, ChannelPolicy, DelegateRequest, Money, MoneyError,
    OpenedChannel, Place, Reclaimed, SessionInfo, SweepReport, Unswept, Wallet, WalletError, WalletStatus,
};
