//! The `aro` command: keys, money, channels, quotes and fetches for people and scripts.
//!
//! With `--json` an error is one object: `code`, `who_acts`, `message`, `next_step`, `amount`, `retryable`,
//! `retry_after_ms`, and `node`, `channel`, `content`, `place` where it is about one.

mod cmd;
mod output;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use agent_client::{Agent, AgentBuilder, ChannelPolicy, Wallet};
use aro_proto::Amount;
use clap::{Parser, Subcommand};
use settlement_chain::{Address, Program, connect};

use cmd::approve::Person;
use cmd::{Opening, budget, channel, completions, get, keys, name, put, quote, receipts, wallet};
use output::{Failure, Output};

/// Fetch content by address, pay for it, prove every byte.
#[derive(Parser)]
#[command(name = "aro", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(clap::Args)]
pub(crate) struct Global {
    /// Folder of the wallet: keys and the record of what was signed [default: ~/.aro]
    #[arg(long, global = true, env = "ARO_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// JSON-RPC server of the chain
    #[arg(long, global = true, env = "ARO_RPC_URL", value_name = "URL", default_value = "http://127.0.0.1:8899")]
    rpc: String,
    /// Settlement program [default: the one of local chains]
    #[arg(long, global = true, env = "ARO_PROGRAM_ID", value_name = "ADDRESS")]
    program_id: Option<Address>,
    /// Approve amounts above the budget's threshold without asking; its caps hold all the same
    #[arg(long, global = true)]
    yes: bool,
    /// Print one JSON object as the last line, errors too; amounts are then in base units (10^-6 $ARO)
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Make or show the wallet's keys
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Withdraw names
    #[command(subcommand)]
    Name(name::NameCommand),
    /// Show, deposit or withdraw money
    #[command(subcommand)]
    Wallet(wallet::WalletCommand),
    /// Open, list or close payment channels
    #[command(subcommand)]
    Channel(channel::ChannelCommand),
    /// Show or set what may be spent
    #[command(subcommand)]
    Budget(budget::BudgetCommand),
    /// What was fetched and published, and for how much
    #[command(subcommand)]
    Receipts(receipts::ReceiptsCommand),
    /// Ask a node what a fetch would cost
    Quote(quote::QuoteCommand),
    /// Fetch a content into a file, or a tree into a folder
    Get(get::Get),
    /// Publish a file, a folder or a pipe at a node, and give it a name
    Put(put::Put),
    /// Print what a shell needs to complete this command
    Completions(completions::Completions),
}

impl Global {
    fn home(&self) -> Result<PathBuf, Failure> {
        let default = || std::env::home_dir().map(|home| home.join(".aro"));
        self.home.clone().or_else(default).ok_or_else(|| Failure::usage("there is no home folder", "give --home DIR"))
    }

    /// The agent on the wallet and chain that the flags name, which does nothing with channels unasked.
    async fn agent(&self, budget: Option<Amount>) -> Result<Agent, Failure> {
        Ok(self.builder(budget)?.channels(ChannelPolicy::manual()).build().await?)
    }

    /// The same, which opens channels and tops them up within what was said, and says so.
    async fn paying_agent(&self, budget: Option<Amount>, opening: &Opening, output: &Output) -> Result<Agent, Failure> {
        let output = *output;
        let builder = self.builder(budget)?.channels(opening.policy());
        Ok(builder.on_channel_event(move |event| output.note(&cmd::told(event))).build().await?)
    }

    fn builder(&self, budget: Option<Amount>) -> Result<AgentBuilder, Failure> {
        let wallet = Wallet::open(&self.home()?)?;
        let chain = connect(&self.rpc).map_err(|error| Failure::usage(&error.to_string(), "correct --rpc"))?;
        let person = Arc::new(Person { says_yes: self.yes });
        let builder = Agent::builder().chain(chain).wallet(wallet).approver(person);
        let builder = builder.program(self.program_id.unwrap_or(Program::local().id));
        Ok(match budget {
            Some(budget) => builder.budget(budget),
            None => builder,
        })
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::usage(&error),
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let content_on_stdout = matches!(&arguments.command, Command::Get(get) if get.is_to_stdout());
    let output = Output::new(arguments.global.json).aside(content_on_stdout);
    let done = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let done = runtime.block_on(run(&arguments, &output));
            // A pipe that nobody reads must not hold up the end; a file's last bytes may.
            runtime.shutdown_timeout(LAST_WRITES);
            done
        }
        Err(error) => Err(Failure::internal(&error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}

async fn run(arguments: &Arguments, output: &Output) -> Result<(), Failure> {
    let global = &arguments.global;
    match &arguments.command {
        Command::Keys(command) => command.run(global, output).await,
        Command::Name(command) => command.run(global, output).await,
        Command::Wallet(command) => command.run(global, output).await,
        Command::Channel(command) => command.run(global, output).await,
        Command::Budget(command) => command.run(global, output),
        Command::Receipts(command) => command.run(global, output),
        Command::Quote(command) => command.run(global, output).await,
        Command::Get(command) => command.run(global, output).await,
        Command::Put(command) => command.run(global, output).await,
        Command::Completions(command) => {
            command.run();
            Ok(())
        }
    }
}

/// Time for a cancelled fetch to write what it had taken.
const LAST_WRITES: std::time::Duration = std::time::Duration::from_secs(5);

/// What scripts go by; these numbers never change their meaning.
const EXIT_CODES: &str = "Exit codes:
  0  done
  1  interrupted, a file or pipe of this machine failed, or a defect of this program
  2  the command makes no sense as it is written
  3  refused: give up, or ask another node
  4  money is needed, or not allowed by a cap
  5  keys or wallet: somebody has to authorise it
  6  node or chain cannot be reached, or another process uses the channel: try again
  7  what a node sent is not the content, or a publisher's list is not true; nothing was paid for it

Colours are shown on terminals only, and never with NO_COLOR set.";
