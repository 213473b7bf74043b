//! Reads a part of a content while it comes: proven bytes in order, as from any file.
//!
//! `cargo run -p agent-client --example read_range -- ADDRESS FIRST END | head -c 100`

mod setup;

use aro_proto::Address;
use aro_proto::merkle::ByteRanges;
use setup::{Outcome, agent, argument};

#[tokio::main]
async fn main() -> Outcome<()> {
    let address: Address = argument(1, "aro://<content id>@<node id>@<host>:<port>")?;
    let (first, end): (u64, u64) = (argument(2, "first byte")?, argument(3, "byte behind the last")?);
    let agent = agent().await?;

    let mut reader = agent.fetch(&address).ranges(ByteRanges::single(first, end)?).to_reader();
    if tokio::io::copy(&mut reader, &mut tokio::io::stdout()).await.is_ok() {
        // The reader's end says that all is there; the report says what it cost, or why it is not.
        reader.report().await?;
    } else {
        // Whoever read our output went away: what was proven is paid, the rest is not owed.
        reader.cancel().await;
    }
    agent.close().await;
    Ok(())
}
