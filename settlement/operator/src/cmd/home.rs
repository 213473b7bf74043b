//! An operator's folder: two keys, a config file, the database.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aro_proto::{Amount, SecretKey};
use serde::{Deserialize, Serialize};
use settlement_chain::{Address, Keypair, keyfile};
use settlement_operator::OperatorConfig;
use settlement_operator::batch::Rules;
use settlement_operator::submit::FormatChoice;
use settlement_operator::vouchers::StoreUrl;

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
    pub(super) settle_interval_ms: u64,
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

    /// The library's configuration.
    pub(super) fn operator_config(&self, file: &ConfigFile) -> Result<OperatorConfig, Failure> {
        let wrong = |what: &str, error: String| {
            Failure::usage(format!("config.json: {what}: {error}"), "correct the config file")
        };
        Ok(OperatorConfig {
            dir: self.dir.clone(),
            store: file.store.clone(),
            history_days: file.history_days,
            listen: file.listen,
            program: file.program()?,
            rules: Rules {
                min_settle: file.min_settle.parse::<Amount>().map_err(|e| wrong("min_settle", e.to_string()))?,
                ..Rules::default()
            },
            format: file.format.parse::<FormatChoice>().map_err(|e| wrong("format", e.to_string()))?,
            close_when_asked: file.close_when_asked,
            settle_interval_ms: file.settle_interval_ms,
            ..OperatorConfig::default()
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
