//! Fetches one content from several nodes at once, and tells what each of them brought, cost and did wrong.
//!
//! `cargo run -p agent-client --example many_nodes -- ADDRESS FILE NODE_ADDRESS ...`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

mod setup;

use std::path::PathBuf;

use agent_client::Preference;
use aro_proto::{Address, NodeAddress};
use setup::{Outcome, agent, argument};

#[tokio::main]
async fn main() -> Outcome<()> {
    let address: Address = argument(1, "aro://<content id>@<node id>@<host>:<port>")?;
    let path: PathBuf = argument(2, "file to write")?;
    let others: Vec<NodeAddress> = std::env::args().skip(3).map(|node| node.parse()).collect::<Result<_, _>>()?;
    let agent = agent().await?;

    let fetch = agent.fetch(&address).sources(others).prefer(Preference::Fastest).hedge("0.001".parse()?);
    let report = fetch.to_file(&path).await?;
    for source in &report.sources {
        println!("{}: {} bytes, {} $ARO", source.node, source.verified_bytes, source.paid);
        if let Some(why) = &source.left_out {
            println!("  left out: {}", why.message);
        }
    }
    agent.close().await;
    Ok(())
}
