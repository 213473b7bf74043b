//! `aro-node init`: keys, registration, settings.

use std::net::SocketAddr;
use std::path::PathBuf;

use aro_proto::limits::CLOSING_MARGIN_S;
use aro_proto::transport::Congestion;
use aro_proto::{AgentId, Amount};
use clap::Args;
use node_server::{OperatorEndpoint, Registration, register};
use serde_json::json;
use settlement_chain::{Address, Program, Signer, connect, keyfile};

use crate::folder::{Folder, NODE_KEY, OWNER_KEY, PublishSettings, Settings, secret_key};
use crate::output::{self, Failure};

/// Make the node's keys, register it on chain, and write its settings.
#[derive(Args)]
pub(crate) struct Init {
    /// Folder of the node; must not hold one yet.
    #[arg(long)]
    dir: PathBuf,
    /// JSON-RPC server of the chain, or several with commas between.
    #[arg(long, env = "ARO_RPC_URL")]
    rpc: String,
    /// The settlement program.
    #[arg(long, default_value_t = Program::local().id)]
    program_id: Address,
    /// UDP address to serve on.
    #[arg(long, default_value = "127.0.0.1:4433")]
    listen: SocketAddr,
    /// Host that addresses name, if not the one listened on.
    #[arg(long)]
    public_host: Option<String>,
    /// Price in $ARO per MiB, such as 0.0001; 0 serves for free.
    #[arg(long)]
    price: Amount,
    /// Key of an agent that may publish here (its signer, as `aro keys show` prints it); may be given several times.
    #[arg(long, value_name = "KEY")]
    publisher: Vec<AgentId>,
    /// Let everybody publish who pays for it.
    #[arg(long, requires = "publish_price", conflicts_with = "publisher")]
    publish_for_pay: bool,
    /// Price in $ARO per MiB that is published.
    #[arg(long, value_name = "ARO")]
    publish_price: Option<Amount>,
    /// Key file that pays fees and rent.
    #[arg(long)]
    payer: PathBuf,
    /// Key file of the owner, who withdraws; a new one is made if not given.
    #[arg(long)]
    owner: Option<PathBuf>,
    /// The operator's account on chain.
    #[arg(long, requires = "operator")]
    operator_account: Option<Address>,
    /// Where the operator takes vouchers: `<operator id>@<host>:<port>`.
    #[arg(long, requires = "operator_account")]
    operator: Option<OperatorEndpoint>,
    /// Where further operators take vouchers, as second watchtowers; may be given several times.
    #[arg(long)]
    watchtower: Vec<OperatorEndpoint>,
    /// Key file, with SOL for fees only, with which the node settles closing channels that its operators leave alone.
    #[arg(long)]
    fee_keypair: Option<PathBuf>,
    /// Shortest grace of channels, in seconds: the time there is to settle when an agent closes.
    #[arg(long, default_value_t = 900)]
    min_grace: u32,
    /// The most that the operator may take, in basis points.
    #[arg(long, default_value_t = 500)]
    max_operator_fee_bps: u16,
}

impl Init {
    pub(crate) async fn run(self, json: bool) -> Result<(), Failure> {
        if Folder::exists(&self.dir) {
            let message = format!("{} holds a node already", self.dir.display());
            return Err(Failure::usage(message, "choose another --dir"));
        }
        if i64::from(self.min_grace) <= CLOSING_MARGIN_S {
            let message = format!("--min-grace must be above {CLOSING_MARGIN_S}, the seconds that settling may take");
            return Err(Failure::usage(message, "choose a longer --min-grace, such as the default"));
        }
        let publish_price = self.publish_price.unwrap_or_default();
        if self.publish_for_pay && publish_price.is_zero() {
            let message = "--publish-for-pay needs a price above 0";
            return Err(Failure::usage(message, "give --publish-price ARO, or list keys with --publisher"));
        }
        let publish = (self.publish_for_pay || !self.publisher.is_empty()).then(|| PublishSettings {
            publishers: self.publisher.iter().map(ToString::to_string).collect(),
            anybody_who_pays: self.publish_for_pay,
            price_per_mib: publish_price.get(),
            ..PublishSettings::default()
        });
        std::fs::create_dir_all(&self.dir).map_err(Failure::internal)?;
        let payer = keyfile::read(&self.payer)?;
        // The node may be started from elsewhere.
        let fee_keypair = self.fee_keypair.map(std::fs::canonicalize).transpose().map_err(Failure::internal)?;
        fee_keypair.as_deref().map(keyfile::read).transpose()?;
        // Read if there: an init that failed half-way may be repeated.
        let key = secret_key(&keyfile::read_or_create(&self.dir.join(NODE_KEY))?);
        let owner = match &self.owner {
            Some(path) => keyfile::read(path)?,
            None => keyfile::read_or_create(&self.dir.join(OWNER_KEY))?,
        };
        let registration = Registration {
            payer: &payer,
            owner: &owner,
            key: &key,
            operator: self.operator_account,
            payout: None,
            min_grace_s: self.min_grace,
            max_operator_fee_bps: self.max_operator_fee_bps,
        };
        let program = Program::new(self.program_id);
        let chain = connect(&self.rpc).map_err(|error| Failure::usage(error, "correct --rpc"))?;
        let registered = register(&*chain, &program, &registration).await?;
        let settings = Settings {
            rpc_url: self.rpc,
            program_id: self.program_id.to_string(),
            listen: self.listen,
            public_host: self.public_host,
            endpoints: None,
            max_connections: None,
            max_connections_per_ip: None,
            small_contents_bytes: None,
            price_per_mib: self.price.get(),
            publish,
            operators: self.operator.iter().chain(&self.watchtower).map(ToString::to_string).collect(),
            fee_keypair,
            handoff_interval_ms: None,
            follow_interval_ms: None,
            close_idle_after_s: None,
            reoffer_interval_s: None,
            stale_after_s: None,
            max_blind_bytes: None,
            max_owed_bytes_per_owner: None,
            congestion: Congestion::default(),
            packet_bytes: None,
            internet_packet_bytes: None,
            hot_bytes: None,
        };
        Folder::write(&self.dir, &settings)?;
        let signature = registered.signature.map(|signature| signature.to_string());
        let object = json!({
            "node_id": key.node_id().to_string(),
            "account": registered.account.to_string(),
            "owner": owner.pubkey().to_string(),
            "payout": registered.payout.to_string(),
            "signature": signature,
        });
        let lines = [
            format!("node id   {}", key.node_id()),
            format!("account   {}", registered.account),
            format!("owner     {}", owner.pubkey()),
            format!("payout    {}", registered.payout),
            format!("next: aro-node add --dir {dir} FILE, then aro-node serve --dir {dir}", dir = self.dir.display()),
        ];
        output::result(json, &object, lines);
        Ok(())
    }
}
