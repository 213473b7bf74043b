//! `aro wallet`: what there is, and the ways in and out of the settlement program.

use agent_client::WalletStatus;
use aro_proto::Amount;
use clap::Subcommand;
use serde_json::json;

use super::channel::table;
use crate::Global;
use crate::output::{Failure, Output};

#[derive(Subcommand)]
pub(crate) enum WalletCommand {
    /// Show SOL, $ARO and channels
    Status,
    /// Move $ARO from the owner's token account into the program, where channels are opened from
    Deposit {
        /// $ARO, such as 1.5
        amount: Amount,
    },
    /// Move available $ARO back to the owner's token account
    Withdraw {
        /// $ARO, such as 1.5
        amount: Amount,
    },
}

impl WalletCommand {
    pub(crate) async fn run(&self, global: &Global, output: &Output) -> Result<(), Failure> {
        let money = global.agent(None).await?.wallet();
        match self {
            Self::Status => {
                let status = money.status().await?;
                output.result(&status, || describe(&status))
            }
            Self::Deposit { amount } => {
                let signature = money.deposit(*amount).await?;
                let object = json!({"deposited": amount, "signature": signature.to_string()});
                output.result(&object, || format!("deposited {amount} $ARO ({signature})"))
            }
            Self::Withdraw { amount } => {
                let signature = money.withdraw(*amount).await?;
                let object = json!({"withdrawn": amount, "signature": signature.to_string()});
                output.result(&object, || format!("withdrew {amount} $ARO ({signature})"))
            }
        }
    }
}

fn describe(status: &WalletStatus) -> String {
    let WalletStatus { owner, signer, sol_lamports, aro, available, channels } = status;
    let (sol, lamports) = (sol_lamports / LAMPORTS_PER_SOL, sol_lamports % LAMPORTS_PER_SOL);
    format!(
        "owner:     {owner}\nsigner:    {signer}\nSOL:       {sol}.{lamports:09}\n$ARO:      {aro} in the token account\n\
         available: {available} $ARO in the program\n{}",
        table(channels)
    )
}

const LAMPORTS_PER_SOL: u64 = 1_000_000_000;
