//! `aro-settle mint-to`: test $ARO, and a little SOL, from the wallet that may mint.

use std::path::PathBuf;

use aro_proto::Amount;
use clap::Args;
use serde_json::json;
use settlement_chain::{Address, Signer, connect, reads, setup, submit, tokens};

use super::{ChainArguments, home};
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `mint-to`.
#[derive(Debug, Args)]
pub(crate) struct MintTo {
    #[command(flatten)]
    chain: ChainArguments,
    /// Key file of the mint's authority, who pays.
    #[arg(long, value_name = "KEYFILE")]
    payer: PathBuf,
    /// Wallet that gets them, in its associated token account.
    #[arg(long, value_name = "ADDRESS")]
    to: Address,
    /// Amount in $ARO.
    #[arg(long, value_name = "ARO")]
    aro: Amount,
    /// Lamports to send along, from the payer.
    #[arg(long, value_name = "LAMPORTS", default_value_t = 0)]
    lamports: u64,
}

impl MintTo {
    pub(super) async fn run(self, output: &Output) -> Result<(), Failure> {
        let payer = home::key(&self.payer)?;
        let chain = connect(&self.chain.rpc)?;
        let mint = Address::from(reads::config(&chain, &self.chain.program()).await?.mint);
        if self.lamports > 0 {
            let transfer = tokens::transfer_lamports(&payer.pubkey(), &self.to, self.lamports);
            submit::submit(&chain, &payer, &[], &[transfer]).await?;
        }
        let account = setup::mint_to(&chain, &mint, &payer, &self.to, self.aro.get()).await?;
        let object = json!({
            "mint": mint.to_string(),
            "token_account": account.to_string(),
            "amount": self.aro.get(),
            "lamports": self.lamports,
        });
        output.result(&object, &format!("{} $ARO to {account}", self.aro));
        Ok(())
    }
}
