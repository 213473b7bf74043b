//! Keys in files: the owner's, which owns the money, and the signer's, which pays from channels. A delegated wallet has
//! a signer's key only, and the owner's word for what it may do.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use aro_proto::SecretKey;
use aro_proto::identity::{Delegated, SignedDelegation};
use settlement_chain::{Address, Keypair, Signer, keyfile};

use super::WalletError;

/// The keys of a wallet, read.
pub(super) struct Keys {
    pub(super) owner: Owner,
    /// Signs requests and vouchers.
    pub(super) signer: SecretKey,
}

/// Who owns the money that the signer pays.
pub(super) enum Owner {
    /// This wallet: the key signs transactions.
    Here(Keypair),
    /// Another wallet, which lets this one pay within bounds.
    Elsewhere(Delegated),
}

impl Keys {
    /// Draws two new keys and writes them with mode 600 into a folder with mode 700.
    pub(super) fn create(dir: &Path) -> Result<Self, WalletError> {
        let signer = create_signer(dir)?;
        let owner = Keypair::new();
        // Last, so that its presence means that the wallet is whole.
        keyfile::write(&dir.join(OWNER), &owner)?;
        Ok(Self { owner: Owner::Here(owner), signer })
    }

    pub(super) fn open(dir: &Path) -> Result<Self, WalletError> {
        let owner = if dir.join(OWNER).exists() {
            Owner::Here(keyfile::read(&dir.join(OWNER))?)
        } else {
            Owner::Elsewhere(read_delegation(dir)?)
        };
        let signer = secret(&keyfile::read(&dir.join(SIGNER))?);
        if let Owner::Elsewhere(delegated) = &owner
            && delegated.delegation().session != signer.agent_id()
        {
            return Err(WalletError::OtherSession(dir.to_owned()));
        }
        Ok(Self { owner, signer })
    }

    /// The address of whoever owns the money.
    pub(super) fn owner_address(&self) -> Address {
        match &self.owner {
            Owner::Here(key) => key.pubkey(),
            Owner::Elsewhere(delegated) => Address::new_from_array(delegated.delegation().owner.to_bytes()),
        }
    }
}

/// Draws a signer's key in a folder that has no keys yet.
pub(super) fn create_signer(dir: &Path) -> Result<SecretKey, WalletError> {
    if [OWNER, SIGNER, DELEGATION].into_iter().any(|name| dir.join(name).exists()) {
        return Err(WalletError::Exists(dir.to_owned()));
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(|source| WalletError::Folder { path: dir.to_owned(), source })?;
    let signer = Keypair::new();
    keyfile::write(&dir.join(SIGNER), &signer)?;
    Ok(secret(&signer))
}

/// Writes the owner's word into the folder of a session key, durably; it makes the wallet whole.
pub(super) fn write_delegation(dir: &Path, delegation: &SignedDelegation) -> Result<(), WalletError> {
    write_new(&dir.join(DELEGATION), &delegation.to_bytes())
}

/// Keeps a copy of a delegation beside the owner's keys.
pub(super) fn keep_issued(dir: &Path, name: &str, delegation: &SignedDelegation) -> Result<(), WalletError> {
    let folder = dir.join(ISSUED);
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(&folder).map_err(|source| WalletError::Folder { path: folder.clone(), source })?;
    write_new(&folder.join(name), &delegation.to_bytes())
}

/// All delegations whose copies lie beside the owner's keys. One that cannot be read says so; the others still count.
pub(super) fn issued(dir: &Path) -> Result<Vec<Delegated>, WalletError> {
    let folder = dir.join(ISSUED);
    let failed = |source| WalletError::Folder { path: folder.clone(), source };
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        match read_file(&path).and_then(|bytes| verified(&path, &bytes)) {
            Ok(delegated) => found.push(delegated),
            Err(error) => tracing::warn!(%error, "a delegation's copy is passed over"),
        }
    }
    Ok(found)
}

fn read_delegation(dir: &Path) -> Result<Delegated, WalletError> {
    let path = dir.join(DELEGATION);
    match read_file(&path) {
        Err(WalletError::Folder { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(WalletError::Missing(dir.to_owned()))
        }
        read => verified(&path, &read?),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, WalletError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|source| WalletError::Folder { path: path.to_owned(), source })?;
    Ok(bytes)
}

fn verified(path: &Path, bytes: &[u8]) -> Result<Delegated, WalletError> {
    SignedDelegation::from_bytes(bytes)
        .and_then(|signed| signed.verify())
        .map_err(|source| WalletError::Delegation { path: path.to_owned(), source })
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), WalletError> {
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|source| WalletError::Folder { path: path.to_owned(), source })
}

/// The same key in the protocol's type; the two libraries meet only in bytes.
pub(super) fn secret(key: &Keypair) -> SecretKey {
    SecretKey::from_bytes(key.secret_bytes())
}

const OWNER: &str = "owner.json";
const SIGNER: &str = "signer.json";
/// What the owner of a delegated wallet signed.
const DELEGATION: &str = "delegation";
/// Folder of copies of what this wallet delegated.
const ISSUED: &str = "delegated";
/// More bytes than a delegation has; of a larger file no more is read.
const MAX_FILE: u64 = 4_096;
