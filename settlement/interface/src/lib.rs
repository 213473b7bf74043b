//! The ground floor of ARO: the bytes that agent, node, operator and chain program agree on.
//!
//! It holds no behaviour, only layouts and tables: the [voucher](voucher) that an agent signs, the [accounts] that
//! the program owns, the [instructions] it takes, the [seeds] of its addresses, the [errors] it answers with and the
//! [transitions] of a channel.
//! Everything is `no_std`, allocation-free and without dependencies, so that the SBF program and every host
//! crate read the same definitions.
//!
//! ```
//! use settlement_interface::voucher::{voucher_bytes, VOUCHER_LEN};
//! let signed = voucher_bytes(&[9; 32], 42, 1234);
//! assert_eq!(signed.len(), VOUCHER_LEN);
//! ```
#![no_std]

mod layout;

pub mod accounts;
pub mod errors;
pub mod fees;
pub mod instructions;
pub mod seeds;
pub mod transitions;
pub mod voucher;

pub use layout::FieldInfo;

/// An ed25519 public key or a program-derived address: 32 bytes, as Solana has them.
pub type Key = [u8; 32];

/// Program id of local chains (devnet command, demo, tests). Public deployments have their own, given in
/// configuration; nothing inside the program depends on it.
pub const LOCAL_PROGRAM_ID: Key = *b"\x08\xa3ARO local settlement program\x01\x00";

/// Decimals of the $ARO mint: one $ARO is 10^6 base units.
pub const ARO_DECIMALS: u8 = 6;
