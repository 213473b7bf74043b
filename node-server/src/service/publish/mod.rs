//! Taking contents from publishers: authorised, verified on arrival, billed as it is taken, durable before it is said.
//!
//! A batch of at most 256 KiB is read whole and proven, billed, written, and then acknowledged: the agent owes for what
//! is acknowledged. While one batch is written the next ones are read, as many as there are buffers. A node that waits for
//! payment reads at most those two further, and then QUIC's flow control holds the agent.

mod admit;
mod answers;
mod incoming;
mod known;
mod stream;
mod syncing;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aro_proto::error::close;
use aro_proto::identity::Verified;
use aro_proto::message::{Publish, PublishReceipt, Published};
use aro_proto::{ByteCount, ContentId, Refusal, RefusalCode};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::oneshot;

use super::{Outcome, say_last};
use crate::content::StoreError;
use crate::shared::{Shared, unix_now};
use crate::transport::Session;
use answers::Answers;
use incoming::Incoming;

pub(super) async fn answer(
    session: &Arc<Session>,
    request: &Verified<Publish>,
    send: &mut SendStream,
    receive: &mut RecvStream,
    ended: oneshot::Receiver<ByteCount>,
) -> Outcome {
    let (incoming, answers) = (Incoming::new(&session.connection, receive), Answers::new(session, send));
    let mut upload = Upload { session, request, incoming, answers };
    let ending = match request.message().content {
        Some(content) => upload.take_known(content).await,
        None => upload.take_stream().await,
    };
    upload.answers.settle(&ending, ended).await;
    match ending {
        Ok(content) => {
            let receipt = upload.receipt(content).sign(&session.node.key);
            say_last(session, send, &Published { receipt }).await;
            Outcome::Done
        }
        Err(Ending::Refused(refusal)) => {
            let code = if refusal.code() == RefusalCode::WrongContent { close::BAD_PROOF } else { close::CANCELLED };
            // Ended already is as good.
            let _ = receive.stop(VarInt::from_u32(code));
            Outcome::Refused(refusal)
        }
        Err(Ending::Gone) => Outcome::Done,
    }
}

/// Removes broken-off uploads that are too old or too many, now and then.
pub(crate) async fn sweep_uploads(node: Arc<Shared>) {
    loop {
        sweep(&node).await;
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

async fn sweep(node: &Shared) {
    let shelf = node.shelf.clone();
    if tokio::task::spawn_blocking(move || shelf.sweep(SystemTime::now())).await.is_err() {
        tracing::error!("broken-off uploads could not be looked through");
    }
}

/// A content that is durable here.
#[derive(Clone, Copy, Debug)]
struct Durable {
    content: ContentId,
    size: u64,
}

/// How an upload ended, if not well.
#[derive(Debug)]
enum Ending {
    /// For this reason, which is still to be said.
    Refused(Refusal),
    /// The agent has reset the stream, or the connection is gone.
    Gone,
}

/// One upload, from its request to its end.
struct Upload<'a> {
    session: &'a Arc<Session>,
    request: &'a Verified<Publish>,
    incoming: Incoming<'a>,
    answers: Answers<'a>,
}

impl Upload<'_> {
    fn receipt(&self, durable: Durable) -> PublishReceipt {
        let taken = ByteCount::new(self.answers.taken());
        PublishReceipt {
            content: durable.content,
            size: ByteCount::new(durable.size),
            publisher: self.request.signer(),
            taken,
            price: self.session.node.config.publish.tariff.price(taken).unwrap_or_default(),
            at: unix_now(),
        }
    }
}

fn refused(code: RefusalCode, reason: impl Into<String>) -> Ending {
    Ending::Refused(Refusal::new(code, reason))
}

fn stalled(patience: Duration) -> Ending {
    let reason = format!("the upload stalled for {} s; asked again, it goes on where it was", patience.as_secs());
    refused(RefusalCode::OverCapacity, reason)
}

/// A disk's error, in the agent's terms.
fn disk(error: &std::io::Error) -> Ending {
    tracing::error!(%error, "an upload cannot be written");
    // Its owner's quota of a disk is as full as a disk.
    if matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
        refused(RefusalCode::StorageFull, "the node's disk is full")
    } else {
        refused(RefusalCode::Internal, "the node's disk fails")
    }
}

fn store(error: StoreError) -> Ending {
    match error {
        StoreError::Io { source, .. } => disk(&source),
        other => {
            tracing::error!(error = %other, "an upload cannot be stored");
            refused(RefusalCode::Internal, "the upload cannot be stored")
        }
    }
}

/// Runs what blocks on the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Ending> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| refused(RefusalCode::Internal, "the upload was cut off inside the node"))
}

/// Between looks for broken-off uploads that are too old.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_full_disk_and_a_full_quota_of_it_are_one_answer_and_a_failing_disk_is_another() {
        let code = |kind: io::ErrorKind| match disk(&kind.into()) {
            Ending::Refused(refusal) => refusal.code(),
            Ending::Gone => panic!("nobody is gone"),
        };
        assert_eq!(code(io::ErrorKind::StorageFull), RefusalCode::StorageFull);
        assert_eq!(code(io::ErrorKind::QuotaExceeded), RefusalCode::StorageFull);
        assert_eq!(code(io::ErrorKind::Other), RefusalCode::Internal);
    }
}
