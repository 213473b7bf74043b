//! `aro-node update`: what the chain says of the node, changed by its owner.

use std::path::PathBuf;

use aro_proto::limits::CLOSING_MARGIN_S;
use clap::Args;
use node_server::{NodeChange, NodeTerms, OperatorEndpoint, update};
use serde_json::{Value, json};
use settlement_chain::{Address, Program, keyfile};

use crate::folder::Folder;
use crate::output::{self, Failure};

/// Change the node's operator, payout or shortest grace on chain; without any, show them.
///
/// Operator and shortest grace count at once, and a serving node follows them. Another payout counts only after the
/// program's delay, so that a thief of the owner's key is seen before anything goes to him.
#[derive(Args)]
pub(crate) struct Update {
    /// Folder of the node.
    #[arg(long)]
    dir: PathBuf,
    /// The operator account that settles and closes from now on.
    #[arg(long, conflicts_with = "no_operator")]
    operator: Option<Address>,
    /// From now on nobody but the owner closes.
    #[arg(long)]
    no_operator: bool,
    /// Where the operator takes vouchers, `<operator id>@<host>:<port>`: written into config.json beside the others.
    #[arg(long, requires = "operator")]
    operator_endpoint: Option<OperatorEndpoint>,
    /// Token account that earnings shall go to; the present one takes a pending change back.
    #[arg(long)]
    payout: Option<Address>,
    /// Shortest grace of channels that open from now on, in seconds.
    #[arg(long)]
    min_grace: Option<u32>,
    /// The most that the operator may take, in basis points; 500 for a new operator if not given.
    #[arg(long)]
    max_operator_fee_bps: Option<u16>,
    /// Key file of the owner; the folder's own if not given.
    #[arg(long)]
    owner_keypair: Option<PathBuf>,
    /// Key file that pays the fee; the owner if not given.
    #[arg(long)]
    payer: Option<PathBuf>,
}

impl Update {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        let mut folder = Folder::open(&self.dir)?;
        if self.min_grace.is_some_and(|grace| i64::from(grace) <= CLOSING_MARGIN_S) {
            let message = format!("--min-grace must be above {CLOSING_MARGIN_S}, the seconds that settling may take");
            return Err(Failure::usage(message, "choose a longer --min-grace, such as 900"));
        }
        let owner_path = self.owner_keypair.unwrap_or_else(|| folder.owner_key());
        let owner = keyfile::read(&owner_path)?;
        let payer = keyfile::read(self.payer.as_ref().unwrap_or(&owner_path))?;
        let change = NodeChange {
            operator: if self.no_operator { Some(None) } else { self.operator.map(Some) },
            payout: self.payout,
            min_grace_s: self.min_grace,
            max_operator_fee_bps: self.max_operator_fee_bps.or(self.operator.map(|_| DEFAULT_MAX_FEE_BPS)),
        };
        let program = Program::new(folder.program_id()?);
        let id = folder.key()?.node_id();
        let terms = update(&*folder.chain()?, &program, &payer, &owner, id, &change).await?;
        let mut lines = lines(&terms);
        if let Some(endpoint) = self.operator_endpoint {
            folder.add_operator(&endpoint)?;
            lines.push(format!("config.json names {endpoint}; restart the node so that it gets vouchers"));
        }
        output::result(json, &object(&terms), lines);
        Ok(())
    }
}

fn object(terms: &NodeTerms) -> Value {
    json!({
        "account": terms.account.to_string(),
        "operator": terms.operator.map(|operator| operator.to_string()),
        "operator_fee_bps": terms.operator_fee_bps,
        "min_grace_s": terms.min_grace_s,
        "payout": terms.payout.to_string(),
        "pending_payout": terms.pending_payout.map(|(payout, _)| payout.to_string()),
        "payout_from": terms.pending_payout.map(|(_, from)| from),
        "signature": terms.signature.map(|signature| signature.to_string()),
    })
}

fn lines(terms: &NodeTerms) -> Vec<String> {
    let operator = match terms.operator {
        Some(operator) => format!("{operator}, {} basis points", terms.operator_fee_bps),
        None => "none".to_owned(),
    };
    let mut lines = vec![
        format!("account    {}", terms.account),
        format!("operator   {operator}"),
        format!("min grace  {} s", terms.min_grace_s),
        format!("payout     {}", terms.payout),
    ];
    if let Some((payout, from)) = terms.pending_payout {
        lines.push(format!("pending    {payout} from unix second {from}; name the present payout to take it back"));
    }
    lines.push(match terms.signature {
        Some(signature) => format!("changed in {signature}"),
        None => "nothing was changed".to_owned(),
    });
    lines
}

/// As `init` has it.
const DEFAULT_MAX_FEE_BPS: u16 = 500;
