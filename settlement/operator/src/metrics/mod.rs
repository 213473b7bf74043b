//! What an operator counts, for monitoring: the text format of Prometheus.
//!
//! No label is something that a peer chooses: every series is known from the start, or bounded by a list of this code.

mod chain;
mod serve;
mod servers;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use aro_proto::RefusalCode;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use settlement_chain::ChainClient;
use settlement_chain::submit::offered_priority_fee;

pub use chain::{MeteredChain, connect_metered};
pub use serve::MetricsServer;

use crate::batch::{Due, Kind};
use crate::submit::JournalEntry;

/// Every figure of an operator. All names begin with `aro_settle_`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    accepted: Counter,
    refused: Family<Label, Counter>,
    handoffs_refused: Family<Label, Counter>,
    connections: Gauge<u64, AtomicU64>,
    connections_refused: Counter,
    stored: Gauge<u64, AtomicU64>,
    unsettled: Gauge<u64, AtomicU64>,
    oldest_age: Gauge,
    closing: Gauge<u64, AtomicU64>,
    closing_at_risk: Gauge<u64, AtomicU64>,
    nearest_deadline: Gauge,
    due: Family<Label, Counter>,
    transactions: Family<[(&'static str, &'static str); 2], Counter>,
    fees: Family<Label, Counter>,
    credited: Counter,
    lamports: Gauge<u64, AtomicU64>,
    operator_fees: Gauge<u64, AtomicU64>,
    quarantined: Gauge<u64, AtomicU64>,
    lease_held: Gauge,
    rounds: Family<[(&'static str, &'static str); 2], Counter>,
    round_duration: Family<Label, Histogram, fn() -> Histogram>,
    rpc_calls: Family<[(&'static str, String); 1], Counter>,
    rpc_errors: Family<[(&'static str, String); 1], Counter>,
    servers: servers::ServerFigures,
}

type Label = [(&'static str, &'static str); 1];

/// Which of an operator's three works a round was of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Stored vouchers that are due.
    Settle,
    /// Closing channels.
    Urgent,
    /// Channels without stored vouchers: finalize, reclaim, fees.
    Sweep,
}

impl Lane {
    /// Its name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Settle => "settle",
            Self::Urgent => "urgent",
            Self::Sweep => "sweep",
        }
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionEnd {
    /// It is confirmed.
    Landed,
    /// It had no effect and never will.
    Void,
    /// Nobody knows.
    Open,
}

impl TransactionEnd {
    const fn name(self) -> &'static str {
        match self {
            Self::Landed => "landed",
            Self::Void => "void",
            Self::Open => "open",
        }
    }
}

/// What is stored and not settled, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Stored vouchers.
    pub stored: u64,
    /// Base units that they are above the chain's watermarks.
    pub unsettled: u64,
    /// Seconds for which the oldest of that has been waiting.
    pub oldest_age_s: i64,
    /// Stored vouchers whose channels are closing.
    pub closing: u64,
    /// Base units that these are above the chain's watermarks.
    pub closing_at_risk: u64,
    /// Unix second of the first deadline among those with something at risk; 0 if there is none.
    pub nearest_deadline: i64,
}

impl Metrics {
    /// All figures at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("aro_settle");
        let metrics = Self {
            registry: Registry::default(),
            accepted: Counter::default(),
            refused: Family::default(),
            handoffs_refused: Family::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            stored: Gauge::default(),
            unsettled: Gauge::default(),
            oldest_age: Gauge::default(),
            closing: Gauge::default(),
            closing_at_risk: Gauge::default(),
            nearest_deadline: Gauge::default(),
            due: Family::default(),
            transactions: Family::default(),
            fees: Family::default(),
            credited: Counter::default(),
            lamports: Gauge::default(),
            operator_fees: Gauge::default(),
            quarantined: Gauge::default(),
            lease_held: Gauge::default(),
            rounds: Family::default(),
            round_duration: Family::new_with_constructor(|| Histogram::new(ROUND_SECONDS)),
            rpc_calls: Family::default(),
            rpc_errors: Family::default(),
            servers: servers::ServerFigures::default(),
        };
        metrics.register(&mut registry);
        // Series that alerts watch are there from the start, at zero.
        for lane in [Lane::Settle, Lane::Urgent, Lane::Sweep] {
            for outcome in ["ok", "failed"] {
                let _ = metrics.rounds.get_or_create_owned(&[("lane", lane.name()), ("outcome", outcome)]);
            }
        }
        for part in ["base", "priority"] {
            let _ = metrics.fees.get_or_create_owned(&[("part", part)]);
        }
        Self { registry, ..metrics }
    }

    /// A voucher is durable.
    pub fn accepted(&self, vouchers: u64) {
        self.accepted.inc_by(vouchers);
    }

    /// A voucher was refused.
    pub fn refused(&self, code: RefusalCode) {
        self.refused.get_or_create(&[("reason", code.name())]).inc();
    }

    /// A whole handoff was refused, unread.
    pub fn handoff_refused(&self, code: RefusalCode) {
        self.handoffs_refused.get_or_create(&[("reason", code.name())]).inc();
    }

    /// A connection came (`true`) or went.
    pub fn connection(&self, came: bool) {
        if came {
            self.connections.inc()
        } else {
            self.connections.dec()
        };
    }

    /// A connection found no place.
    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// How much waits.
    pub fn standing(&self, standing: &Standing) {
        self.stored.set(standing.stored);
        self.unsettled.set(standing.unsettled);
        self.oldest_age.set(standing.oldest_age_s);
        self.closing.set(standing.closing);
        self.closing_at_risk.set(standing.closing_at_risk);
        self.nearest_deadline.set(standing.nearest_deadline);
    }

    /// A voucher was planned for this reason.
    pub fn due(&self, due: Due) {
        self.due.get_or_create(&[("reason", due.name())]).inc();
    }

    /// A transaction ended.
    pub fn transaction(&self, kind: Kind, end: TransactionEnd) {
        self.transactions.get_or_create(&[("kind", kind.name()), ("outcome", end.name())]).inc();
    }

    /// This transaction is in a block, and has cost its fee whatever came of it.
    pub(crate) fn spent_on(&self, entry: &JournalEntry) {
        let priority = offered_priority_fee(&entry.prepared.transaction);
        self.spent(entry.fee_lamports.saturating_sub(priority), priority);
    }

    /// A transaction has cost this, in lamports.
    pub fn spent(&self, base: u64, priority: u64) {
        self.fees.get_or_create(&[("part", "base")]).inc_by(base);
        self.fees.get_or_create(&[("part", "priority")]).inc_by(priority);
    }

    /// Watermarks rose by this many base units.
    pub fn credited(&self, base_units: u64) {
        self.credited.inc_by(base_units);
    }

    /// What the hot key and the operator account hold: lamports, base units.
    pub fn balances(&self, lamports: u64, fees: u64) {
        self.lamports.set(lamports);
        self.operator_fees.set(fees);
    }

    /// Entries that are set aside because the chain refuses them.
    pub fn quarantined(&self, entries: u64) {
        self.quarantined.set(entries);
    }

    /// Whether this process is the one that settles.
    pub fn lease_held(&self, held: bool) {
        self.lease_held.set(i64::from(held));
    }

    /// A round ended.
    pub fn round(&self, lane: Lane, ok: bool, took: Duration) {
        let outcome = if ok { "ok" } else { "failed" };
        self.rounds.get_or_create(&[("lane", lane.name()), ("outcome", outcome)]).inc();
        self.round_duration.get_or_create(&[("lane", lane.name())]).observe(took.as_secs_f64());
    }

    /// A server was asked; `ok` if it answered.
    pub fn rpc(&self, server: usize, ok: bool) {
        let label = [("server", server.to_string())];
        self.rpc_calls.get_or_create(&label).inc();
        self.rpc_errors.get_or_create(&label).inc_by(u64::from(!ok));
    }

    /// From now on the page tells how these servers are doing.
    pub fn watch_servers(&self, chain: &Arc<dyn ChainClient>) {
        self.servers.watch(chain);
    }

    /// Everything in the text format of Prometheus.
    pub fn to_text(&self) -> String {
        self.servers.look();
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("vouchers_accepted", "Vouchers made durable", self.accepted.clone());
        registry.register("vouchers_refused", "Vouchers refused, by reason", self.refused.clone());
        registry.register("handoffs_refused", "Handoffs refused unread, by reason", self.handoffs_refused.clone());
        registry.register("connections", "Connections of nodes", self.connections.clone());
        registry.register("connections_refused", "Connections without a place", self.connections_refused.clone());
        registry.register("stored_vouchers", "Vouchers that wait", self.stored.clone());
        registry.register("unsettled_base_units", "What they are above the chain", self.unsettled.clone());
        let seconds = |registry: &mut Registry, name, help, gauge: &Gauge| {
            registry.register_with_unit(name, help, Unit::Seconds, gauge.clone());
        };
        seconds(registry, "unsettled_oldest_age", "How long the oldest of it waits", &self.oldest_age);
        registry.register("closing_channels", "Closing channels with a stored voucher", self.closing.clone());
        registry.register("closing_base_units", "What these are above the chain", self.closing_at_risk.clone());
        let help = "Unix second of the first deadline with something at risk; 0 if none";
        seconds(registry, "closing_deadline_timestamp", help, &self.nearest_deadline);
        registry.register("due", "Vouchers planned, by reason", self.due.clone());
        registry.register("transactions", "Transactions, by kind and outcome", self.transactions.clone());
        registry.register(
            "fees_lamports",
            "Fees of transactions that landed, or failed in their block",
            self.fees.clone(),
        );
        registry.register("credited_base_units", "What watermarks rose by", self.credited.clone());
        registry.register("authority_lamports", "What the hot key holds", self.lamports.clone());
        registry.register("earned_base_units", "Fees that lie in the operator account", self.operator_fees.clone());
        registry.register("quarantined_entries", "Entries that the chain refuses", self.quarantined.clone());
        registry.register("lease_held", "1 if this process settles", self.lease_held.clone());
        registry.register("rounds", "Rounds, by lane and outcome", self.rounds.clone());
        let help = "How long rounds take, by lane";
        registry.register_with_unit("round_duration", help, Unit::Seconds, self.round_duration.clone());
        registry.register("rpc_calls", "Questions to Solana servers, by index", self.rpc_calls.clone());
        registry.register("rpc_errors", "Questions without an answer", self.rpc_errors.clone());
        self.servers.register(registry);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Buckets of round durations, in seconds: a confirmation takes about one, a blockhash dies after some 60.
const ROUND_SECONDS: [f64; 9] = [0.1, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 180.0, 600.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_in_the_text_under_its_name() {
        let metrics = Metrics::new();
        metrics.accepted(3);
        metrics.refused(RefusalCode::VoucherExpired);
        metrics.transaction(Kind::Close, TransactionEnd::Landed);
        metrics.spent(5_000, 7);
        metrics.round(Lane::Urgent, false, Duration::from_millis(700));
        metrics.rpc(1, true);
        metrics.rpc(1, false);
        metrics.standing(&Standing { closing: 2, nearest_deadline: 1_800_000_000, ..Standing::default() });
        let text = metrics.to_text();
        for line in [
            "aro_settle_vouchers_accepted_total 3",
            "aro_settle_vouchers_refused_total{reason=\"VoucherExpired\"} 1",
            "aro_settle_transactions_total{kind=\"close\",outcome=\"landed\"} 1",
            "aro_settle_fees_lamports_total{part=\"base\"} 5000",
            "aro_settle_fees_lamports_total{part=\"priority\"} 7",
            "aro_settle_rounds_total{lane=\"urgent\",outcome=\"failed\"} 1",
            "aro_settle_rounds_total{lane=\"settle\",outcome=\"ok\"} 0",
            "aro_settle_round_duration_seconds_count{lane=\"urgent\"} 1",
            "aro_settle_rpc_calls_total{server=\"1\"} 2",
            "aro_settle_rpc_errors_total{server=\"1\"} 1",
            "aro_settle_closing_channels 2",
            "aro_settle_closing_deadline_timestamp_seconds 1800000000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
