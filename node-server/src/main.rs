//! `aro-node`: sets a node up, adds contents, serves them, and pays out what they earned.
//!
//! Exit codes: 0 done, 1 internal, 2 usage, 3 refused for good, 4 money is missing, 5 keys or rights, 6 unreachable,
//! try again. With `--json` the last line on stdout is one JSON object, errors included.

mod cmd;
mod folder;
mod local;
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Serves content for $ARO.
#[derive(Parser)]
#[command(name = "aro-node", version)]
struct Cli {
    /// Print one JSON object as the last line on stdout.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the node's keys, register it on chain, and write its settings.
    Init(Box<cmd::init::Init>),
    /// Copy files or folders into the store; works while the node serves.
    Add(cmd::add::Add),
    /// Serve until SIGINT or SIGTERM.
    Serve(cmd::serve::Serve),
    /// Show what the node holds, serves and has earned.
    Status(cmd::status::Status),
    /// Hand all vouchers to the operators now.
    Handoff(cmd::handoff::Handoff),
    /// Settle all vouchers now, without any operator.
    Settle(cmd::settle::Settle),
    /// Change the node's operator, payout or shortest grace on chain.
    Update(cmd::update::Update),
    /// Pay what is earned to the node's payout.
    Withdraw(cmd::withdraw::Withdraw),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    output::start_log();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(cli.json, &output::Failure::internal(error)),
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Init(init) => init.run(cli.json).await,
            Command::Add(add) => add.run(cli.json).await,
            Command::Serve(serve) => serve.run().await,
            Command::Status(status) => status.run(cli.json).await,
            Command::Handoff(handoff) => handoff.run(cli.json).await,
            Command::Settle(settle) => settle.run(cli.json).await,
            Command::Update(update) => update.run(cli.json).await,
            Command::Withdraw(withdraw) => withdraw.run(cli.json).await,
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output::fail(cli.json, &failure),
    }
}
