//! `aro keys`: make or show the wallet's keys, delegate to session keys and revoke them.

use std::path::PathBuf;

use agent_client::{DelegateRequest, SessionInfo, Wallet};
use aro_proto::{AgentId, Amount, NodeId};
use clap::Subcommand;
use serde_json::json;

use super::Lifetime;
use super::channel::table;
use crate::Global;
use crate::output::{Failure, Output};

#[derive(Subcommand)]
pub(crate) enum Keys {
    /// Make a new wallet: an owner key and a signer key; never overwrites one
    New,
    /// Show the addresses of both keys, and what was delegated to this wallet if it is a session key's
    Show,
    /// Make a wallet that can pay some nodes up to a cap and until an end, without the owner's key
    Delegate {
        /// Folder of the new wallet: hand it to whoever is to pay
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Ids of the nodes that it may pay
        #[arg(long, value_name = "NODE", value_delimiter = ',', required = true)]
        node: Vec<NodeId>,
        /// The most $ARO that it may spend in all; locked in its channels, in equal parts
        #[arg(long, value_name = "ARO")]
        cap: Amount,
        /// How long it may pay, such as 45m, 24h or 7d
        #[arg(long, value_name = "TIME")]
        expires: Lifetime,
    },
    /// List the session keys and their channels
    Sessions,
    /// Close all channels of a session key; after their grace, `aro channel sweep` takes back the rest
    Revoke {
        /// The session key's id
        session: AgentId,
    },
}

impl Keys {
    pub(crate) async fn run(&self, global: &Global, output: &Output) -> Result<(), Failure> {
        match self {
            Self::New => {
                let home = global.home()?;
                let wallet = Wallet::create(&home)?;
                show(&wallet.owner().to_string(), &wallet.signer().to_string(), &home, output)
            }
            Self::Show => {
                let home = global.home()?;
                let (owner, signer) = Wallet::addresses(&home)?;
                show(&owner.to_string(), &signer.to_string(), &home, output)
            }
            Self::Delegate { out, node, cap, expires } => {
                let agent = global.agent(None).await?;
                let request = DelegateRequest {
                    dir: out.clone(),
                    nodes: node.clone(),
                    cap: *cap,
                    lifetime_s: expires.seconds(),
                    grace_s: None,
                };
                let (session, channels) = agent.delegate(request).await?;
                let object = json!({"session": session.to_string(), "home": out, "cap": cap, "channels": channels});
                let home = out.display();
                output.result(&object, || {
                    format!("session key {session} may pay {cap} $ARO\n  use it with --home {home}")
                })
            }
            Self::Sessions => {
                let sessions = global.agent(None).await?.sessions().await?;
                output.result(&json!({ "sessions": sessions }), || {
                    let texts: Vec<String> = sessions.iter().map(describe).collect();
                    if texts.is_empty() { "no session keys".into() } else { texts.join("\n") }
                })
            }
            Self::Revoke { session } => {
                let channels = global.agent(None).await?.revoke(*session).await?;
                let next_step = "after the deadlines take back what is left: aro channel sweep";
                let object = json!({"session": session.to_string(), "channels": channels, "next_step": next_step});
                output.result(&object, || {
                    let table = table(&channels);
                    format!("{table}\nuntil the deadlines nodes may settle what was signed\n  next: {next_step}")
                })
            }
        }
    }
}

fn show(owner: &str, signer: &str, home: &std::path::Path, output: &Output) -> Result<(), Failure> {
    let object = json!({"owner": owner, "signer": signer, "home": home});
    output.result(&object, || format!("owner:  {owner}\nsigner: {signer}"))
}

fn describe(info: &SessionInfo) -> String {
    let SessionInfo { session, cap, expires_at, channels } = info;
    let cap = cap.map_or("an unknown amount of".to_owned(), |cap| cap.to_string());
    let end = expires_at.map_or("an unknown time".to_owned(), |at| format!("unix second {at}"));
    format!("{session}: {cap} $ARO until {end}\n{}", table(channels))
}
