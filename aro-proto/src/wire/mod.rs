//! Frames: how messages lie on a stream.
//!
//! ```text
//!  0              4      5
//!  +--------------+------+------------------------------+---------------------------+
//!  | length u32LE | kind | fields (postcard, in order)  | optional fields (tagged)  |
//!  +--------------+------+------------------------------+---------------------------+
//!                 |<------------- length: 1 to 65,536 bytes ------------------------>|
//! ```
//!
//! An optional field is `tag` (varint), `length` (varint), bytes. Tags rise strictly. A reader skips tags that it
//! does not know, so that a minor version can add fields without breaking older peers.

mod extensions;
mod frame;

pub(crate) use extensions::write_extension;
pub use extensions::{Extension, read_extensions};
pub(crate) use frame::frame;
pub use frame::{DecodeError, EncodeError, FRAME_HEAD, Frame, FrameHead, decode_body, encode_body, encode_frame};
