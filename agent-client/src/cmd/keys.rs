//! `aro keys`: make or show the wallet's keys.

use agent_client::Wallet;
use clap::Subcommand;
use serde_json::json;

use crate::Global;
use crate::output::{Failure, Output};

#[derive(Subcommand)]
pub(crate) enum Keys {
    /// Make a new wallet: an owner key and a signer key; never overwrites one
    New,
    /// Show the addresses of both keys
    Show,
}

impl Keys {
    pub(crate) fn run(&self, global: &Global, output: &Output) -> Result<(), Failure> {
        let home = global.home()?;
        let (owner, signer) = match self {
            Self::New => {
                let wallet = Wallet::create(&home)?;
                (wallet.owner(), wallet.signer())
            }
            Self::Show => Wallet::addresses(&home)?,
        };
        let object = json!({"owner": owner.to_string(), "signer": signer.to_string(), "home": home});
        output.result(&object, || format!("owner:  {owner}\nsigner: {signer}"))
    }
}
