//! `aro-devnet`: a Solana chain on this machine with everything that ARO needs, for development and tests.
//!
//! `aro-devnet run` (the default) serves JSON-RPC, deploys the settlement program, mints test $ARO and sets the
//! program up; when all is ready it prints one line of JSON and runs until SIGINT or SIGTERM. `aro-devnet faucet`
//! gives test $ARO and SOL to a wallet. Nothing is downloaded and nothing outlives the process but the key files.
//!
//! Exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong arguments.

mod amount;
mod faucet;
mod run;
mod surfnet;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Run the chain until SIGINT or SIGTERM (the default).
    Run(run::RunArgs),
    /// Give test $ARO and SOL to a wallet of a running devnet.
    Faucet(faucet::FaucetArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(args) => run::run(args).await,
        Command::Faucet(args) => faucet::faucet(args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one place where a failure is told to the user")]
fn report(error: &anyhow::Error) {
    eprintln!("aro-devnet: {error:#}");
}

/// Writes one JSON object as one line to stdout and flushes it: whoever started us waits for it.
fn print_line(value: &serde_json::Value) -> anyhow::Result<()> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{value}")?;
    stdout.flush()?;
    Ok(())
}
