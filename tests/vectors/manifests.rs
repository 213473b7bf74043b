//! Manifests and records of names, good and hostile. The hostile ones are signed as well: only what is said is wrong.

use aro_proto::SecretKey;
use aro_proto::manifest::{EntryNameError, ManifestError, SignedManifest};
use aro_proto::naming::SignedNameRecord;

// r[verify manifest.signature]
// r[verify manifest.canonical]
// r[verify manifest.entries]
// r[verify manifest.name]
// r[verify manifest.conflicts]
#[test]
fn manifests_are_read_as_the_vectors_say() {
    crate::run("manifest", 16, |vector| {
        let read = SignedManifest::from_bytes(&vector.bytes).and_then(|signed| signed.verify()).map_err(why)?;
        let again = SignedManifest::sign(read.entries().to_vec(), &SecretKey::from_bytes(&vector.array("seed")));
        assert_eq!(
            again.expect("read already").to_bytes(),
            vector.bytes,
            "{} is not written as it is read",
            vector.name
        );
        Ok(())
    });
}

// r[verify name.signature]
// r[verify name.sequence]
// r[verify name.text]
#[test]
fn records_of_names_are_read_as_the_vectors_say() {
    crate::run("name", 11, |vector| {
        let signed = SignedNameRecord::from_bytes(&vector.bytes).ok_or("malformed")?;
        let verified = signed.verify().map_err(|_| "signature".to_owned())?;
        let again = verified.record().clone().sign(&SecretKey::from_bytes(&vector.array("seed")));
        assert_eq!(again.signed().to_bytes(), vector.bytes, "{} is not written as it is read", vector.name);
        Ok(())
    });
}

fn why(error: ManifestError) -> String {
    let name = |error| match error {
        EntryNameError::Empty => "empty",
        EntryNameError::TooLong(_) => "long",
        EntryNameError::TooDeep(_) => "deep",
        EntryNameError::Absolute => "absolute",
        EntryNameError::EmptyPart => "empty part",
        EntryNameError::Dots => "dots",
        EntryNameError::PartTooLong(_) => "long part",
        EntryNameError::Character(_) => "character",
        EntryNameError::TrailingDotOrSpace => "trailing",
        EntryNameError::Reserved => "reserved",
        EntryNameError::NotNormal => "not normal",
    };
    match error {
        ManifestError::NotAManifest => "not a manifest",
        ManifestError::TooLong(_) => "long",
        ManifestError::Signature(_) => "signature",
        ManifestError::TooManyEntries(_) => "count",
        ManifestError::Malformed(_) => "malformed",
        ManifestError::NotCanonical => "not canonical",
        ManifestError::Name { error, .. } => name(error),
        ManifestError::MediaType { .. } => "media type",
        ManifestError::Size { .. } => "size",
        ManifestError::Order(_) => "order",
        ManifestError::Conflict(_) => "conflict",
    }
    .to_owned()
}
