//! The payment channel without IO: vouchers, the payer's machine (agent) and the payee's machine (node).
//!
//! ```text
//! agent                                              node
//! Payer::begin  -- request ------------------------> Payee::begin     reserve the charge in the deposit
//!               <----------------------- content --- Payee::may_send  bill, while owed <= window
//! Payer::proved
//! Payer::due -> sign -- voucher -------------------> Payee::offer     check, cheapest first
//!                                                    persist_all      one sync for many channels
//! Payer::credited <----------------------- credit -- Payee::credit    only what is durable widens
//! Payer::end    -- proven bytes, if cancelled -----> Payee::end       settle the two counts
//!    (killed)                                        Payee::lost      nobody says anything
//! the next one  -- what that one had proven -------> Payee::claimed   settle them all the same
//! ```
//!
//! The machines know only amounts and charges; what a unit is, the tariff says. Proof types tie the order down:
//! [`SignedVoucher`] -verify-> [`VerifiedVoucher`] -persist-> [`DurableVoucher`] -> credit.

mod delivered;
mod payee;
mod payer;
mod store;
mod streams;
mod terms;
mod transitions;
mod voucher;
mod window;

#[cfg(test)]
mod tests;

pub use delivered::Delivered;
pub use payee::{BeginError, Claimed, Credit, InFlight, Lost, Offer, Payee, Permit, SendError, Settled};
pub use payer::{Due, Payer, PayerError, ReconcileError, Reconciled};
pub use store::{DurableVoucher, MemoryVouchers, RestoreError, VoucherStore, persist_all, restore};
pub use streams::StreamKey;
pub use terms::{ChannelState, ChannelTerms, TermsError};
pub use voucher::{SignedVoucher, VerifiedVoucher, Voucher, VoucherError};
pub use window::{BATCH_BYTES, credit_window};
