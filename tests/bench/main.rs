//! `aro-bench`: what the product costs and how fast it is, measured on the product itself.
//!
//! Each subcommand is a file or a folder of its own that returns a [`report::Report`]. A figure is measured, never
//! estimated, and what was measured is checked to have been right; speed itself is not asserted, for machines differ.

mod report;
mod rounds;
mod settlement;
mod throughput;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures this build of ARO on this machine.
#[derive(Parser)]
#[command(name = "aro-bench", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Prints one JSON object as the last line instead of a table.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// What closing, opening and refunding cost on chain, and how many vouchers an operator takes.
    Settlement(settlement::Arguments),
    /// How fast one content is fetched, proven and paid, beside the bare transport.
    Throughput(throughput::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let measured = match arguments.what {
        What::Settlement(arguments) => settlement::measure(&arguments),
        What::Throughput(arguments) => throughput::measure(&arguments),
    };
    report::conclude(measured, arguments.json)
}
