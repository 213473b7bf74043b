//! The submitter against a chain that drops, forks, refuses and keeps silent.
//!
//! What could break: a transaction forgotten while it may land, another signed in its place, a good voucher held up
//! by a bad one, a fork that goes unnoticed, fees that grow without end.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use aro_proto::ChannelId;
use async_trait::async_trait;
use settlement_chain::submit::{TransactionFormat, offered_priority_fee};
use settlement_chain::{
    Account, AccountFilter, Address, Blockhash, ChainClient, ChainError, Commitment, InstructionError, Keypair,
    Signature, Signer, Simulation, Status, Statuses, TransactionError, VersionedTransaction,
};
use settlement_interface::accounts::{Channel, VERSION, discriminator, status};
use settlement_interface::errors::SettlementError;

use super::{End, FeeBudget, FeePolicy, Final, JournalEntry, LanePolicy, Resumed, Submitter, spent_lately};
use crate::batch::planner::tests as plans;
use crate::batch::{Facts, Kind, Planned, Planner};
use crate::vouchers::{
    Accepted, Book, Claim, Effect, Finality, HistoryQuery, HistoryRow, Lease, LeaseTerms, MemoryStore,
};

/// A chain of one transaction's worth of memory. Without a script it does not simulate, and every transaction lands.
#[derive(Default)]
pub(super) struct Scripted {
    simulate: Option<Verdict>,
    state: Mutex<State>,
}

type Verdict = Box<dyn Fn(&VersionedTransaction) -> Option<TransactionError> + Send + Sync>;

#[derive(Default)]
struct State {
    accounts: HashMap<Address, Account>,
    sent: Vec<VersionedTransaction>,
    blockhashes: u8,
    /// What becomes of each new transaction, in turn; after the last they land.
    fates: VecDeque<Fate>,
    of: HashMap<Signature, Fate>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lands(Commitment),
    /// It is in a block and the program refused it there.
    Fails(Commitment),
    /// Nobody knows it, and its last block has passed.
    Dies,
}

impl Scripted {
    /// Simulates everything to this end.
    pub(super) fn simulating(self, err: Option<TransactionError>) -> Self {
        self.judging(move |_| err.clone())
    }

    fn judging(
        self,
        verdict: impl Fn(&VersionedTransaction) -> Option<TransactionError> + Send + Sync + 'static,
    ) -> Self {
        Self { simulate: Some(Box::new(verdict)), ..self }
    }

    fn fates(self, fates: &[Fate]) -> Self {
        self.state.lock().unwrap().fates = fates.iter().copied().collect();
        self
    }

    fn change(&self, signature: &Signature, fate: Fate) {
        self.state.lock().unwrap().of.insert(*signature, fate);
    }

    fn show(&self, program: Address, id: ChannelId, channel: &Channel) {
        let channel = Channel { discriminator: discriminator::CHANNEL, version: VERSION, ..channel.clone() };
        let account = Account { owner: program, lamports: 1, data: channel.to_bytes().to_vec() };
        self.state.lock().unwrap().accounts.insert(Address::new_from_array(id.to_bytes()), account);
    }

    fn sent(&self) -> Vec<VersionedTransaction> {
        self.state.lock().unwrap().sent.clone()
    }
}

#[async_trait]
impl ChainClient for Scripted {
    async fn genesis_hash(&self) -> Result<[u8; 32], ChainError> {
        Ok([1; 32])
    }
    async fn accounts(&self, addresses: &[Address]) -> Result<Vec<Option<Account>>, ChainError> {
        let state = self.state.lock().unwrap();
        Ok(addresses.iter().map(|address| state.accounts.get(address).cloned()).collect())
    }
    async fn program_accounts(&self, _: &Address, _: &AccountFilter) -> Result<Vec<(Address, Account)>, ChainError> {
        Ok(Vec::new())
    }
    async fn latest_blockhash(&self) -> Result<Blockhash, ChainError> {
        let mut state = self.state.lock().unwrap();
        state.blockhashes += 1;
        Ok(Blockhash { hash: [state.blockhashes; 32].into(), last_valid_block_height: 100 })
    }
    async fn send(&self, transaction: &VersionedTransaction) -> Result<Signature, ChainError> {
        let mut state = self.state.lock().unwrap();
        let signature = transaction.signatures[0];
        if !state.of.contains_key(&signature) {
            let fate = state.fates.pop_front().unwrap_or(Fate::Lands(Commitment::Confirmed));
            state.of.insert(signature, fate);
        }
        state.sent.push(transaction.clone());
        Ok(signature)
    }
    async fn statuses(&self, signatures: &[Signature]) -> Result<Statuses, ChainError> {
        let state = self.state.lock().unwrap();
        let fates: Vec<Option<Fate>> = signatures.iter().map(|signature| state.of.get(signature).copied()).collect();
        let status = |fate: &Option<Fate>| match fate {
            Some(Fate::Lands(commitment)) => Some(Status { slot: 5, commitment: *commitment, err: None }),
            Some(Fate::Fails(commitment)) => {
                let err = Some(refused_by_the_program(SettlementError::Unauthorised));
                Some(Status { slot: 6, commitment: *commitment, err })
            }
            _ => None,
        };
        let block_height = if fates.contains(&Some(Fate::Dies)) { 101 } else { 1 };
        Ok(Statuses { block_height, statuses: fates.iter().map(status).collect() })
    }
    async fn simulate(&self, transaction: &VersionedTransaction) -> Result<Simulation, ChainError> {
        let Some(verdict) = &self.simulate else {
            return Err(ChainError::Rpc { code: -32601, message: "no such method".into() });
        };
        let err = verdict(transaction);
        Ok(Simulation { units: 200_000, loaded_data_bytes: Some(50_000), err, return_data: Vec::new() })
    }
    async fn recent_fees(&self, _: &[Address]) -> Result<Vec<u64>, ChainError> {
        Ok(vec![10_000; 20])
    }
}

/// A submitter with a book that leads, and vouchers of `channels` to close.
struct Scene {
    chain: Arc<Scripted>,
    submitter: Submitter,
    planned: Vec<Planned>,
    channels: Vec<ChannelId>,
}

const NOW: i64 = 1_800_000_000;

/// Generous enough for every offer of these tests but those about caps.
const POLICY: FeePolicy = FeePolicy {
    normal: LanePolicy { percentile: 50, min_price: 0, replans: 1, ..LANE },
    urgent: LanePolicy { percentile: 90, min_price: 1_000, replans: 4, ..LANE },
};

const LANE: LanePolicy = LanePolicy {
    percentile: 0,
    min_price: 0,
    max_per_transaction: 1 << 30,
    max_per_hour: 1 << 30,
    raise_percent: 200,
    replans: 0,
};

impl Scene {
    async fn new(chain: Scripted, channels: u16, closing: bool, policy: FeePolicy) -> Self {
        let key = Keypair::new();
        let base = plans::planner();
        let operator = base.program.operator(&key.pubkey()).0;
        let planner = Planner { authority: key.pubkey(), operator, format: TransactionFormat::V1, ..base };
        let book = Arc::new(Book::new(Arc::new(MemoryStore::default()), LeaseTerms::new("scene")));
        assert!(matches!(book.lead().await.unwrap(), Lease::Held(_)));

        let mut facts = Facts { now: NOW, clocks: NOW..=NOW, ..Facts::default() };
        let mut offers = Vec::new();
        let mut ids = Vec::new();
        for number in 0..channels {
            let id = plans::add_channel(&mut facts, number, 1);
            let channel = facts.channels.get_mut(&id).unwrap();
            if closing {
                (channel.status, channel.deadline) = (status::CLOSING, NOW + 60);
            }
            chain.show(base.program.id, id, channel);
            let accepted: Accepted = plans::accepted(id, 1, 500 + u64::from(number), 0, true);
            offers.push((id, Ok(Claim::Rise(accepted))));
            ids.push(id);
        }
        for node in facts.nodes.values_mut() {
            node.operator = operator.to_bytes();
        }
        book.commit(offers, NOW).await.unwrap();
        let vouchers = book.vouchers().await.unwrap();
        let planned = planner.plan(&facts, &vouchers, &std::collections::HashSet::new());
        let chain = Arc::new(chain);
        let submitter = Submitter {
            chain: Arc::clone(&chain) as Arc<dyn ChainClient>,
            authority: Arc::new(key),
            book,
            planner,
            fees: Arc::new(FeeBudget::new(policy)),
            failures: Arc::default(),
            metrics: Arc::default(),
        };
        Self { chain, submitter, planned, channels: ids }
    }

    async fn run(&self) -> Vec<End> {
        assert_eq!(self.planned.len(), 1);
        self.submitter.run(self.planned[0].clone()).await.unwrap()
    }

    async fn pending(&self) -> Vec<JournalEntry> {
        self.submitter.book.pending().await.unwrap()
    }

    fn spent(&self) -> u64 {
        [false, true].iter().map(|lane| self.submitter.fees.spent_within_hour(*lane, Instant::now())).sum()
    }
}

fn refused_by_the_program(error: SettlementError) -> TransactionError {
    TransactionError::InstructionError(0, InstructionError::Custom(error.code()))
}

// r[verify settlement.submit.replan]
// r[verify settlement.priority.bounded]
#[tokio::test]
async fn what_died_is_signed_anew_over_a_fresh_blockhash_at_twice_the_price() {
    let chain = Scripted::default().simulating(None).fates(&[Fate::Dies, Fate::Dies]);
    let scene = Scene::new(chain, 3, true, POLICY).await;
    let ends = scene.run().await;
    assert!(matches!(ends.as_slice(), [End::Landed(entry)] if entry.items.len() == 3), "{ends:?}");
    let sent = scene.chain.sent();
    assert_eq!(sent.len(), 3);
    // 221,000 units at 10,000 micro-lamports, then twice that, then four times.
    assert_eq!(sent.iter().map(offered_priority_fee).collect::<Vec<_>>(), [2_210, 4_420, 8_840]);
    let hashes: Vec<_> = sent.iter().map(|transaction| *transaction.message.recent_blockhash()).collect();
    assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
    let pending = scene.pending().await;
    assert_eq!(pending.len(), 1, "what died is forgotten, what landed waits to be final");
    assert_eq!(pending[0].fee_lamports, 5_000 + 8_840);
    assert_eq!(scene.spent(), 8_840, "what died cost nothing");
}

#[tokio::test]
async fn work_that_no_block_takes_ends_and_waits_for_the_next_round() {
    let scene = Scene::new(Scripted::default().fates(&[Fate::Dies; 9]), 1, false, POLICY).await;
    let ends = scene.run().await;
    assert!(matches!(ends.as_slice(), [End::Void { stop: None, .. }]), "{ends:?}");
    assert_eq!(scene.chain.sent().len(), 2);
    assert!(scene.pending().await.is_empty());
    assert_eq!(scene.spent(), 0);
}

// r[verify settlement.submit.uncertain_not_dead]
#[tokio::test]
async fn what_its_channels_show_is_not_signed_anew_however_dead_it_is_called() {
    let scene = Scene::new(Scripted::default().fates(&[Fate::Dies]), 1, false, POLICY).await;
    let mut closed = Channel::from_bytes(&[0; Channel::LEN]);
    closed.status = status::CLOSED;
    scene.chain.show(scene.submitter.planner.program.id, scene.channels[0], &closed);
    let ends = scene.run().await;
    assert!(matches!(ends.as_slice(), [End::Open { .. }]), "{ends:?}");
    assert_eq!((scene.chain.sent().len(), scene.pending().await.len()), (1, 1));
}

/// The history of the last hour, once all that is final is written down.
async fn history(scene: &Scene) -> Vec<HistoryRow> {
    let (finals, _) = scene.submitter.finals(scene.pending().await).await.unwrap();
    for Final { entry, slot, failure } in finals {
        let Some(error) = failure else { continue };
        scene.submitter.record_failure(&entry, slot, &error, entry.at).await.unwrap();
    }
    let page = scene.submitter.book.history(&HistoryQuery::default()).await.unwrap();
    page.into_iter().map(|(_, row)| row).collect()
}

// r[verify settlement.audit]
#[tokio::test]
async fn what_fails_in_its_block_costs_its_fee_and_leaves_its_reason() {
    let scene =
        Scene::new(Scripted::default().simulating(None).fates(&[Fate::Fails(Commitment::Confirmed)]), 2, true, POLICY)
            .await;
    let ends = scene.run().await;
    assert!(matches!(ends.as_slice(), [End::Landed(_), End::Landed(_)]), "its halves land: {ends:?}");
    assert_eq!(history(&scene).await, [], "a fork may take it back");
    assert_eq!(scene.pending().await.len(), 3);
    scene.chain.change(&scene.chain.sent()[0].signatures[0], Fate::Fails(Commitment::Finalized));
    let rows = history(&scene).await;
    assert_eq!(rows.iter().map(|row| row.channel).collect::<Vec<_>>(), scene.channels);
    for row in &rows {
        assert!(row.error.as_ref().unwrap().contains("Unauthorised"), "{row:?}");
        assert_eq!((row.slot, row.to), (6, row.from));
    }
    let fee = 5_000 + offered_priority_fee(&scene.chain.sent()[0]);
    assert_eq!(rows.iter().map(|row| row.fee_share).sum::<u64>(), fee);
    assert_eq!(scene.spent(), scene.chain.sent().iter().map(offered_priority_fee).sum::<u64>(), "spent all the same");
    let counted = scene.submitter.metrics.to_text();
    assert!(counted.contains("aro_settle_fees_lamports_total{part=\"base\"} 5000"), "{counted}");
}

// r[verify settlement.audit]
#[tokio::test]
async fn failure_that_an_earlier_life_did_not_hear_of_is_recorded_too() {
    let scene = Scene::new(Scripted::default(), 1, false, POLICY).await;
    scene.run().await;
    let entry = scene.pending().await.remove(0);
    scene.chain.change(&entry.prepared.signature, Fate::Fails(Commitment::Finalized));
    assert_eq!(scene.submitter.resume(&entry).await.unwrap(), Resumed::Void);
    assert!(history(&scene).await[0].error.is_some());
    assert!(scene.pending().await.is_empty());
}

// r[verify settlement.audit]
#[tokio::test]
async fn failure_that_a_fork_takes_back_is_not_sent_again_and_leaves_no_row() {
    let scene = Scene::new(Scripted::default(), 1, false, POLICY).await;
    scene.run().await;
    let entry = scene.pending().await.remove(0);
    let becomes = |fate| scene.chain.change(&entry.prepared.signature, fate);
    let resumed = async || scene.submitter.resume(&entry).await.unwrap();
    becomes(Fate::Fails(Commitment::Confirmed));
    assert_eq!(resumed().await, Resumed::Void);
    becomes(Fate::Lands(Commitment::Processed));
    assert_eq!(resumed().await, Resumed::Void, "its work is planned anew");
    assert!(scene.submitter.has_failed(&entry));
    assert_eq!((scene.chain.sent().len(), scene.pending().await.len()), (1, 1));
    becomes(Fate::Dies);
    assert_eq!(resumed().await, Resumed::Void);
    assert!(scene.pending().await.is_empty() && history(&scene).await.is_empty() && scene.spent() == 0);
}

// r[verify settlement.priority.bounded]
#[tokio::test]
async fn what_is_put_off_and_dies_later_is_given_back() {
    let scene = Scene::new(Scripted::default().fates(&[Fate::Dies]), 1, false, POLICY).await;
    let program = scene.submitter.planner.program.id;
    let mut closed = Channel::from_bytes(&[0; Channel::LEN]);
    closed.status = status::CLOSED;
    scene.chain.show(program, scene.channels[0], &closed);
    assert!(matches!(scene.run().await.as_slice(), [End::Open { .. }]));
    assert!(scene.spent() > 0, "it may yet land");
    let entry = scene.pending().await.remove(0);
    assert_eq!(scene.submitter.resume(&entry).await.unwrap(), Resumed::Void);
    assert_eq!(scene.spent(), 0);
}

// r[verify settlement.priority.bounded]
#[tokio::test]
async fn cap_of_the_hour_outlives_the_process() {
    let urgent = LanePolicy { max_per_transaction: 2_000, max_per_hour: 3_000, ..POLICY.urgent };
    let policy = FeePolicy { urgent, ..POLICY };
    let scene = Scene::new(Scripted::default().simulating(None), 1, true, policy).await;
    let offered = async |submitter: &Submitter| {
        let ends = submitter.run(scene.planned[0].clone()).await.unwrap();
        assert!(matches!(ends.as_slice(), [End::Landed(_)]), "{ends:?}");
        scene.chain.sent().last().map(offered_priority_fee).unwrap()
    };
    let first = offered(&scene.submitter).await;
    // Final, and in the history alone.
    let entry = scene.pending().await.remove(0);
    let end = Finality { slot: 5, at: NOW - 60 };
    let trail = HistoryRow::of(&entry, end, |_| Effect { watermark: None });
    scene.submitter.book.conclude(&entry.prepared.signature, &trail).await.unwrap();
    let reborn = || Submitter { fees: Arc::new(FeeBudget::new(policy)), ..scene.submitter.clone() };
    // What a doctor tells of an operator that does not run.
    let spent = spent_lately(&scene.submitter.book, NOW).await.unwrap();
    assert_eq!(spent.iter().map(|spent| spent.lamports).collect::<Vec<_>>(), [first]);
    let second = offered(&reborn()).await;
    let third = offered(&reborn()).await;
    assert!(first + 1 >= 2_000 && second + 1 >= 1_000 && second <= 1_000, "{first} {second}");
    assert!(third <= 1, "the journal and the history are both known: {third}");
}

// r[verify settlement.priority.bounded]
#[tokio::test]
async fn offer_stops_at_the_caps_and_work_goes_on_without_it() {
    let urgent = LanePolicy { max_per_transaction: 2_000, max_per_hour: 3_000, ..POLICY.urgent };
    let policy = FeePolicy { urgent, ..POLICY };
    let scene = Scene::new(Scripted::default().simulating(None), 1, true, policy).await;
    for expected in [2_000, 1_000, 0] {
        let ends = scene.run().await;
        assert!(matches!(ends.as_slice(), [End::Landed(_)]), "{ends:?}");
        let offered = scene.chain.sent().last().map(offered_priority_fee).unwrap();
        assert!(offered <= expected && offered + 1 >= expected, "{offered} of {expected}");
    }
}

#[tokio::test]
async fn server_that_does_not_simulate_gets_estimated_limits() {
    let scene = Scene::new(Scripted::default(), 2, false, POLICY).await;
    assert!(matches!(scene.run().await.as_slice(), [End::Landed(_)]));
    let settlement_chain::VersionedMessage::V1(message) = &scene.chain.sent()[0].message else { panic!("not v1") };
    assert_eq!(message.config.loaded_accounts_data_size_limit, Some(64 << 20));
    assert!(message.config.compute_unit_limit.unwrap() >= 2 * 19_500);
}

/// True if the transaction's data carry this amount.
fn carries(transaction: &VersionedTransaction, amount: u64) -> bool {
    let wanted = amount.to_le_bytes();
    transaction.message.instructions().iter().any(|it| it.data.windows(8).any(|window| window == wanted))
}

// r[verify settlement.quarantine]
#[tokio::test]
async fn bad_voucher_is_found_alone_and_set_aside_while_all_others_land() {
    const BAD: u64 = 505;
    let verdict = |transaction: &VersionedTransaction| {
        carries(transaction, BAD).then(|| refused_by_the_program(SettlementError::BadSignature))
    };
    let scene = Scene::new(Scripted::default().judging(verdict), 11, false, POLICY).await;
    let ends = scene.run().await;
    let landed: usize = ends.iter().map(|end| if let End::Landed(entry) = end { entry.items.len() } else { 0 }).sum();
    assert_eq!(landed, 10);
    let voids: Vec<&End> = ends.iter().filter(|end| matches!(end, End::Void { .. })).collect();
    let [End::Void { planned, reason, stop: None }] = voids.as_slice() else { panic!("{voids:?}") };
    assert_eq!((planned.items[0].channel, planned.items.len()), (scene.channels[5], 1));
    assert!(reason.contains("set aside"), "{reason}");
    let aside = scene.submitter.book.quarantined().await.unwrap();
    assert_eq!(
        aside.iter().map(|it| (it.channel, it.cumulative.get())).collect::<Vec<_>>(),
        [(scene.channels[5], BAD)]
    );
    assert!(scene.chain.sent().iter().all(|transaction| !carries(transaction, BAD)), "no fee was paid for it");
}

#[tokio::test]
async fn refusal_that_is_not_the_vouchers_fault_sets_nothing_aside() {
    for error in [SettlementError::Unauthorised, SettlementError::WrongParty, SettlementError::AboveDeposit] {
        let chain = Scripted::default().simulating(Some(refused_by_the_program(error)));
        let scene = Scene::new(chain, 3, false, POLICY).await;
        let ends = scene.run().await;
        assert_eq!(ends.len(), 3, "{ends:?}");
        assert!(scene.submitter.book.quarantined().await.unwrap().is_empty(), "{error:?}");
    }
    // The payer's fault would meet every batch: nothing is divided, and the round stops.
    let chain = Scripted::default().simulating(Some(TransactionError::InsufficientFundsForFee));
    let scene = Scene::new(chain, 3, false, POLICY).await;
    let ends = scene.run().await;
    assert!(matches!(ends.as_slice(), [End::Void { stop: Some(_), .. }]), "{ends:?}");
    assert_eq!(scene.spent(), 0);
}

// r[verify settlement.uncertain]
#[tokio::test]
async fn transaction_that_a_fork_drops_is_noticed_and_sent_again_or_forgotten() {
    let scene = Scene::new(Scripted::default(), 2, false, POLICY).await;
    scene.run().await;
    let entry = scene.pending().await.remove(0);
    let signature = entry.prepared.signature;
    assert_eq!(entry.kind, Kind::Close);
    assert_eq!(scene.submitter.resume(&entry).await.unwrap(), Resumed::Landed);
    assert!(scene.submitter.finals(vec![entry.clone()]).await.unwrap().0.is_empty(), "confirmed is not final");

    // Dropped, and sent again with the same bytes.
    scene.chain.state.lock().unwrap().of.remove(&signature);
    assert_eq!(scene.submitter.resume(&entry).await.unwrap(), Resumed::Landed);
    assert_eq!(scene.chain.sent().len(), 2);
    assert_eq!(scene.chain.sent()[0], scene.chain.sent()[1]);

    // Dropped too late to come back: forgotten, so that the next plan sees its channels free.
    scene.chain.change(&signature, Fate::Dies);
    assert_eq!(scene.submitter.resume(&entry).await.unwrap(), Resumed::Void);
    assert!(scene.pending().await.is_empty());

    let scene = Scene::new(Scripted::default(), 2, false, POLICY).await;
    scene.run().await;
    let entry = scene.pending().await.remove(0);
    scene.chain.change(&entry.prepared.signature, Fate::Lands(Commitment::Finalized));
    assert_eq!(scene.submitter.finals(vec![entry]).await.unwrap().0.len(), 1);
}
