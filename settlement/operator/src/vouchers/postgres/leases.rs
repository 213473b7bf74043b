//! Leases, by the database's clock.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{PgConnection, Row};

use super::super::{Grant, Lease, Leases, StoreError};
use super::PostgresStore;
use super::failure::{Failure, retrying};

#[async_trait]
impl Leases for PostgresStore {
    async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<Lease, StoreError> {
        retrying!(async {
            let mut transaction = self.begin_transaction().await?;
            let taken = sqlx::query(
                "INSERT INTO settle_leases AS l (name, holder, fence, lapses_at) \
                 VALUES ($1, $2, 1, clock_timestamp() + $3 * interval '1 millisecond') \
                 ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lapses_at = excluded.lapses_at, \
                 fence = CASE WHEN l.holder = excluded.holder THEN l.fence ELSE l.fence + 1 END \
                 WHERE l.holder = excluded.holder OR l.lapses_at <= clock_timestamp() RETURNING fence",
            )
            .bind(name)
            .bind(holder)
            .bind(millis(ttl))
            .fetch_optional(&mut *transaction)
            .await?;
            let lease = if let Some(row) = taken {
                let fence: i64 = row.try_get("fence")?;
                let fence = u64::try_from(fence).map_err(|_| StoreError::Damaged("lease"))?;
                Lease::Held(Grant { name: name.to_owned(), holder: holder.to_owned(), fence })
            } else {
                let row = sqlx::query(
                    "SELECT holder, greatest(0, extract(epoch FROM lapses_at - clock_timestamp()) * 1000)::bigint \
                     AS for_ms FROM settle_leases WHERE name = $1",
                )
                .bind(name)
                .fetch_one(&mut *transaction)
                .await?;
                let for_ms: i64 = row.try_get("for_ms")?;
                Lease::Elsewhere { holder: row.try_get("holder")?, for_ms: u64::try_from(for_ms).unwrap_or(0) }
            };
            transaction.commit().await?;
            Ok(lease)
        })
    }

    async fn renew(&self, grant: &Grant, ttl: Duration) -> Result<bool, StoreError> {
        retrying!(async {
            let mut connection = self.pool.acquire().await?;
            prolong(&mut connection, grant, ttl).await
        })
    }

    async fn release(&self, grant: &Grant) -> Result<(), StoreError> {
        retrying!(async {
            sqlx::query(
                "UPDATE settle_leases SET holder = '', lapses_at = clock_timestamp() \
                 WHERE name = $1 AND holder = $2 AND fence = $3",
            )
            .bind(&grant.name)
            .bind(&grant.holder)
            .bind(fence(grant)?)
            .execute(&self.pool)
            .await?;
            Ok(())
        })
    }

    async fn wishes(&self) -> Result<u64, StoreError> {
        retrying!(async {
            let stored: i64 = sqlx::query_scalar("SELECT stored FROM settle_wishes").fetch_one(&self.pool).await?;
            Ok(u64::try_from(stored).map_err(|_| StoreError::Damaged("count of wishes"))?)
        })
    }
}

/// Prolongs a lease; false if it has another fence or holder by now. Within a transaction its row stays locked.
pub(super) async fn prolong(connection: &mut PgConnection, grant: &Grant, ttl: Duration) -> Result<bool, Failure> {
    let prolonged = sqlx::query(
        "UPDATE settle_leases SET lapses_at = clock_timestamp() + $4 * interval '1 millisecond' \
         WHERE name = $1 AND holder = $2 AND fence = $3",
    )
    .bind(&grant.name)
    .bind(&grant.holder)
    .bind(fence(grant)?)
    .bind(millis(ttl))
    .execute(connection)
    .await?;
    Ok(prolonged.rows_affected() > 0)
}

fn fence(grant: &Grant) -> Result<i64, Failure> {
    Ok(i64::try_from(grant.fence).map_err(|_| StoreError::Damaged("lease"))?)
}

fn millis(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)
}
