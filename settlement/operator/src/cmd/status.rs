//! `aro-settle status`: what is stored here and earned on chain.

use std::path::PathBuf;

use aro_proto::Amount;
use clap::Args;
use serde_json::{Value, json};
use settlement_chain::reads::{self, ReadError};
use settlement_chain::{Address, ChainClient, Program, Signer, connect};
use settlement_operator::control::{Command, ask};
use settlement_operator::vouchers::{self, Book, LeaseTerms, StoreError, StoredVoucher};

use super::home::Home;
use super::once::asked;
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Folder of the operator.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

impl Status {
    pub(super) async fn run(self, output: &Output) -> Result<(), Failure> {
        let home = Home::new(self.dir);
        let file = home.read_config()?;
        let config = home.operator_config(&file)?;
        let mut status = match ask(&config.control_socket(), Command::Status).await {
            Ok(answer) => asked(Ok(answer))?,
            Err(nobody) => match vouchers::open(&config.store, &config.database(), &home.owner(&config)).await {
                Ok(store) => {
                    let book = Book::new(store, LeaseTerms::new("status"));
                    let vouchers: Vec<Value> = book.vouchers().await?.iter().map(StoredVoucher::to_json).collect();
                    json!({
                        "running": false,
                        "operator_id": home.transport_key()?.node_id().to_string(),
                        "operator_account": Value::Null,
                        "listen": Value::Null,
                        "vouchers": vouchers,
                    })
                }
                Err(StoreError::InUse) => asked(Err(nobody))?,
                Err(error) => return Err(error.into()),
            },
        };

        let program = Program::new(config.program);
        let authority = home.authority()?.pubkey();
        let chain = connect(&file.rpc_url)?;
        let on_chain = on_chain(&chain, &program, &authority).await;
        status["operator_account"] = program.operator(&authority).0.to_string().into();
        status["authority"] = authority.to_string().into();
        // What is stored here can be shown without a chain.
        let earned = match &on_chain {
            Ok((fees, lamports)) => {
                status["fees"] = (*fees).into();
                status["authority_lamports"] = (*lamports).into();
                format!("fees on chain     {} $ARO\nhot key holds     {lamports} lamports", Amount::new(*fees))
            }
            Err(error) => {
                status["chain_error"] = error.to_string().into();
                format!("chain             {error}")
            }
        };

        let stored = status["vouchers"].as_array().map_or(0, Vec::len);
        let text = format!(
            "{}\noperator account  {}\nvouchers stored   {stored}\n{earned}",
            if status["running"] == Value::Bool(true) { "running" } else { "not running" },
            program.operator(&authority).0,
        );
        output.result(&status, &text);
        Ok(())
    }
}

/// Fees in base units, and the hot key's lamports.
async fn on_chain(chain: &dyn ChainClient, program: &Program, authority: &Address) -> Result<(u64, u64), ReadError> {
    let account = reads::operator(chain, program, authority).await?;
    Ok((account.map_or(0, |account| account.fees), reads::lamports(chain, authority).await?))
}
