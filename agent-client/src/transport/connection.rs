//! One connection to one node: dialled by its key, greeted at once, shared by every fetch from it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aro_proto::identity::{Binding, Signed};
use aro_proto::limits::{EXPORTER_LABEL, EXPORTER_LEN, MINOR_VERSION};
use aro_proto::message::{Bind, ChainIds, Hello, Message};
use aro_proto::transport::{SERVER_NAME, client_config_with};
use aro_proto::wire::encode_frame;
use aro_proto::{Address, AgentId, Amount, ByteCount, ChannelId, NodeId, Tariff, error::close};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use tokio::sync::watch;

use super::control::{BindStatus, Control, LaneSetup, Status};
use super::endpoint::Endpoints;
use crate::budget::BudgetGuard;
use crate::config::AgentConfig;
use crate::error::FetchError;
use crate::ledger::Hold;
use crate::wallet::{ChannelRecord, InUse, Left, Wallet, WalletError};

/// What a session is made from.
pub(crate) struct SessionSetup<'a> {
    pub(crate) endpoints: &'a Endpoints,
    pub(crate) wallet: Wallet,
    pub(crate) budget: BudgetGuard,
    pub(crate) config: AgentConfig,
    pub(crate) chain: ChainIds,
    /// The channel to bind, if there is one.
    pub(crate) record: Option<ChannelRecord>,
    /// Keeps it from other processes.
    pub(crate) hold: Option<Arc<Hold>>,
}

/// A live connection, its control stream running beside it.
pub(crate) struct Session {
    connection: Connection,
    exporter: [u8; EXPORTER_LEN],
    node: NodeId,
    place: String,
    wallet: Wallet,
    control: Control,
    channel: Option<ChannelId>,
}

/// An upload that was asked for: it goes out on `send` once the node is ready.
pub(crate) struct Upload {
    pub(crate) stream: u64,
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
}

/// A request on its way: what came back is read from `recv`.
pub(crate) struct Exchange {
    pub(crate) stream: u64,
    pub(crate) recv: RecvStream,
}

impl Session {
    /// Dials the node of an address and sends hello and channel binding; neither waits for an answer.
    // r[impl request.first_flight]
    pub(crate) async fn dial(address: &Address, setup: SessionSetup<'_>) -> Result<Self, FetchError> {
        let node = address.node();
        let place = place_of(address);
        let unreachable = |why: String| FetchError::Unreachable { place: place.clone(), why };
        let limit_ms = setup.config.connect_timeout_ms;
        let lookup = tokio::net::lookup_host((address.host(), address.port()));
        let remotes: Vec<SocketAddr> = tokio::time::timeout(Duration::from_millis(limit_ms), lookup)
            .await
            .map_err(|_| unreachable(format!("the host's name was not found within {limit_ms} ms")))?
            .map_err(|error| unreachable(error.to_string()))?
            .collect();
        let mut last = unreachable("the host has no address".into());
        for remote in remotes {
            match connect(remote, node, &place, &setup).await {
                Ok(connection) => return Self::greet(connection, node, place, setup).await,
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn greet(
        connection: Connection,
        node: NodeId,
        place: String,
        setup: SessionSetup<'_>,
    ) -> Result<Self, FetchError> {
        let lost = |error: String| FetchError::Unreachable { place: place.clone(), why: error };
        let mut exporter = [0; EXPORTER_LEN];
        connection
            .export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
            .map_err(|_| lost("TLS gives no exporter".into()))?;
        let channel = setup.record.map(|record| record.channel);
        let mark = match channel {
            Some(channel) => Some(mark_in_use(&setup.wallet, channel).await?),
            None => None,
        };
        let greeting = async {
            let (mut send, recv) = connection.open_bi().await.map_err(|error| lost(error.to_string()))?;
            let binding = Binding { exporter, stream: stream_id(&send) };
            let mut flight = encode_frame(&Hello { minor_version: MINOR_VERSION, chain: setup.chain })?;
            if let (Some(channel), Some((in_use, left))) = (channel, &mark) {
                let bind = Bind { channel, id: Some(in_use.id()), replaces: left.bindings().to_vec() };
                flight.extend(Signed::new(&bind, setup.wallet.signer_key(), &binding)?.to_frame());
            }
            send.write_all(&flight).await.map_err(|error| lost(error.to_string()))?;
            Ok((send, recv))
        };
        let (send, recv) = in_time("greeting", setup.config.connect_timeout_ms, greeting).await?;
        let wallet = setup.wallet.clone();
        let lane = LaneSetup {
            node,
            place: place.clone(),
            chain: setup.chain,
            wallet: setup.wallet,
            budget: setup.budget,
            prepay: setup.config.prepay,
            record: setup.record,
            mark,
            hold: setup.hold,
        };
        let control = Control::start(connection.clone(), send, recv, lane);
        Ok(Self { connection, exporter, node, place, wallet, control, channel })
    }

    /// Sends a signed request on a stream of its own. A node that grants no stream, or does not take the request, has
    /// `limit_ms`.
    pub(crate) async fn request<M: Message>(&self, message: &M, limit_ms: u64) -> Result<Exchange, FetchError> {
        let asking = async {
            let (mut send, recv) = self.connection.open_bi().await.map_err(|error| self.broken(&error))?;
            let stream = stream_id(&send);
            let binding = Binding { exporter: self.exporter, stream };
            let signed = Signed::new(message, self.wallet.signer_key(), &binding)?;
            if send.write_all(&signed.to_frame()).await.is_err() || send.finish().is_err() {
                // A node that stops the request's side has answered, or is gone: reading tells which.
                tracing::debug!(stream, "the node stopped reading the request");
            }
            Ok(Exchange { stream, recv })
        };
        in_time("asking", limit_ms, asking).await
    }

    /// Sends a signed request on a stream of its own that stays open for what is to follow, as [`request`](Self::request)
    /// does.
    // r[impl request.first_flight]
    pub(crate) async fn upload<M: Message>(&self, message: &M, limit_ms: u64) -> Result<Upload, FetchError> {
        let asking = async {
            let (mut send, recv) = self.connection.open_bi().await.map_err(|error| self.broken(&error))?;
            let stream = stream_id(&send);
            let signed = Signed::new(message, self.wallet.signer_key(), &Binding { exporter: self.exporter, stream })?;
            if send.write_all(&signed.to_frame()).await.is_err() {
                tracing::debug!(stream, "the node stopped reading the request");
            }
            Ok(Upload { stream, send, recv })
        };
        in_time("asking", limit_ms, asking).await
    }

    /// The key that signs requests.
    pub(crate) fn signer(&self) -> AgentId {
        self.wallet.signer()
    }

    /// False once the connection is closed, the node is going away, or the session has failed.
    pub(crate) fn is_usable(&self) -> bool {
        let status = self.control.status();
        let fit = status.broken.is_none() && !status.going_away;
        drop(status);
        fit && self.connection.close_reason().is_none()
    }

    /// Why the session broke: what the control stream found out, or else what QUIC says.
    pub(crate) fn broken(&self, error: &ConnectionError) -> FetchError {
        let found = self.control.status().broken.clone();
        found.unwrap_or_else(|| FetchError::Unreachable { place: self.place.clone(), why: error.to_string() })
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    /// Host and port.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// The channel that this connection asked to bind.
    pub(crate) fn channel(&self) -> Option<ChannelId> {
        self.channel
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Waits until hello, binding or whatever `ready` looks for has come, within `limit_ms`.
    pub(crate) async fn wait_for(
        &self,
        doing: &'static str,
        limit_ms: u64,
        mut ready: impl FnMut(&Status) -> bool,
    ) -> Result<watch::Ref<'_, Status>, FetchError> {
        let mut news = self.control.subscribe();
        let found = news.wait_for(|status| status.broken.is_some() || ready(status));
        match tokio::time::timeout(Duration::from_millis(limit_ms), found).await {
            Err(_) => return Err(FetchError::Timeout { doing, waited_ms: limit_ms }),
            Ok(Err(_)) => return Err(self.broken(&ConnectionError::LocallyClosed)),
            Ok(Ok(_)) => {}
        }
        let status = self.control.status();
        match &status.broken {
            Some(error) => Err(error.clone()),
            None => Ok(status),
        }
    }

    /// The bound channel's deposit as far as the payer knows, in base units.
    pub(crate) fn deposit(&self) -> Option<Amount> {
        match &self.control.status().bind {
            BindStatus::Bound(lane) => Some(lane.deposit()),
            _ => None,
        }
    }

    /// What new requests on the bound channel may still cost as far as the payer knows, in base units.
    pub(crate) fn deposit_left(&self) -> Option<Amount> {
        match &self.control.status().bind {
            BindStatus::Bound(lane) => Some(lane.deposit_left()),
            _ => None,
        }
    }

    /// What the node asks for uploads, as far as its hello has come.
    pub(crate) fn publish_tariff(&self) -> Option<Tariff> {
        let hello = self.control.status().hello?;
        hello.publish.map(|terms| terms.tariff)
    }

    /// What the node asks for an upload of so many bytes, as far as its hello has come, in base units.
    pub(crate) fn publish_price(&self, bytes: u64) -> Amount {
        self.publish_tariff().and_then(|tariff| tariff.price(ByteCount::new(bytes))).unwrap_or_default()
    }

    /// True while an answer or an upload is being paid.
    pub(crate) fn is_paying(&self) -> bool {
        matches!(&self.control.status().bind, BindStatus::Bound(lane) if lane.is_busy())
    }

    /// The bound channel's deposit has grown on chain: the payer may use it, and the node is told.
    pub(crate) fn deposit_grew(&self, record: &ChannelRecord) {
        if let BindStatus::Bound(lane) = &self.control.status().bind
            && lane.channel() == record.channel
        {
            lane.refresh(record);
        }
        self.control.topped_up(record.deposit);
    }

    /// The node broke the framing on a request stream: nothing on this connection can be trusted any more.
    pub(crate) fn fail(&self, error: FetchError) {
        self.control.fail(error);
    }

    /// Says goodbye once everything that was sent has arrived, bounded in time.
    pub(crate) async fn close(&self) {
        self.control.drain().await;
        self.connection.close(VarInt::from_u32(close::DONE), b"");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The control tasks hold the connection too; without this it would outlive its last user.
        self.connection.close(VarInt::from_u32(close::DONE), b"");
    }
}

async fn connect(
    remote: SocketAddr,
    node: NodeId,
    place: &str,
    setup: &SessionSetup<'_>,
) -> Result<Connection, FetchError> {
    let unreachable = |why: String| FetchError::Unreachable { place: place.to_owned(), why };
    let endpoint =
        setup.endpoints.towards(remote, setup.config.transport).map_err(|error| unreachable(error.to_string()))?;
    let connecting = endpoint
        .connect_with(client_config_with(node, setup.config.transport.towards(remote.ip())), remote, SERVER_NAME)
        .map_err(|error| unreachable(error.to_string()))?;
    let limit_ms = setup.config.connect_timeout_ms;
    match tokio::time::timeout(Duration::from_millis(limit_ms), connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) if is_wrong_key(&error) => Err(FetchError::WrongNodeKey { node, place: place.to_owned() }),
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(FetchError::Timeout { doing: "connecting", waited_ms: limit_ms }),
    }
}

/// Before the channel is bound, so that whatever the node does on it from then on, a later process knows of it.
// r[impl bind.replace.dead]
async fn mark_in_use(wallet: &Wallet, channel: ChannelId) -> Result<(InUse, Left), FetchError> {
    let wallet = wallet.clone();
    let marking = tokio::task::spawn_blocking(move || wallet.mark_in_use(channel));
    Ok(marking.await.unwrap_or(Err(WalletError::Ending))?)
}

/// Nothing that a node can hold up goes on for longer than `limit_ms`.
async fn in_time<T>(
    doing: &'static str,
    limit_ms: u64,
    work: impl Future<Output = Result<T, FetchError>>,
) -> Result<T, FetchError> {
    let limit = Duration::from_millis(limit_ms);
    tokio::time::timeout(limit, work).await.unwrap_or(Err(FetchError::Timeout { doing, waited_ms: limit_ms }))
}

/// The handshake's own verdict: our verifier accepts one key and reports anything else as a bad certificate.
fn is_wrong_key(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::TransportError(error) => {
            let is_alert = |alert: u8| error.code == quinn::TransportErrorCode::crypto(alert);
            CERTIFICATE_ALERTS.into_iter().any(is_alert)
        }
        _ => false,
    }
}

fn place_of(address: &Address) -> String {
    let (host, port) = (address.host(), address.port());
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn stream_id(send: &SendStream) -> u64 {
    u64::from(VarInt::from(send.id()))
}

/// TLS alerts about the peer's key: access_denied, bad_certificate, unsupported_certificate, certificate_unknown.
const CERTIFICATE_ALERTS: [u8; 4] = [42, 43, 46, 49];
