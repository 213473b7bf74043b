//! The control stream: hello, binding a channel, vouchers in, credit out, goaway.

use std::sync::Arc;
use std::time::Duration;

use aro_proto::channel::{Credit as Standing, Offer, SignedVoucher, Voucher, VoucherError};
use aro_proto::identity::{EnvelopeError, Signed};
use aro_proto::limits::{MAX_REQUEST_STREAMS, MINOR_VERSION, RECEIPTS_SINCE};
use aro_proto::message::{
    Bind, Credit, DeliveryReceipt, Goaway, Hello, Message, NodeHello, Pay, PayRefused, Refused, StreamEnd, ToppedUp,
};
use aro_proto::wire::{DecodeError, Frame};
use aro_proto::{ByteCount, ChannelId, Refusal, RefusalCode};
use quinn::{RecvStream, SendStream};
use settlement_chain::ChainError;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::connection::{Bound, Fault, Session};
use super::framed::{FrameReader, send_frame_within};
use crate::channels::{News, PaidChannel, follow};
use crate::shared::{Phase, unix_now};

/// Serves the control stream until the agent ends it.
pub(crate) async fn run(session: Arc<Session>, send: SendStream, receive: RecvStream) -> Result<(), Fault> {
    let frames = FrameReader::new(receive, session.exchange_timeout());
    let (refused, refusals) = mpsc::channel(REFUSALS);
    let mut control = Control { session, send, frames, refused, refusals, news: None, told: None };
    control.hello().await?;
    control.serve().await
}

struct Control {
    session: Arc<Session>,
    send: SendStream,
    frames: FrameReader,
    /// For the committer, to say that a voucher could not be stored.
    refused: mpsc::Sender<PayRefused>,
    refusals: mpsc::Receiver<PayRefused>,
    /// Of the bound channel.
    news: Option<watch::Receiver<News>>,
    /// The last credit that was sent.
    told: Option<Standing>,
}

impl Control {
    // r[impl identity.chain]
    async fn hello(&mut self) -> Result<(), Fault> {
        let frame = timeout(self.session.exchange_timeout(), self.frames.next())
            .await
            .map_err(|_| Fault::Protocol("no hello came in time".into()))??;
        let hello: Hello = frame.ok_or(DecodeError::Truncated)?.decode()?;
        let node = Arc::clone(&self.session.node);
        if hello.chain != node.chain_ids {
            let refusal =
                Refusal::new(RefusalCode::WrongChain, "genesis hash, program or mint differ from this node's");
            self.say(&Goaway { refusal }).await?;
            self.arrive().await;
            return Err(Fault::WrongChain);
        }
        let answer = NodeHello {
            minor_version: MINOR_VERSION,
            chain: node.chain_ids,
            tariff: node.config.tariff,
            max_request_streams: MAX_REQUEST_STREAMS,
            min_grace_s: node.registered.borrow().min_grace_s,
            publish: node.config.publish.terms(),
        };
        self.say(&answer).await?;
        if hello.minor_version >= RECEIPTS_SINCE {
            self.session.receipts.want();
        }
        self.session.greet();
        Ok(())
    }

    async fn serve(&mut self) -> Result<(), Fault> {
        let (session, node) = (Arc::clone(&self.session), Arc::clone(&self.session.node));
        let (draining, closing) = (node.comes_to(Phase::Draining), node.comes_to(Phase::Closing));
        tokio::pin!(draining, closing);
        let mut said_goaway = false;
        loop {
            tokio::select! {
                frame = self.frames.next() => match frame? {
                    Some(frame) => self.take(&frame).await?,
                    None => return Ok(()),
                },
                Some(refusal) = self.refusals.recv() => self.say(&refusal).await?,
                credit = next_credit(&mut self.news, self.told) => self.tell(credit).await?,
                () = session.receipts.grown() => self.send_receipts().await?,
                () = &mut draining, if !said_goaway => {
                    said_goaway = true;
                    let refusal = Refusal::new(RefusalCode::ShuttingDown, "the node is stopping");
                    self.say(&Goaway { refusal }).await?;
                }
                () = &mut closing, if said_goaway => return self.last_word().await,
            }
        }
    }

    /// The node ends: the agent hears of the credit that its last voucher gave.
    async fn last_word(&mut self) -> Result<(), Fault> {
        let last = self.news.as_mut().and_then(|news| news.borrow_and_update().credit);
        if let Some(credit) = last.filter(|credit| Some(*credit) != self.told) {
            self.tell(credit).await?;
        }
        self.arrive().await;
        Err(Fault::Stopping)
    }

    /// Lets what was said arrive before the connection's close, which would overtake it.
    async fn arrive(&mut self) {
        let _ = self.send.finish();
        let _ = timeout(ARRIVAL_PATIENCE, self.send.stopped()).await;
    }

    async fn take(&mut self, frame: &Frame) -> Result<(), Fault> {
        match frame.kind {
            Signed::KIND => self.bind(frame).await,
            Pay::KIND => self.pay(frame.decode()?).await,
            StreamEnd::KIND => {
                let end: StreamEnd = frame.decode()?;
                self.session.end_request(end.stream, ByteCount::new(end.proven_bytes));
                Ok(())
            }
            ToppedUp::KIND => {
                self.topped_up(frame.decode()?);
                Ok(())
            }
            found => Err(DecodeError::Unexpected { found, expected: "Bind, Pay, StreamEnd or ToppedUp" }.into()),
        }
    }

    // r[impl request.signature.bound]
    async fn bind(&mut self, frame: &Frame) -> Result<(), Fault> {
        let signed = Signed::from_bytes(&frame.body)?;
        if signed.kind() != Bind::KIND {
            return Err(DecodeError::Unexpected { found: signed.kind(), expected: Bind::NAME }.into());
        }
        let before = self.session.bound();
        self.session.set_bound(Bound::Resolving);
        let outcome = match signed.verify::<Bind>(&self.session.binding(self.send.id())) {
            Ok(bind) if matches!(&before, Bound::To(channel) if channel.id() != bind.message().channel) => {
                Err(Refusal::new(RefusalCode::BadRequest, "the connection is bound to another channel for its life"))
            }
            Ok(bind) => match self.find(bind.message().channel).await {
                Ok(channel) if channel.signer() != bind.signer() => {
                    Err(Refusal::new(RefusalCode::Unauthorised, "the bind is not signed by the channel's signer"))
                }
                Ok(channel) => {
                    self.take_place(&channel, bind.message()).await?;
                    Ok(channel)
                }
                Err(refusal) => Err(refusal),
            },
            Err(EnvelopeError::Signature(error)) => {
                self.session.bad_signature()?;
                Err(Refusal::new(RefusalCode::Unauthorised, error.to_string()))
            }
            Err(EnvelopeError::Decode(error)) => return Err(error.into()),
        };
        match outcome {
            Ok(channel) => {
                self.news = Some(channel.subscribe());
                self.say(&channel.bound()).await?;
                self.session.set_bound(Bound::To(channel));
            }
            Err(refusal) => {
                self.say(&Refused { refusal: refusal.clone() }).await?;
                // A bad second bind does not undo a good first one.
                let after = if matches!(before, Bound::To(_)) { before } else { Bound::Refused(refusal) };
                self.session.set_bound(after);
            }
        }
        Ok(())
    }

    /// Ends the connections that this one replaces, and waits until their streams are settled, by what it says of them too,
    /// so that what is billed is known when the binding is answered, and no request that comes with it is refused for
    /// their sake.
    // r[impl bind.replace]
    async fn take_place(&self, channel: &PaidChannel, bind: &Bind) -> Result<(), Fault> {
        if bind.id.is_some_and(|id| !self.session.take_seat(channel, id)) {
            return Err(Fault::Replaced);
        }
        let ids: Vec<_> = bind.replaces.iter().map(|replaced| replaced.id).collect();
        let leaving = channel.seats().vacate(&ids);
        if !leaving.is_empty() {
            tracing::info!(channel = %channel.id(), connections = leaving.len(), "dead connections are replaced");
        }
        let all = async {
            for one in leaving {
                one.left().await;
            }
        };
        if timeout(self.session.exchange_timeout(), all).await.is_err() {
            tracing::warn!(channel = %channel.id(), "a replaced connection does not end in time");
        }
        for replaced in &bind.replaces {
            channel.settle_replaced(replaced);
        }
        Ok(())
    }

    /// The channel, from memory, or from the chain if it is too new to have been followed. A server that does not show it
    /// may only lag behind another that does, and has a moment.
    async fn find(&self, id: ChannelId) -> Result<Arc<PaidChannel>, Refusal> {
        let node = &self.session.node;
        let mut reads = 0;
        loop {
            // One that no two servers show has nothing that could be lent on.
            if let Some(channel) = node.channels.get(id).filter(|channel| !channel.terms().deposit.is_zero()) {
                return Ok(channel);
            }
            if !self.session.may_read_chain() {
                return Err(Refusal::new(RefusalCode::OverCapacity, "too many unknown channels on this connection"));
            }
            reads += 1;
            match timeout(self.session.exchange_timeout(), follow::look_up(node, id)).await {
                Ok(Ok(Some(channel))) => return Ok(channel),
                Ok(Ok(None)) => {
                    let reason = "the chain has no such channel to this node";
                    return Err(Refusal::new(RefusalCode::ChannelUnusable, reason));
                }
                Ok(Err(ChainError::Disagreement(_))) if reads < NEW_CHANNEL_READS => sleep(READ_INTERVAL).await,
                Ok(Err(error)) => {
                    tracing::warn!(channel = %id, %error, "a channel could not be looked up");
                    return Err(Refusal::new(RefusalCode::Internal, "the channel could not be looked up on chain"));
                }
                Err(_) => return Err(Refusal::new(RefusalCode::Internal, "the chain does not answer in time")),
            }
        }
    }

    async fn pay(&mut self, pay: Pay) -> Result<(), Fault> {
        let Pay { voucher } = pay;
        let Bound::To(channel) = self.session.bound() else {
            let refusal = Refusal::new(RefusalCode::NoChannel, "no channel is bound on this connection");
            let answer = PayRefused { cumulative: voucher.cumulative, refusal, watermark: None };
            return self.say(&answer).await;
        };
        let signed = SignedVoucher {
            voucher: Voucher { channel: channel.id(), cumulative: voucher.cumulative, expires_at: voucher.expires_at },
            signature: voucher.signature,
        };
        let offer = self.session.node.committer.offer(&channel, &signed, &self.refused).await;
        match offer.ok_or(Fault::Gone)? {
            // Credit follows once it is durable.
            Ok(Offer::Fresh(_)) => {}
            Ok(Offer::Known) => self.tell(channel.standing()).await?,
            Err(error) => {
                let answer = channel.pay_refused(voucher.cumulative, refusal_of(&error));
                self.say(&answer).await?;
                if error == VoucherError::BadSignature {
                    self.session.bad_signature()?;
                }
            }
        }
        Ok(())
    }

    /// Sends a frame; an agent that does not read its control stream is given up.
    async fn say<M: Message>(&mut self, message: &M) -> Result<(), Fault> {
        Ok(send_frame_within(&mut self.send, message, self.session.stall_timeout()).await?)
    }

    async fn tell(&mut self, credit: Standing) -> Result<(), Fault> {
        self.told = Some(credit);
        let Standing { cumulative, window } = credit;
        self.say(&Credit { cumulative, window }).await?;
        self.send_receipts().await
    }

    /// Signs for what has ended and is paid: beside the vouchers, never on a request's own path.
    // r[impl receipt.after_payment]
    async fn send_receipts(&mut self) -> Result<(), Fault> {
        let Bound::To(channel) = self.session.bound() else { return Ok(()) };
        loop {
            let (cumulative, owed) = channel.paid_and_owed();
            let deliveries = self.session.receipts.take_paid(cumulative, owed);
            if deliveries.is_empty() {
                return Ok(());
            }
            let receipt = DeliveryReceipt { channel: channel.id(), cumulative, at: unix_now(), deliveries };
            let receipt = receipt.sign(&self.session.node.key);
            self.say(&receipt).await?;
        }
    }

    /// Reads the channel anew beside the control stream, until the chain shows the announced deposit.
    fn topped_up(&self, news: ToppedUp) {
        let Bound::To(channel) = self.session.bound() else { return };
        if channel.terms().deposit >= news.deposit {
            return;
        }
        let Some(awaited) = channel.await_deposit(news.deposit) else { return };
        let session = Arc::clone(&self.session);
        tokio::spawn(async move {
            for _ in 0..TOP_UP_READS {
                // What is not seen here, the next poll shows.
                if !session.may_read_chain() {
                    return;
                }
                match timeout(session.exchange_timeout(), follow::look_up(&session.node, channel.id())).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(channel = %channel.id(), %error, "a topped-up channel could not be read");
                    }
                    Err(_) => tracing::warn!(channel = %channel.id(), "the chain does not answer in time"),
                }
                if awaited.has_come() || session.connection.close_reason().is_some() {
                    return;
                }
                sleep(READ_INTERVAL).await;
            }
        });
    }
}

/// Waits for credit that was not told yet; forever while no channel is bound. May be cancelled at any await.
async fn next_credit(news: &mut Option<watch::Receiver<News>>, told: Option<Standing>) -> Standing {
    if let Some(news) = news {
        while news.changed().await.is_ok() {
            let credit = news.borrow_and_update().credit;
            if let Some(credit) = credit.filter(|credit| Some(*credit) != told) {
                return credit;
            }
        }
    }
    std::future::pending().await
}

/// The refusal of a voucher, with the amount that its code speaks of.
fn refusal_of(error: &VoucherError) -> Refusal {
    let refusal = Refusal::new(error.refusal_code(), error.to_string());
    match *error {
        VoucherError::NotRising { watermark: amount, .. }
        | VoucherError::EqualDiffers { cumulative: amount }
        | VoucherError::AboveDeposit { deposit: amount, .. } => refusal.with_amount(amount),
        _ => refusal,
    }
}

/// Failed vouchers that wait to be told.
const REFUSALS: usize = 16;
/// How long the last words may take to arrive before the connection is closed.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(1);
/// How often a topped-up channel is read until the chain shows it.
const TOP_UP_READS: u32 = 10;
/// How often a new channel is read until no server denies it: some of what a connection may cause, for two seconds.
const NEW_CHANNEL_READS: u32 = 5;
/// After which time both are read again.
const READ_INTERVAL: Duration = Duration::from_millis(500);
