//! An operator's memory in PostgreSQL, for operators with several machines.
//!
//! Each call is one transaction. What the rules read, it locks first: rows of channels, always in the order of their
//! ids, so that no two wait for each other. Where a connection breaks in the middle, nobody knows whether the
//! transaction was committed: the call fails as [`StoreError::Unavailable`], and doing it again is harmless.

mod binding;
mod channels;
mod failure;
mod journal;
mod leases;
mod schema;
mod vouchers;

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{PgPool, Postgres, Transaction};

use super::{Owner, StoreError};
use failure::Failure;

/// A pool of connections to the operator's database.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    pool: PgPool,
}

impl PostgresStore {
    /// Connects, and brings the tables up to what this program knows; several processes may do so at once.
    ///
    /// # Errors
    /// [`StoreError::Address`] if the URL is none, [`StoreError::Newer`] if a later program has changed the tables,
    /// [`StoreError::Unavailable`] if there is no server.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let store = Self::connect(url).await?;
        schema::migrate(&store.pool).await?;
        Ok(store)
    }

    /// The same for an owner: a database that belongs to somebody else is left as it is.
    ///
    /// # Errors
    /// As [`Self::open`]; and [`StoreError::Other`].
    // r[impl settlement.database.bound]
    pub async fn open_as(url: &str, owner: &Owner) -> Result<Self, StoreError> {
        let store = Self::connect(url).await?;
        if let Some(deployment) = binding::stored(&store.pool).await? {
            deployment.check(owner)?;
        }
        schema::migrate(&store.pool).await?;
        Ok(store)
    }

    async fn connect(url: &str) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(|_| StoreError::Address(shown(url)))?;
        let options = options.application_name("aro-settle");
        let encrypted =
            matches!(options.get_ssl_mode(), PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull);
        if !encrypted && options.get_socket().is_none() && !is_loopback(options.get_host()) {
            tracing::warn!(host = options.get_host(), "the database is far away: add sslmode=verify-full to its URL");
        }
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(|connection, _| Box::pin(async move { schema::prepare(connection).await }))
            .connect_with(options)
            .await
            .map_err(Failure::from)?;
        Ok(Self { pool })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn begin_transaction(&self) -> Result<Transaction<'static, Postgres>, Failure> {
        Ok(self.pool.begin().await?)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// A URL without its password.
fn shown(url: &str) -> String {
    super::StoreUrl::Postgres(url.to_owned()).to_string()
}

/// Connections of one process: handoffs and transactions in flight share them.
const MAX_CONNECTIONS: u32 = 16;
/// What a call waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
