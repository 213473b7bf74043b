//! Frames: lengths, kinds, optional fields.

use aro_proto::message::{Hello, Message, Refused};
use aro_proto::wire::{DecodeError, FRAME_HEAD, FrameHead, decode_body, encode_frame};

use crate::file::Vector;

// r[verify framing.length]
// r[verify framing.kind]
// r[verify framing.extensions]
#[test]
fn frames_are_read_as_the_vectors_say() {
    crate::run("frame", 8, |vector| match vector.header("message") {
        "Hello" => check::<Hello>(vector),
        "Refused" => check::<Refused>(vector),
        other => panic!("no such message: {other}"),
    });
}

fn check<M: Message>(vector: &Vector) -> Result<(), String> {
    let message = read::<M>(&vector.bytes).map_err(name)?;
    if vector.header("canonical") == "yes" {
        assert_eq!(encode_frame(&message).expect("fits"), vector.bytes, "{} is not written as it is read", vector.name);
    }
    Ok(())
}

fn read<M: Message>(bytes: &[u8]) -> Result<M, DecodeError> {
    let (head, body) = bytes.split_first_chunk::<FRAME_HEAD>().ok_or(DecodeError::Truncated)?;
    let head = FrameHead::parse(head)?;
    decode_body(head.kind, body.get(..head.body_len).ok_or(DecodeError::Truncated)?)
}

fn name(error: DecodeError) -> String {
    let name = match error {
        DecodeError::Length(_) => "length",
        DecodeError::Truncated => "truncated",
        DecodeError::Malformed(_) => "malformed",
        DecodeError::Unexpected { .. } => "unexpected",
        DecodeError::ExtensionOrder => "order",
        DecodeError::TooManyExtensions => "too many",
    };
    name.to_owned()
}
