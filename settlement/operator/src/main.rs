//! `aro-settle`: the settlement operator's command.

mod cmd;
mod failure;
mod output;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use output::Output;
use tracing_subscriber::EnvFilter;

/// Takes vouchers from nodes and settles many channels in one transaction.
///
/// Exit codes: 0 done, 1 internal, 2 usage, 3 refused, 4 money needed, 5 keys or rights, 6 network or chain
/// unreachable (try again).
#[derive(Debug, Parser)]
#[command(name = "aro-settle", version, max_term_width = 100)]
struct Arguments {
    /// Print one JSON object as the last line, errors included.
    #[arg(long, global = true)]
    json: bool,
    /// Write the log as one JSON object a line.
    #[arg(long, global = true, env = "ARO_LOG_JSON")]
    log_json: bool,
    #[command(subcommand)]
    command: cmd::Command,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("ARO_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if arguments.log_json {
        log.json().init()
    } else {
        log.with_ansi(ansi).init()
    }
    let output = Output::new(arguments.json);
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(failure::Failure::from)
        .and_then(|runtime| runtime.block_on(cmd::run(arguments.command, &output)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.told {
                output.failure(&failure);
            }
            ExitCode::from(failure.exit)
        }
    }
}
