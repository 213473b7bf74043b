//! Reads a part of a content while it comes: proven bytes in order, as from any file.
//!
//! `cargo run -p agent-client --example read_range -- ADDRESS FIRST END | head -c 100`

mod setup;

use std::io::{Write, stdout};

use aro_proto::Address;
use aro_proto::merkle::ByteRanges;
use setup::{Outcome, agent, argument};
use tokio::io::AsyncReadExt;

#[tokio::main]
async fn main() -> Outcome<()> {
    let address: Address = argument(1, "aro://<content id>@<node id>@<host>:<port>")?;
    let (first, end): (u64, u64) = (argument(2, "first byte")?, argument(3, "byte behind the last")?);
    let agent = agent().await?;

    let mut reader = agent.fetch(&address).ranges(ByteRanges::single(first, end)?).to_reader();
    let mut buffer = vec![0; 64 << 10];
    let mut is_taken = true;
    while is_taken {
        // An error of the reader is told by its report.
        let Ok(len @ 1..) = reader.read(&mut buffer).await else { break };
        is_taken = stdout().write_all(&buffer[..len]).is_ok();
    }
    if is_taken {
        let _ = reader.report().await?;
    } else {
        // Whoever read our output went away: what was proven is paid, the rest is not owed.
        reader.cancel().await;
    }
    agent.close().await;
    Ok(())
}
