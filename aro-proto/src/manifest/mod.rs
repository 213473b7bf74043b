//! Manifests: a signed list of named contents, which is a content itself.
//!
//! [`EntryName`] is a path that no file system reads as anything but a place below the folder that it is written to;
//! [`Manifest`] is a list of them in which no two are the same place anywhere. Neither can be made otherwise, so who
//! writes a tree has nothing left to check but its own disk.
//!
//! ```text
//!  0                  15                 47                        111
//!  +------------------+------------------+-------------------------+--------------------------+
//!  | "aro/1 manifest" | publisher's key  | signature               | count, entries (postcard)|
//!  | and a zero byte  |                  |                         |                          |
//!  +------------------+------------------+-------------------------+--------------------------+
//!  signature over: "aro/1 manifest\0" | publisher's key | count, entries
//! ```

mod entry_name;
mod media_type;
mod signed;
mod tree;

pub use entry_name::{EntryName, EntryNameError};
pub use media_type::{MediaType, MediaTypeError};
pub use signed::{Entry, Manifest, ManifestError, SignedManifest, check_entries};
