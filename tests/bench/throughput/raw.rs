//! Bare quinn: the same content on one stream, bytes in, bytes out, nothing else.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aro_proto::identity::{pkcs8_der, spki_der};
use aro_proto::merkle::ContentHasher;
use aro_proto::transport::{SERVER_NAME, TransportSettings, client_config_with, server_config_with};
use aro_proto::{ContentId, SecretKey};
use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::meter::{Meter, Sample};
use crate::raw::endpoint;

/// A server which sends as much of the content as it is asked for, and a client.
pub(super) struct Line {
    content: Bytes,
    server: Endpoint,
    client: Endpoint,
    config: ClientConfig,
}

impl Line {
    /// Stock quinn: ring, default transport settings, sockets as quinn makes them.
    pub(super) fn stock(content: Bytes) -> Result<Self> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (server, config) = stock_configs()?;
        Ok(Self { content, server: Endpoint::server(server, any)?, client: Endpoint::client(any)?, config })
    }

    /// Our TLS, transport and socket settings.
    pub(super) fn same(content: Bytes, settings: TransportSettings) -> Result<Self> {
        let key = SecretKey::from_bytes(&KEY);
        let server = endpoint(Some(server_config_with(&key, settings)), settings)?;
        let config = client_config_with(key.node_id(), settings);
        Ok(Self { content, server, client: endpoint(None, settings)?, config })
    }

    /// Moves the content over a new connection that has moved some of it before, so that its path is known.
    pub(super) async fn transfer(&self) -> Result<Sample> {
        self.transfer_to(|_| {}).await
    }

    /// The same, and hashes every byte: the least that anybody does who wants to know what was received. Packets are
    /// gathered first, for BLAKE3 is at its full speed only in long stretches.
    pub(super) async fn hashed(&self, content: ContentId) -> Result<Sample> {
        let (mut hasher, mut gathered) = (ContentHasher::default(), Vec::with_capacity(STRETCH));
        let mut take = |mut chunk: &[u8]| {
            while !chunk.is_empty() {
                let (now, rest) = chunk.split_at(chunk.len().min(STRETCH - gathered.len()));
                gathered.extend_from_slice(now);
                chunk = rest;
                if gathered.len() == STRETCH {
                    hasher.update(&gathered);
                    gathered.clear();
                }
            }
        };
        let sample = self.transfer_to(&mut take).await?;
        hasher.update(&gathered);
        ensure!(hasher.finish().0 == content, "what came is not the content");
        Ok(sample)
    }

    async fn transfer_to(&self, take: impl FnMut(&[u8])) -> Result<Sample> {
        let connecting = self.client.connect_with(self.config.clone(), self.server.local_addr()?, SERVER_NAME)?;
        let accepting = async { anyhow::Ok(self.server.accept().await.context("the endpoint is closed")?.await?) };
        let (connection, accepted) = tokio::join!(connecting, accepting);
        let (connection, serving) = (connection?, tokio::spawn(serve(accepted?, self.content.clone())));
        let size = self.content.len() as u64;
        ask(&connection, size.min(WARM_UP), |_| {}).await?;
        let meter = Meter::start();
        ask(&connection, size, take).await?;
        let sample = meter.stop(size);
        connection.close(VarInt::from_u32(0), b"");
        // It ends with the connection, whose end is no error.
        let _ = serving.await;
        Ok(sample)
    }
}

/// Asks for so many bytes on a new stream and takes them off as fast as they come.
async fn ask(connection: &Connection, size: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&size.to_be_bytes()).await?;
    send.finish()?;
    let (mut chunks, mut got) = ([const { Bytes::new() }; CHUNKS], 0);
    while let Some(count) = recv.read_chunks(&mut chunks).await? {
        for chunk in &chunks[..count] {
            got += chunk.len() as u64;
            take(chunk);
        }
    }
    ensure!(got == size, "{got} of {size} bytes came");
    Ok(())
}

async fn serve(connection: Connection, content: Bytes) -> Result<()> {
    loop {
        let (mut send, mut recv) = connection.accept_bi().await?;
        let mut asked = [0; 8];
        recv.read_exact(&mut asked).await?;
        let mut left = content.slice(..usize::try_from(u64::from_be_bytes(asked))?);
        while !left.is_empty() {
            send.write_chunk(left.split_to(left.len().min(BUFFER))).await?;
        }
        send.finish()?;
    }
}

/// As quinn's own constructors make them, but for the key, which is a raw one like ours: no certificate is needed.
fn stock_configs() -> Result<(ServerConfig, ClientConfig)> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = SecretKey::from_bytes(&KEY);
    let secret = PrivateKeyDer::Pkcs8(pkcs8_der(&key).to_vec().into());
    let signer = provider.key_provider.load_private_key(secret)?;
    let certified = CertifiedKey::new(vec![spki_der(&key.public()).to_vec().into()], signer);
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(certified))));
    let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyKey(provider)))
        .with_no_client_auth();
    Ok((
        ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?)),
        ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?)),
    ))
}

/// Whoever answers is the server of this process.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

const KEY: [u8; 32] = [7; 32];
/// Bytes before those that count: 16 MiB.
const WARM_UP: u64 = 16 << 20;
/// Bytes hashed at once: 256 KiB.
const STRETCH: usize = 256 << 10;
/// Bytes given to the stream at once: 1 MiB.
const BUFFER: usize = 1 << 20;
/// Packets taken from the stream at once.
const CHUNKS: usize = 64;
