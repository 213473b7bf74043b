//! How the demo speaks: steps, a progress bar, a table, and JSON for machines.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "speaking is what this module is for")]

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};

use aro_proto::Amount;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::result::DemoResult;

/// Tells the story on stdout; the progress bar is on stderr.
pub(crate) struct Teller {
    steps: AtomicU32,
}

impl Teller {
    pub(crate) fn new() -> Self {
        Self { steps: AtomicU32::new(0) }
    }

    /// Begins a step.
    pub(crate) fn step(&self, what: &str) {
        println!("\n{}. {what}", self.steps.fetch_add(1, Ordering::Relaxed) + 1);
    }

    /// Says what a step brought.
    pub(crate) fn fact(&self, name: &str, value: impl Display) {
        println!("   {name:<16} {value}");
    }

    /// A bar of proven bytes; its message is what has been spent.
    pub(crate) fn bar(&self, total: u64) -> ProgressBar {
        let style = ProgressStyle::with_template(
            "   [{bar:32}] {bytes} of {total_bytes} proven, {binary_bytes_per_sec}, {msg} $ARO spent",
        )
        .expect("the template is constant")
        .progress_chars("=> ");
        ProgressBar::new(total).with_style(style)
    }

    /// Who paid and who earned.
    pub(crate) fn table(&self, result: &DemoResult) {
        let row = |who: &str, what: &str, amount: Amount| {
            println!("   | {who:<9} | {what:<32} | {:>16} |", amount.to_string())
        };
        let line = "   +-----------+----------------------------------+------------------+";
        println!("\n{line}\n   | who       | what                             |             $ARO |\n{line}");
        row("agent", "locked in the channel", result.deposit);
        row("agent", "paid for proven bytes", result.paid);
        row("node", "earned", result.node_earned);
        row("operator", "earned for settling", result.operator_fee);
        row("protocol", "fee", result.protocol_fee);
        row("agent", "refunded", result.refunded);
        println!("{line}");
        let DemoResult { deposit, node_earned, operator_fee, protocol_fee, refunded, .. } = result;
        println!("   {deposit} = {node_earned} + {operator_fee} + {protocol_fee} + {refunded}: not a unit is lost.");
        println!(
            "   {} proven with {} vouchers in {} ms ({} MB/s); all of it in {} ms.",
            HumanBytes(result.verified_bytes),
            result.vouchers,
            result.fetch_ms,
            u128::from(result.verified_bytes) / 1_000 / result.fetch_ms.max(1),
            result.elapsed_ms
        );
    }

    /// The last line for machines.
    pub(crate) fn json(&self, result: &DemoResult) {
        println!("{}", result.to_json());
    }

    /// What went wrong, with all causes.
    pub(crate) fn failed(&self, error: &anyhow::Error) {
        eprintln!("\nThe demo failed: {error:#}");
    }
}
