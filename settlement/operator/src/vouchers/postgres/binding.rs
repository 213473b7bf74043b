//! What the database belongs to.

use async_trait::async_trait;
use settlement_chain::Address;
use sqlx::Row;

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
            let bytes = |column: &str| -> Result<[u8; 32], Failure> { Ok(array(row.try_get(column)?, "deployment")?) };
            Ok(Deployment {
                genesis_hash: bytes("genesis_hash")?,
                program: Address::new_from_array(bytes("program")?),
                operator: Address::new_from_array(bytes("operator")?),
            })
        })
    }
}
