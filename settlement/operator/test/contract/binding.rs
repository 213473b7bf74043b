//! A database stays with the deployment that it was made for.

use settlement_chain::Address;
use settlement_operator::vouchers::Deployment;

use super::Store;

// r[verify settlement.database.bound]
pub async fn database_belongs_to_who_came_first(store: Store) {
    let address = |byte| Address::new_from_array([byte; 32]);
    let first = Deployment { genesis_hash: [1; 32], program: address(2), operator: address(3) };
    assert_eq!(store.bind(&first).await.unwrap(), first);
    let other = Deployment { genesis_hash: [4; 32], program: address(5), operator: address(6) };
    assert_eq!(store.bind(&other).await.unwrap(), first);
    assert_eq!(store.bind(&first).await.unwrap(), first);
}
