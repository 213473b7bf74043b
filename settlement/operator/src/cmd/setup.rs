//! `aro-settle setup`: what the devnet prepares beyond loading the program, for any cluster.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use settlement_chain::reads::{self, ReadError};
use settlement_chain::setup::{SetupOptions, setup};
use settlement_chain::{Address, ChainClient, Hash, connect};

use super::{ChainArguments, home};
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `setup`.
#[derive(Debug, Args)]
pub(crate) struct Setup {
    #[command(flatten)]
    chain: ChainArguments,
    /// Key file of the wallet that pays; mint authority of a new mint.
    #[arg(long, value_name = "KEYFILE")]
    payer: PathBuf,
    /// Key file of the program's upgrade authority, who becomes its admin; the payer if not given.
    #[arg(long, value_name = "KEYFILE")]
    admin: Option<PathBuf>,
    /// The $ARO mint: classic SPL token, 6 decimals, no freeze authority.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "new_mint")]
    mint: Option<Address>,
    /// Create a new mint.
    #[arg(long)]
    new_mint: bool,
    /// Wallet whose token account gets the protocol's fees; the admin if not given.
    #[arg(long, value_name = "ADDRESS")]
    treasury_owner: Option<Address>,
    /// The protocol's part of what settles, in basis points.
    #[arg(long, value_name = "BPS", default_value_t = SetupOptions::default().protocol_fee_bps)]
    protocol_fee_bps: u16,
    /// The largest part an operator may ask, in basis points.
    #[arg(long, value_name = "BPS", default_value_t = SetupOptions::default().max_operator_fee_bps)]
    max_operator_fee_bps: u16,
    /// Longest grace a channel may have, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = SetupOptions::default().max_grace_s)]
    max_grace: u32,
    /// Seconds that a node's new payout waits before it counts.
    #[arg(long, value_name = "SECONDS", default_value_t = SetupOptions::default().payout_delay_s)]
    payout_delay: u32,
}

impl Setup {
    pub(super) async fn run(self, output: &Output) -> Result<(), Failure> {
        let payer = home::key(&self.payer)?;
        let admin = match &self.admin {
            Some(path) => home::key(path)?,
            None => payer.insecure_clone(),
        };
        let chain = connect(&self.chain.rpc)?;
        let program = self.chain.program();
        if self.mint.is_none()
            && !self.new_mint
            && let Err(error @ ReadError::NotSetUp(_)) = reads::config(&chain, &program).await
        {
            return Err(Failure::usage(error, "give --mint ADDRESS, or --new-mint for a test token"));
        }
        let options = SetupOptions {
            mint: self.mint,
            treasury_owner: self.treasury_owner,
            max_grace_s: self.max_grace,
            protocol_fee_bps: self.protocol_fee_bps,
            max_operator_fee_bps: self.max_operator_fee_bps,
            payout_delay_s: self.payout_delay,
        };
        let done = setup(&chain, &program, &payer, &admin, &options).await?;
        let genesis_hash = Hash::new_from_array(chain.genesis_hash().await?);
        let object = json!({
            "program_id": program.id.to_string(),
            "genesis_hash": genesis_hash.to_string(),
            "mint": done.mint.to_string(),
            "config": done.config.to_string(),
            "vault": done.vault.to_string(),
            "treasury": done.treasury.to_string(),
            "created": done.created,
        });
        // This command is for scripts as much as for people: its result is always the object.
        output.object(&object);
        Ok(())
    }
}
