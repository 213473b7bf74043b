//! `aro-settle run`: takes vouchers and settles until it is told to stop.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use settlement_chain::connect;
use settlement_operator::Operator;
use settlement_operator::control::ControlSocket;
use tokio::signal::unix::{SignalKind, signal};

use super::home::Home;
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Folder of the operator.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

impl Run {
    pub(super) async fn run(self, output: &Output) -> Result<(), Failure> {
        let home = Home::new(self.dir);
        let file = home.read_config()?;
        let config = home.operator_config(&file)?;
        let control = config.control_socket();
        // Before anything is ready: a signal must never find its default effect once the ready line is out.
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);

        let chain = connect(&file.rpc_url)?;
        let operator = Operator::start(config, home.transport_key()?, home.authority()?, chain).await?;
        let operator = Arc::new(operator);
        let control = ControlSocket::open(control, Arc::clone(&operator))?;
        output.object(&json!({
            "operator_id": operator.id().to_string(),
            "operator_account": operator.operator_account().to_string(),
            "listen": operator.local_addr().to_string(),
            "metrics": operator.metrics_addr().map(|address| address.to_string()),
        }));

        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping");
        control.close().await;
        // The socket's task is gone, and with it every other holder.
        if let Some(operator) = Arc::into_inner(operator) {
            operator.shutdown().await;
        }
        Ok(())
    }
}
