//! What every example begins with: an agent on the wallet in `ARO_HOME` and the chain at `ARO_RPC_URL`. The README's quick
//! start prepares both.

#![allow(dead_code, reason = "not every example uses all of it")]

use std::env;
use std::error::Error;
use std::path::Path;
use std::str::FromStr;

use agent_client::{Agent, Wallet};
use settlement_chain::connect;

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// An agent that may sign 1 $ARO away in all, whatever else its wallet's `budget.json` says.
pub async fn agent() -> Outcome<Agent> {
    let home = env::var("ARO_HOME").map_err(|_| "set ARO_HOME to the wallet's folder")?;
    let rpc = env::var("ARO_RPC_URL").unwrap_or_else(|_| "http://127.0.0.1:8899".into());
    let wallet = Wallet::open(Path::new(&home))?;
    Ok(Agent::builder().chain(connect(&rpc)?).wallet(wallet).budget("1".parse()?).build().await?)
}

/// The argument at `place`, read.
pub fn argument<T: FromStr>(place: usize, what: &str) -> Outcome<T>
where
    T::Err: Error + 'static,
{
    Ok(env::args().nth(place).ok_or(format!("argument {place}: {what}"))?.parse()?)
}
