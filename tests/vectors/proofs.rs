//! Encodings of answered ranges. The content of a vector is `size` bytes, byte `i` being `i % 251`.

use aro_proto::ContentId;
use aro_proto::merkle::{ByteRanges, Decoder, GroupSize, VerifyError, reference};

use crate::file::Vector;

// r[verify content.encoding.preorder]
// r[verify content.verify.first_error]
#[test]
fn encodings_prove_or_fail_as_the_vectors_say() {
    crate::run("merkle", 8, check);
}

fn check(vector: &Vector) -> Result<(), String> {
    let content: Vec<u8> = (0..vector.number::<u64>("size")).map(|i| (i % 251) as u8).collect();
    let root = ContentId::from_bytes(vector.array("root"));
    assert_eq!(root, ContentId::of(&content), "{}: the root is of another content", vector.name);
    let group = GroupSize::from_log2(vector.number("group_log2")).expect("4 to 6");
    let ranges = match vector.header("ranges") {
        "all" => ByteRanges::all(),
        range => {
            let (start, end) = range.split_once("..").expect("start..end");
            ByteRanges::single(start.parse().expect("number"), end.parse().expect("number")).expect("canonical")
        }
    };

    let claimed = vector.number("claimed_size");
    let mut decoder = Decoder::new(root, ranges.answered(claimed, group)).map_err(|_| "too large".to_owned())?;
    let mut rest = &vector.bytes[..];
    while let Some(expected) = decoder.expects() {
        let item = rest.get(..expected).ok_or("truncated")?;
        rest = &rest[expected..];
        if let Some(leaf) = decoder.accept(item).map_err(name)? {
            let from = usize::try_from(leaf.offset()).expect("small");
            assert_eq!(leaf.bytes(), &content[from..][..leaf.bytes().len()], "{}", vector.name);
        }
    }
    if !rest.is_empty() {
        return Err("bytes after the end".to_owned());
    }
    assert_eq!(
        reference::encode(&content, &ranges, group),
        vector.bytes,
        "{} is not the one right answer",
        vector.name
    );
    Ok(())
}

fn name(error: VerifyError) -> String {
    match error {
        VerifyError::ParentMismatch { .. } => "parent",
        VerifyError::LeafMismatch { .. } => "leaf",
        _ => "other",
    }
    .to_owned()
}
