//! What can be tuned. The defaults work; each field says what raising it costs.

use aro_proto::transport::TransportSettings;
use aro_proto::{Amount, limits};

/// An agent's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// Milliseconds for a handshake, and again for the host's lookup before it and for the greeting after it. Default
    /// 10,000. More: a dead node is noticed later.
    pub connect_timeout_ms: u64,
    /// Milliseconds for a request to leave, and again from there to its answer's head, the node's hello included.
    /// Default 20,000, for a node may first have to look a new channel up on chain. More: a silent node is noticed
    /// later.
    pub answer_timeout_ms: u64,
    /// Milliseconds in which at least one byte of an answer must come. Default 20,000, above a node's patience at
    /// its window. More: a stalled node is noticed later.
    pub stall_timeout_ms: u64,
    /// Milliseconds for the node to acknowledge the last voucher of a fetch. Default 5,000. The bytes are proven
    /// and paid by then; a node that never acknowledges costs this much time and nothing else. With 0 no fetch waits, and
    /// those that end within a moment share a voucher, which is what many small fetches want.
    pub credit_timeout_ms: u64,
    /// Milliseconds to wait for a channel that another process of the same wallet is using. Default 5,000. More: a
    /// fetch fails later where the other process goes on.
    pub channel_wait_ms: u64,
    /// Base units that may be paid ahead to a node that is trusted so far. Default 0: only proven bytes are paid.
    /// More: no pause at the first window, and this much at risk for each node.
    pub prepay: Amount,
    /// Bytes that wait for the disk, for each fetch to a file. Default 4 MiB. More: memory.
    pub write_queue_bytes: usize,
    /// Bytes of a fetched file that may stay in the system's page cache. Default 64 MiB: a larger file is written past it where
    /// the system can, which is faster and pushes nothing else out of memory. More: what is read right after its fetch
    /// need not come from the disk.
    pub page_cache_bytes: u64,
    /// Bytes that wait for whoever reads a fetch along, or for bytes before them, for each of its sources. Default 4 MiB.
    /// More: memory.
    pub read_ahead_bytes: usize,
    /// Congestion control of what the agent sends, which is requests, vouchers and uploads, and the largest packets that
    /// it takes and looks for. Default CUBIC; 6,500 bytes within a network of one's own and 1,452 elsewhere.
    pub transport: TransportSettings,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            connect_timeout_ms: limits::EXCHANGE_TIMEOUT_MS,
            answer_timeout_ms: 2 * limits::EXCHANGE_TIMEOUT_MS,
            stall_timeout_ms: limits::PAYMENT_TIMEOUT_MS + 5_000,
            credit_timeout_ms: 5_000,
            channel_wait_ms: 5_000,
            prepay: Amount::ZERO,
            write_queue_bytes: 4 << 20,
            page_cache_bytes: 64 << 20,
            read_ahead_bytes: 4 << 20,
            transport: TransportSettings::default(),
        }
    }
}
