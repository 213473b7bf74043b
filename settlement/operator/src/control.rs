//! The socket at which a running operator takes commands of its own machine: one line in, one line of JSON out.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::operator::RunningOperator;
use crate::stop::Stop;
use crate::vouchers::{Cursor, HistoryQuery, HistoryRow};

/// What a running operator can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Settle now; the answer is the report.
    Settle,
    /// How it stands.
    Status,
    /// What its store can tell an examiner.
    Doctor,
    /// A page of its history.
    History(HistoryQuery),
}

impl Command {
    /// The line that asks it.
    fn line(self) -> String {
        match self {
            Self::Settle => "settle".into(),
            Self::Status => "status".into(),
            Self::Doctor => "doctor".into(),
            Self::History(query) => format!("history {query}"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        match line.split_once(' ') {
            None if line == "settle" => Some(Self::Settle),
            None if line == "status" => Some(Self::Status),
            None if line == "doctor" => Some(Self::Doctor),
            Some(("history", query)) => query.parse().ok().map(Self::History),
            _ => None,
        }
    }
}

/// A control socket; removed when dropped.
pub struct ControlSocket {
    path: PathBuf,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl ControlSocket {
    /// Opens the socket of an operator, for its owner only. The database's lock has been taken by then, so a socket
    /// file that is there is a leftover.
    ///
    /// # Errors
    /// The socket cannot be made at this path.
    pub fn open(path: PathBuf, operator: Arc<RunningOperator>) -> io::Result<Self> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let (stop, mut stopped) = Stop::new();
        let task = tokio::spawn(async move {
            let mut answers = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => {
                            answers.spawn(answer(stream, Arc::clone(&operator)));
                        }
                        Err(error) => tracing::warn!(%error, "the control socket took no connection"),
                    },
                    Some(_) = answers.join_next() => {}
                    () = stopped.told() => break,
                }
            }
            answers.shutdown().await;
        });
        Ok(Self { path, stop, task })
    }

    /// Stops answering, begun answers included, and waits until the operator is let go of.
    pub async fn close(mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the control socket's task ended badly");
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Asks the operator that runs behind this socket. An operator's own error comes as `{"error": "..."}`.
///
/// # Errors
/// Nobody answers there.
pub async fn ask(path: &Path, command: Command) -> io::Result<Value> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(format!("{}\n", command.line()).as_bytes()).await?;
    let mut line = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut line).await?;
    serde_json::from_str(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn answer(stream: UnixStream, operator: Arc<RunningOperator>) {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(MAX_COMMAND));
    let Ok(Ok(_)) = timeout(PATIENCE, reader.read_line(&mut line)).await else { return };
    let answer = match Command::parse(line.trim_end()) {
        Some(Command::Settle) => match operator.settle_once().await {
            Ok(report) => report.to_json(),
            Err(error) => json!({ "error": error.to_string(), "retryable": error.is_retryable() }),
        },
        Some(Command::Status) => match operator.vouchers().await {
            Ok(vouchers) => json!({
                "running": true,
                "operator_id": operator.id().to_string(),
                "operator_account": operator.operator_account().to_string(),
                "listen": operator.local_addr().to_string(),
                "vouchers": vouchers.iter().map(crate::vouchers::StoredVoucher::to_json).collect::<Vec<_>>(),
            }),
            Err(error) => json!({ "error": error.to_string(), "retryable": false }),
        },
        Some(Command::Doctor) => {
            let (findings, lamports_per_day) = operator.examine().await;
            json!({
                "findings": findings.iter().map(crate::doctor::Finding::to_json).collect::<Vec<_>>(),
                "lamports_per_day": lamports_per_day,
            })
        }
        Some(Command::History(query)) => match operator.history(&query).await {
            Ok(page) => history_page(&page),
            Err(error) => json!({ "error": error.to_string(), "retryable": error.is_retryable() }),
        },
        None => json!({ "error": "unknown command: settle, status, doctor and history are known", "retryable": false }),
    };
    let _ = writer.write_all(format!("{answer}\n").as_bytes()).await;
}

/// A page of history, and where the next begins, as a running operator answers it.
pub fn history_page(page: &[(Cursor, HistoryRow)]) -> Value {
    let rows: Vec<Value> = page.iter().map(|(_, row)| row.to_json()).collect();
    let next = page.last().map(|(cursor, _)| json!([cursor.at, cursor.number]));
    json!({ "rows": rows, "next": next })
}

/// Bytes of a command line.
const MAX_COMMAND: u64 = 256;
/// Bytes of an answer.
const MAX_ANSWER: u64 = 64 << 20;
/// How long a command line may take.
const PATIENCE: Duration = Duration::from_secs(5);
