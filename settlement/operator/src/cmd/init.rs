//! `aro-settle init`: keys, payout, registration, config file.

use std::net::SocketAddr;
use std::path::PathBuf;

use aro_proto::Amount;
use clap::Args;
use serde_json::json;
use settlement_chain::{Address, Signer, connect, keyfile, reads, submit, tokens};
use settlement_operator::submit::FormatChoice;
use settlement_operator::vouchers::StoreUrl;
use settlement_operator::{OperatorConfig, register};

use super::ChainArguments;
use super::home::{self, ConfigFile, Home};
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Folder of the operator; created.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    chain: ChainArguments,
    /// Key file of the wallet that pays for accounts and gives the operator its first SOL.
    #[arg(long, value_name = "KEYFILE")]
    payer: PathBuf,
    /// What the operator takes of what settles, in basis points.
    #[arg(long, value_name = "BPS")]
    fee_bps: u16,
    /// UDP address to take vouchers at.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4434")]
    listen: SocketAddr,
    /// What keeps vouchers and journal: `redb`, a file in the folder, or postgres://user@host/database, which several
    /// machines of this operator can share.
    #[arg(long, value_name = "STORE", default_value_t = StoreUrl::default())]
    store: StoreUrl,
    /// Wallet whose token account gets the fees; the payer if not given.
    #[arg(long, value_name = "ADDRESS")]
    payout_owner: Option<Address>,
    /// Lamports that the operator's hot key shall hold for transaction fees.
    #[arg(long, value_name = "LAMPORTS", default_value_t = 50_000_000)]
    fund_lamports: u64,
    /// Settling an open channel is not worth it below this much, in $ARO.
    #[arg(long, value_name = "ARO", default_value_t = OperatorConfig::default().rules.min_settle)]
    min_settle: Amount,
    /// What one SOL costs, in $ARO: what is worth a transaction follows from it.
    #[arg(long, value_name = "ARO")]
    aro_per_sol: Option<Amount>,
    /// TCP address of the metrics page; keep it on loopback. None if not given.
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
    /// Milliseconds between settling rounds; 0 settles only when asked.
    #[arg(long, value_name = "MS", default_value_t = OperatorConfig::default().settle_interval_ms)]
    settle_interval_ms: u64,
}

impl Init {
    pub(super) async fn run(self, output: &Output) -> Result<(), Failure> {
        let home = Home::new(self.dir);
        if home.is_initialised() {
            let message = format!("there is an operator in {} already", home.dir.display());
            return Err(Failure::usage(message, "give another --dir, or use that operator"));
        }
        let payer = home::key(&self.payer)?;
        let chain = connect(&self.chain.rpc)?;
        let program = self.chain.program();
        reads::config(&chain, &program).await?;

        // Whatever fails from here on, the same command finds the keys and goes on with them.
        home.create()?;
        let transport = keyfile::read_or_create(&home.transport_key_path())?;
        let authority = keyfile::read_or_create(&home.authority_path())?;
        let has = reads::lamports(&chain, &authority.pubkey()).await?;
        let lacks = self.fund_lamports.saturating_sub(has);
        if lacks > 0 {
            let transfer = tokens::transfer_lamports(&payer.pubkey(), &authority.pubkey(), lacks);
            submit::submit(&chain, &payer, &[], &[transfer]).await?;
        }
        let payout_owner = self.payout_owner.unwrap_or_else(|| payer.pubkey());
        let registered = register(&chain, &program, &payer, &authority, self.fee_bps, &payout_owner).await?;
        home.write_config(&ConfigFile {
            rpc_url: self.chain.rpc,
            store: self.store,
            history_days: 0,
            program_id: program.id.to_string(),
            format: FormatChoice::Auto.to_string(),
            listen: self.listen,
            min_settle: self.min_settle.to_string(),
            close_when_asked: true,
            wish_wait_s: None,
            settle_interval_ms: self.settle_interval_ms,
            sweep_interval_ms: None,
            aro_per_sol: self.aro_per_sol.map(|amount| amount.to_string()),
            worth_factor: None,
            max_age_s: None,
            idle_s: None,
            max_channel_exposure: None,
            max_node_exposure: None,
            max_exposure_bps: None,
            withdraw_fees_above: None,
            watch_for: Vec::new(),
            metrics_listen: self.metrics_listen,
            fees: None,
        })?;

        let id = home::secret_key(&transport).node_id();
        let address = format!("{id}@{}", self.listen);
        let object = json!({
            "operator_account": registered.account.to_string(),
            "operator_id": id.to_string(),
            "address": address,
            "authority": authority.pubkey().to_string(),
            "payout": registered.payout.to_string(),
            "fee_bps": self.fee_bps,
        });
        let text = format!(
            "operator account  {}\noperator address  {address}\npayout            {}\nNodes join with:  \
             aro-node init --operator-account {} --operator {address} ...\nStart it with:    aro-settle run --dir {}",
            registered.account,
            registered.payout,
            registered.account,
            home.dir.display(),
        );
        output.result(&object, &text);
        Ok(())
    }
}
