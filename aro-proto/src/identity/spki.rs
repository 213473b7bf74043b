//! Ed25519 keys as TLS carries them: SubjectPublicKeyInfo (RFC 7250, RFC 8410) and PKCS #8 (RFC 5958).

use super::SecretKey;
use crate::ids::NodeId;

/// The 44 bytes that a node shows instead of a certificate.
// r[impl identity.tls.raw_public_key]
pub fn spki_der(key: &[u8; 32]) -> [u8; 44] {
    let mut der = [0; 44];
    der[..12].copy_from_slice(&SPKI_HEAD);
    der[12..].copy_from_slice(key);
    der
}

/// The node id in a SubjectPublicKeyInfo, if it is one of ed25519 in its only encoding.
pub fn node_id_of_spki(der: &[u8]) -> Option<NodeId> {
    let key = der.strip_prefix(&SPKI_HEAD)?;
    Some(NodeId::from_bytes(key.try_into().ok()?))
}

/// The secret key in the form that TLS libraries load.
pub fn pkcs8_der(key: &SecretKey) -> zeroize::Zeroizing<Vec<u8>> {
    let mut der = zeroize::Zeroizing::new(Vec::with_capacity(48));
    der.extend_from_slice(&PKCS8_HEAD);
    der.extend_from_slice(&*key.to_bytes());
    der
}

/// SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING of 32 bytes }.
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// SEQUENCE { INTEGER 0, SEQUENCE { OID 1.3.101.112 }, OCTET STRING { OCTET STRING of 32 bytes } }.
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

#[cfg(test)]
mod tests {
    use super::*;

    // r[verify identity.tls.raw_public_key]
    #[test]
    fn only_the_one_encoding_of_an_ed25519_key_is_read() {
        let id = SecretKey::from_bytes(&[7; 32]).node_id();
        let der = spki_der(id.as_bytes());
        assert_eq!(node_id_of_spki(&der), Some(id));
        assert_eq!(node_id_of_spki(&der[..43]), None);
        assert_eq!(node_id_of_spki(&[&der[..], &[0]].concat()), None);
        for place in 0..12 {
            let mut other = der;
            other[place] ^= 1;
            assert_eq!(node_id_of_spki(&other), None, "byte {place}");
        }
    }
}
