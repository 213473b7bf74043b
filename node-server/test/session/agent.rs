//! An agent made of quinn and aro-proto alone, that can be as wrong as a test wants.

use std::future::Future;
use std::time::Duration;

use aro_proto::channel::Voucher;
use aro_proto::identity::{Binding, Signed};
use aro_proto::limits::EXPORTER_LABEL;
use aro_proto::merkle::{ByteRanges, Decoder, GroupSize};
use aro_proto::message::{
    Bind, Bound, ChainIds, Credit, Fetch, FetchHead, FetchItem, Goaway, Hello, Message, NodeHello, Pay, PayRefused,
    Refused, VoucherOnWire,
};
use aro_proto::transport::{SERVER_NAME, client_config};
use aro_proto::wire::{FRAME_HEAD, FrameHead, decode_body, encode_frame};
use aro_proto::{Amount, ByteCount, ContentId, NodeId, Refusal, SecretKey, Tariff};
use node_server::RunningNode;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, VarInt};
use settlement_chain::{EMBEDDED_GENESIS_HASH, Program};

use crate::world::{Funded, World};

/// A connection with its control stream.
pub(crate) struct Agent {
    pub(crate) connection: Connection,
    pub(crate) control: (SendStream, RecvStream),
    pub(crate) tariff: Tariff,
    pub(crate) min_grace_s: u32,
    _endpoint: Endpoint,
}

/// Fails the test instead of hanging it.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("this takes far too long")
}

/// Looks again and again, until what is looked for is so; fails the test instead of hanging it.
pub(crate) async fn until(is_so: impl AsyncFn() -> bool) {
    soon(async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A bare connection: nothing is said on it.
pub(crate) async fn dial(node: &RunningNode) -> (Endpoint, Connection) {
    dial_as(node, node.node_id()).await.unwrap()
}

/// The same, expecting a certain key.
pub(crate) async fn dial_as(node: &RunningNode, id: NodeId) -> Result<(Endpoint, Connection), ConnectionError> {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(client_config(id), node.local_addr(), SERVER_NAME).unwrap();
    Ok((endpoint, soon(connecting).await?))
}

/// The chain of the tests.
pub(crate) fn chain_ids(world: &World) -> ChainIds {
    ChainIds {
        genesis_hash: EMBEDDED_GENESIS_HASH,
        program: Program::local().id.to_bytes(),
        mint: world.setup.mint.to_bytes(),
    }
}

/// What the node answers on a request stream first.
#[derive(Debug)]
pub(crate) enum Answer {
    Head(FetchHead),
    Refused(Refusal),
}

impl Agent {
    /// Connects and greets.
    pub(crate) async fn greet(world: &World, node: &RunningNode) -> Self {
        let (endpoint, connection) = dial(node).await;
        Self::greet_over(endpoint, connection, world, 0).await
    }

    /// The same for an agent of this minor version: from 1 on receipts come between the node's other words.
    pub(crate) async fn greet_as(minor_version: u16, world: &World, node: &RunningNode) -> Self {
        let (endpoint, connection) = dial(node).await;
        Self::greet_over(endpoint, connection, world, minor_version).await
    }

    /// Connects and greets, with room for only so many unread bytes on each stream.
    pub(crate) async fn greet_with_window(world: &World, node: &RunningNode, window: u32) -> Self {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut transport = quinn::TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(window));
        let mut config = client_config(node.node_id());
        config.transport_config(std::sync::Arc::new(transport));
        let connecting = endpoint.connect_with(config, node.local_addr(), SERVER_NAME).unwrap();
        let connection = soon(connecting).await.unwrap();
        Self::greet_over(endpoint, connection, world, 0).await
    }

    async fn greet_over(endpoint: Endpoint, connection: Connection, world: &World, minor_version: u16) -> Self {
        let mut control = connection.open_bi().await.unwrap();
        say(&mut control.0, &Hello { minor_version, chain: chain_ids(world) }).await;
        let hello: NodeHello = hear(&mut control.1).await;
        assert_eq!(hello.chain, chain_ids(world));
        let (tariff, min_grace_s) = (hello.tariff, hello.min_grace_s);
        Self { connection, control, tariff, min_grace_s, _endpoint: endpoint }
    }

    /// Connects, greets and binds.
    pub(crate) async fn bound(world: &World, node: &RunningNode, funded: &Funded) -> Self {
        let mut agent = Self::greet(world, node).await;
        agent.bind(funded).await.unwrap();
        agent
    }

    pub(crate) async fn bind(&mut self, funded: &Funded) -> Result<Bound, Refusal> {
        self.bind_as(funded, &funded.signer).await
    }

    pub(crate) async fn bind_as(&mut self, funded: &Funded, key: &SecretKey) -> Result<Bound, Refusal> {
        self.bind_with(&Bind { channel: funded.channel, id: None, replaces: Vec::new() }, key).await
    }

    pub(crate) async fn bind_with(&mut self, bind: &Bind, key: &SecretKey) -> Result<Bound, Refusal> {
        let binding = self.binding(&self.control.0);
        let signed = Signed::new(bind, key, &binding).unwrap();
        self.control.0.write_all(&signed.to_frame()).await.unwrap();
        loop {
            let (kind, body) = soon(frame(&mut self.control.1)).await.unwrap();
            match kind {
                Bound::KIND => return Ok(decode_body(kind, &body).unwrap()),
                Refused::KIND => return Err(decode_body::<Refused>(kind, &body).unwrap().refusal),
                Credit::KIND => {}
                other => panic!("kind {other:#x}"),
            }
        }
    }

    pub(crate) fn binding(&self, stream: &SendStream) -> Binding {
        let mut exporter = [0; 32];
        self.connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").unwrap();
        Binding { exporter, stream: u64::from(VarInt::from(stream.id())) }
    }

    /// Sends a signed request on a stream of its own.
    pub(crate) async fn ask<M: Message>(&self, message: &M, key: &SecretKey) -> (SendStream, RecvStream) {
        let (mut send, receive) = self.connection.open_bi().await.unwrap();
        let signed = Signed::new(message, key, &self.binding(&send)).unwrap();
        send.write_all(&signed.to_frame()).await.unwrap();
        (send, receive)
    }

    /// Asks for a content and hears the first answer.
    pub(crate) async fn open(&self, fetch: &Fetch, key: &SecretKey) -> (SendStream, RecvStream, Answer) {
        let (send, mut receive) = self.ask(fetch, key).await;
        let answer = answer(&mut receive).await;
        (send, receive, answer)
    }

    /// Why the node refuses a fetch. The refusal is followed by a clean finish.
    pub(crate) async fn refusal_of(&self, fetch: &Fetch, key: &SecretKey) -> Refusal {
        let (_send, mut receive, answer) = self.open(fetch, key).await;
        let Answer::Refused(refusal) = answer else { panic!("{answer:?}") };
        assert_eq!(soon(receive.read(&mut [0; 1])).await.unwrap(), None);
        refusal
    }

    /// Pays a total, and waits until it is credited or refused.
    pub(crate) async fn pay(&mut self, funded: &Funded, cumulative: u64) -> Result<Credit, PayRefused> {
        let voucher = Voucher { channel: funded.channel, cumulative: Amount::new(cumulative), expires_at: 0 };
        self.pay_with(voucher, &funded.signer).await
    }

    /// Pays with any voucher.
    pub(crate) async fn pay_with(&mut self, voucher: Voucher, key: &SecretKey) -> Result<Credit, PayRefused> {
        let signature = voucher.sign(key).signature;
        let (cumulative, expires_at) = (voucher.cumulative, voucher.expires_at);
        say(&mut self.control.0, &Pay { voucher: VoucherOnWire { cumulative, expires_at, signature } }).await;
        loop {
            let (kind, body) = soon(frame(&mut self.control.1)).await.expect("the node answers");
            match kind {
                Credit::KIND => {
                    let credit: Credit = decode_body(kind, &body).unwrap();
                    if credit.cumulative >= cumulative {
                        return Ok(credit);
                    }
                }
                PayRefused::KIND => return Err(decode_body(kind, &body).unwrap()),
                Goaway::KIND => {}
                other => panic!("kind {other:#x}"),
            }
        }
    }

    /// Fetches all of a content, proving each byte and paying for it on top of `paid` base units.
    pub(crate) async fn fetch(&mut self, content: ContentId, funded: &Funded, paid: u64) -> Vec<u8> {
        let (_send, mut receive, answer) = self.open(&whole(content), &funded.signer).await;
        let Answer::Head(head) = answer else { panic!("{answer:?}") };
        self.take(&mut receive, content, &head, funded, paid).await
    }

    /// The same once the answer has begun.
    pub(crate) async fn take(
        &mut self,
        receive: &mut RecvStream,
        content: ContentId,
        head: &FetchHead,
        funded: &Funded,
        paid: u64,
    ) -> Vec<u8> {
        let mut reader = Proving::new(content, head.size.get());
        let mut paid_for = 0;
        while reader.next(receive).await {
            if reader.proven.len() - paid_for >= PAY_EVERY {
                paid_for = reader.proven.len();
                let owed = self.tariff.price(ByteCount::new(paid_for as u64)).unwrap();
                self.pay(funded, paid + owed.get()).await.unwrap();
            }
        }
        if reader.proven.len() > paid_for {
            let owed = self.tariff.price(ByteCount::new(reader.proven.len() as u64)).unwrap();
            self.pay(funded, paid + owed.get()).await.unwrap();
        }
        assert_eq!(soon(receive.read(&mut [0; 1])).await.unwrap(), None);
        reader.proven
    }

    /// The code with which the node closes the connection.
    pub(crate) async fn closed_with(&self) -> u32 {
        close_code(&self.connection).await
    }
}

/// The code with which the node closes a connection.
pub(crate) async fn close_code(connection: &Connection) -> u32 {
    match soon(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => u64::from(close.error_code) as u32,
        other => panic!("{other}"),
    }
}

/// Proves a response item by item.
pub(crate) struct Proving {
    decoder: Decoder,
    pub(crate) proven: Vec<u8>,
}

impl Proving {
    pub(crate) fn new(content: ContentId, size: u64) -> Self {
        let answered = ByteRanges::all().answered(size, GroupSize::KIB64);
        Self { decoder: Decoder::new(content, answered).unwrap(), proven: Vec::new() }
    }

    /// Reads one item; false at the end.
    pub(crate) async fn next(&mut self, receive: &mut RecvStream) -> bool {
        let Some(len) = self.decoder.expects() else { return false };
        let mut item = vec![0; len];
        soon(receive.read_exact(&mut item)).await.expect("the node sends on");
        if let Some(leaf) = self.decoder.accept(item).expect("the item proves") {
            self.proven.extend_from_slice(leaf.bytes());
        }
        true
    }
}

/// A fetch of all of one content, at any price.
pub(crate) fn whole(content: ContentId) -> Fetch {
    Fetch {
        items: vec![FetchItem { content, ranges: ByteRanges::all() }],
        group_log2: GroupSize::KIB64.log2(),
        max_price: Amount::new(u64::MAX),
    }
}

pub(crate) async fn answer(receive: &mut RecvStream) -> Answer {
    let (kind, body) = soon(frame(receive)).await.expect("the node answers");
    match kind {
        FetchHead::KIND => Answer::Head(decode_body(kind, &body).unwrap()),
        Refused::KIND => Answer::Refused(decode_body::<Refused>(kind, &body).unwrap().refusal),
        other => panic!("kind {other:#x}"),
    }
}

pub(crate) async fn say<M: Message>(send: &mut SendStream, message: &M) {
    send.write_all(&encode_frame(message).unwrap()).await.unwrap();
}

pub(crate) async fn hear<M: Message>(receive: &mut RecvStream) -> M {
    let (kind, body) = soon(frame(receive)).await.expect("a frame");
    decode_body(kind, &body).unwrap()
}

/// The next frame; none if the stream or connection ends.
pub(crate) async fn frame(receive: &mut RecvStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; FRAME_HEAD];
    receive.read_exact(&mut head).await.ok()?;
    let head = FrameHead::parse(&head).unwrap();
    let mut body = vec![0; head.body_len];
    receive.read_exact(&mut body).await.ok()?;
    Some((head.kind, body))
}

/// Content after which these agents pay: half a quantum.
const PAY_EVERY: usize = 512 * 1024;
