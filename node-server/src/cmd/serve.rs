//! `aro-node serve`: until a signal, and then to a clean end.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use node_server::Node;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::folder::Folder;
use crate::local::LocalSocket;
use crate::output::{self, Failure};

/// Serve until SIGINT or SIGTERM.
#[derive(Args)]
pub(crate) struct Serve {
    /// Folder of the node.
    #[arg(long)]
    dir: PathBuf,
    /// Key file with SOL for fees, and nothing else, with which the node settles closing channels that its operators
    /// leave alone; that of config.json if not given.
    #[arg(long)]
    fee_keypair: Option<PathBuf>,
}

impl Serve {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        // Before anything else: a signal during the start must not be lost.
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::internal)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::internal)?;
        let folder = Folder::open(&self.dir)?;
        let mut config = folder.node_config()?;
        config.fee_key = folder.fee_key(self.fee_keypair.as_deref())?;
        let host = config.public_host.clone();
        let node = Arc::new(Node::start(config, folder.key()?, folder.chain()?).await?);

        let listen = node.local_addr();
        let host = host.unwrap_or_else(|| listen.ip().to_string());
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let ready = json!({
            "node_id": node.node_id().to_string(),
            "listen": listen,
            "address_template": format!("aro://<content id>@{}@{host}:{}", node.node_id(), listen.port()),
        });
        let socket = LocalSocket::open(&self.dir);
        output::line(&ready.to_string());
        let answer = async {
            match &socket {
                Ok(socket) => socket.answer(&node).await,
                Err(error) => {
                    tracing::warn!(%error, "no control socket: `status` and `handoff` cannot reach this node");
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            () = answer => {}
        }
        drop(socket);
        // The answering future is gone with the select, and with it the only other share.
        let node = Arc::into_inner(node).ok_or_else(|| Failure::internal("the node is still in use"))?;
        if let Err(error) = node.shutdown().await {
            // Not a failure: the vouchers are durable here, and go out after the next start.
            tracing::warn!(%error, "stopped");
        }
        Ok(())
    }
}
