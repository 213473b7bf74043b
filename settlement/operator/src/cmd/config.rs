//! `aro-settle config`: what the program's admin sees and does.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use settlement_chain::admin::{self, Changed, Changes};
use settlement_chain::instructions::SetConfig;
use settlement_chain::interface::accounts::Config as Parameters;
use settlement_chain::{Address, Keypair, Program, connect, reads};

use super::{ChainArguments, home};
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `config`.
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Show the program's parameters and who may change them.
    Show(ChainArguments),
    /// Change parameters; what is not given stays. Channels and nodes keep the fees that they have copied.
    Set(Set),
    /// Propose another admin, who takes the office with accept-admin; until then nothing changes.
    ProposeAdmin(ProposeAdmin),
    /// Take the office that the admin has proposed; --admin is the new admin's key.
    AcceptAdmin(Signers),
    /// Stop deposits and opens. Settling, closing and withdrawing go on.
    Pause(Signers),
    /// Let deposits and opens go on.
    Resume(Signers),
}

/// Which chain, and who signs and pays.
#[derive(Debug, Args)]
struct Signers {
    #[command(flatten)]
    chain: ChainArguments,
    /// Key file of the admin.
    #[arg(long, value_name = "KEYFILE")]
    admin: PathBuf,
    /// Key file of the wallet that pays the fee; the admin if not given.
    #[arg(long, value_name = "KEYFILE")]
    payer: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Set {
    #[command(flatten)]
    signers: Signers,
    #[command(flatten)]
    values: Values,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Values {
    /// The protocol's part of what settles, in basis points, at most 2000; for channels that open from now on.
    #[arg(long, value_name = "BPS")]
    protocol_fee_bps: Option<u16>,
    /// The largest part an operator may ask, in basis points, at most 5000.
    #[arg(long, value_name = "BPS")]
    max_operator_fee_bps: Option<u16>,
    /// Longest grace a channel may have, in seconds.
    #[arg(long, value_name = "SECONDS")]
    max_grace: Option<u32>,
    /// Seconds that a node's new payout waits before it counts, at most 2592000 (30 days).
    #[arg(long, value_name = "SECONDS")]
    payout_delay: Option<u32>,
    /// Wallet whose token account gets the protocol's fees.
    #[arg(long, value_name = "ADDRESS")]
    treasury_owner: Option<Address>,
}

#[derive(Debug, Args)]
struct ProposeAdmin {
    /// Who shall become admin.
    #[arg(value_name = "ADDRESS", required_unless_present = "none")]
    address: Option<Address>,
    /// Take a proposal back.
    #[arg(long, conflicts_with = "address")]
    none: bool,
    #[command(flatten)]
    signers: Signers,
}

impl Config {
    pub(super) async fn run(self, output: &Output) -> Result<(), Failure> {
        match self.act {
            Act::Show(chain) => {
                let program = chain.program();
                let config = reads::config(&connect(&chain.rpc)?, &program).await?;
                show(output, &program, &Changed { config, signature: None });
                Ok(())
            }
            Act::Set(set) => {
                let Values { protocol_fee_bps, max_operator_fee_bps, max_grace, payout_delay, treasury_owner } =
                    set.values;
                let changes = Changes {
                    protocol_fee_bps,
                    max_operator_fee_bps,
                    max_grace_s: max_grace,
                    payout_delay_s: payout_delay,
                    treasury_owner,
                    ..Changes::default()
                };
                set.signers.change(output, &changes).await
            }
            Act::ProposeAdmin(proposal) => {
                let changes = Changes { pending_admin: Some(proposal.address), ..Changes::default() };
                proposal.signers.change(output, &changes).await
            }
            Act::AcceptAdmin(signers) => signers.accept(output).await,
            Act::Pause(signers) => signers.pause(output, true).await,
            Act::Resume(signers) => signers.pause(output, false).await,
        }
    }
}

impl Signers {
    async fn pause(&self, output: &Output, paused: bool) -> Result<(), Failure> {
        self.change(output, &Changes { paused: Some(paused), ..Changes::default() }).await
    }

    async fn change(&self, output: &Output, changes: &Changes) -> Result<(), Failure> {
        let (payer, admin) = self.keys()?;
        let program = self.chain.program();
        let changed = admin::change(&connect(&self.chain.rpc)?, &program, &payer, &admin, changes).await?;
        show(output, &program, &changed);
        Ok(())
    }

    async fn accept(&self, output: &Output) -> Result<(), Failure> {
        let (payer, admin) = self.keys()?;
        let program = self.chain.program();
        let changed = admin::accept(&connect(&self.chain.rpc)?, &program, &payer, &admin).await?;
        show(output, &program, &changed);
        Ok(())
    }

    fn keys(&self) -> Result<(Keypair, Keypair), Failure> {
        let admin = home::key(&self.admin)?;
        let payer = self.payer.as_deref().map_or_else(|| Ok(admin.insecure_clone()), home::key)?;
        Ok((payer, admin))
    }
}

fn show(output: &Output, program: &Program, changed: &Changed) {
    let object = object(program, changed);
    let Parameters { max_grace_s, protocol_fee_bps, max_operator_fee_bps, payout_delay_s, .. } = changed.config;
    let word = |what: &str| object[what].as_str().unwrap_or("none").to_owned();
    let mut text = format!(
        "program           {}\nadmin             {}\nproposed admin    {}\ndeposits, opens   {}\nprotocol fee      \
         {protocol_fee_bps} bps\noperators' limit  {max_operator_fee_bps} bps\nlongest grace     {max_grace_s} s\n\
         payout delay      {payout_delay_s} s\ntreasury          {}\nmint              {}\nvault             {}",
        program.id,
        word("admin"),
        word("pending_admin"),
        if changed.config.paused == 0 { "go on" } else { "paused" },
        word("treasury"),
        word("mint"),
        word("vault"),
    );
    if let Some(signature) = changed.signature {
        text.push_str(&format!("\ntransaction       {signature}"));
    }
    output.result(&object, &text);
}

fn object(program: &Program, changed: &Changed) -> Value {
    let Changed { config, signature } = changed;
    let parameters = SetConfig::keeping(config);
    json!({
        "program_id": program.id.to_string(),
        "admin": parameters.admin.to_string(),
        "pending_admin": parameters.pending_admin.map(|key| key.to_string()),
        "paused": parameters.paused,
        "protocol_fee_bps": config.protocol_fee_bps,
        "max_operator_fee_bps": config.max_operator_fee_bps,
        "max_grace_s": config.max_grace_s,
        "payout_delay_s": config.payout_delay_s,
        "treasury": parameters.treasury.to_string(),
        "mint": Address::from(config.mint).to_string(),
        "vault": Address::from(config.vault).to_string(),
        "signature": signature.map(|signature| signature.to_string()),
    })
}
