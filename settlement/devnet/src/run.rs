//! The chain itself: server, program, mint, config, and the line that says it is ready.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use settlement_chain::{
    Address, ChainClient, Hash, Keypair, PROGRAM_ELF, Program, RpcChain, Signer, keyfile,
    setup::{self, SetupOptions},
};
use solana_rpc_client::nonblocking::rpc_client::RpcClient;
use solana_rpc_client_api::request::RpcRequest;
use tokio::signal::unix::{SignalKind, signal};

use crate::surfnet::{Surfnet, SurfnetOptions};

#[derive(Args)]
pub struct RunArgs {
    /// Port of the JSON-RPC server on 127.0.0.1; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    rpc_port: u16,
    /// Port of the WebSocket server on 127.0.0.1; 0 takes any free one.
    #[arg(long, default_value_t = 0)]
    ws_port: u16,
    /// Milliseconds between two blocks.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    slot_time_ms: u64,
    /// Directory for the key files, kept and used again at the next start. Without it they live in a temporary
    /// directory until the end.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Where to deploy the settlement program.
    #[arg(long, default_value_t = Program::local().id)]
    program_id: Address,
    /// Deploy the program and no more, as on any cluster: `aro-settle setup` prepares the rest.
    #[arg(long)]
    bare: bool,
}

/// Starts everything, prints the JSON line, and stops on SIGINT or SIGTERM.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    // Listened to from the beginning: a signal during start-up must stop us too.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(stopped);

    let keys = Keys::open(args.state_dir.clone())?;
    let options = SurfnetOptions {
        rpc_port: args.rpc_port,
        ws_port: args.ws_port,
        slot_time_ms: args.slot_time_ms,
        funded: vec![keys.faucet.pubkey(), keys.admin.pubkey()],
        funded_lamports: FUNDS_LAMPORTS,
    };
    let surfnet = Surfnet::start(&options)?;
    let program = Program::new(args.program_id);
    tokio::select! {
        ready = prepare(&surfnet, &program, &keys, args.bare) => crate::print_line(&ready?)?,
        () = &mut stopped => return surfnet.stop(),
    }
    stopped.await;
    surfnet.stop()
}

/// Deploys and, unless it is to stay bare, sets up; returns the line that tells how to reach it all.
async fn prepare(surfnet: &Surfnet, program: &Program, keys: &Keys, bare: bool) -> anyhow::Result<serde_json::Value> {
    let chain = RpcChain::new(&surfnet.rpc_url());
    deploy(&chain.url(), program, &keys.admin.pubkey()).await.context("deploying the settlement program")?;
    let mut line = serde_json::json!({
        "rpc_url": surfnet.rpc_url(),
        "ws_url": surfnet.ws_url(),
        "program_id": program.id.to_string(),
        "genesis_hash": Hash::new_from_array(chain.genesis_hash().await?).to_string(),
        "faucet_keypair": keys.dir.join(FAUCET_FILE),
        "admin_keypair": keys.dir.join(ADMIN_FILE),
    });
    if bare {
        return Ok(line);
    }
    let mint = setup::create_mint_at(&chain, &keys.faucet, &keys.mint, &keys.faucet.pubkey()).await?;
    let options = SetupOptions { mint: Some(mint), ..SetupOptions::default() };
    let setup = setup::setup(&chain, program, &keys.admin, &keys.admin, &options).await?;
    for (name, address) in
        [("mint", setup.mint), ("config", setup.config), ("vault", setup.vault), ("treasury", setup.treasury)]
    {
        line[name] = address.to_string().into();
    }
    Ok(line)
}

/// Writes the program where the upgradeable loader would have put it, with `authority` as its upgrade authority.
async fn deploy(rpc_url: &str, program: &Program, authority: &Address) -> anyhow::Result<()> {
    let elf: String = PROGRAM_ELF.iter().map(|byte| format!("{byte:02x}")).collect();
    let params = serde_json::json!([program.id.to_string(), elf, 0, authority.to_string()]);
    let request = RpcRequest::Custom { method: "surfnet_writeProgram" };
    RpcClient::new(rpc_url.to_owned()).send::<serde_json::Value>(request, params).await?;
    Ok(())
}

/// The keys of this chain, as files that other processes can be pointed to.
struct Keys {
    dir: PathBuf,
    faucet: Keypair,
    admin: Keypair,
    mint: Keypair,
    /// Removes the directory at the end, unless the user named one.
    _temporary: Option<tempfile::TempDir>,
}

impl Keys {
    fn open(state_dir: Option<PathBuf>) -> anyhow::Result<Self> {
        let (dir, temporary) = match state_dir {
            Some(dir) => {
                std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
                (dir.canonicalize()?, None)
            }
            None => {
                let temporary = tempfile::Builder::new().prefix("aro-devnet-").tempdir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        Ok(Self {
            faucet: keyfile::read_or_create(&dir.join(FAUCET_FILE))?,
            admin: keyfile::read_or_create(&dir.join(ADMIN_FILE))?,
            mint: keyfile::read_or_create(&dir.join(MINT_FILE))?,
            dir,
            _temporary: temporary,
        })
    }
}

const FAUCET_FILE: &str = "faucet.json";
const ADMIN_FILE: &str = "admin.json";
/// Only its address matters: it keeps the mint the same over restarts.
const MINT_FILE: &str = "mint.json";

/// Lamports of faucet and admin at the start: 100,000 SOL.
const FUNDS_LAMPORTS: u64 = 100_000_000_000_000;
