//! A real node on loopback, a real settlement program in process, and agents written here byte by byte.
//!
//! What could break: serving what is not paid, serving the wrong bytes, taking a voucher that the chain would refuse,
//! a request that means something elsewhere, a peer that makes the node panic, wait or allocate, a voucher lost.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod agent;
mod bounds;
mod cancelling;
mod chain;
mod closing;
mod garbage;
mod handing_over;
mod many;
mod names;
mod publishing;
mod receipts;
mod refusals;
mod replacing;
mod restarting;
mod serving;
mod signatures;
mod switching;
mod vouchers;
mod watching;
mod world;
