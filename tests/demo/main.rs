//! `aro-demo`: the whole product in one process, told step by step.
//!
//! The chain is embedded (LiteSVM with the committed program); everything else is what a deployment runs: the node
//! serves over QUIC on loopback, the agent pays with vouchers and proves every byte, the operator closes the channel.

mod result;
mod sample;
mod story;
mod teller;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Shows a paid, verified fetch from deposit to refund.
#[derive(Parser)]
#[command(name = "aro-demo", version)]
struct Arguments {
    /// The file to serve and fetch, of any size; a made-up one if not given.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Megabytes (2^20 bytes) of the made-up file.
    #[arg(long, value_name = "MIB", default_value_t = 64, conflicts_with = "file")]
    mib: u64,
    /// Price in $ARO for a MiB.
    #[arg(long, value_name = "ARO", default_value = "0.0001")]
    price: aro_proto::Amount,
    /// Prints one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let teller = teller::Teller::new();
    match story::tell(&arguments, &teller).await {
        Ok(result) => {
            teller.table(&result);
            if arguments.json {
                teller.json(&result);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            teller.failed(&error);
            ExitCode::FAILURE
        }
    }
}
