//! An operator's folder: two keys, a config file, the database.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aro_proto::{Amount, NodeId, SecretKey};
use serde::{Deserialize, Serialize};
use settlement_chain::{Address, Keypair, Program, Signer, keyfile};
use settlement_operator::batch::Rules;
use settlement_operator::submit::{FeePolicy, FormatChoice, LanePolicy};
use settlement_operator::vouchers::{Owner, StoreUrl};
use settlement_operator::{OperatorConfig, WatchFor};

use crate::failure::Failure;

/// The folder.
pub(super) struct Home {
    pub(super) dir: PathBuf,
}

/// `config.json`. Amounts are $ARO in decimals.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigFile {
    pub(super) rpc_url: String,
    /// `redb`, or the URL of a PostgreSQL database.
    #[serde(default)]
    pub(super) store: StoreUrl,
    /// Days for which the audit trail is kept; 0 keeps it for good.
    #[serde(default)]
    pub(super) history_days: u32,
    pub(super) program_id: String,
    /// `auto`, `legacy` or `v1`.
    #[serde(default = "auto")]
    pub(super) format: String,
    pub(super) listen: SocketAddr,
    pub(super) min_settle: String,
    pub(super) close_when_asked: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wish_wait_s: Option<u64>,
    pub(super) settle_interval_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sweep_interval_ms: Option<u64>,
    /// What one SOL costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) aro_per_sol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) worth_factor: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_age_s: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) idle_s: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_channel_exposure: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_node_exposure: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_exposure_bps: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) withdraw_fees_above: Option<String>,
    /// Node ids, or `any` alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) watch_for: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) metrics_listen: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fees: Option<Fees>,
}

/// What is offered for a place in a block. What is not given is as usual.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fees {
    #[serde(default)]
    normal: LaneFees,
    /// Channels that are closing.
    #[serde(default)]
    urgent: LaneFees,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LaneFees {
    #[serde(skip_serializing_if = "Option::is_none")]
    percentile: Option<u8>,
    /// Micro-lamports per compute unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    min_price: Option<u64>,
    /// Lamports.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_per_transaction: Option<u64>,
    /// Lamports.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_per_hour: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raise_percent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replans: Option<u32>,
}

impl Fees {
    fn policy(&self, usual: &FeePolicy) -> FeePolicy {
        FeePolicy { normal: self.normal.policy(&usual.normal), urgent: self.urgent.policy(&usual.urgent) }
    }
}

impl LaneFees {
    fn policy(&self, usual: &LanePolicy) -> LanePolicy {
        LanePolicy {
            percentile: self.percentile.unwrap_or(usual.percentile),
            min_price: self.min_price.unwrap_or(usual.min_price),
            max_per_transaction: self.max_per_transaction.unwrap_or(usual.max_per_transaction),
            max_per_hour: self.max_per_hour.unwrap_or(usual.max_per_hour),
            raise_percent: self.raise_percent.unwrap_or(usual.raise_percent),
            replans: self.replans.unwrap_or(usual.replans),
        }
    }
}

impl Home {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Makes the folder, for its owner only.
    pub(super) fn create(&self) -> Result<(), Failure> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        Ok(())
    }

    pub(super) fn is_initialised(&self) -> bool {
        self.config_path().exists()
    }

    pub(super) fn write_config(&self, config: &ConfigFile) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(config).map_err(Failure::internal)?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.config_path())?;
        writeln!(file, "{text}").and_then(|()| file.sync_all())?;
        Ok(())
    }

    pub(super) fn read_config(&self) -> Result<ConfigFile, Failure> {
        let path = self.config_path();
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::usage(
                format!("there is no operator in {}", self.dir.display()),
                "run `aro-settle init` first, or give its --dir",
            ),
            _ => error.into(),
        })?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::usage(format!("{}: {error}", path.display()), "correct the config file"))
    }

    /// Whom the database must belong to, as far as the folder tells.
    pub(super) fn owner(&self, config: &OperatorConfig) -> Owner {
        let program = Program::new(config.program);
        let operator = self.authority().ok().map(|authority| program.operator(&authority.pubkey()).0);
        Owner { genesis_hash: None, program: program.id, operator }
    }

    /// The library's configuration.
    pub(super) fn operator_config(&self, file: &ConfigFile) -> Result<OperatorConfig, Failure> {
        let wrong = |what: &str, error: String| {
            Failure::usage(format!("config.json: {what}: {error}"), "correct the config file")
        };
        let amount = |what: &str, text: &str| text.parse::<Amount>().map_err(|e| wrong(what, e.to_string()));
        let optional = |what: &str, text: &Option<String>, default: Amount| {
            text.as_ref().map_or(Ok(default), |text| amount(what, text))
        };
        let usual = OperatorConfig::default();
        let rules = Rules {
            min_settle: amount("min_settle", &file.min_settle)?,
            aro_per_sol: optional("aro_per_sol", &file.aro_per_sol, usual.rules.aro_per_sol)?,
            worth_factor: file.worth_factor.unwrap_or(usual.rules.worth_factor),
            max_age_s: file.max_age_s.unwrap_or(usual.rules.max_age_s),
            max_channel_exposure: optional(
                "max_channel_exposure",
                &file.max_channel_exposure,
                usual.rules.max_channel_exposure,
            )?,
            max_exposure_bps: file.max_exposure_bps.unwrap_or(usual.rules.max_exposure_bps),
            max_node_exposure: optional("max_node_exposure", &file.max_node_exposure, usual.rules.max_node_exposure)?,
            idle_s: file.idle_s.unwrap_or(usual.rules.idle_s),
        };
        let watch_for = match file.watch_for.as_slice() {
            [] => WatchFor::Nobody,
            [any] if any == "any" => WatchFor::Anyone,
            ids => {
                let ids = ids.iter().map(|id| id.parse::<NodeId>().map_err(|e| wrong("watch_for", e.to_string())));
                WatchFor::Nodes(ids.collect::<Result<_, _>>()?)
            }
        };
        let fees = file.fees.as_ref().map_or(usual.fees, |fees| fees.policy(&usual.fees));
        fees.check().map_err(|error| wrong("fees", error.to_string()))?;
        let withdraw_fees_above = file.withdraw_fees_above.as_deref().map(|text| amount("withdraw_fees_above", text));
        Ok(OperatorConfig {
            dir: self.dir.clone(),
            store: file.store.clone(),
            history_days: file.history_days,
            listen: file.listen,
            program: file.program()?,
            rules,
            format: file.format.parse::<FormatChoice>().map_err(|e| wrong("format", e.to_string()))?,
            close_when_asked: file.close_when_asked,
            wish_wait_s: file.wish_wait_s.unwrap_or(usual.wish_wait_s),
            settle_interval_ms: file.settle_interval_ms,
            sweep_interval_ms: file.sweep_interval_ms.unwrap_or(usual.sweep_interval_ms),
            withdraw_fees_above: withdraw_fees_above.transpose()?,
            watch_for,
            metrics_listen: file.metrics_listen,
            fees,
            ..usual
        })
    }

    pub(super) fn transport_key_path(&self) -> PathBuf {
        self.dir.join("transport.key")
    }

    pub(super) fn authority_path(&self) -> PathBuf {
        self.dir.join("authority.key")
    }

    pub(super) fn transport_key(&self) -> Result<SecretKey, Failure> {
        Ok(secret_key(&keyfile::read(&self.transport_key_path())?))
    }

    pub(super) fn authority(&self) -> Result<Keypair, Failure> {
        Ok(keyfile::read(&self.authority_path())?)
    }

    fn config_path(&self) -> PathBuf {
        self.dir.join("config.json")
    }
}

fn auto() -> String {
    FormatChoice::Auto.to_string()
}

impl ConfigFile {
    pub(super) fn program(&self) -> Result<Address, Failure> {
        self.program_id.parse().map_err(|_| {
            let message = format!("config.json: program_id: `{}` is not an address", self.program_id);
            Failure::usage(message, "correct the config file")
        })
    }
}

/// A key pair of a key file, as the transport takes it.
pub(super) fn secret_key(keypair: &Keypair) -> SecretKey {
    SecretKey::from_bytes(keypair.secret_bytes())
}

/// Reads a key file that the caller named.
pub(super) fn key(path: &Path) -> Result<Keypair, Failure> {
    Ok(keyfile::read(path)?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(more: Value) -> Result<OperatorConfig, Failure> {
        let mut file = json!({
            "rpc_url": "http://127.0.0.1:1",
            "program_id": "11111111111111111111111111111111",
            "listen": "127.0.0.1:1",
            "min_settle": "0.5",
            "close_when_asked": true,
            "settle_interval_ms": 1,
        });
        for (key, value) in more.as_object().unwrap() {
            file[key] = value.clone();
        }
        let file: ConfigFile = serde_json::from_value(file).unwrap();
        Home::new(PathBuf::from(".")).operator_config(&file)
    }

    #[test]
    fn every_field_of_the_file_arrives_and_what_is_not_there_is_as_usual() {
        let usual = OperatorConfig::default();
        let plain = config(json!({})).unwrap();
        assert_eq!(plain.rules, Rules { min_settle: Amount::new(500_000), ..usual.rules });
        assert_eq!((plain.watch_for, plain.metrics_listen), (WatchFor::Nobody, None));
        let node = SecretKey::from_bytes(&[7; 32]).node_id();
        let full = config(json!({
            "sweep_interval_ms": 2,
            "wish_wait_s": 11,
            "aro_per_sol": "1500",
            "worth_factor": 3,
            "max_age_s": 4,
            "idle_s": 5,
            "max_channel_exposure": "6",
            "max_node_exposure": "7",
            "max_exposure_bps": 8,
            "withdraw_fees_above": "9",
            "watch_for": [node.to_string()],
            "metrics_listen": "127.0.0.1:10",
            "fees": {
                "normal": { "max_per_hour": 200000, "replans": 0 },
                "urgent": {
                    "percentile": 75, "min_price": 1, "max_per_transaction": 2, "max_per_hour": 3, "raise_percent": 150,
                    "replans": 5,
                },
            },
        }))
        .unwrap();
        let rules = Rules {
            min_settle: Amount::new(500_000),
            aro_per_sol: Amount::new(1_500_000_000),
            worth_factor: 3,
            max_age_s: 4,
            max_channel_exposure: Amount::new(6_000_000),
            max_exposure_bps: 8,
            max_node_exposure: Amount::new(7_000_000),
            idle_s: 5,
        };
        assert_eq!((full.rules, full.sweep_interval_ms, full.wish_wait_s), (rules, 2, 11));
        assert_eq!(full.withdraw_fees_above, Some(Amount::new(9_000_000)));
        assert_eq!(full.watch_for, WatchFor::Nodes([node].into()));
        assert_eq!(full.metrics_listen, Some(([127, 0, 0, 1], 10).into()));
        let usual = usual.fees;
        assert_eq!(full.fees.normal, LanePolicy { max_per_hour: 200_000, replans: 0, ..usual.normal });
        let urgent = LanePolicy {
            percentile: 75,
            min_price: 1,
            max_per_transaction: 2,
            max_per_hour: 3,
            raise_percent: 150,
            replans: 5,
        };
        assert_eq!((full.fees.urgent, plain.fees), (urgent, usual));
        assert_eq!(config(json!({ "watch_for": ["any"] })).unwrap().watch_for, WatchFor::Anyone);
        let above = json!({ "fees": { "urgent": { "max_per_transaction": 30_000_000 } } });
        for wrong in [json!({ "watch_for": ["any", "x"] }), json!({ "withdraw_fees_above": "-1" }), above.clone()] {
            assert_eq!(config(wrong).unwrap_err().exit, 2);
        }
        let message = config(above).unwrap_err().message;
        assert!(message.contains("urgent: max_per_transaction is 30000000 lamports"), "{message}");
    }
}
