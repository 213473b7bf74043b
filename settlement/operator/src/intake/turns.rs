//! One handoff of a node at a time, over however many connections: no node keeps the others from being heard.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use aro_proto::AgentId;
use tokio::sync::Mutex;

/// The nodes whose handoffs are worked on, or wait.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    in_use: std::sync::Mutex<HashMap<AgentId, Arc<Mutex<()>>>>,
}

impl Turns {
    /// What a handoff signed by `signer` must lock, and keep locked while it is worked on.
    pub(super) fn of(&self, signer: AgentId) -> Arc<Mutex<()>> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(in_use.entry(signer).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handoffs_of_a_node_share_a_turn_which_is_forgotten_after_the_last() {
        let turns = Turns::default();
        let [one, other] = [1, 2].map(|byte| AgentId::from_bytes([byte; 32]));
        let turn = turns.of(one);
        let _begun = turn.try_lock().unwrap();
        assert!(turns.of(one).try_lock().is_err());
        assert!(turns.of(other).try_lock().is_ok());
        turns.of(one);
        assert_eq!(turns.in_use.lock().unwrap().keys().collect::<Vec<_>>(), [&one]);
    }
}
