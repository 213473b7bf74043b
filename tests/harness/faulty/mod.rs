//! The faulty twins: a chain that forks and is seen through servers that lie, and an operator that dies at a chosen
//! step.
//!
//! ```text
//!            +-- Server (drops, times out, lies, lags) --+
//!  Ground ---+                                           +--- FusedChain --- operator --- FusedStore --- store
//!  (truth)   +-- Server (honest) ------------------------+        \____________ one Fuse ____________/
//! ```
//!
//! Everything is scripted or seeded, and nothing depends on the host's clock: blocks pass when a server is asked for
//! statuses, or when a test lets them pass.

mod dice;
mod disk;
mod fuse;
mod fused_store;
mod ground;
mod server;

pub use dice::Dice;
pub use disk::Disk;
pub use fuse::{Fuse, FusedChain};
pub use fused_store::FusedStore;
pub use ground::{Checkpoint, FINALITY, Ground, Landing};
pub use server::{AHEAD, Fate, Server, Word};
