//! What every task of a running node shares.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aro_proto::message::ChainIds;
use aro_proto::places::Places;
use aro_proto::{NodeId, SecretKey};
use settlement_chain::{Address, ChainClient, Program};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::channels::{Channels, Freshness};
use crate::config::NodeConfig;
use crate::content::{ContentStore, Shelf};
use crate::handoff::Desk;
use crate::ledger::{CommitterHandle, RedbLedger};
use crate::names::Names;
use crate::watch::Fees;

/// One node, seen from its tasks.
pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) key: SecretKey,
    pub(crate) id: NodeId,
    pub(crate) chain: Arc<dyn ChainClient>,
    pub(crate) program: Program,
    pub(crate) chain_ids: ChainIds,
    /// The node's account on chain.
    pub(crate) account: Address,
    /// What the node's account said when it was last read.
    pub(crate) registered: watch::Sender<OnChain>,
    /// How old the view of the chain is.
    pub(crate) freshness: Freshness,
    /// One for each operator of the configuration.
    pub(crate) desks: Vec<Desk>,
    pub(crate) store: ContentStore,
    pub(crate) shelf: Shelf,
    pub(crate) names: Names,
    pub(crate) ledger: Arc<RedbLedger>,
    /// What its own settling may spend.
    pub(crate) fees: Fees,
    pub(crate) channels: Channels,
    pub(crate) committer: CommitterHandle,
    pub(crate) places: Places,
    pub(crate) requests: Semaphore,
    pub(crate) counters: Counters,
    /// Rings when a voucher should leave at once.
    pub(crate) bell: Bell,
    /// Looks at the chain that agents cause, at once.
    pub(crate) chain_reads: Semaphore,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) running: watch::Sender<usize>,
    /// Never used: its end tells that no task is left. Last, so that all else is dropped before.
    pub(crate) _alive: mpsc::Sender<Infallible>,
}

/// The terms of the node's account, which its owner may change while the node serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnChain {
    /// The operator account that may close channels; zeros (the system program) for none.
    pub(crate) operator: Address,
    /// Shortest grace of a new channel, in seconds.
    pub(crate) min_grace_s: u32,
}

/// Wakes whoever carries vouchers away: the handoffs and the watchtower.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bell(Arc<watch::Sender<u64>>);

impl Bell {
    /// Wakes all who listen, now or when they next do.
    pub(crate) fn ring(&self) {
        self.0.send_modify(|turn| *turn = turn.wrapping_add(1));
    }

    /// Hears every ring from now on.
    pub(crate) fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}

/// The phases of a node's life, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Requests are taken.
    Serving,
    /// No request is taken; those that run may finish, and be paid.
    Draining,
    /// Connections tell the last credit and end.
    Closing,
}

/// What the node has done since it started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Content bytes handed to the transport.
    pub(crate) content_bytes: AtomicU64,
    /// Content bytes taken from publishers.
    pub(crate) taken_bytes: AtomicU64,
    /// Requests answered with content, a description or a receipt.
    pub(crate) answered: AtomicU64,
    /// Requests refused.
    pub(crate) refused: AtomicU64,
}

impl Shared {
    /// Returns when the node has come to this phase.
    pub(crate) async fn comes_to(&self, phase: Phase) {
        // The sender is in this very struct, so waiting cannot fail.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.phase.borrow() >= Phase::Draining
    }

    /// Counts a request as running until the guard is dropped.
    pub(crate) fn request_runs(self: &Arc<Self>) -> Running {
        self.running.send_modify(|count| *count += 1);
        Running(Arc::clone(self))
    }
}

/// A request that is being served.
pub(crate) struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|count| *count -= 1);
    }
}

/// Unix seconds now, by this machine's clock.
pub(crate) fn unix_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn read(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
