//! Seeds of the program-derived addresses.
//!
//! | account  | seeds                                                              |
//! |----------|--------------------------------------------------------------------|
//! | config   | `"config"`                                                         |
//! | vault    | `"vault"` (an SPL token account whose authority is the config)     |
//! | agent    | `"agent"`, owner                                                   |
//! | node     | `"node"`, node id (transport key)                                  |
//! | operator | `"operator"`, authority                                            |
//! | channel  | `"channel"`, agent account, node account, nonce as u64 LE          |
//!
//! The channel's nonce only ever rises (the agent account keeps the next one), so an address never returns and
//! a voucher for a reclaimed channel stays dead.

/// The one configuration account.
pub const CONFIG: &[u8] = b"config";
/// The one token account that holds every deposit.
pub const VAULT: &[u8] = b"vault";
/// An agent's ledger account.
pub const AGENT: &[u8] = b"agent";
/// A node's ledger account.
pub const NODE: &[u8] = b"node";
/// An operator's ledger account.
pub const OPERATOR: &[u8] = b"operator";
/// A payment channel.
pub const CHANNEL: &[u8] = b"channel";
