//! Taking contents from publishers: authorised, verified on arrival, billed as it is taken, durable before it is said.
//!
//! A batch of at most 256 KiB is read whole, billed, proven and written, and then acknowledged: the agent owes for what
//! is acknowledged. While one batch is written the next is read. A node that waits for payment reads no further, and
//! QUIC's flow control holds the agent.

mod admit;
mod known;
mod stream;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aro_proto::channel::StreamKey;
use aro_proto::error::close;
use aro_proto::identity::Verified;
use aro_proto::message::{Publish, PublishReceipt, Published, Taken};
use aro_proto::{ByteCount, ContentId, Refusal, RefusalCode};
use quinn::{ReadError, RecvStream, SendStream, VarInt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::credit::{NoCredit, bill};
use super::{Outcome, say_last};
use crate::channels::PaidChannel;
use crate::content::StoreError;
use crate::shared::{Counters, Shared, unix_now};
use crate::transport::{SendFrameError, Session, send_frame_within};

pub(super) async fn answer(
    session: &Arc<Session>,
    request: &Verified<Publish>,
    send: &mut SendStream,
    receive: &mut RecvStream,
    ended: oneshot::Receiver<ByteCount>,
) -> Outcome {
    let mut upload = Upload { session, request, send, receive, bill: None, taken: 0 };
    let ending = match request.message().content {
        Some(content) => upload.take_known(content).await,
        None => upload.take_stream().await,
    };
    upload.settle(&ending, ended).await;
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
    send: &'a mut SendStream,
    receive: &'a mut RecvStream,
    bill: Option<Bill>,
    /// Content bytes that are written and acknowledged.
    taken: u64,
}

/// An upload's place in its channel; released when dropped.
struct Bill {
    channel: Arc<PaidChannel>,
    stream: StreamKey,
    /// What of it was taken, if not all that was billed.
    taken: Option<ByteCount>,
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.channel.end(self.stream, self.taken);
    }
}

impl Upload<'_> {
    /// Bills a batch, and waits for the credit if need be.
    // r[impl publish.billed.taken]
    async fn bill(&mut self, bytes: u64) -> Result<(), Ending> {
        let Some(Bill { channel, stream, .. }) = &self.bill else { return Ok(()) };
        let billing = bill(&self.session.node, channel, *stream, ByteCount::new(bytes));
        tokio::pin!(billing);
        let mut may_be_reset = true;
        let billed = loop {
            tokio::select! {
                billed = &mut billing => break billed,
                reset = self.receive.received_reset(), if may_be_reset => match reset {
                    // All of it has come.
                    Ok(None) => may_be_reset = false,
                    Ok(Some(_)) | Err(_) => return Err(Ending::Gone),
                },
                _ = self.session.connection.closed() => return Err(Ending::Gone),
            }
        };
        billed.map_err(|why| self.unpaid(why))
    }

    /// Says how far the upload has come.
    async fn acknowledge(&mut self, bytes: u64) -> Result<(), Ending> {
        self.taken += bytes;
        Counters::add(&self.session.node.counters.taken_bytes, bytes);
        let taken = Taken { bytes: self.taken };
        match send_frame_within(self.send, &taken, self.session.stall_timeout()).await {
            Ok(()) => Ok(()),
            Err(SendFrameError::Stalled) => Err(refused(RefusalCode::OverCapacity, "the agent does not read")),
            Err(SendFrameError::Write(_)) => Err(Ending::Gone),
        }
    }

    /// Reads on until the buffer has `len` bytes or the stream has ended. False if it has ended before.
    async fn read_to(&mut self, buffer: &mut Vec<u8>, len: usize) -> Result<bool, Ending> {
        while buffer.len() < len {
            if !self.read_some(buffer, len).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads what is there, to at most `len` bytes in the buffer. False at the end of the stream.
    async fn read_some(&mut self, buffer: &mut Vec<u8>, len: usize) -> Result<bool, Ending> {
        match self.receive.read_chunk(len.saturating_sub(buffer.len()), true).await {
            Ok(Some(chunk)) => {
                buffer.extend_from_slice(&chunk.bytes);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)) => Err(Ending::Gone),
            Err(error) => Err(refused(RefusalCode::Internal, error.to_string())),
        }
    }

    /// Brings the two counts together: what was not taken is not owed.
    // r[impl publish.billed.taken]
    async fn settle(&mut self, ending: &Result<Durable, Ending>, ended: oneshot::Receiver<ByteCount>) {
        let Some(mut bill) = self.bill.take() else { return };
        bill.taken = match ending {
            Ok(_) => None,
            Err(Ending::Refused(_)) => Some(ByteCount::new(self.taken)),
            // Without a word from the agent all stays billed: it is here, and need not be sent again.
            Err(Ending::Gone) => tokio::select! {
                said = timeout(self.session.exchange_timeout(), ended) => said.ok().and_then(Result::ok),
                _ = self.session.connection.closed() => None,
            },
        };
    }

    fn receipt(&self, durable: Durable) -> PublishReceipt {
        let taken = ByteCount::new(self.taken);
        PublishReceipt {
            content: durable.content,
            size: ByteCount::new(durable.size),
            publisher: self.request.signer(),
            taken,
            price: self.session.node.config.publish.tariff.price(taken).unwrap_or_default(),
            at: unix_now(),
        }
    }

    fn unpaid(&self, why: NoCredit) -> Ending {
        match why {
            NoCredit::Blind => refused(RefusalCode::OverCapacity, "this node has not seen the chain for too long"),
            NoCredit::Unpaid => {
                let owed = self.session.node.config.publish.tariff.price(ByteCount::new(self.taken));
                let refusal = Refusal::new(RefusalCode::Unpaid, "payment for what was taken did not come in time");
                Ending::Refused(refusal.with_amount(owed.unwrap_or_default()))
            }
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
    if error.kind() == std::io::ErrorKind::StorageFull {
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
