//! Test money for a wallet: $ARO minted, SOL transferred, in one transaction.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use settlement_chain::{Address, RpcChain, Signer, keyfile, submit, tokens};

use crate::amount;

#[derive(Args)]
pub struct FaucetArgs {
    /// The devnet's JSON-RPC address (`rpc_url` of its JSON line).
    #[arg(long, env = "ARO_RPC_URL")]
    rpc_url: String,
    /// The $ARO mint (`mint`).
    #[arg(long)]
    mint: Address,
    /// The faucet's key file (`faucet_keypair`): mint authority and owner of the SOL.
    #[arg(long)]
    keypair: PathBuf,
    /// The wallet that gets the money.
    #[arg(long)]
    to: Address,
    /// $ARO to mint, in whole $ARO with up to 6 decimals.
    #[arg(long, default_value = "100", value_parser = amount::aro)]
    aro: u64,
    /// SOL to send, with up to 9 decimals.
    #[arg(long, default_value = "1", value_parser = amount::sol)]
    sol: u64,
}

/// Sends the money, waits until it is confirmed and prints where it went.
pub async fn faucet(args: FaucetArgs) -> anyhow::Result<()> {
    let chain = RpcChain::new(&args.rpc_url);
    let faucet = keyfile::read(&args.keypair)?;
    let payer = faucet.pubkey();
    let token_account = tokens::associated_token_address(&args.to, &args.mint);
    let mut steps = vec![tokens::create_associated_idempotent(&payer, &args.to, &args.mint)];
    if args.sol > 0 {
        steps.push(tokens::transfer_lamports(&payer, &args.to, args.sol));
    }
    if args.aro > 0 {
        steps.push(tokens::mint_to(&args.mint, &token_account, &payer, args.aro));
    }
    let signature = submit::submit(&chain, &faucet, &[], &steps).await.context("the faucet's transaction")?;
    crate::print_line(&serde_json::json!({
        "signature": signature.to_string(),
        "to": args.to.to_string(),
        "token_account": token_account.to_string(),
        "aro_base_units": args.aro,
        "lamports": args.sol,
    }))
}
