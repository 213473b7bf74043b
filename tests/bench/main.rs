//! `aro-bench`: what the product costs and how fast it is, measured on the product itself.
//!
//! Each subcommand is a file or a folder of its own that returns a [`report::Report`]. A figure is measured, never
//! estimated, and what was measured is checked to have been right; speed itself is not asserted, for machines differ.

mod publish;
mod report;
mod rounds;
mod settlement;

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
    /// Uploads to durable storage, beside hashing and writing the same bytes.
    Publish(publish::Arguments),
    /// What closing, opening and refunding cost on chain, and how many vouchers an operator takes.
    Settlement(settlement::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let measured = match arguments.what {
        What::Publish(arguments) => publish::measure(&arguments),
        What::Settlement(arguments) => settlement::measure(&arguments),
    };
    report::conclude(measured, arguments.json)
}
