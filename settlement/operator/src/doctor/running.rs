//! What only a running operator can tell: how its servers have been doing, and what it has spent.

use std::time::Instant;

use settlement_chain::ServerHealth;

use super::Finding;
use crate::submit::FeeBudget;

/// How the servers have been doing since the operator started.
pub fn examine_servers(health: &[ServerHealth]) -> Finding {
    let shown: Vec<String> = health.iter().enumerate().map(|(index, it)| shown(index, it)).collect();
    let text = shown.join("; ");
    if health.is_empty() {
        return Finding::ok("servers", "there is one, and no other to compare it with");
    }
    let contradictions = health.iter().map(|it| it.contradictions).max().unwrap_or_default();
    if let Some(index) = health.iter().position(|it| it.is_absent) {
        let next = format!("server {index} has no say any more, and nothing is forgotten without it: replace it");
        return Finding::warn("servers", text, &next);
    }
    if let Some(index) = health.iter().position(|it| !it.is_up || it.lag_slots > MAX_LAG_SLOTS) {
        return Finding::warn("servers", text, &format!("look at server {index} of rpc_url; use one that keeps up"));
    }
    if contradictions > MAX_CONTRADICTIONS {
        let text = format!("{text}; they contradicted each other {contradictions} times");
        return Finding::warn("servers", text, "find out which of them is wrong, and take it out of rpc_url");
    }
    Finding::ok("servers", text)
}

fn shown(index: usize, health: &ServerHealth) -> String {
    let ServerHealth { answered, failed, is_up, lag_slots, .. } = health;
    let is = if *is_up { "up" } else { "down" };
    format!("server {index} is {is}, {lag_slots} slots behind, {answered} answers, {failed} failures")
}

/// What is left of this hour's priority fees: one finding for each lane.
pub fn examine_fees(budget: &FeeBudget, now: Instant) -> [Finding; 2] {
    [false, true].map(|is_urgent| {
        let lane = budget.policy().lane(is_urgent);
        let check = if is_urgent { "urgent fees" } else { "normal fees" };
        let (spent, cap) = (budget.spent_within_hour(is_urgent, now), lane.max_per_hour);
        let most = lane.max_per_transaction;
        let text = format!("{spent} of {cap} lamports of this hour's priority fees, at most {most} a transaction");
        // All of it is gone when the next transaction cannot offer what it may.
        if spent > 0 && cap.saturating_sub(spent) < most {
            let next = "work goes out with less and waits longer; if the chain is busy, raise max_per_hour in fees";
            Finding::warn(check, text, next)
        } else {
            Finding::ok(check, text)
        }
    })
}

/// Slots that a server may be behind the newest read: some 12 seconds.
const MAX_LAG_SLOTS: u64 = 30;
/// Contradictions that forks and slow voting explain.
const MAX_CONTRADICTIONS: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use crate::submit::{FeePolicy, LanePolicy};

    fn healthy() -> ServerHealth {
        ServerHealth {
            name: "https://one.example".into(),
            answered: 9,
            failed: 0,
            is_up: true,
            is_late: false,
            lag_slots: 2,
            is_absent: false,
            contradictions: 3,
        }
    }

    #[test]
    fn server_that_is_down_lags_or_is_contradicted_is_named() {
        assert_eq!(examine_servers(&[]).level, Level::Ok);
        assert_eq!(examine_servers(&[healthy(), healthy()]).level, Level::Ok);
        for (bad, says) in [
            (ServerHealth { is_up: false, ..healthy() }, "server 1 of"),
            (ServerHealth { lag_slots: 31, ..healthy() }, "server 1 of"),
            (ServerHealth { is_absent: true, ..healthy() }, "server 1 has no say"),
            (ServerHealth { contradictions: 101, ..healthy() }, "which of them"),
        ] {
            let finding = examine_servers(&[healthy(), bad]);
            assert!(finding.level == Level::Warn && finding.next_step.contains(says), "{finding:?}");
            assert!(!finding.message.contains("one.example"), "addresses may hold secrets: {finding:?}");
        }
    }

    #[test]
    fn spent_hour_is_told() {
        let now = Instant::now();
        let usual = FeePolicy::default();
        let urgent = LanePolicy { max_per_transaction: 600, max_per_hour: 1_000, ..usual.urgent };
        let budget = FeeBudget::new(FeePolicy { urgent, ..usual });
        assert_eq!(examine_fees(&budget, now).map(|finding| finding.level), [Level::Ok; 2]);
        budget.take(true, 600, now);
        let findings = examine_fees(&budget, now);
        assert_eq!(findings.clone().map(|finding| finding.level), [Level::Ok, Level::Warn]);
        assert!(findings[1].message.starts_with("600 of 1000 lamports"), "{findings:?}");
    }
}
