//! Publishes a folder at a node under a name, and fetches it back by that name.
//!
//! `cargo run -p agent-client --example publish_site -- DIR NODE_ADDRESS NAME BACK_DIR`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

mod setup;

use std::path::PathBuf;

use aro_proto::naming::TargetKind;
use aro_proto::{Name, NodeAddress};
use setup::{Outcome, agent, argument};

#[tokio::main]
async fn main() -> Outcome<()> {
    let folder: PathBuf = argument(1, "folder to publish")?;
    let node: NodeAddress = argument(2, "<node id>@<host>:<port>")?;
    let name: Name = argument(3, "name to give it")?;
    let back: PathBuf = argument(4, "folder to fetch it into")?;
    let agent = agent().await?;

    let published = agent.publish_tree(&node, &folder).run().await?;
    let record = agent.publish_name(&node, name, published.manifest, TargetKind::Manifest).run().await?;
    println!("{} is {} files now, for {} $ARO", record.address(), published.files, published.paid);

    // Whoever knows the name needs no more: its record is signed, and never goes back to an older one.
    let newest = agent.resolve(&record.address(), std::slice::from_ref(&node)).await?;
    let fetched = agent.fetch_tree(&node.with_content(newest.target)).to_folder(&back).await?;
    println!("{} files in {}, for {} $ARO", fetched.files, back.display(), fetched.paid);
    agent.close().await;
    Ok(())
}
