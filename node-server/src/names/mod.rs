//! What publishers' names mean: the newest record of each, durable before it is acknowledged, and never an older one.

mod store;

use std::path::Path;

use aro_proto::NameAddress;
use aro_proto::limits::NAMES_AT_ONCE;
use aro_proto::naming::{SignedNameRecord, VerifiedName};
use tokio::sync::Semaphore;

pub use store::NameStoreError;
pub(crate) use store::Taking;

use crate::config::PublishConfig;
use store::NameStore;

/// The names of one node.
#[derive(Debug)]
pub(crate) struct Names {
    store: NameStore,
    /// Places for looks and writes, each of which has a thread for one disk access.
    pub(crate) at_once: Semaphore,
}

impl Names {
    /// Opens the names below `dir`, or begins them.
    pub(crate) fn open(dir: &Path, config: &PublishConfig) -> Result<Self, NameStoreError> {
        let store = NameStore::open(dir, config.max_names_per_publisher, config.max_names)?;
        Ok(Self { store, at_once: Semaphore::new(NAMES_AT_ONCE) })
    }

    /// The best record of a name. Blocks on the disk.
    pub(crate) fn look_up(&self, name: &NameAddress) -> Result<Option<SignedNameRecord>, NameStoreError> {
        Ok(self.store.get(name)?.map(|record| record.signed().clone()))
    }

    /// Takes a record if it is newer than the best one; then it is durable. Blocks on the disk.
    pub(crate) fn take(&self, record: &VerifiedName) -> Result<Taking, NameStoreError> {
        self.store.take(record)
    }
}
