//! How commands talk to the node that serves from the same folder: one line each way over a Unix socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use node_server::{FeeKey, HandoffReport, RunningNode, SettleReport};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use settlement_chain::keyfile;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// What is asked of a serving node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Where it stands.
    Status,
    /// Hand all vouchers over.
    Handoff {
        /// And give all channels up.
        close: bool,
    },
    /// Settle all vouchers by itself.
    Settle {
        /// Key file that pays; the node's own key if not given.
        fee_keypair: Option<PathBuf>,
    },
}

/// The socket of a serving node; removed when dropped.
pub(crate) struct LocalSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl LocalSocket {
    /// Opens the socket. The caller holds the folder's ledger, so one that is left over belongs to nobody.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { path, listener })
    }

    /// Answers until dropped.
    pub(crate) async fn answer(&self, node: &Arc<RunningNode>) {
        loop {
            if let Ok((stream, _)) = self.listener.accept().await {
                let answered = timeout(PATIENCE, answer_one(node, stream)).await;
                if !matches!(answered, Ok(Ok(()))) {
                    tracing::debug!("a local question was not completed");
                }
            }
        }
    }
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Asks the node that serves from `dir`; `None` if none does.
pub(crate) async fn ask(dir: &Path, ask: Ask) -> io::Result<Option<Value>> {
    let mut stream = match UnixStream::connect(dir.join(SOCKET)).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut line = serde_json::to_vec(&ask)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = String::new();
    timeout(PATIENCE, BufReader::new(stream).read_line(&mut answer)).await??;
    Ok(Some(serde_json::from_str(&answer)?))
}

async fn answer_one(node: &RunningNode, stream: UnixStream) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_QUESTION)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(Ask::Status) => json!(node.status().await),
        Ok(Ask::Handoff { close }) => {
            let report = if close { node.hand_off_to_close().await } else { node.hand_off().await };
            match report {
                Ok(report) => report_json(&report),
                Err(error) => json!({ "failed": error.to_string(), "retryable": error.is_retryable() }),
            }
        }
        Ok(Ask::Settle { fee_keypair }) => match fee_keypair.map(|path| keyfile::read(&path)).transpose() {
            Ok(key) => match node.settle(key.map(FeeKey::new)).await {
                Ok(report) => settled_json(&report),
                Err(error) => json!({ "failed": error.to_string(), "retryable": error.is_retryable() }),
            },
            Err(error) => json!({ "failed": error.to_string(), "retryable": false }),
        },
        Err(error) => json!({ "failed": error.to_string(), "retryable": false }),
    };
    write.write_all(format!("{answer}\n").as_bytes()).await
}

fn report_json(report: &HandoffReport) -> Value {
    let handed = report.handed.iter().map(|voucher| {
        json!({
            "channel": voucher.channel.to_string(), "cumulative": voucher.cumulative, "close": voucher.close,
            "operator": voucher.operator.to_string(),
        })
    });
    let refused = report
        .refused
        .iter()
        .map(|(channel, refusal)| json!({ "channel": channel.to_string(), "reason": refusal.to_string() }));
    let failed =
        report.failed.iter().map(|(operator, reason)| json!({ "operator": operator.to_string(), "reason": reason }));
    json!({
        "handed": handed.collect::<Vec<_>>(), "refused": refused.collect::<Vec<_>>(),
        "failed": failed.collect::<Vec<_>>(),
    })
}

/// What was settled, for programs.
pub(crate) fn settled_json(report: &SettleReport) -> Value {
    let settled = report.settled.iter().map(|voucher| {
        json!({
            "channel": voucher.channel.to_string(), "cumulative": voucher.cumulative,
            "signature": voucher.signature.to_string(),
        })
    });
    let skipped =
        report.skipped.iter().map(|(channel, reason)| json!({ "channel": channel.to_string(), "reason": reason }));
    json!({ "settled": settled.collect::<Vec<_>>(), "skipped": skipped.collect::<Vec<_>>() })
}

const SOCKET: &str = "control.sock";
/// Bytes of a question.
const MAX_QUESTION: u64 = 4096;
/// How long an answer may take: a handoff waits for operators, a settlement for the chain.
const PATIENCE: Duration = Duration::from_secs(300);
