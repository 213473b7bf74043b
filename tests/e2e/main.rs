//! The product's own binaries as processes, on a real RPC server, from deposit to refund.
//!
//! What could break: a command of the README, a balance, a voucher that a crash loses, a refusal that does not say what
//! to do. `ARO_TEST_RPC_URL` and `ARO_TEST_PAYER` (a funded key file) point the same tests at any cluster where the
//! program is loaded (`ARO_TEST_PROGRAM_ID`, if not at the local id); without them each test starts its own devnet.

#![allow(clippy::panic, clippy::unwrap_used, reason = "that is how tests fail")]

mod crashes;
mod demo;
mod formats;
mod market;
mod naming;
mod publishing;
mod quick_start;
mod refusals;
mod tap;
mod watchtower;
