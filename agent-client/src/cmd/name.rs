//! `aro name`: what becomes of the names that this wallet's key has given.

use aro_proto::naming::NameRecord;
use aro_proto::{Name, NodeAddress};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::Global;
use crate::output::{Failure, Output};

#[derive(Subcommand)]
pub(crate) enum NameCommand {
    /// Withdraw a name: from now on it means nothing, and no older meaning comes back
    Withdraw(Withdraw),
}

#[derive(Args)]
pub(crate) struct Withdraw {
    /// The name
    #[arg(value_name = "NAME")]
    name: Name,
    /// <node id>@<host>:<port> of each node that is to say so
    #[arg(value_name = "NODE_ADDRESS", required = true)]
    nodes: Vec<NodeAddress>,
}

#[derive(Serialize)]
struct Withdrawn {
    name: String,
    sequence: u64,
    nodes: usize,
}

impl NameCommand {
    pub(crate) async fn run(&self, global: &Global, output: &Output) -> Result<(), Failure> {
        let Self::Withdraw(Withdraw { name, nodes }) = self;
        let agent = global.agent(None).await?;
        let mut outcome = Err(Failure::usage("no node is named", "name the nodes that have it"));
        for node in nodes {
            let withdrawn = agent.withdraw_name(node, name.clone()).run().await;
            outcome = withdrawn.map_err(Failure::from);
            if outcome.is_err() {
                break;
            }
        }
        agent.close().await;
        let record: NameRecord = outcome?;
        let said = Withdrawn { name: record.address().to_string(), sequence: record.sequence, nodes: nodes.len() };
        output.result(&said, || format!("{} is withdrawn, number {}", said.name, said.sequence))
    }
}
