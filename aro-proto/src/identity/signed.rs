//! The signed envelope: `Signed` is what arrived, `Verified` is what may be acted on.
//!
//! ```text
//!  0                 32                        96     97
//!  +-----------------+-------------------------+------+----------------------+
//!  | signer's key    | signature               | kind | message body         |
//!  +-----------------+-------------------------+------+----------------------+
//!  signature over: "aro/1 signed\0" | exporter (32) | stream id u64 LE | kind | message body
//! ```

use super::{SecretKey, Signature, SignatureError, verify_strict};
use crate::ids::AgentId;
use crate::limits::EXPORTER_LEN;
use crate::message::Message;
use crate::wire::{DecodeError, EncodeError, decode_body, encode_body, frame};

/// What a signature is bound to: one TLS connection and one stream of it.
// r[impl request.signature.bound]
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// TLS exporter output for [`EXPORTER_LABEL`](crate::limits::EXPORTER_LABEL): differs on every connection.
    pub exporter: [u8; EXPORTER_LEN],
    /// QUIC stream id.
    pub stream: u64,
}

/// A message in its envelope, signature not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    signer: AgentId,
    signature: Signature,
    kind_and_body: Vec<u8>,
}

/// A message whose signature holds on this stream. Only [`Signed::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<M> {
    signer: AgentId,
    message: M,
}

impl Signed {
    /// Signs a message for one stream.
    pub fn new<M: Message>(message: &M, key: &SecretKey, binding: &Binding) -> Result<Self, EncodeError> {
        let mut kind_and_body = vec![M::KIND];
        kind_and_body.extend(encode_body(message)?);
        let signature = key.sign(&signed_bytes(binding, &kind_and_body));
        Ok(Self { signer: key.agent_id(), signature, kind_and_body })
    }

    /// The kind of the message inside: says which type to [`verify`](Self::verify) as.
    pub fn kind(&self) -> u8 {
        self.kind_and_body[0]
    }

    /// Who claims to have signed.
    pub fn claimed_signer(&self) -> AgentId {
        self.signer
    }

    /// Checks the signature for this stream, then decodes. Nothing is decoded before it is verified.
    pub fn verify<M: Message>(&self, binding: &Binding) -> Result<Verified<M>, EnvelopeError> {
        verify_strict(self.signer.as_bytes(), &signed_bytes(binding, &self.kind_and_body), &self.signature)?;
        let message = decode_body(self.kind(), &self.kind_and_body[1..])?;
        Ok(Verified { signer: self.signer, message })
    }

    /// Frame kind of an envelope; the kind of the message is inside.
    pub const KIND: u8 = 0x10;

    /// The whole frame.
    pub fn to_frame(&self) -> Vec<u8> {
        frame(Self::KIND, &self.to_bytes())
    }

    /// The envelope as a frame's body.
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.signer.as_bytes()[..], &self.signature, &self.kind_and_body].concat()
    }

    /// Reads an envelope from a frame's body.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (signer, rest) = bytes.split_first_chunk::<32>().ok_or(DecodeError::Truncated)?;
        let (signature, rest) = rest.split_first_chunk::<64>().ok_or(DecodeError::Truncated)?;
        if rest.is_empty() {
            return Err(DecodeError::Truncated);
        }
        Ok(Self { signer: AgentId::from_bytes(*signer), signature: *signature, kind_and_body: rest.to_vec() })
    }
}

impl<M> Verified<M> {
    /// The key that signed.
    pub fn signer(&self) -> AgentId {
        self.signer
    }

    /// What it signed.
    pub fn message(&self) -> &M {
        &self.message
    }

    /// What it signed, by value.
    pub fn into_message(self) -> M {
        self.message
    }
}

/// Why an envelope is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Signed by another key, for another stream or connection, or altered.
    #[error("the request's signature does not hold on this stream: {0}")]
    Signature(#[from] SignatureError),
    /// Signed, but not a message of this kind.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

fn signed_bytes(binding: &Binding, kind_and_body: &[u8]) -> Vec<u8> {
    [DOMAIN, &binding.exporter, &binding.stream.to_le_bytes(), kind_and_body].concat()
}

/// Keeps these signatures apart from vouchers, quotes and transactions.
const DOMAIN: &[u8] = b"aro/1 signed\0";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ContentId;
    use crate::message::Describe;

    const HERE: Binding = Binding { exporter: [1; 32], stream: 4 };

    fn request() -> Describe {
        Describe::whole(ContentId::of(b"x"))
    }

    // r[verify request.signature.bound]
    #[test]
    fn a_request_holds_only_on_its_own_connection_and_stream() {
        let signed = Signed::new(&request(), &SecretKey::from_bytes(&[7; 32]), &HERE).unwrap();
        assert_eq!(signed.verify::<Describe>(&HERE).unwrap().message(), &request());
        for elsewhere in [Binding { stream: 8, ..HERE }, Binding { exporter: [2; 32], ..HERE }] {
            assert!(matches!(signed.verify::<Describe>(&elsewhere), Err(EnvelopeError::Signature(_))));
        }
    }

    #[test]
    fn any_flipped_byte_and_any_other_signer_is_refused() {
        let signed = Signed::new(&request(), &SecretKey::from_bytes(&[7; 32]), &HERE).unwrap();
        let bytes = signed.to_bytes();
        for place in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[place] ^= 0x10;
            assert!(Signed::from_bytes(&altered).unwrap().verify::<Describe>(&HERE).is_err(), "byte {place}");
        }
        let mut other = bytes.clone();
        other[..32].copy_from_slice(&SecretKey::from_bytes(&[8; 32]).public());
        assert!(Signed::from_bytes(&other).unwrap().verify::<Describe>(&HERE).is_err());
        for cut in 0..97 {
            assert_eq!(Signed::from_bytes(&bytes[..cut]), Err(DecodeError::Truncated));
        }
    }
}
