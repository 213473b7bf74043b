//! What ARO asks of Solana, and nothing more.
//!
//! It does not hold keys, watch channels or decide what to settle: agent, node and operator do. It turns typed
//! requests into instructions, instructions into confirmed transactions, and accounts back into typed values.
//!
//! The two types that matter are [`ChainClient`], the eight questions that any chain must answer, and
//! [`Program`], one deployment of the settlement program and the addresses that follow from it. Behind the trait
//! stand [`RpcChain`] (any Solana cluster over JSON-RPC) and, with the feature `embedded`, `EmbeddedChain`
//! (LiteSVM in this process, for the demo and tests).
//!
//! ```no_run
//! use settlement_chain::{Keypair, Program, RpcChain, Signer, instructions, reads, submit};
//! # async fn example(program: Program, owner: Keypair) -> Result<(), Box<dyn std::error::Error>> {
//! let chain = RpcChain::new("http://127.0.0.1:8899");
//! let config = reads::config(&chain, &program).await?;
//! let mint = config.mint.into();
//! let source = reads::associated_token_address(&owner.pubkey(), &mint);
//! let deposit = instructions::deposit(&program, &owner.pubkey(), &owner.pubkey(), &source, 5_000_000);
//! submit::submit(&chain, &owner, &[], &[deposit]).await?;
//! # Ok(()) }
//! ```
//!
//! | module           | idea                                                          |
//! |------------------|---------------------------------------------------------------|
//! | `client`         | the trait and its values                                      |
//! | `rpc`            | the trait over JSON-RPC                                       |
//! | `servers`        | the trait over several servers, of which one may lie or lag   |
//! | `embedded`       | the trait over LiteSVM                                        |
//! | `program`        | addresses that follow from a program id                       |
//! | [`instructions`] | one builder for each instruction of the program               |
//! | `signer`         | who signs: a key here, or a signer elsewhere                  |
//! | [`tokens`]       | the few instructions of SPL token and system program in use   |
//! | [`reads`]        | accounts, decoded and checked                                 |
//! | [`views`]        | accounts as each server shows them, for what one must not decide |
//! | [`submit`]       | sign, send, re-send, confirm; errors that say who must act    |
//! | [`setup`]        | mint, treasury, config and vault of a fresh deployment        |
//! | [`admin`]        | what the admin changes later                                  |
//! | [`pass_on`]      | what a twin of a chain does not change                        |
//! | `contract`       | what every implementation of the trait must pass (feature)    |
//! | [`keyfile`]      | key files as the Solana tools write them                      |

mod client;
#[cfg(feature = "embedded")]
mod embedded;
mod pass_on;
mod program;
mod rpc;
mod servers;
mod signer;

pub mod admin;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod instructions;
pub mod keyfile;
pub mod reads;
pub mod setup;
pub mod submit;
pub mod tokens;
pub mod views;

pub use client::{
    Account, AccountFilter, Answer, Blockhash, CLOCK, ChainClient, ChainError, Commitment, MAX_FEE_ACCOUNTS,
    MAX_LEGACY_TRANSACTION, MAX_RECENT_FEES, MAX_RETURN_DATA, MAX_V1_ACCOUNTS, MAX_V1_TRANSACTION, Simulation, Status,
    Statuses, check_size, clock_of,
};
#[cfg(feature = "embedded")]
pub use embedded::{EMBEDDED_GENESIS_HASH, EmbeddedChain};
pub use program::Program;
pub use rpc::RpcChain;
pub use servers::{ConnectError, MAX_SERVERS, Patience, ServerHealth, Servers, connect};
pub use signer::{SigningError, TransactionSigner};

pub use settlement_interface as interface;
pub use solana_address::Address;
pub use solana_hash::Hash;
pub use solana_instruction::{AccountMeta, Instruction, error::InstructionError};
pub use solana_keypair::Keypair;
pub use solana_message::{Message, VersionedMessage};
pub use solana_signature::Signature;
pub use solana_signer::Signer;
pub use solana_transaction::versioned::VersionedTransaction;
pub use solana_transaction_error::TransactionError;

/// The settlement program as it is deployed: the committed SBF ELF.
#[cfg(feature = "program")]
pub const PROGRAM_ELF: &[u8] = include_bytes!("../../program/aro_settlement.so");
