//! The ARO settlement program: one vault, an internal ledger, and channels that vouchers settle.
//!
//! Tokens move only on deposit and withdrawal; opening, settling, closing and reclaiming move integers between
//! accounts. What the bytes mean is defined in `settlement-interface`; each instruction is one file of
//! [`processor`] and relies on the pieces beside it:
//!
//! - [`account`]: who owns an account, which layout it has, who signed.
//! - [`voucher`]: strict verification of an agent's signature.
//! - [`batch`]: the piece that settling and closing share.
//! - [`ledger`]: every sum, checked.
//! - [`vault`], [`payout`]: the ways in and out, and where a node's earnings go.
//! - [`parameters`], [`register`]: what a config may say, and what registrations share.
//! - [`create`], [`token`], [`invoke`]: new accounts, mints and token accounts, calls to other programs.
//! - [`security`]: whom to tell about a flaw.
#![cfg_attr(any(target_os = "solana", target_arch = "bpf"), no_std)]

pub mod account;
pub mod batch;
pub mod create;
pub mod entrypoint;
pub mod invoke;
pub mod ledger;
pub mod parameters;
pub mod payout;
pub mod processor;
pub mod refuse;
pub mod register;
pub mod security;
pub mod token;
pub mod vault;
pub mod voucher;

/// Ends the program without a message: messages would carry paths of the building machine into the binary.
#[cfg(any(target_os = "solana", target_arch = "bpf"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the syscall takes nothing and never returns.
    unsafe { pinocchio::syscalls::abort() }
}
