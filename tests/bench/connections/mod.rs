//! `aro-bench connections`: what a node holds in memory for a connection that is greeted, bound to a channel, and idle.
//!
//! The node runs in a process of its own, whose resident memory is read before and after; so does bare QUIC, beside it.

mod agents;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::server::{Kind, ServerProcess};
use crate::report::{Figure, Report};
use crate::rounds::paired;

/// How to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Connections.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    count: u32,
    /// Rounds, each with a new process; their median counts.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    rounds: u16,
    /// Folder for the node; the system's temporary folder if not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Be the server of a measurement.
    #[arg(long, value_name = "KIND", hide = true)]
    serve: Option<Kind>,
}

pub(crate) fn measure(arguments: &Arguments) -> Result<Report> {
    let runtime = tokio::runtime::Runtime::new().context("no async runtime")?;
    if let Some(kind) = arguments.serve {
        runtime.block_on(server::serve(kind, arguments.count as usize, arguments.dir.as_deref()))?;
    }
    let one = |kind| runtime.block_on(bytes_of_one(kind, arguments));
    let (ours, raw) = paired(arguments.rounds.into(), |_| one(Kind::Node), |_| one(Kind::Raw))?;
    let figures = vec![
        Figure::new("rss_kib_per_idle_connection", ours / 1_024),
        Figure::new("raw_quinn_rss_kib_per_idle_connection", raw / 1_024),
    ];
    let title = format!("{} idle connections", arguments.count);
    let notes = vec![format!(
        "Medians of {} rounds by turns, a new process each. Ours are greeted and bound, all to one channel.",
        arguments.rounds
    )];
    Ok(Report { title, figures, notes })
}

async fn bytes_of_one(kind: Kind, arguments: &Arguments) -> Result<u64> {
    let count = arguments.count as usize;
    let server = ServerProcess::start(kind, count, arguments.dir.as_deref())?;
    // The first connections pay for what all others share.
    let first = agents::connect(&server.place, FIRST).await?;
    let before = server.settled_rss().await?;
    let connections = agents::connect(&server.place, count).await?;
    let after = server.settled_rss().await?;
    for connection in first.iter().chain(&connections) {
        ensure!(connection.close_reason().is_none(), "a connection was closed: {:?}", connection.close_reason());
    }
    ensure!(connections.len() == count, "{} connections of {count}", connections.len());
    Ok(after.saturating_sub(before) / count as u64)
}

/// Connections that are there before the measured ones.
const FIRST: usize = 100;
/// How often memory is looked at until it stands still.
const LOOKS: Duration = Duration::from_millis(250);
