//! `aro-settle withdraw`: fees to where they always go.

use std::path::PathBuf;

use aro_proto::{Amount, NodeId};
use clap::Args;
use serde_json::json;
use settlement_chain::{Address, Program, Signer, connect};
use settlement_operator::{FeeSource, withdraw_fees};

use super::home::Home;
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `withdraw`.
#[derive(Debug, Args)]
pub(crate) struct Withdraw {
    /// Folder of the operator; its hot key pays for the transaction.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Send the protocol's fees of this node to the treasury instead.
    #[arg(long, value_name = "NODE_ID")]
    protocol_fees_of: Option<NodeId>,
}

impl Withdraw {
    pub(super) async fn run(self, output: &Output) -> Result<(), Failure> {
        let home = Home::new(self.dir);
        let file = home.read_config()?;
        let program = Program::new(file.program()?);
        let authority = home.authority()?;
        let source = match self.protocol_fees_of {
            None => FeeSource::Operator(program.operator(&authority.pubkey()).0),
            Some(node) => FeeSource::Protocol(program.node(&Address::new_from_array(node.to_bytes())).0),
        };
        let chain = connect(&file.rpc_url)?;
        let done = withdraw_fees(&chain, &program, &authority, source).await?;
        let object = json!({
            "amount": done.amount,
            "destination": done.destination.to_string(),
            "signature": done.signature.map(|signature| signature.to_string()),
        });
        let text = match done.signature {
            Some(signature) => format!("{} $ARO to {} ({signature})", Amount::new(done.amount), done.destination),
            None => "there are no fees to withdraw".into(),
        };
        output.result(&object, &text);
        Ok(())
    }
}
