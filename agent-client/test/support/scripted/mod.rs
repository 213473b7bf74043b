//! A node that follows a script: right where the script says nothing, wrong exactly where it says so.

mod answer;
mod bytes;
mod control;
mod script;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aro_proto::channel::SignedVoucher;
use aro_proto::limits::{EXPORTER_LABEL, EXPORTER_LEN, MAX_REQUEST_STREAMS};
use aro_proto::merkle::{AnsweredRanges, ByteRanges, Encoder, GroupSize, Outboard, PreOrderOutboard, Step};
use aro_proto::message::{ChainIds, Delivery};
use aro_proto::{Address, Amount, Charge, ContentId, NodeId, SecretKey, Tariff, transport};
use quinn::{Connection, Endpoint, TransportConfig, VarInt};
use settlement_chain::EmbeddedChain;
use tokio::sync::watch;

pub use self::bytes::{content, garbage, too_long};
pub use self::script::{Receipts, Script, Seen};

use self::bytes::encode_of;
use super::world::World;

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
