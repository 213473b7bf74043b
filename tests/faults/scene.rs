//! One operator, some nodes and their channels in front of a faulty chain, and the audit that ends every test here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use aro_proto::ChannelId;
use aro_proto::message::{HandoffVerdict, HandoffVoucher};
use aro_tests::faulty::{FINALITY, Fuse, FusedChain, FusedStore, Ground, Server};
use aro_tests::line::{Line, Reply};
use aro_tests::stage::{FUNDS, NodeKeys, OperatorKeys, Stage};
use settlement_chain::{Address, ChainClient};
use settlement_interface::accounts::{Channel, status};
use settlement_operator::vouchers::{OperatorStore, RedbStore, StoreError};
use settlement_operator::{RunningOperator, SettleReport};
use tempfile::TempDir;

/// A deployment, its faults, and what has been promised to whom.
pub struct Scene {
    pub stage: Stage,
    pub ground: Arc<Ground>,
    pub server: Server,
    pub keys: OperatorKeys,
    pub nodes: Vec<NodeKeys>,
    /// Of each node.
    pub channels: Vec<Vec<ChannelId>>,
    pub promises: Promises,
    pub dir: TempDir,
    before: Totals,
}

/// What agents signed and operators acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Promises {
    /// The best that was handed over, acknowledged or not, with the wish to close if there ever was one.
    offered: BTreeMap<ChannelId, HandoffVoucher>,
    /// The highest amount that a node was told is safe.
    acknowledged: BTreeMap<ChannelId, u64>,
    /// Channels that an operator has agreed to close.
    to_close: BTreeSet<ChannelId>,
}

#[derive(Clone, Copy, Debug)]
struct Totals {
    tokens: u64,
    lamports: u64,
}

impl Scene {
    /// A node for each number, with so many channels of [`DEPOSIT`].
    pub async fn new(channels_of: &[usize]) -> Self {
        let mut stage = Stage::new().await.unwrap();
        let keys = stage.operator().await.unwrap();
        let (mut nodes, mut channels) = (Vec::new(), Vec::new());
        for count in channels_of {
            let node = stage.node(keys.account).await.unwrap();
            channels.push(stage.open(&node, *count, DEPOSIT).await.unwrap());
            nodes.push(node);
        }
        Self::on(stage, keys, nodes, channels).await
    }

    /// The same scene, as it stands now, on a chain of its own and with an empty store. Promises are not taken along.
    pub async fn branch(&self) -> Self {
        Self::on(self.stage.branch(), self.keys.clone(), self.nodes.clone(), self.channels.clone()).await
    }

    async fn on(stage: Stage, keys: OperatorKeys, nodes: Vec<NodeKeys>, channels: Vec<Vec<ChannelId>>) -> Self {
        let ground = Arc::new(Ground::new(stage.chain().clone(), stage.program()));
        let server = Server::new(Arc::clone(&ground));
        let before = Totals { tokens: stage.tokens().await.unwrap(), lamports: stage.lamports().await.unwrap() };
        let dir = tempfile::tempdir().unwrap();
        Self { stage, ground, server, keys, nodes, channels, promises: Promises::default(), dir, before }
    }

    /// Starts the operator on its server and its file.
    pub async fn start(&self) -> RunningOperator {
        self.start_on(Arc::new(self.server.clone())).await
    }

    /// The same on any view of the chain.
    pub async fn start_on(&self, chain: Arc<dyn ChainClient>) -> RunningOperator {
        self.start_in(self.dir.path(), chain).await
    }

    /// The same with a folder of its own.
    pub async fn start_in(&self, dir: &Path, chain: Arc<dyn ChainClient>) -> RunningOperator {
        self.stage.start(&self.keys, &self.stage.config(dir), chain).await.unwrap()
    }

    /// Starts the operator as a process that dies with the fuse; `None` if it dies while it starts.
    pub async fn start_mortal(&self, fuse: &Arc<Fuse>) -> Option<RunningOperator> {
        let store: Arc<dyn OperatorStore> = Arc::new(self.open_store().await);
        self.start_mortal_with(fuse, FusedStore::new(store, Arc::clone(fuse))).await
    }

    /// The same with a store that dies by itself.
    pub async fn start_mortal_with(&self, fuse: &Arc<Fuse>, store: Arc<dyn OperatorStore>) -> Option<RunningOperator> {
        let chain = FusedChain::new(Arc::new(self.server.clone()), Arc::clone(fuse));
        let config = self.stage.config(self.dir.path());
        let starting = self.stage.start_with_store(&self.keys, &config, chain, store);
        tokio::select! {
            biased;
            () = fuse.blows() => None,
            started = starting => match started {
                Ok(operator) => Some(operator),
                Err(_) if fuse.is_blown() => None,
                Err(error) => panic!("{error}"),
            },
        }
    }

    /// Waits until a cut-off life has let go of its file.
    pub async fn let_go(&self) {
        drop(self.open_store().await);
    }

    /// The operator's file; a cut-off life lets go of it a moment later.
    async fn open_store(&self) -> RedbStore {
        let path = self.stage.config(self.dir.path()).database();
        let opening = async {
            loop {
                match RedbStore::open(&path).await {
                    Err(StoreError::InUse) => tokio::task::yield_now().await,
                    opened => return opened.unwrap(),
                }
            }
        };
        tokio::time::timeout(PATIENCE, opening).await.expect("the file is free again")
    }

    /// The node of this number hands vouchers over; what is acknowledged is a promise. Returns the verdicts, or none
    /// if the handoff was not answered.
    pub async fn hand(
        &mut self,
        operator: &RunningOperator,
        node: usize,
        vouchers: &[HandoffVoucher],
    ) -> Vec<HandoffVerdict> {
        for voucher in vouchers {
            self.promises.offer(voucher);
        }
        let Ok(line) = Line::to(operator, &self.nodes[node].id, self.stage.chain_ids()).await else { return vec![] };
        let Ok(Reply::Ack(ack)) = line.hand(vouchers).await else { return vec![] };
        for (voucher, verdict) in vouchers.iter().zip(&ack.verdicts) {
            self.promises.hear(voucher, verdict);
        }
        ack.verdicts
    }

    /// The same as a node does it that has lived on: it hands over its best voucher of each of these channels, and says
    /// a wish to close anew.
    pub async fn hand_best(
        &mut self,
        operator: &RunningOperator,
        node: usize,
        vouchers: &[HandoffVoucher],
    ) -> Vec<HandoffVerdict> {
        let best: Vec<HandoffVoucher> = vouchers.iter().map(|voucher| self.promises.best(voucher)).collect();
        self.hand(operator, node, &best).await
    }

    /// Hands over what must be taken.
    pub async fn hand_all(&mut self, operator: &RunningOperator, node: usize, vouchers: &[HandoffVoucher]) {
        let verdicts = self.hand(operator, node, vouchers).await;
        assert_eq!(verdicts.len(), vouchers.len());
        assert!(verdicts.iter().all(|verdict| verdict.refusal.is_none()), "{verdicts:?}");
    }

    /// Rounds until the operator has nothing left to do and remembers no voucher, with blocks enough between them for
    /// anything to become final.
    pub async fn calm(&self, operator: &RunningOperator) -> Vec<SettleReport> {
        let mut reports = Vec::new();
        for _ in 0..MOST_ROUNDS {
            let report = operator.settle_once().await;
            self.ground.pass(4 * FINALITY).await;
            let Ok(report) = report else { continue };
            let is_idle = report.is_empty() && operator.vouchers().await.unwrap().is_empty();
            reports.push(report);
            if is_idle {
                return reports;
            }
        }
        panic!("not calm after {MOST_ROUNDS} rounds: {:?} {reports:#?}", operator.vouchers().await);
    }

    /// The channel's account on the chain as it is.
    pub async fn channel(&self, channel: ChannelId) -> Option<Channel> {
        let address = Address::new_from_array(channel.to_bytes());
        settlement_chain::reads::channel(self.ground.chain(), self.stage.program(), &address).await.unwrap()
    }

    /// True once no voucher can be credited on the channel any more.
    pub async fn is_closed(&self, channel: ChannelId) -> bool {
        self.channel(channel).await.is_none_or(|channel| channel.status == status::CLOSED)
    }

    /// Lamports of fees burnt since the scene began, by everybody.
    pub async fn burnt(&self) -> u64 {
        self.before.lamports - self.stage.lamports().await.unwrap()
    }

    /// True if the chain has settled all that was acknowledged of the channel, or it is closed.
    pub async fn is_safe(&self, channel: ChannelId) -> bool {
        let acknowledged = self.promises.acknowledged.get(&channel).copied().unwrap_or_default();
        self.channel(channel).await.is_none_or(|channel| channel.settled >= acknowledged)
    }

    /// What every test ends with, once things have calmed down. `most_fees` is in lamports.
    ///
    /// - No acknowledged voucher is lost: each channel has settled at least what a node was told is safe.
    /// - Nothing is paid twice or invented: each channel has settled at most what its agent signed; earnings and fees
    ///   are exactly the sum of what is settled; deposits less that are exactly what agents have or can get back; the
    ///   vault holds exactly what it owes; no token appeared or vanished.
    /// - Fees: lamports fell by what the landed transactions cost, which is at most `most_fees`.
    /// - No watermark ever fell, and every channel that was to be closed is closed.
    pub async fn audit(&self, most_fees: u64) {
        let channels: Vec<ChannelId> = self.channels.iter().flatten().copied().collect();
        let mut settled = 0;
        for channel in &channels {
            let watermark = self.ground.watermark(*channel).await;
            let acknowledged = self.promises.acknowledged.get(channel).copied().unwrap_or_default();
            let offered = self.promises.offered.get(channel).map_or(0, |voucher| voucher.cumulative.get());
            assert!(watermark >= acknowledged, "{channel}: {acknowledged} was acknowledged, {watermark} is settled");
            assert!(watermark <= offered, "{channel}: {offered} was signed, {watermark} is settled");
            settled += watermark;
        }
        for channel in &self.promises.to_close {
            assert!(self.is_closed(*channel).await, "{channel} was to be closed");
        }
        let books = self.stage.books().await.unwrap();
        books.assert_balanced();
        assert_eq!(books.earned + books.operator_fees + books.protocol_fees, settled, "{books:?}");
        assert_eq!(books.available + books.unsettled, FUNDS - settled, "{books:?}");
        assert_eq!(self.stage.tokens().await.unwrap(), self.before.tokens, "tokens are conserved");
        assert_eq!(self.ground.fallen().await, [], "watermarks never fall");

        let burnt = self.burnt().await;
        let landed = u64::try_from(self.ground.landings().await.len()).unwrap();
        assert!(burnt >= landed * BASE_FEE, "{landed} transactions landed, {burnt} lamports were burnt");
        assert!(burnt <= most_fees, "{landed} transactions burnt {burnt} lamports, above the bound of {most_fees}");
    }
}

impl Promises {
    pub fn offer(&mut self, voucher: &HandoffVoucher) {
        self.offered.insert(voucher.channel, self.best(voucher));
    }

    /// What the node holds of this channel once it has this voucher, too.
    fn best(&self, voucher: &HandoffVoucher) -> HandoffVoucher {
        let Some(known) = self.offered.get(&voucher.channel) else { return *voucher };
        let higher = if known.cumulative > voucher.cumulative { known } else { voucher };
        HandoffVoucher { close: known.close || voucher.close, ..*higher }
    }

    pub fn hear(&mut self, voucher: &HandoffVoucher, verdict: &HandoffVerdict) {
        assert_eq!(voucher.channel, verdict.channel, "verdicts come in order");
        if let Some(watermark) = verdict.watermark {
            let acknowledged = self.acknowledged.entry(voucher.channel).or_default();
            *acknowledged = (*acknowledged).max(watermark.get());
        }
        if verdict.refusal.is_none() {
            assert!(verdict.watermark >= Some(voucher.cumulative), "an acknowledgement says what is safe: {verdict:?}");
            if voucher.close {
                self.to_close.insert(voucher.channel);
            }
        }
    }
}

/// Base units in every channel.
pub const DEPOSIT: u64 = 1_000_000;
/// Lamports of a transaction with one signature.
pub const BASE_FEE: u64 = 5_000;
/// More lamports than all priority fees of a story differ by: after a start what nodes wish settles first and closes
/// later, perhaps in one batch with a closing channel, which pays a little for each voucher.
pub const PRIORITY: u64 = 200;

/// Rounds after which an operator must have come to rest.
const MOST_ROUNDS: usize = 12;
/// How long a crashed operator's file may stay locked.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
