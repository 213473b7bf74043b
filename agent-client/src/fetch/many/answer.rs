//! The answer to a request of many contents: each head is accepted by itself, each content proven by itself.

use std::sync::Arc;
use std::time::Duration;

use aro_proto::merkle::Decoder;
use aro_proto::message::{FetchHead, Message, Refused};
use aro_proto::wire::{FRAME_HEAD, FrameHead, decode_body};
use aro_proto::{Amount, ByteCount, Tariff, error::close};
use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, VarInt};

use super::Fetched;
use super::shared::{Promise, Shared};
use crate::error::{FetchError, Misbehaviour};
use crate::fetch::account::StreamAccount;
use crate::fetch::offer::Offer;
use crate::fetch::receive::{Inflow, within};
use crate::fetch::request::{Request, broken_framing, hello, read_failure};
use crate::transport::Session;
use crate::wallet::{Lack, Lane, Provider};

/// The answer to one request of many contents.
pub(super) struct ManyAnswer<'a> {
    shared: &'a Shared,
    offer: &'a mut Offer,
    promise: &'a mut Promise,
    reader: Reader,
    account: StreamAccount,
    /// Known with the first head.
    tariff: Option<Tariff>,
    /// Known with the first head that costs something.
    lane: Option<Arc<Lane>>,
}

impl<'a> ManyAnswer<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        offer: &'a mut Offer,
        promise: &'a mut Promise,
        recv: RecvStream,
        account: StreamAccount,
    ) -> Self {
        Self { shared, offer, promise, reader: Reader::new(recv), account, tariff: None, lane: None }
    }

    /// The next content: proven, or refused. `before` counts those that came before it.
    pub(super) async fn next(&mut self, request: &Request, before: usize) -> Result<Fetched, FetchError> {
        let (kind, body) = self.frame(before).await?;
        let session = &self.shared.session;
        if kind == Refused::KIND {
            let refused: Refused = decode(session, kind, &body)?;
            let refusal = FetchError::from_refusal(refused.refusal, &request.facts(session));
            // A refusal of the whole request is the only thing on its stream.
            let may_be_all = before == 0 && !matches!(refusal, FetchError::NotFound { .. });
            if may_be_all && self.reader.is_over(session, self.stall()).await? {
                self.account.refused();
                return Err(refusal);
            }
            return Ok(Err(refusal));
        }
        let head: FetchHead = decode(session, kind, &body)?;
        let config = self.shared.agent.config();
        // No money before the node's chain is compared, whatever came first.
        // r[impl identity.chain.before_money]
        let tariff = match self.tariff {
            Some(tariff) => tariff,
            None => *self.tariff.insert(hello(session, config).await?),
        };
        let (answered, price) = request.check_head(session, &head, &tariff, self.promise.most())?;
        let content_bytes = ByteCount::new(answered.content_bytes());
        self.promise.take(session.node(), tariff.charge(content_bytes), head.size.get())?;
        if self.lane.is_none() && !price.is_zero() {
            self.lane = Some(request.lane(session, config).await?);
        }
        self.accept(content_bytes, price).await?;
        if before + 1 == self.promise.contents() {
            // What is set aside beyond the prices that are known now is for others.
            self.account.all_announced();
            *self.offer.reserved() = None;
        }
        let size = head.size.get();
        let decoder = Decoder::new(request.content, answered)
            .map_err(|_| FetchError::misbehaved(session.node(), Misbehaviour::Size(size)))?;
        self.prove(decoder).await.map(Ok)
    }

    /// Sets a content's price aside, in a deposit that grows for it if need be: the node waits at its window meanwhile.
    async fn accept(&mut self, content_bytes: ByteCount, price: Amount) -> Result<(), FetchError> {
        let mut provider = Provider::new(&self.shared.agent, self.shared.session.node());
        loop {
            let (lane, reserved) = (self.lane.as_ref(), self.offer.reserved());
            let error = match self.account.accept_one_of_many(content_bytes, price, lane, reserved) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match provider.lack(error).await? {
                Lack::Deposit { channel, missing } => provider.top_up(&self.shared.session, channel, missing).await?,
                Lack::Channel => return Err(FetchError::NoChannel { node: self.shared.session.node() }),
                Lack::Nothing => {}
            }
        }
    }

    /// The rest is not wanted, and not owed.
    pub(super) fn stop(&mut self, error: &FetchError) {
        // Streams that are over need no stop.
        let _ = self.reader.recv.stop(VarInt::from_u32(stop_code(error)));
    }

    /// All contents are whole: the bytes of the answer on its stream, and what it cost.
    pub(super) async fn end(mut self) -> (u64, Amount) {
        self.account.complete();
        self.reader.end(&self.shared.session).await;
        (self.reader.wire_bytes, self.account.cost())
    }

    pub(super) fn wire_bytes(&self) -> u64 {
        self.reader.wire_bytes
    }

    // r[impl content.verify.unproven]
    async fn prove(&mut self, mut decoder: Decoder) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        while let Some(len) = decoder.expects() {
            let offset = decoder.next_covers().map_or(0, |range| range.start);
            let session = &self.shared.session;
            let failure = |source, proven| FetchError::Proof {
                group: None,
                offset,
                proven: ByteCount::new(proven),
                node: session.node(),
                source,
            };
            if !self.reader.has(len, session, self.stall()).await? {
                let cut = decoder.finish().err().unwrap_or(aro_proto::merkle::VerifyError::AfterError);
                return Err(failure(cut, self.account.proven()));
            }
            // r[impl content.verify.first_error]
            match decoder.accept(self.reader.take(len)) {
                Ok(None) => {}
                Ok(Some(leaf)) => {
                    self.account.proved(leaf.len());
                    bytes.extend_from_slice(leaf.bytes());
                }
                Err(source) => return Err(failure(source, self.account.proven())),
            }
        }
        Ok(bytes)
    }

    /// The next frame; the first may take the node as long as any answer.
    async fn frame(&mut self, before: usize) -> Result<(u8, Bytes), FetchError> {
        let session = &self.shared.session;
        let waits_ms = if before == 0 { self.shared.agent.config().answer_timeout_ms } else { self.stall() };
        let ended = || FetchError::misbehaved(session.node(), Misbehaviour::Ended("an answer"));
        if !self.reader.has(FRAME_HEAD, session, waits_ms).await? {
            return Err(ended());
        }
        let head = self.reader.take(FRAME_HEAD);
        let head: &[u8; FRAME_HEAD] = head.first_chunk().expect("so many were taken");
        let head = FrameHead::parse(head).map_err(|error| broken_framing(session, error))?;
        if !self.reader.has(head.body_len, session, waits_ms).await? {
            return Err(ended());
        }
        Ok((head.kind, self.reader.take(head.body_len)))
    }

    fn stall(&self) -> u64 {
        self.shared.agent.config().stall_timeout_ms
    }
}

impl Drop for ManyAnswer<'_> {
    fn drop(&mut self) {
        if let Some(tap) = &self.shared.tap {
            tap.count(self.account.proven(), self.reader.wire_bytes, self.account.cost());
        }
    }
}

/// One stream's bytes in a buffer, from which whole items are split off without a copy.
struct Reader {
    recv: RecvStream,
    inflow: Inflow,
    buffer: BytesMut,
    wire_bytes: u64,
}

impl Reader {
    fn new(recv: RecvStream) -> Self {
        Self { recv, inflow: Inflow::default(), buffer: BytesMut::new(), wire_bytes: 0 }
    }

    /// Waits for so many bytes; false if the stream ends before.
    async fn has(&mut self, len: usize, session: &Session, waits_ms: u64) -> Result<bool, FetchError> {
        while self.buffer.len() < len {
            let missing = len - self.buffer.len();
            if self.buffer.capacity() - self.buffer.len() < missing.max(LEAST_ROOM) {
                self.buffer.reserve(missing.max(BUFFER));
            }
            let room = self.buffer.capacity() - self.buffer.len();
            let filling = self.inflow.fill(&mut self.recv, &mut self.buffer, room);
            match within(Duration::from_millis(waits_ms), filling).await {
                Some(Ok(0)) => return Ok(false),
                Some(Ok(got)) => self.wire_bytes += got as u64,
                Some(Err(error)) => return Err(read_failure(session, &error)),
                None => return Err(FetchError::Timeout { doing: "receiving", waited_ms: waits_ms }),
            }
        }
        Ok(true)
    }

    /// Splits off what [`has`](Self::has) found.
    fn take(&mut self, len: usize) -> Bytes {
        self.buffer.split_to(len).freeze()
    }

    async fn is_over(&mut self, session: &Session, waits_ms: u64) -> Result<bool, FetchError> {
        Ok(!self.has(1, session, waits_ms).await?)
    }

    /// All is proven, whatever follows.
    // r[impl content.end.harmless]
    async fn end(&mut self, session: &Session) {
        if !matches!(self.is_over(session, END_WAIT_MS).await, Ok(true)) {
            let _ = self.recv.stop(VarInt::from_u32(close::BAD_PROOF));
            tracing::warn!(node = %session.node(), "the node did not end an answer where it should");
        }
    }
}

fn decode<M: Message>(session: &Session, kind: u8, body: &[u8]) -> Result<M, FetchError> {
    decode_body(kind, body).map_err(|error| broken_framing(session, error))
}

fn stop_code(error: &FetchError) -> u32 {
    match error {
        FetchError::Proof { .. } => close::BAD_PROOF,
        _ => close::CANCELLED,
    }
}

/// Bytes of a reader's buffer.
const BUFFER: usize = 256 << 10;
/// Room below which a new buffer is taken.
const LEAST_ROOM: usize = 16 << 10;
/// Milliseconds for the end of a stream to follow its last byte.
const END_WAIT_MS: u64 = 1_000;
