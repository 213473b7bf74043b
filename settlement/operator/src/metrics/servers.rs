//! How each Solana server is doing, as the chain's client sees it at the moment of the scrape.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use settlement_chain::ChainClient;

/// One series for each server, by its index in the configuration: its address may hold a secret.
#[derive(Default)]
pub(super) struct ServerFigures {
    /// Weak, for the chain counts in the metrics that hold this.
    chain: OnceLock<Weak<dyn ChainClient>>,
    up: Family<Server, Gauge>,
    absent: Family<Server, Gauge>,
    lag: Family<Server, Gauge<u64, AtomicU64>>,
    contradictions: Counter,
}

type Server = [(&'static str, String); 1];

impl ServerFigures {
    /// The first chain stays.
    pub(super) fn watch(&self, chain: &Arc<dyn ChainClient>) {
        let _ = self.chain.set(Arc::downgrade(chain));
    }

    pub(super) fn look(&self) {
        let Some(chain) = self.chain.get().and_then(Weak::upgrade) else { return };
        for (index, health) in chain.health().into_iter().enumerate() {
            let label = [("server", index.to_string())];
            self.up.get_or_create(&label).set(i64::from(health.is_up));
            self.absent.get_or_create(&label).set(i64::from(health.is_absent));
            self.lag.get_or_create(&label).set(health.lag_slots);
            // The same for each of them, and never less than before.
            self.contradictions.inner().fetch_max(health.contradictions, Relaxed);
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("server_up", "1 if the server answered its last question", self.up.clone());
        let help = "1 if the server is silent for so long that the others decide without it";
        registry.register("server_absent", help, self.absent.clone());
        registry.register("server_lag_slots", "Slots behind the newest read of any server", self.lag.clone());
        let help = "Times that servers contradicted each other";
        registry.register("server_contradictions", help, self.contradictions.clone());
    }
}

impl fmt::Debug for ServerFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerFigures").field("is_watching", &self.chain.get().is_some()).finish_non_exhaustive()
    }
}
