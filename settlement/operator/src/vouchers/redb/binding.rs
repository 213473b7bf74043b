//! What the file belongs to.

use async_trait::async_trait;
use redb::{ReadableTable, TableHandle, WriteTransaction};
use settlement_chain::Address;

use super::super::{Binding, Deployment, Owner, StoreError};
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

/// Refuses a file that belongs to somebody else.
pub(super) fn check(transaction: &WriteTransaction, owner: &Owner) -> Result<(), StoreError> {
    let mut tables = transaction.list_tables().map_err(database_error)?;
    // Opening would make it.
    if !tables.any(|table| table.name() == DEPLOYMENT.name()) {
        return Ok(());
    }
    let table = transaction.open_table(DEPLOYMENT).map_err(database_error)?;
    let entry = |name| Ok::<_, StoreError>(table.get(name).map_err(database_error)?.map(|stored| *stored.value()));
    let (chain, program, operator) = (entry("genesis_hash")?, entry("program")?, entry("operator")?);
    let (Some(genesis_hash), Some(program), Some(operator)) = (chain, program, operator) else { return Ok(()) };
    let (program, operator) = (Address::new_from_array(program), Address::new_from_array(operator));
    Ok(Deployment { genesis_hash, program, operator }.check(owner)?)
}
