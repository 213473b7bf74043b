//! Which store: the word or address in the configuration.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{OperatorStore, Owner, PostgresStore, RedbStore, StoreError};

/// What keeps an operator's memory.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StoreUrl {
    /// A redb file in the operator's folder: `redb`. One process at a time.
    #[default]
    Redb,
    /// A PostgreSQL database, which several machines may share: `postgres://user:password@host/database`. The
    /// parameters of libpq's URLs apply; with another host than this machine, add `sslmode=verify-full`.
    Postgres(String),
}

/// Opens the owner's store; `file` is where it lies if it is one.
///
/// # Errors
/// [`StoreError::InUse`] if a running operator has the file: ask that one. [`StoreError::Other`] if it belongs to somebody
/// else: nothing of it was changed.
pub async fn open(url: &StoreUrl, file: &Path, owner: &Owner) -> Result<Arc<dyn OperatorStore>, StoreError> {
    match url {
        StoreUrl::Redb => Ok(Arc::new(RedbStore::open_as(file, owner).await?)),
        StoreUrl::Postgres(url) => Ok(Arc::new(PostgresStore::open_as(url, owner).await?)),
    }
}

impl FromStr for StoreUrl {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        match text {
            "redb" => Ok(Self::Redb),
            _ if ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) => {
                Ok(Self::Postgres(text.to_owned()))
            }
            _ => Err(StoreError::Address(text.to_owned())),
        }
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = StoreError;

    fn try_from(text: String) -> Result<Self, StoreError> {
        text.parse()
    }
}

impl From<StoreUrl> for String {
    fn from(url: StoreUrl) -> Self {
        match url {
            StoreUrl::Redb => "redb".into(),
            StoreUrl::Postgres(url) => url,
        }
    }
}

/// Without the password: for logs.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redb => f.write_str("redb"),
            Self::Postgres(url) => match (url.split_once("://"), url.rsplit_once('@')) {
                (Some((scheme, _)), Some((_, place))) => write!(f, "{scheme}://***@{place}"),
                _ => f.write_str(url),
            },
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_named_and_passwords_are_not_shown() {
        assert_eq!("redb".parse(), Ok(StoreUrl::Redb));
        let url: StoreUrl = "postgres://aro:secret@db.example/aro?sslmode=verify-full".parse().unwrap();
        assert_eq!(format!("{url} {url:?}").matches("secret").count(), 0);
        assert_eq!(url.to_string(), "postgres://***@db.example/aro?sslmode=verify-full");
        for wrong in ["", "mysql://x", "Redb"] {
            assert_eq!(wrong.parse::<StoreUrl>(), Err(StoreError::Address(wrong.to_owned())));
        }
    }
}
