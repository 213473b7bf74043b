//! Group commit: one thread makes the vouchers of all channels durable, as many at once as have gathered while the
//! last sync ran, and only then gives credit for them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use aro_proto::ChannelId;
use aro_proto::channel::{Offer, SignedVoucher, VerifiedVoucher, VoucherError, VoucherStore, persist_all};
use aro_proto::message::PayRefused;
use aro_proto::{Refusal, RefusalCode};
use tokio::sync::{mpsc, oneshot};

use crate::channels::PaidChannel;
use crate::shared::{Bell, unix_now};

/// A voucher on its way to the disk.
struct Commit {
    /// Whose it is.
    channel: Arc<PaidChannel>,
    /// The voucher.
    voucher: VerifiedVoucher,
    /// Hears of a failure; a success is heard of by all connections of the channel, as credit.
    refused: mpsc::Sender<PayRefused>,
}

/// What the thread is asked to do.
enum Job {
    Commit(Commit),
    /// Says when everything sent before is durable.
    Flush(oneshot::Sender<()>),
}

/// The thread that commits. It ends when the last [`CommitterHandle`] is gone, after everything sent to it.
pub(crate) struct Committer {
    thread: JoinHandle<()>,
}

/// Sends vouchers to the committer.
#[derive(Clone)]
pub(crate) struct CommitterHandle(mpsc::Sender<Job>);

impl Committer {
    /// Starts the thread. It rings when a voucher of a closing channel is durable.
    pub(crate) fn start<S>(store: Arc<S>, bell: Bell) -> io::Result<(Self, CommitterHandle)>
    where
        S: VoucherStore + Send + Sync + 'static,
        S::Error: std::fmt::Display,
    {
        let (sender, mut receiver) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("voucher-commit".into()).spawn(move || {
            let mut jobs = Vec::new();
            while receiver.blocking_recv_many(&mut jobs, QUEUE) > 0 {
                let (mut batch, mut flushed) = (Vec::with_capacity(jobs.len()), Vec::new());
                for job in jobs.drain(..) {
                    match job {
                        Job::Commit(commit) => batch.push(commit),
                        Job::Flush(done) => flushed.push(done),
                    }
                }
                if commit(&*store, batch) {
                    bell.ring();
                }
                for done in flushed {
                    // Whoever asked may have gone.
                    let _ = done.send(());
                }
            }
        })?;
        Ok((Self { thread }, CommitterHandle(sender)))
    }

    /// Waits until everything is durable and the thread has ended. Blocks; all handles must be gone or going.
    pub(crate) fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the commit thread has panicked: the last vouchers gave no credit");
        }
    }
}

impl CommitterHandle {
    /// Looks at a voucher, and queues it if it is new; waits while the disk is behind, which holds back the agent
    /// that sends too many. `None` if the node is stopping. May be cancelled: then the voucher was not looked at, for a
    /// new one that did not reach the queue could never come again.
    pub(crate) async fn offer(
        &self,
        channel: &Arc<PaidChannel>,
        signed: &SignedVoucher,
        refused: &mpsc::Sender<PayRefused>,
    ) -> Option<Result<Offer, VoucherError>> {
        let place = self.0.reserve().await.ok()?;
        // No await from here on.
        let offer = channel.offer(signed, unix_now());
        if let Ok(Offer::Fresh(voucher)) = offer {
            place.send(Job::Commit(Commit { channel: Arc::clone(channel), voucher, refused: refused.clone() }));
        }
        Some(offer)
    }

    /// Waits until everything that was queued before is durable, or was refused.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.0.send(Job::Flush(done)).await.is_ok() {
            // An error means that the thread is gone, and with it the queue.
            let _ = flushed.await;
        }
    }
}

/// True if a voucher of a closing channel has become durable, for which little time is left.
// r[impl channel.persist_before_credit]
fn commit<S>(store: &S, batch: Vec<Commit>) -> bool
where
    S: VoucherStore,
    S::Error: std::fmt::Display,
{
    if batch.is_empty() {
        return false;
    }
    // The highest voucher of a channel contains the others.
    let mut best: HashMap<ChannelId, VerifiedVoucher> = HashMap::with_capacity(batch.len());
    for commit in &batch {
        let voucher = best.entry(commit.channel.id()).or_insert(commit.voucher);
        if voucher.cumulative() < commit.voucher.cumulative() {
            *voucher = commit.voucher;
        }
    }
    match persist_all(store, best.into_values().collect()) {
        Ok(durable) => {
            let channels: HashMap<ChannelId, &Arc<PaidChannel>> =
                batch.iter().map(|commit| (commit.channel.id(), &commit.channel)).collect();
            let mut is_urgent = false;
            for voucher in durable {
                if let Some(channel) = channels.get(&voucher.verified().channel()) {
                    channel.credit(voucher);
                    is_urgent |= channel.is_closing();
                }
            }
            is_urgent
        }
        Err(error) => {
            tracing::error!(%error, vouchers = batch.len(), "vouchers could not be made durable: no credit for them");
            for commit in batch {
                let refusal = Refusal::new(RefusalCode::Internal, "the voucher could not be stored");
                commit.channel.persist_failed(commit.voucher.cumulative());
                let answer = commit.channel.pay_refused(commit.voucher.cumulative(), refusal);
                // A connection that is gone, or does not read, learns the watermark when it binds again.
                let _ = commit.refused.try_send(answer);
            }
            false
        }
    }
}

/// Vouchers that wait for the disk at most.
const QUEUE: usize = 1024;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use aro_proto::channel::{ChannelState, ChannelTerms, MemoryVouchers, Payee, Voucher};
    use aro_proto::{Amount, SecretKey, Tariff};

    use super::*;
    use crate::channels::OwnerTab;

    const KEY: [u8; 32] = [7; 32];

    fn channel(number: u8) -> Arc<PaidChannel> {
        let terms = ChannelTerms {
            channel: ChannelId::from_bytes([number; 32]),
            signer: SecretKey::from_bytes(&KEY).agent_id(),
            deposit: Amount::new(1000),
            settled: Amount::ZERO,
            state: ChannelState::Open,
        };
        let tariff = Tariff { per_mib: 100 };
        let tab = Arc::new(OwnerTab::new(tariff.charge(aro_proto::ByteCount::new(64 << 20))));
        Arc::new(PaidChannel::new(Payee::new(terms, tariff, None), tariff, 900, tab, None))
    }

    fn signed(channel: &PaidChannel, cumulative: u64) -> SignedVoucher {
        let voucher = Voucher { channel: channel.id(), cumulative: Amount::new(cumulative), expires_at: 0 };
        voucher.sign(&SecretKey::from_bytes(&KEY))
    }

    fn offered(channel: &Arc<PaidChannel>, cumulative: u64) -> VerifiedVoucher {
        match channel.offer(&signed(channel, cumulative), 0) {
            Ok(Offer::Fresh(voucher)) => voucher,
            other => panic!("{other:?}"),
        }
    }

    /// Notes each batch; fails while told to.
    #[derive(Default)]
    struct Scripted {
        inner: MemoryVouchers,
        batches: Mutex<Vec<usize>>,
        broken: std::sync::atomic::AtomicBool,
    }

    impl VoucherStore for Scripted {
        type Error = &'static str;
        fn persist(&self, batch: &[VerifiedVoucher]) -> Result<(), &'static str> {
            if self.broken.load(std::sync::atomic::Ordering::SeqCst) {
                return Err("disk full");
            }
            self.batches.lock().unwrap().push(batch.len());
            self.inner.persist(batch).map_err(|never| match never {})
        }
        fn load(&self, channel: ChannelId) -> Result<Option<SignedVoucher>, &'static str> {
            self.inner.load(channel).map_err(|never| match never {})
        }
    }

    // r[verify channel.persist_before_credit]
    #[test]
    fn a_voucher_that_cannot_be_stored_gives_no_credit_and_may_come_again() {
        let store = Scripted::default();
        store.broken.store(true, std::sync::atomic::Ordering::SeqCst);
        let channel = channel(1);
        let (refused, mut refusals) = mpsc::channel(4);
        let voucher = offered(&channel, 300);
        commit(&store, vec![Commit { channel: Arc::clone(&channel), voucher, refused: refused.clone() }]);
        let refusal = refusals.try_recv().unwrap();
        assert_eq!((refusal.cumulative, refusal.refusal.code()), (Amount::new(300), RefusalCode::Internal));
        assert!(channel.best().is_none());

        store.broken.store(false, std::sync::atomic::Ordering::SeqCst);
        let voucher = offered(&channel, 300);
        commit(&store, vec![Commit { channel: Arc::clone(&channel), voucher, refused }]);
        assert_eq!(channel.best().unwrap().cumulative(), Amount::new(300));
    }

    #[test]
    fn one_sync_covers_all_channels_and_the_best_voucher_of_each() {
        let store = Arc::new(Scripted::default());
        let (first, second) = (channel(1), channel(2));
        let (refused, _refusals) = mpsc::channel(4);
        let one = |channel: &Arc<PaidChannel>, cumulative| Commit {
            channel: Arc::clone(channel),
            voucher: offered(channel, cumulative),
            refused: refused.clone(),
        };
        commit(&*store, vec![one(&first, 10), one(&second, 20), one(&first, 30)]);
        assert_eq!(*store.batches.lock().unwrap(), [2]);
        assert_eq!(first.best().unwrap().cumulative(), Amount::new(30));
        assert_eq!(second.best().unwrap().cumulative(), Amount::new(20));
    }

    #[tokio::test]
    async fn a_voucher_whose_connection_ends_while_the_queue_is_full_may_come_again() {
        let (sender, mut queue) = mpsc::channel(1);
        let (handle, channel) = (CommitterHandle(sender), channel(1));
        let (refused, _refusals) = mpsc::channel(4);
        let is_fresh = |offer| matches!(offer, Some(Ok(Offer::Fresh(_))));
        assert!(is_fresh(handle.offer(&channel, &signed(&channel, 100), &refused).await));
        let second = signed(&channel, 200);
        tokio::select! {
            biased;
            _ = handle.offer(&channel, &second, &refused) => panic!("the queue is full"),
            () = std::future::ready(()) => {}
        }
        assert!(matches!(queue.recv().await, Some(Job::Commit(_))));
        assert!(is_fresh(handle.offer(&channel, &second, &refused).await));
        let Some(Job::Commit(commit)) = queue.recv().await else { panic!("the voucher is not in the queue") };
        assert_eq!(commit.voucher.cumulative(), Amount::new(200));
    }

    #[test]
    fn a_voucher_of_a_closing_channel_is_urgent_once_it_is_durable() {
        let store = Scripted::default();
        let channel = channel(1);
        let (refused, _refusals) = mpsc::channel(4);
        let one = |cumulative| Commit {
            channel: Arc::clone(&channel),
            voucher: offered(&channel, cumulative),
            refused: refused.clone(),
        };
        assert!(!commit(&store, vec![one(10)]));
        channel.refresh(&ChannelTerms { state: ChannelState::Closing { deadline: i64::MAX }, ..channel.terms() });
        assert!(commit(&store, vec![one(20)]));
        store.broken.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(!commit(&store, vec![one(30)]));
    }

    #[tokio::test]
    async fn everything_sent_is_durable_after_a_flush_and_the_store_is_free_after_the_end() {
        let store = Arc::new(Scripted::default());
        let (committer, handle) = Committer::start(Arc::clone(&store), Bell::default()).unwrap();
        let channels: Vec<_> = (1..40).map(channel).collect();
        let (refused, _refusals) = mpsc::channel(4);
        for channel in &channels {
            let offer = handle.offer(channel, &signed(channel, 50), &refused).await;
            assert!(matches!(offer, Some(Ok(Offer::Fresh(_)))));
        }
        handle.flush().await;
        for channel in &channels {
            assert_eq!(channel.best().unwrap().cumulative(), Amount::new(50));
        }
        drop(handle);
        tokio::task::spawn_blocking(|| committer.join()).await.unwrap();
        assert_eq!(Arc::strong_count(&store), 1);
    }
}
