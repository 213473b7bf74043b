//! Encodings, frames and contents as bytes.

use aro_proto::limits::MAX_FRAME;
use aro_proto::merkle::{AnsweredRanges, Encoder, Outboard, Step};
use aro_proto::message::{Message, NodeHello};
use aro_proto::wire::{FRAME_HEAD, FrameHead, encode_frame};
use quinn::{RecvStream, SendStream};

use super::Stored;

pub(super) fn encode_of(stored: &Stored, answered: AnsweredRanges) -> Vec<u8> {
    let mut bytes = Vec::new();
    for step in Encoder::new(answered) {
        match step {
            Step::Parent(node) => bytes.extend(stored.outboard.parent(node).unwrap()),
            Step::Leaf { offset, len } => {
                let start = usize::try_from(offset).unwrap();
                bytes.extend_from_slice(&stored.bytes[start..start + len as usize]);
            }
        }
    }
    bytes
}

/// Where in an encoding a content byte is.
pub(super) fn place_of(answered: AnsweredRanges, wanted: u64) -> Option<usize> {
    let mut at = 0;
    for step in Encoder::new(answered) {
        match step {
            Step::Parent(_) => at += 64,
            Step::Leaf { offset, len } if (offset..offset + u64::from(len)).contains(&wanted) => {
                return Some(at + usize::try_from(wanted - offset).unwrap());
            }
            Step::Leaf { len, .. } => at += len as usize,
        }
    }
    None
}

/// A frame whose announced length is above the bound.
pub fn too_long() -> Vec<u8> {
    let mut bytes = u32::try_from(MAX_FRAME + 1).unwrap().to_le_bytes().to_vec();
    bytes.push(NodeHello::KIND);
    bytes.extend([0; 64]);
    bytes
}

/// A frame of a known kind with a body that is none.
pub fn garbage(kind: u8) -> Vec<u8> {
    let body = [0xff; 40];
    let mut bytes = 41u32.to_le_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// Bytes that look random but are the same on every run.
pub fn content(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(super) async fn write<M: Message>(send: &mut SendStream, message: &M) -> Option<()> {
    send.write_all(&encode_frame(message).unwrap()).await.ok()
}

pub(super) async fn read_frame(recv: &mut RecvStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; FRAME_HEAD];
    recv.read_exact(&mut head).await.ok()?;
    let FrameHead { kind, body_len } = FrameHead::parse(&head).unwrap();
    let mut body = vec![0; body_len];
    recv.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}
