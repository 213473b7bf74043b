//! Contents on disk: hashed once when they enter, read as they are when they are served.

mod hot;
mod import;
mod outboard;
mod pages;
mod small;
mod store;

pub(crate) use hot::DEFAULT_HOT_BYTES;
pub use import::Stored;
pub(crate) use outboard::{Batch, BatchReader};
pub(crate) use small::SmallContent;
pub use store::{ContentStore, StoreError, StoredContent};
