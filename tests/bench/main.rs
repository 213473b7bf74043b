//! `aro-bench`: what the product costs and how fast it is, measured on the product itself.
//!
//! Each subcommand is a file or a folder of its own that returns a [`report::Report`]. A figure is measured, never
//! estimated, and what was measured is checked to have been right; speed itself is not asserted, for machines differ.

mod budget;
mod connections;
mod fleet;
mod import;
mod latency;
mod lossy;
mod multi;
mod publish;
mod ranges;
mod raw;
mod report;
mod resume;
mod rounds;
mod scene;
mod settlement;
mod small;
mod straggler;
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
    /// Whether many fetches at once keep to one budget that does not suffice for all.
    Budget(budget::Arguments),
    /// Uploads to durable storage, beside hashing and writing the same bytes.
    Publish(publish::Arguments),
    /// What closing, opening and refunding cost on chain, and how many vouchers an operator takes.
    Settlement(settlement::Arguments),
    /// What a node holds for an idle connection.
    Connections(connections::Arguments),
    /// How fast a file enters the store, against BLAKE3 alone.
    Import(import::Arguments),
    /// Round trips until the first paid and proven byte, through a delaying relay.
    Latency(latency::Arguments),
    /// Goodput where packets are lost, through a relay, beside bare QUIC.
    Lossy(lossy::Arguments),
    /// One content from several nodes, each behind a relay that caps its rate.
    Multi(multi::Arguments),
    /// The same while one of the nodes becomes slow at half time, against the ideal time.
    Straggler(straggler::Arguments),
    /// Random ranges of a large content on a warm connection.
    Ranges(ranges::Arguments),
    /// A fetch that is killed again and again, and what of it is fetched or paid twice.
    Resume(resume::Arguments),
    /// Small contents a second on one connection, beside bare QUIC.
    Small(small::Arguments),
    /// How fast one content is fetched, proven and paid, beside the bare transport.
    Throughput(throughput::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let measured = match arguments.what {
        What::Budget(arguments) => budget::measure(&arguments),
        What::Publish(arguments) => publish::measure(&arguments),
        What::Settlement(arguments) => settlement::measure(&arguments),
        What::Connections(arguments) => connections::measure(&arguments),
        What::Import(arguments) => import::measure(&arguments),
        What::Latency(arguments) => latency::measure(&arguments),
        What::Lossy(arguments) => lossy::measure(&arguments),
        What::Multi(arguments) => multi::measure(&arguments),
        What::Straggler(arguments) => straggler::measure(&arguments),
        What::Ranges(arguments) => ranges::measure(&arguments),
        What::Resume(arguments) => resume::measure(&arguments),
        What::Small(arguments) => small::measure(&arguments),
        What::Throughput(arguments) => throughput::measure(&arguments),
    };
    report::conclude(measured, arguments.json)
}
