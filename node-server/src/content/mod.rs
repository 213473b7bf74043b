//! Contents on disk: hashed once when they enter, read as they are when they are served.

mod import;
mod outboard;
mod small;
mod store;

pub use import::Stored;
pub(crate) use outboard::{Batch, BatchReader};
pub(crate) use small::SmallContent;
pub use store::{ContentStore, StoreError, StoredContent};
