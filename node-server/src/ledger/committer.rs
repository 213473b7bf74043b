//! Group commit: one thread makes the vouchers of all channels durable, as many at once as have gathered while the
//! last sync ran, and only then gives credit for them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use aro_proto::ChannelId;
use aro_proto::channel::{VerifiedVoucher, VoucherStore, persist_all};
use aro_proto::message::PayRefused;
use aro_proto::{Refusal, RefusalCode};
use tokio::sync::{mpsc, oneshot};

use crate::channels::PaidChannel;

/// A voucher on its way to the disk.
pub(crate) struct Commit {
    /// Whose it is.
    pub(crate) channel: Arc<PaidChannel>,
    /// The voucher.
    pub(crate) voucher: VerifiedVoucher,
    /// Hears of a failure; a success is heard of by all connections of the channel, as credit.
    pub(crate) refused: mpsc::Sender<PayRefused>,
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
    /// Starts the thread.
    pub(crate) fn start<S>(store: Arc<S>) -> io::Result<(Self, CommitterHandle)>
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
                commit(&*store, batch);
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
    /// Queues a voucher; waits while the disk is behind, which holds back the agent that sends too many. False if
    /// the node is stopping.
    pub(crate) async fn commit(&self, commit: Commit) -> bool {
        self.0.send(Job::Commit(commit)).await.is_ok()
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

// r[impl channel.persist_before_credit]
fn commit<S>(store: &S, batch: Vec<Commit>)
where
    S: VoucherStore,
    S::Error: std::fmt::Display,
{
    if batch.is_empty() {
        return;
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
            for voucher in durable {
                if let Some(channel) = channels.get(&voucher.verified().channel()) {
                    channel.credit(voucher);
                }
            }
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
        }
    }
}

/// Vouchers that wait for the disk at most.
const QUEUE: usize = 1024;

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use aro_proto::channel::{ChannelState, ChannelTerms, MemoryVouchers, Offer, Payee, SignedVoucher, Voucher};
    use aro_proto::{Amount, SecretKey, Tariff};

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn channel(number: u8) -> Arc<PaidChannel> {
        let terms = ChannelTerms {
            channel: ChannelId::from_bytes([number; 32]),
            signer: SecretKey::from_bytes(&KEY).agent_id(),
            deposit: Amount::new(1000),
            settled: Amount::ZERO,
            state: ChannelState::Open,
        };
        Arc::new(PaidChannel::new(Payee::new(terms, Tariff { per_mib: 100 }, None), None))
    }

    fn offered(channel: &Arc<PaidChannel>, cumulative: u64) -> VerifiedVoucher {
        let voucher = Voucher { channel: channel.id(), cumulative: Amount::new(cumulative), expires_at: 0 };
        match channel.offer(&voucher.sign(&SecretKey::from_bytes(&KEY)), 0) {
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
    async fn everything_sent_is_durable_after_a_flush_and_the_store_is_free_after_the_end() {
        let store = Arc::new(Scripted::default());
        let (committer, handle) = Committer::start(Arc::clone(&store)).unwrap();
        let channels: Vec<_> = (1..40).map(channel).collect();
        let (refused, _refusals) = mpsc::channel(4);
        for channel in &channels {
            let voucher = offered(channel, 50);
            assert!(handle.commit(Commit { channel: Arc::clone(channel), voucher, refused: refused.clone() }).await);
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
