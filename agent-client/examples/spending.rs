//! Keeps spending within caps: asks before anything is paid, fetches under a class with a cap of its own, and reads the account.
//!
//! `cargo run -p agent-client --example spending -- ADDRESS`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

mod setup;

use std::collections::BTreeMap;
use std::path::Path;

use agent_client::{Agent, By, Policy, Wallet, WindowCap};
use aro_proto::Address;
use settlement_chain::connect;
use setup::{Outcome, argument};

#[tokio::main]
async fn main() -> Outcome<()> {
    let address: Address = argument(1, "aro://<content id>@<node id>@<host>:<port>")?;
    let wallet = Wallet::open(Path::new(&std::env::var("ARO_HOME")?))?;
    let rpc = std::env::var("ARO_RPC_URL").unwrap_or_else(|_| "http://127.0.0.1:8899".into());

    // The caps hold over all tasks and processes that use this wallet.
    let policy = Policy {
        per_request: Some("0.1".parse()?),
        classes: BTreeMap::from([("subtitles".to_owned(), "0.5".parse()?)]),
        windows: vec![WindowCap { seconds: 86_400, amount: "1".parse()? }],
        ..Policy::default()
    };
    let agent = Agent::builder().chain(connect(&rpc)?).wallet(wallet.clone()).policy(policy).build().await?;

    let asked = agent.fetch(&address).class("subtitles").dry_run().await?;
    println!("{} bytes would cost {} $ARO; allowed: {}", asked.content_bytes, asked.price, asked.allowed);
    let (report, bytes) = agent.fetch(&address).class("subtitles").to_bytes(64 << 20).await?;
    println!("{} bytes cost {} $ARO", bytes.len(), report.paid);
    agent.close().await;

    for day in wallet.totals(0, By::Node)? {
        println!("{day:?}");
    }
    Ok(())
}
