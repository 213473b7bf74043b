//! What QUIC and TLS are set to: raw public keys, one ALPN, bounded windows.
//!
//! Only configuration: quinn-proto and rustls do no IO themselves. The sockets are in the crates that link this.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, EndpointConfig, MtuDiscoveryConfig, RandomConnectionIdGenerator, ServerConfig, TransportConfig,
    VarInt,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, PeerIncompatible, SignatureScheme};
use serde::{Deserialize, Serialize};

use crate::identity::{SecretKey, node_id_of_spki, pkcs8_der, spki_der};
use crate::ids::NodeId;
use crate::limits::{
    ALPN, CONNECTION_WINDOW, IDLE_TIMEOUT_MS, INITIAL_WINDOW, KEEP_ALIVE_MS, MAX_INCOMING, MAX_REQUEST_STREAMS,
    SERVER_CONNECTION_WINDOW, SERVER_STREAM_WINDOW, STREAM_WINDOW,
};

/// The name that clients put into a handshake, where TLS wants one: nodes have keys, not names.
pub const SERVER_NAME: &str = "aro";

/// How fast a sender goes, and how it takes loss. Each end chooses for what it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Congestion {
    /// RFC 9438: the default, and what the figures of this house are measured with.
    #[default]
    Cubic,
    /// RFC 9002: recovers more slowly on long paths.
    NewReno,
    /// Goes by the measured bandwidth and not by loss. Experimental in quinn, which does not maintain it.
    Bbr,
}

impl Congestion {
    /// All of them, with their names.
    pub const NAMES: [(&'static str, Self); 3] =
        [("cubic", Self::Cubic), ("new-reno", Self::NewReno), ("bbr", Self::Bbr)];

    fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self {
            Self::Cubic => Arc::new(CubicConfig::default().initial_window(INITIAL_WINDOW).clone()),
            Self::NewReno => Arc::new(NewRenoConfig::default().initial_window(INITIAL_WINDOW).clone()),
            Self::Bbr => Arc::new(BbrConfig::default().initial_window(INITIAL_WINDOW).clone()),
        }
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

/// What each end may choose for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportSettings {
    /// For what this end sends.
    pub congestion: Congestion,
    /// Largest packet that this end takes, and looks for on paths within a network of one's own, by which loopback,
    /// private and link-local addresses are meant; in bytes without IP and UDP heads: 1,200 to 6,500, which is the default.
    /// A connection begins with 1,200 and finds out by probes what its path carries. In data centres that is all of it,
    /// and a byte then costs half; an Ethernet of 1,500 costs some dozen lost probes.
    pub packet_bytes: u16,
    /// The same on all other paths: default 1,452, which most of the internet carries, so that hardly a probe is lost and
    /// the first answer does not wait behind any. More where public addresses are reached over jumbo frames too.
    pub internet_packet_bytes: u16,
}

impl Default for TransportSettings {
    fn default() -> Self {
        let (packet_bytes, internet_packet_bytes) = (MOST_PACKET_BYTES, INTERNET_PACKET_BYTES);
        Self { congestion: Congestion::default(), packet_bytes, internet_packet_bytes }
    }
}

impl TransportSettings {
    /// For connections with one peer: `packet_bytes` is then what is looked for towards it.
    #[must_use]
    pub fn towards(self, peer: IpAddr) -> Self {
        if is_near(peer) { self } else { self.towards_internet() }
    }

    /// For connections with whoever comes from the internet.
    #[must_use]
    pub fn towards_internet(self) -> Self {
        Self { packet_bytes: self.internet_packet_bytes, ..self }
    }

    fn packet_bytes(self) -> u16 {
        self.packet_bytes.clamp(LEAST_PACKET_BYTES, MOST_PACKET_BYTES)
    }
}

/// Whether an address is of a network of one's own. Those shared by carriers (100.64.0.0/10) are the internet's.
fn is_near(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// What an endpoint that only dials is set to. Every packet to it carries an id that it chose: where few connections are
/// told apart and no stranger's packet is answered, four bytes do for that, and the rest of the packet is content.
pub fn dialing_endpoint_config(settings: TransportSettings) -> EndpointConfig {
    let mut config = endpoint_config(settings);
    config.cid_generator(|| Box::new(RandomConnectionIdGenerator::new(DIALING_ID_BYTES)));
    config
}

/// What every endpoint, of either side, is set to.
pub fn endpoint_config(settings: TransportSettings) -> EndpointConfig {
    let mut config = EndpointConfig::default();
    // Never below what quinn takes by itself: small settings are about what is looked for.
    let stock = config.get_max_udp_payload_size().try_into().unwrap_or(u16::MAX);
    let asked = settings.packet_bytes().max(settings.towards_internet().packet_bytes());
    config.max_udp_payload_size(asked.max(stock)).expect("at least 1,200 bytes");
    config
}

/// [`server_config_with`] default settings, for whoever comes from the internet.
pub fn server_config(key: &SecretKey) -> ServerConfig {
    server_config_with(key, TransportSettings::default().towards_internet())
}

/// How a server (node or operator) answers: with its key in place of a certificate.
// r[impl identity.tls.raw_public_key]
pub fn server_config_with(key: &SecretKey, settings: TransportSettings) -> ServerConfig {
    let crypto =
        QuicServerConfig::try_from(server_tls(key)).expect("the provider has the initial cipher suite of QUIC");
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(server_transport(settings)).max_incoming(MAX_INCOMING);
    config
}

/// The part of a server's configuration that its settings are about, to be chosen for each peer.
pub fn server_transport(settings: TransportSettings) -> Arc<TransportConfig> {
    let mut transport = transport_config(settings);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_REQUEST_STREAMS + 1))
        .stream_receive_window(VarInt::from_u32(SERVER_STREAM_WINDOW))
        .receive_window(VarInt::from_u32(SERVER_CONNECTION_WINDOW));
    Arc::new(transport)
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

/// [`client_config_with`] default settings, for a node anywhere on the internet.
pub fn client_config(node: NodeId) -> ClientConfig {
    client_config_with(node, TransportSettings::default().towards_internet())
}

/// How a client dials one node (or operator), and refuses any other key.
// r[impl identity.node.pinned]
pub fn client_config_with(node: NodeId, settings: TransportSettings) -> ClientConfig {
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
    let mut transport = transport_config(settings);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .keep_alive_interval(Some(Duration::from_millis(KEEP_ALIVE_MS)));
    config.transport_config(Arc::new(transport));
    config
}

fn transport_config(settings: TransportSettings) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(settings.packet_bytes());
    config
        .congestion_controller_factory(settings.congestion.factory())
        .mtu_discovery_config(Some(discovery))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(VarInt::try_from(IDLE_TIMEOUT_MS).expect("milliseconds fit a varint").into()));
    config
}

/// One provider, named here and nowhere else, whatever other crates make rustls bring along.
///
/// AES-128 first: keys are agreed on and signed at 128 bits of strength, so 256 in the cipher would only cost time. The
/// client's order is what counts.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..rustls::crypto::aws_lc_rs::default_provider()
    })
}

/// What an Ethernet of 1,500 bytes carries with IPv6 and something to spare, and quinn looks for by itself.
const INTERNET_PACKET_BYTES: u16 = 1_452;
/// Of the ids in packets to an endpoint that only dials.
const DIALING_ID_BYTES: usize = 4;
/// What every path of QUIC carries.
const LEAST_PACKET_BYTES: u16 = 1_200;
/// Ten of them, as many as quinn gives to the system at once, are one datagram of 64 KiB before it is cut: larger ones
/// would leave in smaller batches, and the bytes of a batch are what a send costs least by.
const MOST_PACKET_BYTES: u16 = 6_500;

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
            let settings = TransportSettings { congestion, ..TransportSettings::default() };
            let _ = server_config_with(&SecretKey::from_bytes(&[7; 32]), settings);
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

    #[test]
    fn the_provider_is_aws_lc_with_aes_128_first_whatever_else_is_linked() {
        let provider = provider();
        assert_eq!(provider.cipher_suites[0].suite(), rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        let named = rustls::crypto::aws_lc_rs::default_provider();
        assert_eq!(format!("{:?}", provider.key_provider), format!("{:?}", named.key_provider));
    }

    #[test]
    fn packets_stay_within_what_a_path_and_a_send_can_carry() {
        let taken = |packet_bytes| {
            endpoint_config(TransportSettings { packet_bytes, ..TransportSettings::default() })
                .get_max_udp_payload_size()
        };
        assert_eq!([0, 1_452, 6_500, u16::MAX].map(taken), [1_472, 1_472, 6_500, 6_500]);
        let internet = TransportSettings { packet_bytes: 1_200, internet_packet_bytes: 9_000, ..Default::default() };
        assert_eq!(endpoint_config(internet).get_max_udp_payload_size(), 6_500);
    }

    #[test]
    fn large_packets_are_looked_for_within_a_network_of_ones_own() {
        let looks_for = |peer: &str| TransportSettings::default().towards(peer.parse().unwrap()).packet_bytes;
        for near in
            ["127.0.0.1", "10.1.2.3", "192.168.0.9", "169.254.7.7", "::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"]
        {
            assert_eq!(looks_for(near), 6_500, "{near}");
        }
        for far in ["9.9.9.9", "100.64.0.1", "2001:db8::1", "::ffff:9.9.9.9"] {
            assert_eq!(looks_for(far), 1_452, "{far}");
        }
    }
}
