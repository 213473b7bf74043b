//! What QUIC and TLS are set to: raw public keys, one ALPN, bounded windows.
//!
//! Only configuration: quinn-proto and rustls do no IO themselves. The sockets are in the crates that link this.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::congestion::{BbrConfig, CubicConfig, NewRenoConfig};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{ClientConfig, ServerConfig, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, PeerIncompatible, SignatureScheme};

use crate::identity::{SecretKey, node_id_of_spki, pkcs8_der, spki_der};
use crate::ids::NodeId;
use crate::limits::{
    ALPN, CONNECTION_WINDOW, IDLE_TIMEOUT_MS, INITIAL_WINDOW, KEEP_ALIVE_MS, MAX_INCOMING, MAX_REQUEST_STREAMS,
    SERVER_CONNECTION_WINDOW, SERVER_STREAM_WINDOW, STREAM_WINDOW,
};

/// The name that clients put into a handshake, where TLS wants one: nodes have keys, not names.
pub const SERVER_NAME: &str = "aro";

/// How a server finds the rate at which a path takes what it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// By losses, as most of the internet does. The default.
    #[default]
    Cubic,
    /// By losses, older and slower to recover.
    NewReno,
    /// By measured rate and delay, so that chance losses cost little. Experimental in the QUIC stack.
    Bbr,
}

impl Congestion {
    /// All of them, with their names.
    pub const NAMES: [(&'static str, Self); 3] =
        [("cubic", Self::Cubic), ("new-reno", Self::NewReno), ("bbr", Self::Bbr)];

    fn set(self, transport: &mut TransportConfig) {
        let initial = INITIAL_WINDOW;
        match self {
            Self::Cubic => transport
                .congestion_controller_factory(Arc::new(CubicConfig::default().initial_window(initial).clone())),
            Self::NewReno => transport
                .congestion_controller_factory(Arc::new(NewRenoConfig::default().initial_window(initial).clone())),
            Self::Bbr => {
                transport.congestion_controller_factory(Arc::new(BbrConfig::default().initial_window(initial).clone()))
            }
        };
    }
}

impl std::fmt::Display for Congestion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Self::NAMES.iter().find(|(_, known)| known == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

/// Why a text names no [`Congestion`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of cubic, new-reno and bbr")]
pub struct CongestionError(String);

impl std::str::FromStr for Congestion {
    type Err = CongestionError;
    fn from_str(text: &str) -> Result<Self, CongestionError> {
        let known = Self::NAMES.iter().find(|(name, _)| *name == text);
        known.map(|(_, congestion)| *congestion).ok_or_else(|| CongestionError(text.chars().take(32).collect()))
    }
}

/// How a server (node or operator) answers: with its key in place of a certificate.
// r[impl identity.tls.raw_public_key]
pub fn server_config(key: &SecretKey) -> ServerConfig {
    server_config_with(key, Congestion::default())
}

/// The same, with another way to find the rate at which it sends.
pub fn server_config_with(key: &SecretKey, congestion: Congestion) -> ServerConfig {
    let crypto =
        QuicServerConfig::try_from(server_tls(key)).expect("the provider has the initial cipher suite of QUIC");
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = transport_config();
    congestion.set(&mut transport);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_REQUEST_STREAMS + 1))
        .stream_receive_window(VarInt::from_u32(SERVER_STREAM_WINDOW))
        .receive_window(VarInt::from_u32(SERVER_CONNECTION_WINDOW));
    config.transport_config(Arc::new(transport)).max_incoming(MAX_INCOMING);
    config
}

fn server_tls(key: &SecretKey) -> rustls::ServerConfig {
    let provider = provider();
    let secret = PrivateKeyDer::Pkcs8(pkcs8_der(key).to_vec().into());
    let signer = provider.key_provider.load_private_key(secret).expect("PKCS #8 of an ed25519 key loads");
    let certified = CertifiedKey::new(vec![spki_der(&key.public()).to_vec().into()], signer);
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(certified))));
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // Nothing that is signed or paid travels in 0-RTT data: no tickets, no early data.
    // r[impl identity.tls.no_early_data]
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    tls
}

/// How a client dials one node (or operator), and refuses any other key.
// r[impl identity.node.pinned]
pub fn client_config(node: NodeId) -> ClientConfig {
    let provider = provider();
    let verifier = PinnedKey { node, algorithms: provider.signature_verification_algorithms };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    let crypto = QuicClientConfig::try_from(tls).expect("the provider has the initial cipher suite of QUIC");
    let mut config = ClientConfig::new(Arc::new(crypto));
    let mut transport = transport_config();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .keep_alive_interval(Some(Duration::from_millis(KEEP_ALIVE_MS)));
    config.transport_config(Arc::new(transport));
    config
}

fn transport_config() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(VarInt::try_from(IDLE_TIMEOUT_MS).expect("milliseconds fit a varint").into()));
    config
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Accepts one key and nothing else.
#[derive(Debug)]
struct PinnedKey {
    node: NodeId,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if intermediates.is_empty() && node_id_of_spki(end_entity) == Some(self.node) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(cert.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_find_a_rate_reads_back_by_its_name() {
        for (name, congestion) in Congestion::NAMES {
            assert_eq!(name.parse(), Ok(congestion));
            assert_eq!(congestion.to_string(), name);
            let _ = server_config_with(&SecretKey::from_bytes(&[7; 32]), congestion);
        }
        assert!("reno".parse::<Congestion>().is_err());
    }

    // r[verify identity.tls.no_early_data]
    #[test]
    fn a_server_gives_no_tickets_and_takes_no_early_data() {
        let tls = server_tls(&SecretKey::from_bytes(&[7; 32]));
        assert_eq!((tls.send_tls13_tickets, tls.max_early_data_size), (0, 0));
        assert_eq!(tls.alpn_protocols, [ALPN]);
    }
}
