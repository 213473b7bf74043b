//! The arithmetic: what one GiB in payments of 1 MiB costs to settle, here and elsewhere.

use super::transactions::Weights;

/// Lines for people. Lamports of base fee, without priority fees and without rents, which come back.
pub(super) fn of_a_gibibyte(chain: &Weights) -> Vec<String> {
    let [close, reclaim, open] = [chain.close, chain.reclaim, chain.open].map(|weight| weight.fee_per_entry());
    let (fee, closes) = (chain.close.fee, chain.close.entries);
    let x402 = PAYMENTS * X402_PER_REQUEST;
    let whole = open + close + reclaim;
    vec![
        String::new(),
        format!("One GiB in payments of 1 MiB is {PAYMENTS} payments; on one channel they are one close."),
        format!("  here                        {close} lamports ({fee} / {closes} closes of one transaction)"),
        format!("    with opening and refund   {whole} lamports ({open} + {close} + {reclaim})"),
        format!(
            "  reference channel program   {REFERENCE_LEAST} to {REFERENCE_MOST} lamports a close: {} to {} times as much",
            REFERENCE_LEAST / close,
            REFERENCE_MOST / close
        ),
        format!(
            "  x402 exact                  {x402} lamports ({PAYMENTS} x {X402_PER_REQUEST}): {} times as much",
            x402 / close
        ),
    ]
}

/// Payments of 1 MiB in one GiB.
const PAYMENTS: u64 = 1_024;
/// What x402's exact scheme burns for each request: two signatures.
const X402_PER_REQUEST: u64 = 10_000;
/// What the reference payment-channel program burns for a close, 9 to 11 of them in a transaction.
const REFERENCE_LEAST: u64 = 5_278;
const REFERENCE_MOST: u64 = 5_556;
