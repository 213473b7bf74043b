//! Contents on disk: hashed once when they enter, read as they are when they are served.

mod hot;
mod import;
mod intake;
mod outboard;
mod pages;
mod partial;
mod shelf;
mod small;
mod spool;
mod store;

pub(crate) use hot::DEFAULT_HOT_BYTES;
pub use import::Stored;
pub(crate) use intake::{Intake, ProvenBatch};
pub(crate) use outboard::{Batch, BatchReader};
pub(crate) use partial::Partial;
pub(crate) use shelf::{Place, Shelf, ShelfError};
pub(crate) use small::SmallContent;
pub(crate) use spool::Spool;
pub use store::{ContentStore, StoreError, StoredContent};
