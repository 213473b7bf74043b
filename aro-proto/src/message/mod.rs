//! Every message of the protocol, and on which stream it goes.
//!
//! The first bidirectional stream that a client opens is the control stream; every other one is one request.
//!
//! | kind | message            | stream  | from → to             | signed |
//! |------|--------------------|---------|-----------------------|--------|
//! | 0x01 | [`Hello`]          | control | client → server       |        |
//! | 0x02 | [`NodeHello`]      | control | node → agent          |        |
//! | 0x03 | [`OperatorHello`]  | control | operator → node       |        |
//! | 0x04 | [`Goaway`]         | control | server → client       |        |
//! | 0x08 | [`Bind`]           | control | agent → node          | yes    |
//! | 0x09 | [`Bound`]          | control | node → agent          |        |
//! | 0x0a | [`Pay`]            | control | agent → node          | itself |
//! | 0x0b | [`Credit`]         | control | node → agent          |        |
//! | 0x0c | [`PayRefused`]     | control | node → agent          |        |
//! | 0x0d | [`StreamEnd`]      | control | agent → node          |        |
//! | 0x0e | [`ToppedUp`]       | control | agent → node          |        |
//! | 0x0f | [`Receipt`]        | control | node → agent          | itself |
//! | 0x10 | signed envelope    | both    | client → server       |        |
//! | 0x20 | [`Describe`]       | request | agent → node          | yes    |
//! | 0x21 | [`Description`]    | request | node → agent          | itself |
//! | 0x22 | [`Fetch`]          | request | agent → node          | yes    |
//! | 0x23 | [`FetchHead`]      | request | node → agent          |        |
//! | 0x24 | [`Handoff`]        | request | node → operator       | yes    |
//! | 0x25 | [`HandoffAck`]     | request | operator → node       |        |
//! | 0x26 | [`Publish`]        | request | agent → node          | yes    |
//! | 0x27 | [`PublishHead`]    | request | node → agent          |        |
//! | 0x28 | [`Taken`]          | request | node → agent          |        |
//! | 0x29 | [`Published`]      | request | node → agent          | itself |
//! | 0x2a | [`PublishName`]    | request | agent → node          | yes    |
//! | 0x2b | [`NameTaken`]      | request | node → agent          |        |
//! | 0x2c | [`NameRefused`]    | request | node → agent          |        |
//! | 0x2d | [`Resolve`]        | request | agent → node          | yes    |
//! | 0x2e | [`Resolved`]       | request | node → agent          | itself |
//! | 0x3f | [`Refused`]        | both    | server → client       |        |

mod describe;
mod fetch;
mod handoff;
mod hello;
mod name;
mod payment;
mod publish;
mod receipt;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use describe::{Describe, Description, Quote, SignedQuote};
pub use fetch::{Fetch, FetchHead, FetchItem};
pub use handoff::{Handoff, HandoffAck, HandoffVerdict, HandoffVoucher};
pub use hello::{ChainIds, Goaway, Hello, NodeHello, OperatorHello};
pub use name::{NameRefused, NameTaken, PublishName, Resolve, Resolved};
pub use payment::{Bind, BindId, Bound, Credit, Pay, PayRefused, Replaced, StreamEnd, ToppedUp, VoucherOnWire};
pub use publish::{
    Publish, PublishHead, PublishReceipt, PublishTerms, Published, SignedPublishReceipt, TRAILER_LEN, Taken, Trailer,
};
pub use receipt::{Delivery, DeliveryReceipt, Receipt, list_id};

use crate::error::Refusal;
use crate::wire::DecodeError;

/// A message with its frame kind. Fields are postcard, in order; optional ones follow, tagged.
pub trait Message: Sized {
    /// Frame kind; a constant of the protocol.
    const KIND: u8;
    /// Name for errors.
    const NAME: &'static str;

    /// The fields as bytes.
    fn to_body(&self) -> Vec<u8>;
    /// Reads the fields; what follows them is returned.
    fn from_body(body: &[u8]) -> Result<(Self, &[u8]), DecodeError>;
    /// Bounds that the types do not hold by themselves.
    fn check(&self) -> Result<(), DecodeError> {
        Ok(())
    }
}

/// Implements [`Message`] for a serde type; the optional closure checks bounds.
macro_rules! message {
    ($name:ident = $kind:literal $(, check: $check:expr)?) => {
        impl $crate::message::Message for $name {
            const KIND: u8 = $kind;
            const NAME: &'static str = stringify!($name);
            fn to_body(&self) -> Vec<u8> {
                $crate::message::to_postcard(self)
            }
            fn from_body(body: &[u8]) -> Result<(Self, &[u8]), $crate::wire::DecodeError> {
                $crate::message::from_postcard(body, Self::NAME)
            }
            $(fn check(&self) -> Result<(), $crate::wire::DecodeError> {
                let within: fn(&Self) -> bool = $check;
                if within(self) { Ok(()) } else { Err($crate::wire::DecodeError::Malformed(Self::NAME)) }
            })?
        }
    };
}
pub(crate) use message;

pub(crate) fn to_postcard<T: Serialize>(fields: &T) -> Vec<u8> {
    postcard::to_allocvec(fields).expect("messages hold only types that postcard can write")
}

pub(crate) fn from_postcard<'a, T: DeserializeOwned>(
    body: &'a [u8],
    name: &'static str,
) -> Result<(T, &'a [u8]), DecodeError> {
    postcard::take_from_bytes(body).map_err(|error| match error {
        postcard::Error::DeserializeUnexpectedEnd => DecodeError::Truncated,
        _ => DecodeError::Malformed(name),
    })
}

/// A refusal as an answer: the last frame of its stream, followed by a clean finish.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Refused {
    /// What is refused and who must act.
    pub refusal: Refusal,
}
message!(Refused = 0x3f, check: |m| m.refusal.is_within_bounds());

/// A 64-byte signature in a message.
pub(crate) mod signature_field {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(signature: &[u8; 64], to: S) -> Result<S::Ok, S::Error> {
        let (first, second) = signature.split_at(32);
        let halves: ([u8; 32], [u8; 32]) = (
            first.try_into().map_err(serde::ser::Error::custom)?,
            second.try_into().map_err(serde::ser::Error::custom)?,
        );
        halves.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 64], D::Error> {
        let (first, second) = <([u8; 32], [u8; 32])>::deserialize(from)?;
        [first, second].concat().try_into().map_err(|_| D::Error::custom("a signature has 64 bytes"))
    }
}
