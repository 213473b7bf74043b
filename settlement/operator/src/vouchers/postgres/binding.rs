//! What the database belongs to.

use async_trait::async_trait;
use settlement_chain::Address;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use super::super::{Binding, Deployment, StoreError};
use super::PostgresStore;
use super::channels::array;
use super::failure::{Failure, retrying};

#[async_trait]
impl Binding for PostgresStore {
    async fn bind(&self, deployment: &Deployment) -> Result<Deployment, StoreError> {
        retrying!(async {
            let mut transaction = self.begin_transaction().await?;
            sqlx::query(
                "INSERT INTO settle_deployment (genesis_hash, program, operator) VALUES ($1, $2, $3) \
                 ON CONFLICT (single) DO NOTHING",
            )
            .bind(deployment.genesis_hash.as_slice())
            .bind(deployment.program.as_ref())
            .bind(deployment.operator.as_ref())
            .execute(&mut *transaction)
            .await?;
            let row = sqlx::query("SELECT genesis_hash, program, operator FROM settle_deployment")
                .fetch_one(&mut *transaction)
                .await?;
            transaction.commit().await?;
            deployment_of(&row)
        })
    }
}

/// What the database belongs to, if anything; its tables may be those of another version, or not be there at all.
pub(super) async fn stored(pool: &PgPool) -> Result<Option<Deployment>, StoreError> {
    retrying!(async {
        let table: Option<String> =
            sqlx::query_scalar("SELECT to_regclass('settle_deployment')::text").fetch_one(pool).await?;
        if table.is_none() {
            return Ok(None);
        }
        let row =
            sqlx::query("SELECT genesis_hash, program, operator FROM settle_deployment").fetch_optional(pool).await?;
        row.as_ref().map(deployment_of).transpose()
    })
}

fn deployment_of(row: &PgRow) -> Result<Deployment, Failure> {
    let bytes = |column: &str| -> Result<[u8; 32], Failure> { Ok(array(row.try_get(column)?, "deployment")?) };
    Ok(Deployment {
        genesis_hash: bytes("genesis_hash")?,
        program: Address::new_from_array(bytes("program")?),
        operator: Address::new_from_array(bytes("operator")?),
    })
}
