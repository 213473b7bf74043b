//! What the file belongs to.

use async_trait::async_trait;
use redb::ReadableTable;
use settlement_chain::Address;

use super::super::{Binding, Deployment, StoreError};
use super::RedbStore;
use super::tables::{DEPLOYMENT, database_error};

#[async_trait]
impl Binding for RedbStore {
    async fn bind(&self, deployment: &Deployment) -> Result<Deployment, StoreError> {
        let deployment = *deployment;
        self.write(move |transaction| {
            let mut table = transaction.open_table(DEPLOYMENT).map_err(database_error)?;
            let mut entry = |name, value: [u8; 32]| -> Result<[u8; 32], StoreError> {
                let stored = table.get(name).map_err(database_error)?.map(|stored| *stored.value());
                match stored {
                    Some(stored) => Ok(stored),
                    None => {
                        table.insert(name, &value).map_err(database_error)?;
                        Ok(value)
                    }
                }
            };
            Ok(Deployment {
                genesis_hash: entry("genesis_hash", deployment.genesis_hash)?,
                program: Address::new_from_array(entry("program", deployment.program.to_bytes())?),
                operator: Address::new_from_array(entry("operator", deployment.operator.to_bytes())?),
            })
        })
        .await
    }
}
