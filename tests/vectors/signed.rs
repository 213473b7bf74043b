//! Signed requests: bound to key, connection and stream.

use aro_proto::SecretKey;
use aro_proto::identity::{Binding, EnvelopeError, Signed};
use aro_proto::message::{Bind, Describe, Fetch, Message, Publish};
use aro_proto::wire::FRAME_HEAD;

use crate::file::Vector;

// r[verify request.signature.bound]
#[test]
fn signed_requests_hold_as_the_vectors_say() {
    crate::run("signed", 14, |vector| match vector.header("message") {
        "Bind" => check::<Bind>(vector),
        "Describe" => check::<Describe>(vector),
        "Fetch" => check::<Fetch>(vector),
        "Publish" => check::<Publish>(vector),
        other => panic!("no such message: {other}"),
    });
}

fn check<M: Message>(vector: &Vector) -> Result<(), String> {
    let binding = Binding { exporter: vector.array("exporter"), stream: vector.number("stream") };
    let signed = Signed::from_bytes(&vector.bytes[FRAME_HEAD..]).map_err(|error| error.to_string())?;
    let verified = signed.verify::<M>(&binding).map_err(|error| match error {
        EnvelopeError::Signature(_) => "signature".to_owned(),
        EnvelopeError::Decode(_) => "decode".to_owned(),
    })?;
    let again = Signed::new(verified.message(), &SecretKey::from_bytes(&vector.array("seed")), &binding);
    assert_eq!(again.expect("fits").to_frame(), vector.bytes, "{} is not written as it is read", vector.name);
    Ok(())
}
