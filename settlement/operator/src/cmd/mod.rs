//! The commands, one file each.

mod config;
mod doctor;
mod home;
mod init;
mod mint_to;
mod once;
mod report;
mod run;
mod setup;
mod status;
mod withdraw;

use clap::Subcommand;
use settlement_chain::{Address, Program};

use crate::failure::Failure;
use crate::output::Output;

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Prepare a chain on which the program is loaded: mint, treasury, config and vault. Repeating it is harmless.
    Setup(setup::Setup),
    /// Show or change the program's parameters, as its admin.
    Config(config::Config),
    /// Create an operator: keys, payout account, registration on chain, config file.
    Init(init::Init),
    /// Take vouchers and settle until SIGINT or SIGTERM.
    Run(run::Run),
    /// Settle now, once; asks the running operator if there is one.
    Once(once::Once),
    /// Show what is stored and earned.
    Status(status::Status),
    /// Look whether everything is there, and whether anything is about to go wrong.
    Doctor(doctor::Doctor),
    /// The audit trail: what became final, from each voucher's signature to its transaction's.
    Report(report::Report),
    /// Pay fees out to where they always go.
    Withdraw(withdraw::Withdraw),
    /// Mint test $ARO, where the payer is the mint's authority.
    MintTo(mint_to::MintTo),
}

pub(crate) async fn run(command: Command, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Setup(command) => command.run(output).await,
        Command::Config(command) => command.run(output).await,
        Command::Init(command) => command.run(output).await,
        Command::Run(command) => command.run(output).await,
        Command::Once(command) => command.run(output).await,
        Command::Status(command) => command.run(output).await,
        Command::Doctor(command) => command.run(output).await,
        Command::Report(command) => command.run(output).await,
        Command::Withdraw(command) => command.run(output).await,
        Command::MintTo(command) => command.run(output).await,
    }
}

/// Which chain, and which program on it.
#[derive(Debug, clap::Args)]
struct ChainArguments {
    /// URL of a Solana JSON-RPC server.
    #[arg(long, env = "ARO_RPC_URL", value_name = "URL")]
    rpc: String,
    /// The settlement program's address; that of local chains if not given.
    #[arg(long, value_name = "ADDRESS")]
    program_id: Option<Address>,
}

impl ChainArguments {
    fn program(&self) -> Program {
        self.program_id.map_or_else(Program::local, Program::new)
    }
}
