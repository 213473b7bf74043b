//! Fetches a content into a file, shows where it stands, and goes on where an earlier try broke off.
//!
//! `cargo run -p agent-client --example fetch_file -- ADDRESS FILE`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

mod setup;

use std::path::PathBuf;

use aro_proto::Address;
use setup::{Outcome, agent, argument};

#[tokio::main]
async fn main() -> Outcome<()> {
    let address: Address = argument(1, "aro://<content id>@<node id>@<host>:<port>")?;
    let path: PathBuf = argument(2, "file to write")?;
    let agent = agent().await?;

    let (fetch, mut progress) = agent.fetch(&address).max_price("0.1".parse()?).progress_stream();
    let shown = async {
        while let Some(step) = progress.next().await {
            println!("{} of {} bytes proven, {} $ARO", step.proven_bytes, step.total_bytes, step.spent);
        }
    };
    let (fetched, ()) = tokio::join!(fetch.to_file(&path), shown);
    agent.close().await;

    match fetched {
        Ok(report) => println!("{} bytes for {} $ARO", report.delivered_bytes, report.paid),
        // Every error says who must act, and what to do next.
        Err(error) => println!("{error}; {:?} must act: {}", error.who_acts(), error.next_step()),
    }
    Ok(())
}
