//! Key files as the Solana tools write them: a JSON array of 64 bytes, secret seed then public key.
//!
//! A key file that others on the machine may read is refused, as ssh does: whoever reads it can spend.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use solana_keypair::Keypair;
use zeroize::Zeroizing;

/// Why a key file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyfileError {
    /// The file system said no.
    #[error("key file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Group or others have rights to the file.
    #[error("key file {path} can be read by others (mode {mode:o}); run: chmod 600 {path}")]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not a key.
    #[error("key file {path} is not a JSON array of 64 bytes with a matching public key")]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
}

impl KeyfileError {
    /// True if the same call may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::Interrupted)
    }
}

/// Reads a key file; refuses it if group or others have any rights to it.
// r[impl identity.keyfile.private]
pub fn read(path: &Path) -> Result<Keypair, KeyfileError> {
    let io_error = |source| KeyfileError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io_error)?;
    let mode = file.metadata().map_err(io_error)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyfileError::TooOpen { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE).read_to_string(&mut text).map_err(io_error)?;
    parse(&text).ok_or_else(|| KeyfileError::NotAKey { path: path.to_owned() })
}

/// Writes a new key file with mode 600, durably; refuses to replace an existing file.
pub fn write(path: &Path, keypair: &Keypair) -> Result<(), KeyfileError> {
    let io_error = |source| KeyfileError::Io { path: path.to_owned(), source };
    let bytes = Zeroizing::new(keypair.to_bytes());
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let text = Zeroizing::new(format!("[{}]", numbers.join(",")));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io_error)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error)
}

/// Reads the key file, or writes a new random key there if there is none.
pub fn read_or_create(path: &Path) -> Result<Keypair, KeyfileError> {
    match read(path) {
        Err(KeyfileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let keypair = Keypair::new();
            write(path, &keypair)?;
            Ok(keypair)
        }
        other => other,
    }
}

fn parse(text: &str) -> Option<Keypair> {
    let bytes: Zeroizing<Vec<u8>> = Zeroizing::new(serde_json::from_str(text).ok()?);
    Keypair::try_from(bytes.as_slice()).ok()
}

/// More bytes than 64 numbers need; a larger file is not read.
const MAX_FILE: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::fs;

    use solana_signer::Signer;

    use super::*;

    #[test]
    fn written_key_reads_back_with_private_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id.json");
        let keypair = read_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_or_create(&path).unwrap().pubkey(), keypair.pubkey());
        assert!(matches!(write(&path, &keypair), Err(KeyfileError::Io { .. })));
    }

    // r[verify identity.keyfile.private]
    #[test]
    fn file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id.json");
        write(&path, &Keypair::new()).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(KeyfileError::TooOpen { .. })), "mode {mode:o}");
        }
    }

    #[test]
    fn file_that_is_not_a_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mismatched = format!("[{}]", ["1"; 64].join(","));
        for (name, text) in [("empty", ""), ("short", "[1,2,3]"), ("words", "hello"), ("mismatched", &mismatched)] {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(read(&path), Err(KeyfileError::NotAKey { .. })), "{name}");
        }
    }
}
