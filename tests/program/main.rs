//! The settlement program, its real ELF in LiteSVM: each instruction accepts what it must and refuses what it must.
//!
//! What could break: a sum that does not add up (the fixture checks the vault against every ledger after each
//! transaction), a voucher that counts twice or too late, an account that is taken for another, a batch that one
//! agent can spoil for all.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    missing_docs,
    reason = "all of it is test code, its fixture included"
)]

mod batches;
mod blessed;
mod cases;
mod instructions;
mod ledger;
mod model;
mod seed;
mod transactions;

mod accept_admin;
mod batch_sizes;
mod channel_states;
mod close_batch;
mod compute_units;
mod deposit;
mod finalize_batch;
mod idl;
mod init_config;
mod open_batch;
mod random;
mod reclaim_batch;
mod register_node;
mod register_operator;
mod rent;
mod request_close;
mod same_channel_twice;
mod security_txt;
mod set_config;
mod settle_batch;
mod strict_signatures;
mod top_up;
mod update_node;
mod withdraw_available;
mod withdraw_earned;
mod withdraw_fees;
mod wrong_accounts;
