//! Delegations: what an owner signs for a session key.

use aro_proto::identity::{DelegationError, SignedDelegation};
use aro_proto::{Amount, SecretKey};

use crate::file::Vector;

// r[verify identity.delegation.signed]
#[test]
fn delegations_hold_as_the_vectors_say() {
    crate::run("delegation", 12, check);
}

fn check(vector: &Vector) -> Result<(), String> {
    let verified = SignedDelegation::from_bytes(&vector.bytes).and_then(|signed| signed.verify());
    let delegated = verified.map_err(|error| match error {
        DelegationError::Malformed => "malformed".to_owned(),
        DelegationError::Scope => "scope".to_owned(),
        DelegationError::SessionKey => "session key".to_owned(),
        DelegationError::Signature(_) => "signature".to_owned(),
    })?;
    let delegation = delegated.delegation().clone();
    assert_eq!(delegation.cap, Amount::new(vector.number("cap")), "{}", vector.name);
    assert_eq!(delegation.expires_at, vector.number::<i64>("expires_at"), "{}", vector.name);
    assert_eq!(delegation.nodes.len(), vector.number::<usize>("nodes"), "{}", vector.name);
    let again = delegation.sign(&SecretKey::from_bytes(&vector.array("seed"))).expect("sound");
    assert_eq!(again.to_bytes(), vector.bytes, "{} is not written as it is read", vector.name);
    Ok(())
}
