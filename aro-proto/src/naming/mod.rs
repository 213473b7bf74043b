//! Names: `aro://<publisher>/<name>`, a pointer that its publisher signs anew for each content that it comes to.
//!
//! A record carries a sequence number. The highest one that verifies is what the name means; who has seen it, node or
//! agent, never takes a lower one again ([`VerifiedName::against`]).

mod name;
mod record;

pub use name::{Name, NameAddress, NameAddressError, NameError};
pub use record::{NameRecord, SignedNameRecord, Standing, TargetKind, UnknownTargetKind, VerifiedName};
