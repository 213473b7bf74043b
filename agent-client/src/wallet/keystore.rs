//! Two keys in two files: the owner's, which owns the money, and the signer's, which pays from channels.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use aro_proto::SecretKey;
use settlement_chain::{Keypair, keyfile};

use super::WalletError;

/// Both keys, read.
pub(super) struct Keys {
    /// Signs transactions.
    pub(super) owner: Keypair,
    /// Signs requests and vouchers.
    pub(super) signer: SecretKey,
}

impl Keys {
    /// Draws two new keys and writes them with mode 600 into a folder with mode 700.
    pub(super) fn create(dir: &Path) -> Result<Self, WalletError> {
        if dir.join(OWNER).exists() || dir.join(SIGNER).exists() {
            return Err(WalletError::Exists(dir.to_owned()));
        }
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(dir).map_err(|source| WalletError::Folder { path: dir.to_owned(), source })?;
        let (owner, signer) = (Keypair::new(), Keypair::new());
        keyfile::write(&dir.join(SIGNER), &signer)?;
        // Last, so that its presence means that the wallet is whole.
        keyfile::write(&dir.join(OWNER), &owner)?;
        Ok(Self { owner, signer: secret(&signer) })
    }

    pub(super) fn open(dir: &Path) -> Result<Self, WalletError> {
        if !dir.join(OWNER).exists() {
            return Err(WalletError::Missing(dir.to_owned()));
        }
        let owner = keyfile::read(&dir.join(OWNER))?;
        let signer = keyfile::read(&dir.join(SIGNER))?;
        Ok(Self { owner, signer: secret(&signer) })
    }
}

/// The same key in the protocol's type; the two libraries meet only in bytes.
fn secret(key: &Keypair) -> SecretKey {
    SecretKey::from_bytes(key.secret_bytes())
}

const OWNER: &str = "owner.json";
const SIGNER: &str = "signer.json";
