//! Contents on disk: hashed once when they enter, read as they are when they are served.

mod import;
mod outboard;
mod partial;
mod shelf;
mod spool;
mod store;

pub use import::Stored;
pub(crate) use outboard::{Batch, BatchReader};
pub(crate) use partial::{Intake, IntakeError, Partial};
pub(crate) use shelf::{Place, Shelf, ShelfError};
pub(crate) use spool::Spool;
pub use store::{ContentStore, StoreError, StoredContent};
