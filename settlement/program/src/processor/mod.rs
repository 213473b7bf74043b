//! The instructions, one per file. Accounts, data and meaning of each are documented in
//! [`settlement_interface::instructions`]; every `process` takes the whole call.

pub mod accept_admin;
pub mod close_batch;
pub mod deposit;
pub mod finalize_batch;
pub mod init_config;
pub mod open_batch;
pub mod reclaim_batch;
pub mod register_node;
pub mod register_operator;
pub mod request_close;
pub mod set_config;
pub mod settle_batch;
pub mod top_up;
pub mod update_node;
pub mod withdraw_available;
pub mod withdraw_earned;
pub mod withdraw_fees;
