//! `aro-node withdraw`: earnings to the payout that the chain names.

use std::path::PathBuf;

use aro_proto::Amount;
use clap::Args;
use node_server::withdraw;
use serde_json::json;
use settlement_chain::{Program, keyfile};

use crate::folder::Folder;
use crate::output::{self, Failure};

/// Pay what is earned to the node's payout.
#[derive(Args)]
pub(crate) struct Withdraw {
    /// Folder of the node.
    #[arg(long)]
    dir: PathBuf,
    /// How much, in $ARO; everything if not given.
    #[arg(long)]
    amount: Option<Amount>,
    /// Key file of the owner; the folder's own if not given.
    #[arg(long)]
    owner: Option<PathBuf>,
    /// Key file that pays the fee; the owner if not given.
    #[arg(long)]
    payer: Option<PathBuf>,
}

impl Withdraw {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let folder = Folder::open(&self.dir)?;
        let owner_path = self.owner.unwrap_or_else(|| folder.owner_key());
        let owner = keyfile::read(&owner_path)?;
        let payer = keyfile::read(self.payer.as_ref().unwrap_or(&owner_path))?;
        let program = Program::new(folder.program_id()?);
        let id = folder.key()?.node_id();
        let paid = withdraw(&*folder.chain()?, &program, &payer, &owner, id, self.amount).await?;
        let signature = paid.signature.map(|signature| signature.to_string());
        let line = match &signature {
            Some(signature) => format!("{} $ARO paid to {} in {signature}", paid.amount, paid.payout),
            None => "nothing is earned that was not paid out".to_owned(),
        };
        let object = json!({ "amount": paid.amount, "payout": paid.payout.to_string(), "signature": signature });
        output::result(json, &object, [line]);
        Ok(())
    }
}
