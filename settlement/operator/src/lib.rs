//! The settlement operator: takes vouchers from nodes and settles many channels in one transaction.
//!
//! It holds no agent's and no node's money and can send none anywhere but to where the chain's accounts say. What it
//! must not do is lose a voucher that it has acknowledged, or close a channel below the best voucher that it holds.
//!
//! ```text
//! intake -> judge -> store -> plan -> sign -> record -> send -> confirm -> finalize, reclaim -> prune
//! ```
//!
//! The two types that matter: [`Operator`], which starts one, and [`vouchers::Book`], which alone may write to what
//! an operator remembers.
//!
//! ```no_run
//! use std::sync::Arc;
//! use aro_proto::SecretKey;
//! use settlement_chain::{Keypair, RpcChain};
//! use settlement_operator::{Operator, OperatorConfig};
//! # async fn example(key: SecretKey, authority: Keypair) -> Result<(), Box<dyn std::error::Error>> {
//! let chain = Arc::new(RpcChain::new("http://127.0.0.1:8899"));
//! let config = OperatorConfig { dir: "operator".into(), ..OperatorConfig::default() };
//! let operator = Operator::start(config, key, authority, chain).await?;
//! let report = operator.settle_once().await?;
//! for closed in &report.closed {
//!     println!("{} closed at {} $ARO", closed.channel, closed.cumulative);
//! }
//! operator.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! | module         | idea                                                                    |
//! |----------------|-------------------------------------------------------------------------|
//! | `operator`     | starting, asking, stopping                                              |
//! | `config`       | what an operator is told                                                |
//! | `account`      | its account on chain: registering, withdrawing fees                     |
//! | `intake`       | nodes' connections: who hands over what, judged by the chain's word     |
//! | [`vouchers`]   | what it remembers, in redb or PostgreSQL: vouchers, history, leases     |
//! | [`batch`]      | the pure planner: channels in, transactions out, full to the byte       |
//! | [`submit`]     | the write-ahead journal, sending, and what became of it                 |
//! | [`settle`]     | the lanes that join them: rounds, urgent, sweeps                        |
//! | `watch`        | sees a closing channel soon enough                                      |
//! | [`doctor`]     | what is missing, and what is about to go wrong                          |
//! | [`metrics`]    | what monitoring reads                                                   |
//! | [`control`]    | the socket for commands of the same machine                             |

mod account;
mod config;
mod error;
mod intake;
mod operator;
mod stop;
mod watch;

pub mod batch;
pub mod control;
pub mod doctor;
pub mod metrics;
pub mod settle;
pub mod submit;
pub mod vouchers;

pub use account::{FeeSource, Registered, Withdrawn, register, withdraw_fees};
pub use config::OperatorConfig;
pub use error::{AccountError, StartError};
pub use intake::WatchFor;
pub use operator::{OnceError, Operator, RunningOperator};
pub use settle::{ReclaimedChannel, SettleError, SettleReport, SettledChannel, Skipped, Trouble};
