//! Receipts as they go on the wire. Of the refused ones some are signed as well: only what is said is wrong.

use aro_proto::SecretKey;
use aro_proto::message::{Message, Receipt};
use aro_proto::wire::{FRAME_HEAD, FrameHead, decode_body, encode_frame};

use crate::file::Vector;

// r[verify receipt.bounds]
// r[verify receipt.signed]
#[test]
fn receipts_are_read_as_the_vectors_say() {
    crate::run("receipt", 7, check);
}

fn check(vector: &Vector) -> Result<(), String> {
    let key = SecretKey::from_bytes(&vector.array("seed"));
    let (head, body) = vector.bytes.split_first_chunk::<FRAME_HEAD>().expect("a whole head");
    let head = FrameHead::parse(head).expect("a frame");
    assert_eq!((head.kind, head.body_len), (Receipt::KIND, body.len()), "{}", vector.name);
    let signed: Receipt = decode_body(head.kind, body).map_err(|_| "malformed".to_owned())?;
    let receipt = signed.verify(&key.node_id()).map_err(|_| "signature".to_owned())?;
    let again = receipt.clone().sign(&key);
    assert_eq!(encode_frame(&again).expect("fits"), vector.bytes, "{} is not written as it is read", vector.name);
    Ok(())
}
