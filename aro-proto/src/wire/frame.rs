//! One frame: a length that is checked before anything is held, a kind, a body.

use thiserror::Error;

use super::extensions::read_extensions;
use crate::limits::MAX_FRAME;
use crate::message::Message;

/// Bytes before the body: length and kind.
pub const FRAME_HEAD: usize = 5;

/// A frame's announced kind and body length, within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Which message.
    pub kind: u8,
    /// Bytes of body that follow; at most [`MAX_FRAME`] - 1.
    pub body_len: usize,
}

impl FrameHead {
    /// Reads the head. A length outside the bounds is refused before anything is allocated for it.
    // r[impl framing.length]
    pub fn parse(bytes: &[u8; FRAME_HEAD]) -> Result<Self, DecodeError> {
        let [a, b, c, d, kind] = *bytes;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length == 0 || length > MAX_FRAME {
            return Err(DecodeError::Length(length));
        }
        Ok(Self { kind, body_len: length - 1 })
    }
}

/// A frame as it came, its kind unjudged. Whoever reads a stream makes it of a checked [`FrameHead`] and as many bytes as
/// that announces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which message.
    pub kind: u8,
    /// Its bytes.
    pub body: Vec<u8>,
}

impl Frame {
    /// The message inside, which must be an `M`.
    pub fn decode<M: Message>(&self) -> Result<M, DecodeError> {
        decode_body(self.kind, &self.body)
    }

    /// Bytes that the frame took on the wire.
    pub fn wire_len(&self) -> u64 {
        (FRAME_HEAD + self.body.len()) as u64
    }
}

/// Why bytes are not the message that they should be. The connection's error: the peer is broken or hostile.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The announced length is zero or above [`MAX_FRAME`].
    #[error("a frame of {0} bytes: 1 to 65536 are allowed")]
    Length(usize),
    /// The body ends inside a field.
    #[error("a frame ends inside a field")]
    Truncated,
    /// A field holds a value that it cannot have.
    #[error("a {0} frame holds a field that cannot be read")]
    Malformed(&'static str),
    /// Another message was due here.
    #[error("a frame of kind {found:#04x} where {expected} was due")]
    Unexpected {
        /// The kind that came.
        found: u8,
        /// The message that was due.
        expected: &'static str,
    },
    /// Optional fields do not rise.
    #[error("optional fields are repeated or out of order")]
    ExtensionOrder,
    /// More optional fields than any version has.
    #[error("too many optional fields")]
    TooManyExtensions,
}

/// Why a message cannot be sent. The caller's error: it asked for too much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The message would not fit a frame.
    #[error("a {0} message would be longer than a frame of 65536 bytes: ask for less at once")]
    TooLong(&'static str),
}

/// A whole frame.
pub fn encode_frame<M: Message>(message: &M) -> Result<Vec<u8>, EncodeError> {
    let body = encode_body(message)?;
    Ok(frame(M::KIND, &body))
}

/// A message's fields alone, bounded so that they fit a frame.
pub fn encode_body<M: Message>(message: &M) -> Result<Vec<u8>, EncodeError> {
    let body = message.to_body();
    // Room for the kind, and for the envelope of a signed message (key, signature, kind).
    if body.len() + 1 + 97 > MAX_FRAME { Err(EncodeError::TooLong(M::NAME)) } else { Ok(body) }
}

/// Reads a message from a frame's body, all of it.
// r[impl framing.kind]
pub fn decode_body<M: Message>(kind: u8, body: &[u8]) -> Result<M, DecodeError> {
    if kind != M::KIND {
        return Err(DecodeError::Unexpected { found: kind, expected: M::NAME });
    }
    let (message, rest) = M::from_body(body)?;
    read_extensions(rest)?;
    message.check()?;
    Ok(message)
}

pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 1).expect("bodies are bounded by MAX_FRAME");
    let mut bytes = Vec::with_capacity(FRAME_HEAD + body.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::{Refusal, RefusalCode};
    use crate::message::{
        Describe, FetchHead, Goaway, Hello, NameRefused, NameTaken, PublishName, Refused, Resolve, Resolved,
    };

    // r[verify framing.length]
    #[test]
    fn only_lengths_within_the_bound_are_accepted() {
        let head = |length: u32| FrameHead::parse(&[&length.to_le_bytes()[..], &[9]].concat().try_into().unwrap());
        assert_eq!(head(1), Ok(FrameHead { kind: 9, body_len: 0 }));
        assert_eq!(head(65_536), Ok(FrameHead { kind: 9, body_len: 65_535 }));
        for length in [0, 65_537, u32::MAX] {
            assert_eq!(head(length), Err(DecodeError::Length(length as usize)));
        }
    }

    #[test]
    fn a_frame_is_the_message_that_is_due_or_an_error_and_knows_its_length() {
        let goaway = Goaway { refusal: Refusal::new(RefusalCode::OverCapacity, "full") };
        let bytes = encode_frame(&goaway).unwrap();
        let (head, body) = bytes.split_first_chunk().unwrap();
        let frame = Frame { kind: FrameHead::parse(head).unwrap().kind, body: body.to_vec() };
        assert_eq!(frame.decode::<Goaway>(), Ok(goaway));
        let error = DecodeError::Unexpected { found: Goaway::KIND, expected: Refused::NAME };
        assert_eq!(frame.decode::<Refused>(), Err(error));
        assert_eq!(frame.wire_len(), bytes.len() as u64);
    }

    proptest! {
        // r[verify framing.kind]
        #[test]
        fn garbage_is_an_error_never_a_panic(kind in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_body::<Hello>(kind, &body);
            let _ = decode_body::<Describe>(kind, &body);
            let _ = decode_body::<FetchHead>(kind, &body);
            prop_assert!(decode_body::<Refused>(Goaway::KIND, &body).is_err());
            let _ = decode_body::<PublishName>(PublishName::KIND, &body);
            let _ = decode_body::<NameTaken>(NameTaken::KIND, &body);
            let _ = decode_body::<NameRefused>(NameRefused::KIND, &body);
            let _ = decode_body::<Resolve>(Resolve::KIND, &body);
            let _ = decode_body::<Resolved>(Resolved::KIND, &body);
            for kind in [Hello::KIND, Describe::KIND, FetchHead::KIND] {
                let _ = decode_body::<Hello>(kind, &body);
                let _ = decode_body::<Describe>(kind, &body);
                let _ = decode_body::<FetchHead>(kind, &body);
            }
        }
    }
}
