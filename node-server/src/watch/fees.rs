//! What the node may spend on top of base fees: bounded for each hour, whichever of its processes spends it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use settlement_chain::Signature;
use settlement_chain::submit::{FeeBudget, FeePolicy, LanePolicy, Offer, Spent};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::ledger::{LedgerError, OfferedFee, RedbLedger};
use crate::shared::unix_now;

/// The hour's budget, and the ledger that remembers what was spent of it.
#[derive(Clone)]
pub(crate) struct Fees {
    budget: Arc<FeeBudget>,
    ledger: Arc<RedbLedger>,
    /// Keeps the node from ending while the ledger is in use.
    _alive: Option<mpsc::Sender<Infallible>>,
}

impl Fees {
    /// Pays as operators do for what is urgent, up to `max_priority_lamports` for a transaction. What the ledger knows to
    /// be offered within the hour before `now_s`, a unix second, is spent.
    // r[impl settlement.priority.bounded]
    pub(crate) fn recall(max_priority_lamports: u64, ledger: Arc<RedbLedger>, now_s: i64) -> Result<Self, LedgerError> {
        let capped = |lane: LanePolicy| LanePolicy {
            max_per_transaction: max_priority_lamports,
            max_per_hour: max_priority_lamports.saturating_mul(DEAREST_OF_AN_HOUR),
            ..lane
        };
        let usual = FeePolicy::default();
        let budget = FeeBudget::new(FeePolicy { normal: capped(usual.normal), urgent: capped(usual.urgent) });
        let spent = ledger.fees(now_s)?.into_iter().map(|fee| Spent {
            signature: fee.signature,
            lamports: fee.lamports,
            ago: Duration::from_secs(u64::try_from(now_s.saturating_sub(fee.at)).unwrap_or_default()),
        });
        budget.recall(ONE_LIFE, spent, Instant::now());
        Ok(Self { budget: Arc::new(budget), ledger, _alive: None })
    }

    /// The same for a node that waits for the end of all who hold `alive` before its ledger is free.
    pub(crate) fn of_node(self, alive: mpsc::Sender<Infallible>) -> Self {
        Self { _alive: Some(alive), ..self }
    }

    /// What is left of the hour.
    pub(crate) fn budget(&self) -> &FeeBudget {
        &self.budget
    }

    /// Writes down what a transaction offers; durable when this returns true. Where it cannot be, nothing must be offered:
    /// a process that crashes again and again would spend it each time.
    pub(crate) async fn note(&self, offer: &Offer, signature: Signature) -> bool {
        if offer.priority_fee == 0 {
            return true;
        }
        self.budget.name(offer.is_urgent, offer.priority_fee, signature);
        let fee = OfferedFee { signature, lamports: offer.priority_fee, at: unix_now() };
        let noted = self.write(move |ledger| ledger.note_fee(&fee)).await;
        if !noted {
            self.budget.give_back_of(&signature);
        }
        noted
    }

    /// Takes back what was set aside for a transaction that was never signed.
    pub(crate) fn never_signed(&self, offer: &Offer) {
        self.budget.give_back(offer.is_urgent, offer.priority_fee);
    }

    /// Takes back what was offered for a transaction that never landed and never will.
    pub(crate) async fn never_landed(&self, offer: &Offer, signature: Signature) {
        if offer.priority_fee > 0 {
            self.budget.give_back_of(&signature);
            // What stays written counts for its hour, if this process ends before that.
            self.write(move |ledger| ledger.forget_fee(&signature)).await;
        }
    }

    async fn write(&self, change: impl FnOnce(&RedbLedger) -> Result<(), LedgerError> + Send + 'static) -> bool {
        let held = self.clone();
        let written = tokio::task::spawn_blocking(move || change(&held.ledger));
        let trouble = match timeout(DISK_PATIENCE, written).await {
            Ok(Ok(Ok(()))) => return true,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the disk does not answer".into(),
        };
        tracing::error!(trouble, "a priority fee is not written down");
        false
    }
}

/// How many transactions at the cap an hour may cost.
const DEAREST_OF_AN_HOUR: u64 = 40;
/// How long the disk may take: what is closing does not wait for it.
const DISK_PATIENCE: Duration = Duration::from_secs(2);
/// The ledger is asked once: nobody else writes to it while it is open.
const ONE_LIFE: u64 = 0;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use settlement_chain::submit::{Terms, TransactionFormat, priced};

    use super::*;

    const MOST: u64 = 100;

    /// At another unix second than now.
    fn recalled(dir: &Path, later_s: i64) -> Fees {
        let ledger = Arc::new(RedbLedger::open(dir).unwrap());
        Fees::recall(MOST, ledger, unix_now() + later_s).unwrap()
    }

    /// As much as the caps leave.
    fn offer(fees: &Fees) -> Offer {
        priced(fees.budget(), Terms::estimate(TransactionFormat::V1, &[]), true, &[u64::MAX], 0)
    }

    fn left(fees: &Fees) -> u64 {
        fees.budget().left(true, Instant::now())
    }

    // r[verify settlement.priority.bounded]
    #[tokio::test]
    async fn a_process_that_begins_again_and_again_spends_the_hour_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut spent = 0;
        for number in 0..DEAREST_OF_AN_HOUR as u8 + 3 {
            let fees = recalled(dir.path(), 0);
            let offer = offer(&fees);
            assert!(fees.note(&offer, Signature::from([number; 64])).await);
            spent += offer.priority_fee;
        }
        assert_eq!(spent, MOST * DEAREST_OF_AN_HOUR);
        assert_eq!([0, 1_800, 3_000].map(|later| left(&recalled(dir.path(), later))), [0; 3]);
        assert_eq!(left(&recalled(dir.path(), 3_601)), MOST, "after the hour it is free again");
    }

    // r[verify settlement.priority.bounded]
    #[tokio::test]
    async fn what_never_landed_is_free_again_in_this_process_and_in_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let fees = recalled(dir.path(), 0);
        let offers: Vec<Offer> = (0..DEAREST_OF_AN_HOUR).map(|_| offer(&fees)).collect();
        for (number, offer) in (0..).zip(&offers) {
            assert!(fees.note(offer, Signature::from([number; 64])).await);
        }
        assert_eq!(left(&fees), 0);
        fees.never_landed(&offers[3], Signature::from([3; 64])).await;
        assert_eq!(left(&fees), MOST);
        drop(fees);
        assert_eq!(left(&recalled(dir.path(), 0)), MOST);
    }
}
