//! The control stream: hello, binding and credit come in; vouchers and the ends of cancelled streams go out.
//!
//! Two tasks, one for each direction. What came in is one [`Status`] that fetches watch. The outgoing task is the
//! only one that signs vouchers, so that they rise in the order in which they are sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use aro_proto::error::close;
use aro_proto::limits::RECEIPTS_SINCE;
use aro_proto::message::{
    Bound, ChainIds, Credit, Delivery, Goaway, Message, NodeHello, Pay, PayRefused, Receipt, Refused, StreamEnd,
    ToppedUp, VoucherOnWire,
};
use aro_proto::wire::{DecodeError, Frame, encode_frame};
use aro_proto::{Amount, NodeId, Refusal, RefusalCode};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use settlement_chain::Address;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::framed::{FrameError, read_any_frame};
use super::quiet::Quiet;
use super::receipts::{Awaited, TooManyBad};
use crate::budget::BudgetGuard;
use crate::error::{FetchError, Misbehaviour};
use crate::ledger::Hold;
use crate::receipts::{Check, EntryKey, Scribe};
use crate::wallet::{ChannelRecord, InUse, Lane, Left, Prices, Wallet};

/// What the control stream has brought so far.
#[derive(Debug, Default)]
pub(crate) struct Status {
    /// The node's hello, its chain already compared with ours.
    pub(crate) hello: Option<NodeHello>,
    /// What became of the binding.
    pub(crate) bind: BindStatus,
    /// The node's watermark, in base units.
    pub(crate) accepted: Amount,
    /// The node takes no new requests.
    pub(crate) going_away: bool,
    /// Why the session is of no use any more.
    pub(crate) broken: Option<FetchError>,
}

/// Whether a channel pays for requests on this connection.
#[derive(Clone, Debug, Default)]
pub(crate) enum BindStatus {
    /// No channel was named.
    #[default]
    Unbound,
    /// The node has not answered yet.
    Pending,
    /// It pays.
    Bound(Arc<Lane>),
    /// The node does not take the channel.
    Refused(Refusal),
}

/// What is needed to make a lane once hello and binding are there.
pub(crate) struct LaneSetup {
    pub(crate) node: NodeId,
    pub(crate) place: String,
    pub(crate) chain: ChainIds,
    pub(crate) wallet: Wallet,
    pub(crate) budget: BudgetGuard,
    pub(crate) prepay: Amount,
    pub(crate) record: Option<ChannelRecord>,
    /// Marks it as in use, and whose deaths the binding speaks of, until there is a lane.
    pub(crate) mark: Option<(InUse, Left)>,
    /// Keeps the channel from other processes until both tasks and the lane are gone.
    pub(crate) hold: Option<Arc<Hold>>,
}

/// The handle on both tasks.
#[derive(Clone)]
pub(crate) struct Control {
    shared: Arc<Shared>,
    outbox: mpsc::UnboundedSender<Outgoing>,
    scribe: Arc<Scribe>,
    awaited: Arc<Awaited>,
    node: NodeId,
}

struct Shared {
    connection: Connection,
    status: watch::Sender<Status>,
    pay: Notify,
    flush: AtomicBool,
    /// A flush will come by itself.
    flushing_soon: AtomicBool,
    /// The last voucher is to be sent again after a moment.
    resending: AtomicBool,
    /// The node has let the time for a receipt pass.
    slow_to_sign: AtomicBool,
    /// How often it was, since the node last acknowledged one.
    resends: AtomicU32,
}

enum Outgoing {
    Frame(Vec<u8>),
    /// The last voucher again.
    Resend,
    /// Finish the stream and say when everything has arrived.
    Drain(oneshot::Sender<()>),
}

impl Control {
    /// Starts both tasks. The incoming one ends with the connection; the outgoing one goes on signing for what was
    /// proven until the last handle is gone.
    pub(crate) fn start(connection: Connection, send: SendStream, recv: RecvStream, setup: LaneSetup) -> Self {
        let bind = if setup.record.is_some() { BindStatus::Pending } else { BindStatus::Unbound };
        let (status, _) = watch::channel(Status { bind, ..Status::default() });
        let shared = Arc::new(Shared {
            connection,
            status,
            pay: Notify::new(),
            flush: AtomicBool::new(false),
            flushing_soon: AtomicBool::new(false),
            resending: AtomicBool::new(false),
            slow_to_sign: AtomicBool::new(false),
            resends: AtomicU32::new(0),
        });
        // Bounded by the request streams that may be open: each sends one frame at its end.
        let (outbox, queue) = mpsc::unbounded_channel();
        let control = Self {
            shared: Arc::clone(&shared),
            outbox,
            scribe: Arc::clone(setup.wallet.scribe()),
            awaited: Arc::default(),
            node: setup.node,
        };
        tokio::spawn(incoming(recv, control.clone(), setup));
        tokio::spawn(outgoing(send, queue, shared));
        control
    }

    pub(crate) fn status(&self) -> watch::Ref<'_, Status> {
        self.shared.status.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// Who writes the account's entries.
    pub(crate) fn scribe(&self) -> &Scribe {
        &self.scribe
    }

    /// A request has ended with so much proven: a node that signs receipts is to sign for it.
    pub(crate) fn await_receipt(&self, due: Delivery, entry: EntryKey) -> Option<oneshot::Receiver<Check>> {
        let signs = self.status().hello.is_some_and(|hello| hello.minor_version >= RECEIPTS_SINCE);
        signs.then(|| self.awaited.add(due, entry, self.node, &self.scribe))
    }

    /// A request begins, for which a receipt may come.
    pub(crate) fn receipt_may_come(&self, stream: u64) {
        self.awaited.open(stream);
    }

    /// A request is over.
    pub(crate) fn receipt_is_settled(&self, stream: u64) {
        self.awaited.close(stream);
    }

    /// Whether nobody need wait for its receipts: they are kept when they come.
    pub(crate) fn is_slow_to_sign(&self) -> bool {
        self.shared.slow_to_sign.load(Ordering::Relaxed)
    }

    pub(crate) fn note_slow_to_sign(&self) {
        self.shared.slow_to_sign.store(true, Ordering::Relaxed);
    }

    /// A voucher may be due.
    pub(crate) fn wake_payment(&self) {
        self.shared.pay.notify_one();
    }

    /// Everything proven is to be paid now, to the last unit.
    pub(crate) fn flush_payment(&self) {
        self.shared.flush.store(true, Ordering::Release);
        self.shared.pay.notify_one();
    }

    /// The same a moment later, for all that is proven until then: nobody waits for it, and a voucher costs both sides a
    /// disk sync.
    pub(crate) fn flush_payment_soon(&self) {
        if self.shared.flushing_soon.swap(true, Ordering::AcqRel) {
            return;
        }
        let control = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(FLUSH_DELAY).await;
            control.shared.flushing_soon.store(false, Ordering::Release);
            control.flush_payment();
        });
    }

    /// Tells the node how much of a cancelled stream was proven.
    pub(crate) fn end_stream(&self, stream: u64, proven_bytes: u64) {
        self.post(&StreamEnd { stream, proven_bytes });
    }

    /// Tells the node that the deposit has grown.
    pub(crate) fn topped_up(&self, deposit: Amount) {
        self.post(&ToppedUp { deposit });
    }

    /// Ends the outgoing side once the node has everything, bounded in time.
    pub(crate) async fn drain(&self) {
        let (done, arrived) = oneshot::channel();
        if self.outbox.send(Outgoing::Drain(done)).is_ok() {
            // Nothing to do about a node that takes nothing: the time is up, or the task has ended.
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, arrived).await;
        }
    }

    /// The node broke the protocol: closes the connection, and every fetch on it learns why.
    pub(crate) fn fail(&self, error: FetchError) {
        self.shared.fail(error, close::PROTOCOL);
    }

    /// The node could not keep a voucher, and it is not the voucher's fault: the last one goes out again after a
    /// moment. False if that was tried often enough.
    fn resend_soon(&self) -> bool {
        if self.shared.resending.swap(true, Ordering::AcqRel) {
            return true;
        }
        if self.shared.resends.fetch_add(1, Ordering::AcqRel) >= MAX_RESENDS {
            return false;
        }
        let outbox = self.outbox.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RESEND_DELAY).await;
            // If the task has ended, the next connection shows the voucher.
            let _ = outbox.send(Outgoing::Resend);
        });
        true
    }

    fn post<M: Message>(&self, message: &M) {
        let frame = encode_frame(message).expect("control messages are far below a frame's bound");
        // The task ends only after the last handle on it.
        let _ = self.outbox.send(Outgoing::Frame(frame));
    }
}

impl Shared {
    fn lane(&self) -> Option<Arc<Lane>> {
        match &self.status.borrow().bind {
            BindStatus::Bound(lane) => Some(Arc::clone(lane)),
            _ => None,
        }
    }

    /// The session is of no use any more: everyone who waits on it learns why, and the first reason stands.
    fn fail(&self, error: FetchError, code: u32) {
        self.status.send_if_modified(|status| {
            let first = status.broken.is_none();
            if first {
                status.broken = Some(error);
            }
            first
        });
        self.connection.close(VarInt::from_u32(code), b"");
    }
}

/// Reads until the node goes, or breaks the protocol.
async fn incoming(mut recv: RecvStream, control: Control, mut setup: LaneSetup) {
    let shared = Arc::clone(&control.shared);
    loop {
        let frame = match read_any_frame(&mut recv).await {
            Ok(frame) => frame,
            // The last word was a goaway: what runs may finish.
            Err(FrameError::Ended) if shared.status.borrow().going_away => return,
            Err(error) => {
                let (error, code) = stream_failure(error, &setup, &shared.connection);
                return shared.fail(error, code);
            }
        };
        if let Err(error) = take_in(&frame, &control, &mut setup).await {
            let code = match error {
                FetchError::WrongChain { .. } => close::WRONG_CHAIN,
                FetchError::Misbehaved { .. } => close::PROTOCOL,
                _ => close::DONE,
            };
            return shared.fail(error, code);
        }
    }
}

async fn take_in(frame: &Frame, control: &Control, setup: &mut LaneSetup) -> Result<(), FetchError> {
    let status = &control.shared.status;
    let node = setup.node;
    let decoded = |error: DecodeError| FetchError::misbehaved(node, error);
    let greeted = status.borrow().hello.is_some();
    match frame.kind {
        Goaway::KIND => {
            let goaway: Goaway = frame.decode().map_err(decoded)?;
            if !greeted {
                return Err(FetchError::Refused(goaway.refusal));
            }
            status.send_modify(|status| status.going_away = true);
        }
        // Nothing else may come before the hello, and so no money moves before the chain is compared.
        // r[impl identity.chain.before_money]
        _ if !greeted => {
            let hello: NodeHello = frame.decode().map_err(decoded)?;
            same_chain(&hello.chain, &setup.chain)?;
            status.send_modify(|status| status.hello = Some(hello));
        }
        Bound::KIND if matches!(status.borrow().bind, BindStatus::Pending) => {
            let bound = frame.decode().map_err(decoded)?;
            bind(bound, control, setup).await?;
        }
        Refused::KIND if matches!(status.borrow().bind, BindStatus::Pending) => {
            let refused: Refused = frame.decode().map_err(decoded)?;
            status.send_modify(|status| status.bind = BindStatus::Refused(refused.refusal));
        }
        Credit::KIND => {
            let credit: Credit = frame.decode().map_err(decoded)?;
            let BindStatus::Bound(lane) = status.borrow().bind.clone() else {
                return Err(decoded(DecodeError::Unexpected { found: frame.kind, expected: Bound::NAME }));
            };
            let misbehaved = |error| FetchError::misbehaved(setup.node, Misbehaviour::Credit(error));
            let accepted = lane.credited(&credit).map_err(misbehaved)?;
            status.send_modify(|status| status.accepted = accepted);
            control.shared.resends.store(0, Ordering::Release);
            // A wider window changes what is due.
            control.wake_payment();
        }
        // r[impl receipt.bounds]
        Receipt::KIND => {
            let receipt: Receipt = frame.decode().map_err(decoded)?;
            let BindStatus::Bound(lane) = status.borrow().bind.clone() else {
                return Err(decoded(DecodeError::Unexpected { found: frame.kind, expected: Bound::NAME }));
            };
            let (channel, signed) = (lane.channel(), lane.signed());
            let taken = control.awaited.take_in(&receipt, setup.node, channel, signed, &control.scribe);
            taken.map_err(|TooManyBad| FetchError::misbehaved(setup.node, Misbehaviour::Receipt))?;
        }
        PayRefused::KIND => {
            let refused: PayRefused = frame.decode().map_err(decoded)?;
            let is_passing = refused.refusal.code() == RefusalCode::Internal;
            if !is_passing || !control.resend_soon() {
                return Err(FetchError::Refused(refused.refusal));
            }
        }
        found => return Err(decoded(DecodeError::Unexpected { found, expected: Credit::NAME })),
    }
    Ok(())
}

async fn bind(bound: Bound, control: &Control, setup: &mut LaneSetup) -> Result<(), FetchError> {
    let status = &control.shared.status;
    let hello = status.borrow().hello;
    let tariff = hello.map(|hello| hello.tariff).unwrap_or_default();
    let publish = hello.and_then(|hello| hello.publish).map(|terms| terms.tariff).unwrap_or_default();
    let (Some(record), Some(mark)) = (setup.record, setup.mark.take()) else { return Ok(()) };
    let prices = Prices { tariff, publish };
    let (wallet, budget, prepay) = (setup.wallet.clone(), setup.budget.clone(), setup.prepay);
    let open = move || Lane::open(wallet, budget, prices, prepay, &record, mark, &bound);
    let (lane, resend) = blocking(open).await?;
    let lane = lane.holding(setup.hold.clone());
    if let Some(voucher) = resend {
        control.post(&Pay { voucher });
    }
    if record.deposit > bound.deposit {
        control.topped_up(record.deposit);
    }
    let (accepted, is_due) = (lane.accepted(), lane.is_due(true));
    status.send_modify(|status| {
        status.accepted = accepted;
        status.bind = BindStatus::Bound(Arc::new(lane));
    });
    if is_due {
        // What was conceded is paid at once, for while it is owed the node may begin nothing new.
        control.flush_payment();
    }
    Ok(())
}

/// Writes and pays while the connection lasts, and signs for what was proven whatever it ended with.
async fn outgoing(send: SendStream, mut queue: mpsc::UnboundedReceiver<Outgoing>, shared: Arc<Shared>) {
    let (mut willing, drained) = write_and_pay(send, &mut queue, &shared).await;
    willing = sign_rest(&shared, willing).await;
    if let Some(done) = drained {
        let _ = done.send(());
    }
    // Requests may outlive the connection: what they have received they prove, and that is paid too.
    loop {
        tokio::select! {
            posted = queue.recv() => match posted {
                Some(Outgoing::Drain(done)) => {
                    willing = sign_rest(&shared, willing).await;
                    let _ = done.send(());
                }
                Some(Outgoing::Frame(_) | Outgoing::Resend) => {}
                None => break,
            },
            () = shared.pay.notified() => willing = sign_rest(&shared, willing).await,
        }
    }
    sign_rest(&shared, willing).await;
}

/// Writes what is posted, first, and then the vouchers that are due, until the session is over. False comes back if
/// wallet or budget would not pay; and whoever waits for the end, if somebody does.
async fn write_and_pay(
    mut send: SendStream,
    queue: &mut mpsc::UnboundedReceiver<Outgoing>,
    shared: &Arc<Shared>,
) -> (bool, Option<oneshot::Sender<()>>) {
    let mut quiet = Quiet::default();
    loop {
        let lane = shared.lane();
        let paying = tokio::select! {
            biased;
            posted = queue.recv() => match posted {
                Some(Outgoing::Frame(frame)) => written(send.write_all(&frame).await.is_ok()),
                Some(Outgoing::Resend) => resend(&mut send, shared).await,
                Some(Outgoing::Drain(done)) => {
                    // Nothing is left for later: all that is proven is paid now.
                    shared.flush.store(true, Ordering::Release);
                    let paying = pay_all(&mut send, shared).await;
                    if matches!(paying, Paying::GoesOn) && send.finish().is_ok() {
                        // Either way there is nothing left to wait for.
                        let _ = send.stopped().await;
                    }
                    return (!matches!(paying, Paying::Unwilling), Some(done));
                }
                None => Paying::Cut,
            },
            () = shared.pay.notified() => pay_all(&mut send, shared).await,
            () = quiet.comes(lane.as_deref()) => {
                shared.flush.store(true, Ordering::Release);
                pay_all(&mut send, shared).await
            }
            _ = shared.connection.closed() => Paying::Cut,
        };
        match paying {
            Paying::GoesOn => {}
            Paying::Cut => return (true, None),
            Paying::Unwilling => return (false, None),
        }
    }
}

/// Whether vouchers still go out.
enum Paying {
    GoesOn,
    /// Nothing can be written any more.
    Cut,
    /// Wallet or budget will not pay.
    Unwilling,
}

/// Signs and sends every voucher that is due.
async fn pay_all(send: &mut SendStream, shared: &Arc<Shared>) -> Paying {
    let Some(lane) = shared.lane() else { return Paying::GoesOn };
    loop {
        let flush = shared.flush.swap(false, Ordering::AcqRel);
        if lane.is_due(flush) {
            let signing = Arc::clone(&lane);
            if let Some(ended) = pay_one(send, shared, move || signing.pay(flush)).await {
                return ended;
            }
        } else if !shared.flush.load(Ordering::Acquire) {
            return Paying::GoesOn;
        }
    }
}

/// Sends the last voucher again. It is sent from here, so that a later one cannot overtake it.
async fn resend(send: &mut SendStream, shared: &Arc<Shared>) -> Paying {
    shared.resending.store(false, Ordering::Release);
    let Some(lane) = shared.lane() else { return Paying::GoesOn };
    pay_one(send, shared, move || lane.last_voucher()).await.unwrap_or(Paying::GoesOn)
}

/// Sends the voucher that `work` gives, if it gives one; says how paying ended, if it did.
async fn pay_one(
    send: &mut SendStream,
    shared: &Arc<Shared>,
    work: impl FnOnce() -> Result<Option<VoucherOnWire>, FetchError> + Send + 'static,
) -> Option<Paying> {
    match blocking(work).await {
        Ok(Some(voucher)) if send.write_all(&encode_pay(voucher)).await.is_err() => Some(Paying::Cut),
        Ok(_) => None,
        Err(error) => {
            shared.fail(error, close::DONE);
            Some(Paying::Unwilling)
        }
    }
}

/// Nothing can be sent any more: signs for all that is proven, for the next connection to show, and gives the budget
/// back. False if wallet or budget will not pay, and then nothing more is tried.
async fn sign_rest(shared: &Arc<Shared>, willing: bool) -> bool {
    let Some(lane) = shared.lane() else { return willing };
    if !willing || !lane.is_due(true) {
        lane.release();
        return willing;
    }
    let signed = blocking(move || lane.pay_last()).await;
    if let Err(error) = &signed {
        tracing::warn!(%error, "what was proven last on a broken connection is not signed");
    }
    signed.is_ok()
}

fn written(done: bool) -> Paying {
    if done { Paying::GoesOn } else { Paying::Cut }
}

fn encode_pay(voucher: VoucherOnWire) -> Vec<u8> {
    encode_frame(&Pay { voucher }).expect("a voucher is far below a frame's bound")
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panicked) => match panicked.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and with it everyone who could look at this.
            Err(_) => Err(FetchError::Unreachable { place: "the wallet".into(), why: "the program is ending".into() }),
        },
    }
}

fn same_chain(theirs: &ChainIds, ours: &ChainIds) -> Result<(), FetchError> {
    let pairs = [
        ("genesis hash", theirs.genesis_hash, ours.genesis_hash),
        ("settlement program", theirs.program, ours.program),
        ("$ARO mint", theirs.mint, ours.mint),
    ];
    let text = |bytes: [u8; 32]| Address::new_from_array(bytes).to_string();
    match pairs.into_iter().find(|(_, theirs, ours)| theirs != ours) {
        Some((what, theirs, ours)) => Err(FetchError::WrongChain { what, theirs: text(theirs), ours: text(ours) }),
        None => Ok(()),
    }
}

fn stream_failure(error: FrameError, setup: &LaneSetup, connection: &Connection) -> (FetchError, u32) {
    let misbehaved = |what: Misbehaviour| FetchError::misbehaved(setup.node, what);
    match error {
        FrameError::Decode(error) => (misbehaved(error.into()), close::PROTOCOL),
        FrameError::Ended | FrameError::Cut => (misbehaved(Misbehaviour::Ended("a control message")), close::PROTOCOL),
        FrameError::Read(quinn::ReadError::Reset(code)) => {
            (misbehaved(Misbehaviour::Reset(code.into_inner())), close::PROTOCOL)
        }
        FrameError::Read(error) => {
            let why = connection.close_reason().map_or(error.to_string(), |reason| reason.to_string());
            (FetchError::Unreachable { place: setup.place.clone(), why }, close::DONE)
        }
    }
}

/// Time for the last frames to arrive at goodbye.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// For how long the ends of fetches gather whose payment nobody waits for.
const FLUSH_DELAY: Duration = Duration::from_millis(10);
/// Tries with a voucher that the node could not keep: a full disk stays full for longer.
const MAX_RESENDS: u32 = 3;
/// Time for the node to recover, and for refusals of other vouchers in flight to arrive.
const RESEND_DELAY: Duration = Duration::from_millis(200);
