//! A node that follows a script: right where the script says nothing, wrong exactly where it says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aro_proto::channel::{SignedVoucher, Voucher, credit_window};
use aro_proto::identity::{Binding, Signed};
use aro_proto::limits::{EXPORTER_LABEL, EXPORTER_LEN, MAX_FRAME, MAX_REQUEST_STREAMS, RECEIPTS_SINCE};
use aro_proto::merkle::{AnsweredRanges, ByteRanges, Encoder, GroupSize, Outboard, PreOrderOutboard, Step};
use aro_proto::message::{
    Bind, Bound, ChainIds, Credit, Delivery, DeliveryReceipt, Describe, Description, Fetch, FetchHead, Goaway, Hello,
    Message, NodeHello, Pay, PublishName, Quote, Refused, StreamEnd, VoucherOnWire, list_id,
};
use aro_proto::wire::{FRAME_HEAD, FrameHead, decode_body, encode_frame};
use aro_proto::{
    Address, AgentId, Amount, ByteCount, ChannelId, Charge, ContentId, NodeId, Refusal, RefusalCode, SecretKey, Tariff,
    transport,
};
use quinn::{Connection, Endpoint, RecvStream, SendStream, TransportConfig, VarInt};
use settlement_chain::{Address as ChainAddress, EmbeddedChain, Program, reads};
use settlement_interface::accounts::status;
use tokio::sync::watch;

use super::world::World;

/// Where the node departs from the protocol.
#[derive(Clone, Debug, Default)]
pub enum Script {
    #[default]
    Honest,
    // In the encoding.
    FlipBit {
        byte: usize,
        bit: u8,
    },
    CutAt(usize),
    Append(usize),
    StallAt(usize),
    ResetAt(usize, u32),
    /// A bit of the content byte at this offset, in whichever answer it is.
    FlipContent(u64),
    /// Stalls for ever once it has sent so many content bytes in all.
    StallAfter(u64),
    /// So many bytes a second.
    Slow(u64),
    /// Goes away for good once it has sent so many content bytes in all.
    DiesAfter(u64),
    /// Claims this size in quotes and heads, and sends what it has, and zeros for what it does not.
    Claims(u64),
    /// From so many content bytes on, it asks this much per MiB.
    RaisesAfter(u64, u64),
    // In the head.
    Size(u64),
    ContentBytes(u64),
    Price(u64),
    // Instead of an answer.
    Refuse(RefusalCode, Option<u64>),
    RequestBytes(Vec<u8>),
    /// One answer to whoever publishes a name, another to everybody else.
    NameBytes {
        publish: Vec<u8>,
        resolve: Vec<u8>,
    },
    /// The same, and then nothing more, without an end.
    RequestBytesAndStall(Vec<u8>),
    // On the control stream.
    Chain(ChainIds),
    ControlBytes(Vec<u8>),
    NoHello,
    GoAway(RefusalCode),
    BindRefused(RefusalCode),
    OtherChannelBound,
    Watermark(VoucherOnWire),
    Billed(u128),
    NoCredit,
    CreditAbove(u64),
    PayRefused(RefusalCode),
    /// So many vouchers are refused, then all is right.
    PayRefusedFirst(RefusalCode, usize),
    /// A node that knows of receipts, and what it does about them.
    Receipts(Receipts),
    // In the quote.
    QuotePrice(u64),
    QuoteKey,
    QuoteSize(u64),
}

/// How a node signs for what a voucher has paid.
#[derive(Clone, Debug)]
pub struct Receipts {
    /// What is wrong with it.
    pub alter: fn(&mut DeliveryReceipt),
    /// The key that signs it; its own if there is none.
    pub key: Option<SecretKey>,
    /// How often it is sent.
    pub times: usize,
}

impl Default for Receipts {
    fn default() -> Self {
        Self { alter: |_| {}, key: None, times: 1 }
    }
}

/// What the node saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub hellos: usize,
    pub binds: Vec<Bind>,
    pub vouchers: Vec<SignedVoucher>,
    pub ends: Vec<StreamEnd>,
    pub requests: usize,
    pub closes: Vec<u64>,
    /// Content bytes sent of each answer.
    pub sent: Vec<u64>,
}

impl Seen {
    pub fn paid(&self) -> u64 {
        self.vouchers.last().map_or(0, |signed| signed.voucher.cumulative.get())
    }
}

#[derive(Clone)]
pub struct ScriptedNode {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    key: SecretKey,
    stored: Mutex<Arc<Stored>>,
    /// What it has beside that.
    others: Mutex<HashMap<ContentId, Arc<Stored>>>,
    tariff: Mutex<Tariff>,
    chain: EmbeddedChain,
    chain_ids: ChainIds,
    script: Mutex<Script>,
    seen: watch::Sender<Seen>,
    /// What connections share about the one channel that tests use.
    best: Mutex<Option<SignedVoucher>>,
    connections: Mutex<Vec<Connection>>,
    /// What was sent and not declared unproven, in parts of a base unit.
    billed: Mutex<u128>,
    /// Bytes sent in all answers.
    sent: Mutex<u64>,
}

/// The one content that the node has.
pub struct Stored {
    pub bytes: Vec<u8>,
    outboard: PreOrderOutboard<Vec<u8>>,
}

impl Stored {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        let outboard = PreOrderOutboard::build(&bytes);
        Arc::new(Self { bytes, outboard })
    }
}

impl ScriptedNode {
    pub async fn start(world: &World, key: &SecretKey, content: Vec<u8>, per_mib: u64) -> Self {
        Self::start_granting(MAX_REQUEST_STREAMS + 1, world, key, content, per_mib).await
    }

    /// A node that lets each connection open so many streams in all, the control stream among them.
    pub async fn start_granting(streams: u32, world: &World, key: &SecretKey, content: Vec<u8>, per_mib: u64) -> Self {
        let mut config = transport::server_config(key);
        let mut limits = TransportConfig::default();
        limits.max_concurrent_bidi_streams(VarInt::from_u32(streams));
        config.transport_config(Arc::new(limits));
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let inner = Inner {
            endpoint,
            key: key.clone(),
            stored: Mutex::new(Stored::new(content)),
            others: Mutex::default(),
            tariff: Mutex::new(Tariff { per_mib }),
            chain: world.chain.clone(),
            chain_ids: world.chain_ids().await,
            script: Mutex::default(),
            seen: watch::channel(Seen::default()).0,
            best: Mutex::default(),
            connections: Mutex::default(),
            billed: Mutex::default(),
            sent: Mutex::default(),
        };
        let node = Self { inner: Arc::new(inner) };
        tokio::spawn(node.clone().accept());
        node
    }

    pub fn follow(&self, script: Script) {
        *self.inner.script.lock().unwrap() = script;
    }

    /// Loses its books: the best voucher and what it has billed.
    pub fn forget(&self) {
        *self.inner.best.lock().unwrap() = None;
        *self.inner.billed.lock().unwrap() = 0;
    }

    /// Says from now on that it has billed so much, in base units, beside what it still sends.
    pub fn bill(&self, amount: u64) {
        *self.inner.billed.lock().unwrap() = Charge::from_amount(Amount::new(amount)).parts();
    }

    /// Closes every connection at once, whatever runs on it.
    pub fn hang_up(&self) {
        for connection in self.inner.connections.lock().unwrap().drain(..) {
            connection.close(VarInt::from_u32(0), b"");
        }
    }

    /// Goes away for good.
    pub fn die(&self) {
        self.inner.endpoint.close(VarInt::from_u32(0), b"");
    }

    /// Asks this much per MiB from now on.
    pub fn asks(&self, per_mib: u64) {
        *self.inner.tariff.lock().unwrap() = Tariff { per_mib };
    }

    pub fn tariff(&self) -> Tariff {
        *self.inner.tariff.lock().unwrap()
    }

    pub fn address(&self) -> Address {
        self.address_as(self.inner.key.node_id())
    }

    pub fn address_as(&self, node: NodeId) -> Address {
        let port = self.inner.endpoint.local_addr().unwrap().port();
        Address::new(self.content_id(), node, "127.0.0.1", port).unwrap()
    }

    /// From now on it has another content.
    pub fn store(&self, content: Vec<u8>) {
        *self.inner.stored.lock().unwrap() = Stored::new(content);
    }

    /// It has this too, and gives it honestly.
    pub fn also_has(&self, bytes: &[u8]) {
        self.inner.others.lock().unwrap().insert(ContentId::of(bytes), Stored::new(bytes.to_vec()));
    }

    pub fn stored(&self) -> Arc<Stored> {
        Arc::clone(&self.inner.stored.lock().unwrap())
    }

    pub fn content(&self) -> Vec<u8> {
        self.stored().bytes.clone()
    }

    pub fn content_id(&self) -> ContentId {
        self.stored().outboard.root()
    }

    pub fn seen(&self) -> Seen {
        self.inner.seen.borrow().clone()
    }

    /// Waits until the node has seen what `ready` looks for.
    pub async fn wait_for(&self, mut ready: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.inner.seen.subscribe();
        let found = tokio::time::timeout(Duration::from_secs(10), seen.wait_for(|seen| ready(seen))).await;
        found.expect("the node sees it in time").unwrap().clone()
    }

    /// The whole right answer to a whole fetch.
    pub fn encoding(&self, group: GroupSize) -> (Vec<u8>, Vec<Step>) {
        let answered = ByteRanges::all().answered(self.content().len() as u64, group);
        (self.encode(answered.clone()), Encoder::new(answered).collect())
    }

    fn claimed_size(&self) -> u64 {
        if let Script::Claims(size) = self.script() { size } else { self.content().len() as u64 }
    }

    fn script(&self) -> Script {
        self.inner.script.lock().unwrap().clone()
    }

    fn encode(&self, answered: AnsweredRanges) -> Vec<u8> {
        encode_of(&self.stored(), answered)
    }

    async fn accept(self) {
        while let Some(incoming) = self.inner.endpoint.accept().await {
            let node = self.clone();
            tokio::spawn(async move {
                if let Ok(connection) = incoming.await {
                    node.serve(connection).await;
                }
            });
        }
    }

    async fn serve(self, connection: Connection) {
        self.inner.connections.lock().unwrap().push(connection.clone());
        let Ok((send, recv)) = connection.accept_bi().await else { return };
        let mut exporter = [0; EXPORTER_LEN];
        connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").unwrap();
        let (paid, _) = watch::channel(self.inner.best.lock().unwrap().map_or(0, |best| best.voucher.cumulative.get()));
        let bound = Arc::new(watch::channel(false).0);
        let shared =
            Shared { exporter, paid: Arc::new(paid), answers: Answers::default(), delivered: Arc::default(), bound };
        tokio::spawn(self.clone().control(send, recv, shared.clone()));
        loop {
            match connection.accept_bi().await {
                Ok((send, recv)) => {
                    tokio::spawn(self.clone().request(send, recv, shared.clone()));
                }
                Err(error) => {
                    if let quinn::ConnectionError::ApplicationClosed(close) = error {
                        self.inner.seen.send_modify(|seen| seen.closes.push(close.error_code.into_inner()));
                    }
                    return;
                }
            }
        }
    }

    async fn control(self, mut send: SendStream, mut recv: RecvStream, shared: Shared) -> Option<()> {
        let Shared { exporter, paid, answers, delivered, bound: is_bound } = shared;
        let mut channel: Option<(ChannelId, AgentId)> = None;
        loop {
            let (kind, body) = read_frame(&mut recv).await?;
            let script = self.script();
            match kind {
                Hello::KIND => {
                    self.inner.seen.send_modify(|seen| seen.hellos += 1);
                    match &script {
                        Script::NoHello => continue,
                        Script::ControlBytes(bytes) => {
                            let _ = send.write_all(bytes).await;
                            continue;
                        }
                        Script::GoAway(code) => {
                            write(&mut send, &Goaway { refusal: Refusal::new(*code, "scripted") }).await?;
                            continue;
                        }
                        _ => {}
                    }
                    let minor_version = if matches!(script, Script::Receipts(_)) { RECEIPTS_SINCE } else { 0 };
                    let chain = if let Script::Chain(ids) = script { ids } else { self.inner.chain_ids };
                    let hello = NodeHello {
                        publish: None,
                        minor_version,
                        chain,
                        tariff: self.tariff(),
                        max_request_streams: MAX_REQUEST_STREAMS,
                        min_grace_s: 900,
                    };
                    write(&mut send, &hello).await?;
                }
                Signed::KIND if matches!(script, Script::NoHello | Script::ControlBytes(_)) => {}
                Signed::KIND => {
                    let binding = Binding { exporter, stream: 0 };
                    let bind = Signed::from_bytes(&body).unwrap().verify::<Bind>(&binding).expect("bound to stream 0");
                    self.inner.seen.send_modify(|seen| seen.binds.push(bind.message().clone()));
                    let id = bind.message().channel;
                    if let Script::BindRefused(code) = script {
                        write(&mut send, &Refused { refusal: Refusal::new(code, "scripted") }).await?;
                        continue;
                    }
                    let address = ChainAddress::new_from_array(id.to_bytes());
                    let account = reads::channel(&self.inner.chain, &Program::local(), &address).await.unwrap()?;
                    assert_eq!(&account.signer, bind.signer().as_bytes());
                    if account.status != status::OPEN {
                        let refusal = Refusal::new(RefusalCode::ChannelUnusable, "not open");
                        write(&mut send, &Refused { refusal }).await?;
                        continue;
                    }
                    channel = Some((id, bind.signer()));
                    self.take_up(id, &paid);
                    let best = *self.inner.best.lock().unwrap();
                    let owed = Amount::new(*paid.borrow());
                    let bound = Bound {
                        channel: if matches!(script, Script::OtherChannelBound) {
                            ChannelId::from_bytes([1; 32])
                        } else {
                            id
                        },
                        watermark: match script {
                            Script::Watermark(shown) => Some(shown),
                            _ => best.map(on_wire),
                        },
                        billed: if let Script::Billed(billed) = script {
                            billed
                        } else {
                            *self.inner.billed.lock().unwrap()
                        },
                        deposit: Amount::new(account.deposit),
                        settled: Amount::new(account.settled),
                        window: credit_window(owed, &self.tariff()),
                    };
                    write(&mut send, &bound).await?;
                    is_bound.send_replace(true);
                }
                Pay::KIND => {
                    let pay: Pay = decode_body(kind, &body).unwrap();
                    let (id, signer) = channel.expect("bound before paying");
                    let VoucherOnWire { cumulative, expires_at, signature } = pay.voucher;
                    let voucher = SignedVoucher { voucher: Voucher { channel: id, cumulative, expires_at }, signature };
                    voucher.verify(&signer).expect("the channel's signer signed it");
                    self.inner.seen.send_modify(|seen| seen.vouchers.push(voucher));
                    let refused = match script {
                        Script::PayRefused(code) => Some(code),
                        Script::PayRefusedFirst(code, count) => {
                            (self.inner.seen.borrow().vouchers.len() <= count).then_some(code)
                        }
                        _ => None,
                    };
                    if let Some(code) = refused {
                        let refused = aro_proto::message::PayRefused {
                            cumulative,
                            refusal: Refusal::new(code, "scripted"),
                            watermark: None,
                        };
                        write(&mut send, &refused).await?;
                        continue;
                    }
                    paid.send_replace(cumulative.get());
                    let above = match script {
                        Script::NoCredit => continue,
                        Script::CreditAbove(above) => above,
                        _ => 0,
                    };
                    *self.inner.best.lock().unwrap() = Some(voucher);
                    let window = credit_window(cumulative, &self.tariff());
                    write(&mut send, &Credit { cumulative: Amount::new(cumulative.get() + above), window }).await?;
                    if let Script::Receipts(receipts) = &script {
                        let deliveries = std::mem::take(&mut *delivered.lock().unwrap());
                        let mut receipt = DeliveryReceipt { channel: id, cumulative, at: 1, deliveries };
                        (receipts.alter)(&mut receipt);
                        let receipt = receipt.sign(receipts.key.as_ref().unwrap_or(&self.inner.key));
                        for _ in 0..receipts.times {
                            write(&mut send, &receipt).await?;
                        }
                    }
                }
                StreamEnd::KIND => {
                    let end: StreamEnd = decode_body(kind, &body).unwrap();
                    if let Some((answer, tariff)) = answers.lock().unwrap().remove(&end.stream) {
                        let unproven = tariff.charge(ByteCount::new(answer - end.proven_bytes));
                        *self.inner.billed.lock().unwrap() -= unproven.parts();
                    }
                    self.inner.seen.send_modify(|seen| seen.ends.push(end));
                }
                _ => {}
            }
        }
    }

    /// Another channel begins at nothing.
    fn take_up(&self, channel: ChannelId, paid: &watch::Sender<u64>) {
        let mut best = self.inner.best.lock().unwrap();
        if best.is_some_and(|best| best.voucher.channel != channel) {
            *best = None;
            *self.inner.billed.lock().unwrap() = 0;
            paid.send_replace(0);
        }
    }

    async fn request(self, mut send: SendStream, mut recv: RecvStream, shared: Shared) -> Option<()> {
        let (kind, body) = read_frame(&mut recv).await?;
        assert_eq!(kind, Signed::KIND);
        self.inner.seen.send_modify(|seen| seen.requests += 1);
        let binding = Binding { exporter: shared.exporter, stream: u64::from(VarInt::from(send.id())) };
        let signed = Signed::from_bytes(&body).unwrap();
        match self.script() {
            Script::Refuse(code, amount) => {
                let mut refusal = Refusal::new(code, "scripted");
                refusal.amount = amount.map(Amount::new);
                write(&mut send, &Refused { refusal }).await?;
                let _ = send.finish();
                return Some(());
            }
            Script::RequestBytesAndStall(bytes) => {
                let _ = send.write_all(&bytes).await;
                let _ = send.stopped().await;
                return Some(());
            }
            Script::NameBytes { publish, .. } if signed.kind() == PublishName::KIND => {
                let _ = send.write_all(&publish).await;
                let _ = send.finish();
                let _ = send.stopped().await;
                return Some(());
            }
            Script::RequestBytes(bytes) | Script::NameBytes { resolve: bytes, .. } => {
                let _ = send.write_all(&bytes).await;
                let _ = send.finish();
                let _ = send.stopped().await;
                return Some(());
            }
            _ => {}
        }
        if signed.kind() == Describe::KIND {
            let describe = signed.verify::<Describe>(&binding).unwrap().into_message();
            self.describe(&mut send, &describe).await?;
        } else {
            let fetch = signed.verify::<Fetch>(&binding).unwrap().into_message();
            self.fetch(&mut send, &fetch, shared).await?;
        }
        let _ = send.finish();
        let _ = send.stopped().await;
        Some(())
    }

    async fn describe(&self, send: &mut SendStream, describe: &Describe) -> Option<()> {
        let other = self.inner.others.lock().unwrap().get(&describe.content).cloned();
        let size = match (self.script(), other) {
            (Script::QuoteSize(size), _) => size,
            (_, Some(other)) => other.bytes.len() as u64,
            (_, None) => self.claimed_size(),
        };
        let answered = describe.ranges.answered(size, GroupSize::from_log2(describe.group_log2).unwrap());
        let content_bytes = ByteCount::new(answered.content_bytes());
        let mut price = self.tariff().price(content_bytes).unwrap();
        if let Script::QuotePrice(other) = self.script() {
            price = Amount::new(other);
        }
        let key = if matches!(self.script(), Script::QuoteKey) {
            SecretKey::from_bytes(&[99; 32])
        } else {
            self.inner.key.clone()
        };
        let quote = Quote {
            content: describe.content,
            size: ByteCount::new(size),
            content_bytes,
            price,
            tariff: self.tariff(),
            valid_until: 4_000_000_000,
        };
        write(send, &Description { quote: quote.sign(&key) }).await
    }

    /// What it has beside its one content, many at once.
    async fn fetch_others(
        &self,
        send: &mut SendStream,
        fetch: &Fetch,
        mut paid: watch::Receiver<u64>,
        answers: Answers,
        delivered: Arc<Mutex<Vec<Delivery>>>,
    ) -> Option<()> {
        let stream = u64::from(VarInt::from(send.id()));
        let group = GroupSize::from_log2(fetch.group_log2).unwrap();
        let find = |content| self.inner.others.lock().unwrap().get(content).cloned();
        let due: Vec<_> = fetch
            .items
            .iter()
            .map(|item| {
                let stored: Arc<Stored> = find(&item.content)?;
                let answered = item.ranges.answered(stored.bytes.len() as u64, group);
                Some((stored, answered))
            })
            .collect();
        let billed = due.iter().flatten().map(|(_, answered)| answered.content_bytes()).sum();
        let price = self.tariff().price(ByteCount::new(billed)).unwrap();
        if price > fetch.max_price {
            let refusal = Refusal::new(RefusalCode::PriceTooHigh, "too much").with_amount(price);
            return write(send, &Refused { refusal }).await;
        }
        *self.inner.billed.lock().unwrap() += self.tariff().charge(ByteCount::new(billed)).parts();
        answers.lock().unwrap().insert(stream, (billed, self.tariff()));
        delivered.lock().unwrap().push(self.delivery(stream, fetch, billed));
        let (before, mut sent) = (*paid.borrow(), 0);
        for due in due {
            let Some((stored, answered)) = due else {
                write(send, &Refused { refusal: Refusal::new(RefusalCode::NotFound, "not here") }).await?;
                continue;
            };
            let content_bytes = ByteCount::new(answered.content_bytes());
            let price = self.tariff().price(content_bytes).unwrap();
            write(send, &FetchHead { size: ByteCount::new(stored.bytes.len() as u64), content_bytes, price }).await?;
            let mut encoding = encode_of(&stored, answered.clone());
            if let Script::FlipContent(offset) = self.script()
                && let Some(at) = place_of(answered, offset)
            {
                encoding[at] ^= 1;
            }
            for piece in encoding.chunks(PIECE) {
                sent += piece.len() as u64;
                let in_all = {
                    let mut in_all = self.inner.sent.lock().unwrap();
                    *in_all += piece.len() as u64;
                    *in_all
                };
                match self.script() {
                    Script::Slow(rate) => {
                        tokio::time::sleep(Duration::from_millis(piece.len() as u64 * 1_000 / rate)).await;
                    }
                    Script::DiesAfter(most) if in_all > most => {
                        self.die();
                        return None;
                    }
                    _ => {}
                }
                let tariff = self.tariff();
                let owed = before + tariff.price(ByteCount::new(sent)).unwrap().get();
                let within = |paid: &u64| owed <= paid + credit_window(Amount::new(*paid), &tariff).get();
                if !tariff.is_free() {
                    paid.wait_for(within).await.ok()?;
                }
                send.write_all(piece).await.ok()?;
            }
        }
        Some(())
    }

    /// What an honest node signs for, if all of it comes through.
    fn delivery(&self, stream: u64, fetch: &Fetch, bytes: u64) -> Delivery {
        let bytes = ByteCount::new(bytes);
        let (content, ranges) = match fetch.items.as_slice() {
            [one] => (one.content, one.ranges.clone()),
            several => (list_id(several.iter().map(|item| item.content)), ByteRanges::all()),
        };
        let contents = u32::try_from(fetch.items.len()).unwrap();
        Delivery { stream, content, contents, ranges, bytes, amount: self.tariff().price(bytes).unwrap() }
    }

    async fn fetch(&self, send: &mut SendStream, fetch: &Fetch, shared: Shared) -> Option<()> {
        let Shared { paid, answers, bound, delivered, .. } = shared;
        let mut paid = paid.subscribe();
        if !self.tariff().is_free() {
            let found = tokio::time::timeout(BIND_WAIT, bound.subscribe().wait_for(|bound| *bound)).await.is_ok();
            if !found {
                let refusal = Refusal::new(RefusalCode::NoChannel, "nothing is bound");
                return write(send, &Refused { refusal }).await;
            }
        }
        let script = self.script();
        let group = GroupSize::from_log2(fetch.group_log2).unwrap();
        let item = &fetch.items[0];
        let is_other = self.inner.others.lock().unwrap().contains_key(&item.content);
        if is_other || fetch.items.len() > 1 {
            return self.fetch_others(send, fetch, paid, answers, delivered).await;
        }
        assert_eq!(item.content, self.content_id());
        let size = self.content().len() as u64;
        let answered = item.ranges.answered(size, group);
        let claimed_size = match script {
            Script::Size(size) | Script::Claims(size) => size,
            _ => size,
        };
        let claimed = item.ranges.answered(claimed_size, group);
        let bytes = ByteCount::new(claimed.content_bytes());
        let mut head = FetchHead {
            size: ByteCount::new(claimed_size),
            content_bytes: bytes,
            price: self.tariff().price(bytes).unwrap_or(Amount::new(u64::MAX)),
        };
        match script {
            Script::ContentBytes(bytes) => head.content_bytes = ByteCount::new(bytes),
            Script::Price(price) => head.price = Amount::new(price),
            _ => {}
        }
        let is_honest = !matches!(script, Script::Price(_) | Script::ContentBytes(_) | Script::Size(_));
        if is_honest && head.price > fetch.max_price {
            let refusal = Refusal::new(RefusalCode::PriceTooHigh, "too much").with_amount(head.price);
            return write(send, &Refused { refusal }).await;
        }
        let billed = bytes.get().max(answered.content_bytes());
        *self.inner.billed.lock().unwrap() += self.tariff().charge(ByteCount::new(billed)).parts();
        let stream = u64::from(VarInt::from(send.id()));
        answers.lock().unwrap().insert(stream, (billed, self.tariff()));
        delivered.lock().unwrap().push(self.delivery(stream, fetch, billed));
        write(send, &head).await?;
        let mut encoding = self.encode(answered.clone());
        let mut stop = usize::MAX;
        match script {
            Script::FlipBit { byte, bit } => encoding[byte] ^= 1 << bit,
            Script::CutAt(at) => encoding.truncate(at),
            Script::FlipContent(offset) => {
                if let Some(at) = place_of(answered, offset) {
                    encoding[at] ^= 1;
                }
            }
            Script::Claims(_) => encoding.resize(usize::try_from(claimed.encoded_len()).unwrap(), 0),
            Script::Append(len) => encoding.extend(std::iter::repeat_n(7, len)),
            Script::StallAt(at) | Script::ResetAt(at, _) => stop = at,
            _ => {}
        }
        let before = *paid.borrow();
        // Whatever it asks by then, this answer costs what its head says.
        let tariff = self.tariff();
        let mut sent = 0;
        // Pieces of a quarter of a quantum, each only within the credit window, as the protocol has it.
        for piece in encoding[..stop.min(encoding.len())].chunks(PIECE) {
            sent += piece.len() as u64;
            let in_all = {
                let mut in_all = self.inner.sent.lock().unwrap();
                *in_all += piece.len() as u64;
                *in_all
            };
            match self.script() {
                Script::StallAfter(most) if in_all > most => {
                    let _ = send.stopped().await;
                    return None;
                }
                Script::Slow(rate) => {
                    tokio::time::sleep(Duration::from_millis(piece.len() as u64 * 1_000 / rate)).await;
                }
                Script::RaisesAfter(most, per_mib) if in_all > most => {
                    *self.inner.tariff.lock().unwrap() = Tariff { per_mib };
                }
                _ => {}
            }
            let owed = before + tariff.price(ByteCount::new(sent)).unwrap().get();
            let within = |paid: &u64| owed <= paid + credit_window(Amount::new(*paid), &tariff).get();
            if !tariff.is_free() {
                paid.wait_for(within).await.ok()?;
            }
            if send.write_all(piece).await.is_err() {
                // Not sent, so not billed.
                if let Some((answer, tariff)) = answers.lock().unwrap().get_mut(&u64::from(VarInt::from(send.id()))) {
                    let unsent = answer.saturating_sub(sent);
                    *self.inner.billed.lock().unwrap() -= tariff.charge(ByteCount::new(unsent)).parts();
                    *answer -= unsent;
                }
                self.inner.seen.send_modify(|seen| seen.sent.push(sent));
                return None;
            }
        }
        self.inner.seen.send_modify(|seen| seen.sent.push(sent));
        match script {
            Script::StallAt(_) => {
                let _ = send.stopped().await;
                None
            }
            Script::ResetAt(_, code) => {
                let _ = send.reset(VarInt::from_u32(code));
                None
            }
            _ => Some(()),
        }
    }
}

fn encode_of(stored: &Stored, answered: AnsweredRanges) -> Vec<u8> {
    let mut bytes = Vec::new();
    for step in Encoder::new(answered) {
        match step {
            Step::Parent(node) => bytes.extend(stored.outboard.parent(node).unwrap()),
            Step::Leaf { offset, len } => {
                let start = usize::try_from(offset).unwrap();
                bytes.extend_from_slice(&stored.bytes[start..start + len as usize]);
            }
        }
    }
    bytes
}

/// Content bytes of each answer on a connection and their price, by stream.
type Answers = Arc<Mutex<HashMap<u64, (u64, Tariff)>>>;

/// What the streams of one connection share.
#[derive(Clone)]
struct Shared {
    exporter: [u8; EXPORTER_LEN],
    paid: Arc<watch::Sender<u64>>,
    answers: Answers,
    /// What is to be signed for.
    delivered: Arc<Mutex<Vec<Delivery>>>,
    /// Paid requests wait for it, so that the bill in `Bound` is one from before them.
    bound: Arc<watch::Sender<bool>>,
}

/// Where in an encoding a content byte is.
fn place_of(answered: AnsweredRanges, wanted: u64) -> Option<usize> {
    let mut at = 0;
    for step in Encoder::new(answered) {
        match step {
            Step::Parent(_) => at += 64,
            Step::Leaf { offset, len } if (offset..offset + u64::from(len)).contains(&wanted) => {
                return Some(at + usize::try_from(wanted - offset).unwrap());
            }
            Step::Leaf { len, .. } => at += len as usize,
        }
    }
    None
}

/// A frame whose announced length is above the bound.
pub fn too_long() -> Vec<u8> {
    let mut bytes = u32::try_from(MAX_FRAME + 1).unwrap().to_le_bytes().to_vec();
    bytes.push(NodeHello::KIND);
    bytes.extend([0; 64]);
    bytes
}

/// A frame of a known kind with a body that is none.
pub fn garbage(kind: u8) -> Vec<u8> {
    let body = [0xff; 40];
    let mut bytes = 41u32.to_le_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// Bytes that look random but are the same on every run.
pub fn content(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn on_wire(signed: SignedVoucher) -> VoucherOnWire {
    let Voucher { cumulative, expires_at, .. } = signed.voucher;
    VoucherOnWire { cumulative, expires_at, signature: signed.signature }
}

async fn write<M: Message>(send: &mut SendStream, message: &M) -> Option<()> {
    send.write_all(&encode_frame(message).unwrap()).await.ok()
}

async fn read_frame(recv: &mut RecvStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; FRAME_HEAD];
    recv.read_exact(&mut head).await.ok()?;
    let FrameHead { kind, body_len } = FrameHead::parse(&head).unwrap();
    let mut body = vec![0; body_len];
    recv.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

/// How long a paid request waits for a binding.
const BIND_WAIT: Duration = Duration::from_secs(3);
const PIECE: usize = 256 << 10;
