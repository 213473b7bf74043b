//! What every task of a running node shares.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aro_proto::message::ChainIds;
use aro_proto::{NodeId, SecretKey};
use settlement_chain::{Address, ChainClient, Program};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::channels::Channels;
use crate::config::NodeConfig;
use crate::content::ContentStore;
use crate::ledger::{CommitterHandle, RedbLedger};
use crate::transport::ConnectionSlots;

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
    /// The operator account that settles for the node, as the node's account says.
    pub(crate) operator_account: Option<Address>,
    pub(crate) min_grace_s: u32,
    pub(crate) store: ContentStore,
    pub(crate) ledger: Arc<RedbLedger>,
    pub(crate) channels: Channels,
    pub(crate) committer: CommitterHandle,
    pub(crate) slots: ConnectionSlots,
    pub(crate) requests: Semaphore,
    pub(crate) counters: Counters,
    pub(crate) hand_off: Arc<Notify>,
    /// Looks at the chain that agents cause, at once.
    pub(crate) chain_reads: Semaphore,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) running: watch::Sender<usize>,
    /// Never used: its end tells that no task is left. Last, so that all else is dropped before.
    pub(crate) _alive: mpsc::Sender<Infallible>,
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
    /// Requests answered with content or a description.
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

    /// Asks for a handoff without waiting for it.
    pub(crate) fn hand_off_soon(&self) {
        self.hand_off.notify_one();
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
