//! One connection: its control stream, its requests, and what they share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aro_proto::channel::Delivered;
use aro_proto::error::close;
use aro_proto::identity::Binding;
use aro_proto::limits::{EXPORTER_LABEL, EXPORTER_LEN, MAX_BAD_SIGNATURES, MAX_PUBLISHES_PER_CONNECTION};
use aro_proto::message::BindId;
use aro_proto::places::Place;
use aro_proto::wire::DecodeError;
use aro_proto::{ByteCount, Refusal, RefusalCode};
use quinn::{Connection, Endpoint, Incoming, ReadError, StreamId, VarInt, WriteError};
use thiserror::Error;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::control;
use super::endpoint::ServerConfigs;
use super::framed::{FrameError, SendFrameError};
use super::receipts::Receipts;
use crate::channels::{PaidChannel, Seat};
use crate::service;
use crate::shared::{Phase, Shared};

/// What the tasks of one connection share.
pub(crate) struct Session {
    pub(crate) node: Arc<Shared>,
    pub(crate) connection: Connection,
    exporter: [u8; EXPORTER_LEN],
    /// Places for fetches of this connection.
    pub(crate) fetches: Semaphore,
    /// Places for uploads of this connection.
    pub(crate) uploads: Semaphore,
    /// When the hello was right.
    greeted: watch::Sender<Option<Instant>>,
    /// Requests that are open.
    open: watch::Sender<usize>,
    bound: watch::Sender<Bound>,
    bad_signatures: AtomicU32,
    /// Open requests that wait to hear what the agent proved, by QUIC stream id.
    ends: Mutex<HashMap<u64, oneshot::Sender<ByteCount>>>,
    chain_reads: Mutex<ReadAllowance>,
    /// The place at the bound channel, by which the connection can be replaced, and who tells of that.
    seat: Mutex<Option<Seat>>,
    leave: Arc<Notify>,
    unsent: Mutex<Unsent>,
    /// Ended requests that are to be signed for.
    pub(crate) receipts: Receipts,
}

/// Which channel pays for the connection.
#[derive(Clone, Default)]
pub(crate) enum Bound {
    /// No bind has come.
    #[default]
    Unasked,
    /// A bind has come and is being looked at.
    Resolving,
    /// This one, for the connection's whole life.
    To(Arc<PaidChannel>),
    /// The last bind was refused.
    Refused(Refusal),
}

/// Why a connection is closed.
#[derive(Debug, Error)]
pub(crate) enum Fault {
    /// The peer broke the framing or the order of messages.
    #[error("{0}")]
    Protocol(String),
    /// The peer's chain is another.
    #[error("the peer is on another chain")]
    WrongChain,
    /// Too many bad signatures.
    #[error("too many bad signatures")]
    Abuse,
    /// Nothing is bound and nothing is asked.
    #[error("the connection has no channel and no request")]
    Idle,
    /// It is closed already, or the peer has dropped the control stream.
    #[error("the connection is gone")]
    Gone,
    /// The node ends, and has said all.
    #[error("the node is stopping")]
    Stopping,
    /// A later binding of the channel says that this connection's process has died.
    #[error("another connection has taken this one's place")]
    Replaced,
}

/// Accepts connections until the node stops.
pub(crate) async fn run_accepting(node: Arc<Shared>, endpoint: Endpoint, configs: ServerConfigs) {
    loop {
        tokio::select! {
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => admit(&node, incoming, &configs),
                None => return,
            },
            () = node.comes_to(Phase::Draining) => return,
        }
    }
}

fn admit(node: &Arc<Shared>, incoming: Incoming, configs: &ServerConfigs) {
    let peer = incoming.remote_address();
    if node.places.are_scarce() && incoming.may_retry() && !incoming.remote_address_validated() {
        // Cannot fail: it may be asked to retry.
        let _ = incoming.retry();
        return;
    }
    let Some(place) = node.places.take(peer.ip()) else {
        tracing::warn!(%peer, "a connection is refused: no place is free");
        incoming.refuse();
        return;
    };
    let (node, config) = (Arc::clone(node), configs.towards(peer.ip()));
    tokio::spawn(async move {
        let patience = Duration::from_millis(node.config.exchange_timeout_ms);
        let Ok(connecting) = incoming.accept_with(config) else { return };
        match timeout(patience, connecting).await {
            Ok(Ok(connection)) => run(node, connection, place).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "a handshake failed"),
            Err(_) => tracing::debug!(%peer, "a handshake took too long"),
        }
    });
}

async fn run(node: Arc<Shared>, connection: Connection, _place: Place) {
    let peer = connection.remote_address();
    let Some(session) = Session::new(node, connection) else { return };
    let session = Arc::new(session);
    let outcome = serve(&session).await;
    if let Err(fault) = outcome {
        if !matches!(fault, Fault::Gone | Fault::Stopping) {
            tracing::info!(%peer, %fault, "a connection is closed");
        }
        session.fail(&fault);
    }
    session.leave_seat().await;
}

async fn serve(session: &Arc<Session>) -> Result<(), Fault> {
    let opened = timeout(session.exchange_timeout(), session.connection.accept_bi()).await;
    let (send, receive) =
        opened.map_err(|_| Fault::Protocol("no control stream was opened in time".into()))?.map_err(|_| Fault::Gone)?;
    let control = control::run(Arc::clone(session), send, receive);
    let idle = session.idle();
    tokio::pin!(control, idle);
    let mut has_control = true;
    loop {
        tokio::select! {
            outcome = &mut control, if has_control => {
                outcome?;
                has_control = false;
            }
            () = &mut idle => return Err(Fault::Idle),
            () = session.leave.notified() => return Err(Fault::Replaced),
            // With a control stream, that one has the last word.
            () = session.node.comes_to(Phase::Closing), if !has_control => return Err(Fault::Stopping),
            request = session.connection.accept_bi() => {
                let (send, receive) = request.map_err(|_| Fault::Gone)?;
                let (ended, open) = (session.expect_end(send.id()), session.request_opens());
                tokio::spawn(service::answer(open, send, receive, ended));
            }
        }
    }
}

impl Session {
    fn new(node: Arc<Shared>, connection: Connection) -> Option<Self> {
        let mut exporter = [0; EXPORTER_LEN];
        connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").ok()?;
        let fetches = (node.config.max_requests / CONNECTION_SHARE).max(1);
        Some(Self {
            node,
            connection,
            exporter,
            fetches: Semaphore::new(fetches),
            uploads: Semaphore::new(MAX_PUBLISHES_PER_CONNECTION),
            greeted: watch::Sender::new(None),
            open: watch::Sender::new(0),
            bound: watch::Sender::default(),
            bad_signatures: AtomicU32::new(0),
            ends: Mutex::default(),
            chain_reads: Mutex::new(ReadAllowance::full()),
            seat: Mutex::default(),
            leave: Arc::default(),
            unsent: Mutex::default(),
            receipts: Receipts::default(),
        })
    }

    /// What signatures on this stream are bound to.
    pub(crate) fn binding(&self, stream: StreamId) -> Binding {
        Binding { exporter: self.exporter, stream: stream_number(stream) }
    }

    pub(crate) fn exchange_timeout(&self) -> Duration {
        Duration::from_millis(self.node.config.exchange_timeout_ms)
    }

    /// How long the agent may leave no room for what is written.
    pub(crate) fn stall_timeout(&self) -> Duration {
        Duration::from_millis(self.node.config.stall_timeout_ms)
    }

    /// Counts a request as open until the guard is dropped.
    pub(crate) fn request_opens(self: &Arc<Self>) -> OpenRequest {
        self.open.send_modify(|count| *count += 1);
        OpenRequest(Arc::clone(self))
    }

    /// Returns when for long no channel was bound and no request was open: such a connection only takes a place.
    async fn idle(&self) {
        let patience = Duration::from_millis(self.node.config.idle_unbound_ms);
        let mut open = self.open.subscribe();
        loop {
            let is_quiet = timeout(patience, open.changed()).await.is_err() && *open.borrow() == 0;
            if is_quiet && matches!(self.bound(), Bound::Unasked | Bound::Refused(_)) {
                return;
            }
        }
    }

    /// The hello was right: requests may go on.
    pub(crate) fn greet(&self) {
        self.greeted.send_replace(Some(Instant::now()));
    }

    /// Waits until the hello has been checked.
    // r[impl identity.chain]
    pub(crate) async fn greeted(&self) -> Result<(), Fault> {
        let mut greeted = self.greeted.subscribe();
        let seen = timeout(self.exchange_timeout(), greeted.wait_for(Option::is_some)).await;
        match seen {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Fault::Protocol("a request came without a hello".into())),
        }
    }

    /// Takes the place at the channel that the agent named. False if the connection has been replaced already.
    pub(crate) fn take_seat(&self, channel: &PaidChannel, id: BindId) -> bool {
        let mut seat = self.seat.lock().unwrap_or_else(PoisonError::into_inner);
        if seat.is_none() {
            *seat = channel.seats().take(id, &self.leave);
        }
        seat.is_some()
    }

    /// What was delivered on one of its streams, for a later binding to speak of.
    pub(crate) fn delivers(&self, delivered: Delivered) {
        if let Some(seat) = self.seat.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            seat.delivers(delivered);
        }
    }

    /// Gives the place up once no request is open any more: then all of them are settled.
    async fn leave_seat(&self) {
        // The sender is in this very struct, so waiting cannot fail.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
        self.seat.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Content bytes that are billed are given to the transport.
    pub(crate) fn hands_over(&self, content: ByteCount) {
        let mut unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        unsent.handed = unsent.handed.saturating_add(content.get());
    }

    /// How many of a stream's content bytes have certainly never left, at most so many. None as long as the connection
    /// lives. What is said of one stream is not said of another.
    pub(crate) fn never_left(&self, most: ByteCount) -> ByteCount {
        if self.connection.close_reason().is_none() {
            return ByteCount::ZERO;
        }
        let sent = self.connection.stats().udp_tx;
        let mut unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        ByteCount::new(unsent.take(sent.datagrams, sent.bytes, most.get()))
    }

    /// Notes what has become of a bind.
    pub(crate) fn set_bound(&self, bound: Bound) {
        self.bound.send_replace(bound);
    }

    /// The channel now.
    pub(crate) fn bound(&self) -> Bound {
        self.bound.borrow().clone()
    }

    /// The channel that pays, once the bind is through: it travels beside the request, on another stream.
    pub(crate) async fn channel(&self) -> Result<Arc<PaidChannel>, Refusal> {
        let no_channel = || Refusal::new(RefusalCode::NoChannel, "this costs money, and no channel is bound");
        let mut bound = self.bound.subscribe();
        let greeted = self.greeted.borrow().unwrap_or_else(Instant::now);
        let deadline = greeted + Duration::from_millis(self.node.config.bind_timeout_ms);
        let asked = timeout_at(deadline, bound.wait_for(|bound| !matches!(bound, Bound::Unasked))).await;
        if !matches!(asked, Ok(Ok(_))) {
            return Err(no_channel());
        }
        drop(asked);
        let settled = |bound: &Bound| matches!(bound, Bound::To(_) | Bound::Refused(_));
        match timeout(self.exchange_timeout(), bound.wait_for(settled)).await {
            Ok(Ok(bound)) => match &*bound {
                Bound::To(channel) => Ok(Arc::clone(channel)),
                Bound::Refused(refusal) => Err(refusal.clone()),
                Bound::Unasked | Bound::Resolving => Err(no_channel()),
            },
            _ => Err(Refusal::new(RefusalCode::Internal, "the channel could not be looked up in time")),
        }
    }

    /// Counts a bad signature.
    // r[impl request.signature.bound]
    pub(crate) fn bad_signature(&self) -> Result<(), Fault> {
        let before = self.bad_signatures.fetch_add(1, Ordering::Relaxed);
        if before >= MAX_BAD_SIGNATURES { Err(Fault::Abuse) } else { Ok(()) }
    }

    /// Whether the agent may cause another chain call.
    pub(crate) fn may_read_chain(&self) -> bool {
        self.chain_reads.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }

    /// Hears what the agent says of a request's end.
    fn expect_end(&self, stream: StreamId) -> oneshot::Receiver<ByteCount> {
        let (sender, receiver) = oneshot::channel();
        self.ends().insert(stream_number(stream), sender);
        receiver
    }

    /// The agent says how much of a request it proved. Requests that are over have been settled already.
    pub(crate) fn end_request(&self, stream: u64, proven: ByteCount) {
        if let Some(ended) = self.ends().remove(&stream) {
            let _ = ended.send(proven);
        }
    }

    /// A request is over and settled.
    pub(crate) fn forget_request(&self, stream: StreamId) {
        self.ends().remove(&stream_number(stream));
    }

    /// Closes the connection.
    pub(crate) fn fail(&self, fault: &Fault) {
        let code = match fault {
            Fault::Protocol(_) => close::PROTOCOL,
            Fault::WrongChain => close::WRONG_CHAIN,
            Fault::Abuse => close::ABUSE,
            Fault::Idle | Fault::Gone => close::DONE,
            Fault::Stopping => close::SHUTDOWN,
            Fault::Replaced => close::REPLACED,
        };
        self.connection.close(VarInt::from_u32(code), fault.to_string().as_bytes());
    }

    fn ends(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<ByteCount>>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open request of a connection.
pub(crate) struct OpenRequest(Arc<Session>);

impl OpenRequest {
    /// Its connection.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.open.send_modify(|count| *count -= 1);
    }
}

/// What was given to the transport, against what has left. Neither lost packets nor acknowledgements matter: no more content
/// can have left than bytes have.
#[derive(Debug, Default)]
struct Unsent {
    /// Content bytes of all streams that are billed.
    handed: u64,
    /// What was told of streams that have ended.
    told: u64,
}

impl Unsent {
    fn take(&mut self, datagrams: u64, bytes: u64, most: u64) -> u64 {
        let left = bytes.saturating_sub(datagrams.saturating_mul(LEAST_PACKET_OVERHEAD));
        let stayed = self.handed.saturating_sub(left).saturating_sub(self.told).min(most);
        self.told += stayed;
        stayed
    }
}

/// A stream's QUIC id, as signatures and messages name it.
fn stream_number(stream: StreamId) -> u64 {
    u64::from(VarInt::from(stream))
}

impl From<FrameError> for Fault {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Decode(error) => error.into(),
            FrameError::Timeout => Self::Protocol(error.to_string()),
            FrameError::Read(ReadError::Reset(_)) => Self::Protocol("the control stream was reset".into()),
            FrameError::Read(_) => Self::Gone,
        }
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<SendFrameError> for Fault {
    fn from(error: SendFrameError) -> Self {
        match error {
            SendFrameError::Stalled => Self::Protocol("the control stream is not read".into()),
            SendFrameError::Write(error) => error.into(),
        }
    }
}

impl From<WriteError> for Fault {
    fn from(_: WriteError) -> Self {
        Self::Gone
    }
}

/// Chain calls that a connection may cause: a burst, then one every so often.
#[derive(Debug)]
struct ReadAllowance {
    left: u32,
    since: Instant,
}

impl ReadAllowance {
    fn full() -> Self {
        Self { left: CHAIN_READS, since: Instant::now() }
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.left < CHAIN_READS && now.duration_since(self.since) >= CHAIN_READ_INTERVAL {
            self.left += 1;
            self.since += CHAIN_READ_INTERVAL;
        }
        if self.left == CHAIN_READS {
            self.since = now;
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

/// Bytes of a datagram that are no content, at least: flags, packet number and seal of its packet, whose connection id may be
/// empty, and the type and id of a frame.
const LEAST_PACKET_OVERHEAD: u64 = 1 + 1 + 16 + 2;
/// The part of all places for fetches that one connection may take: a sixteenth.
const CONNECTION_SHARE: usize = 16;
/// Chain calls at once that one connection may cause.
const CHAIN_READS: u32 = 8;
/// After which another is allowed.
const CHAIN_READ_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    // r[verify channel.lost.settle]
    #[test]
    fn what_has_not_left_is_told_once_and_never_more_than_the_bytes_say() {
        let mut unsent = Unsent { handed: 1_000_000, told: 0 };
        assert_eq!(unsent.take(100, 402_000, u64::MAX), 600_000);
        assert_eq!(unsent.take(100, 402_000, u64::MAX), 0);
        let mut unsent = Unsent { handed: 1_000_000, told: 0 };
        assert_eq!((unsent.take(0, 300_000, 500_000), unsent.take(0, 300_000, 500_000)), (500_000, 200_000));
        // What was sent again hides what was not sent.
        assert_eq!(Unsent { handed: 1_000, told: 0 }.take(1, 5_000, u64::MAX), 0);
    }

    #[test]
    fn chain_reads_are_a_burst_and_then_few() {
        let start = Instant::now();
        let mut allowance = ReadAllowance { left: CHAIN_READS, since: start };
        assert_eq!((0..20).filter(|_| allowance.take(start)).count(), CHAIN_READS as usize);
        assert!(allowance.take(start + CHAIN_READ_INTERVAL));
        assert!(!allowance.take(start + CHAIN_READ_INTERVAL));
        let much_later = start + CHAIN_READ_INTERVAL * 100;
        assert_eq!((0..20).filter(|_| allowance.take(much_later)).count(), CHAIN_READS as usize);
    }
}
