//! What the node says of an upload: how far it has come, and what that costs.

use std::sync::Arc;

use aro_proto::channel::StreamKey;
use aro_proto::message::Taken;
use aro_proto::{ByteCount, Refusal, RefusalCode};
use quinn::SendStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::credit::{self, NoCredit};
use super::{Durable, Ending, refused};
use crate::channels::PaidChannel;
use crate::shared::Counters;
use crate::transport::{SendFrameError, Session, send_frame_within};

/// The way out of one upload, its bill, and its count.
pub(super) struct Answers<'a> {
    session: &'a Session,
    pub(super) send: &'a mut SendStream,
    pub(super) bill: Option<Bill>,
    /// Content bytes that are written.
    taken: u64,
}

/// An upload's place in its channel; released when dropped.
pub(super) struct Bill {
    pub(super) channel: Arc<PaidChannel>,
    pub(super) stream: StreamKey,
    /// What of it was taken, if not all that was billed.
    pub(super) taken: Option<ByteCount>,
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.channel.end(self.stream, self.taken);
    }
}

impl<'a> Answers<'a> {
    pub(super) fn new(session: &'a Session, send: &'a mut SendStream) -> Self {
        Self { session, send, bill: None, taken: 0 }
    }

    /// Content bytes that are written.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bills a batch, and waits for the credit if need be.
    // r[impl publish.billed.taken]
    pub(super) async fn bill(&mut self, bytes: u64) -> Result<(), Ending> {
        let Some(Bill { channel, stream, .. }) = &self.bill else { return Ok(()) };
        let billed = credit::bill(&self.session.node, channel, *stream, ByteCount::new(bytes)).await;
        billed.map_err(|why| self.unpaid(why))
    }

    /// A batch is written.
    pub(super) fn count(&mut self, bytes: u64) {
        self.taken += bytes;
        Counters::add(&self.session.node.counters.taken_bytes, bytes);
    }

    /// Says how far the upload has come.
    pub(super) async fn acknowledge(&mut self) -> Result<(), Ending> {
        let taken = Taken { bytes: self.taken };
        match send_frame_within(self.send, &taken, self.session.stall_timeout()).await {
            Ok(()) => Ok(()),
            Err(SendFrameError::Stalled) => Err(refused(RefusalCode::OverCapacity, "the agent does not read")),
            Err(SendFrameError::Write(_)) => Err(Ending::Gone),
        }
    }

    /// Brings the two counts together: what was not taken is not owed.
    // r[impl publish.billed.taken]
    pub(super) async fn settle(&mut self, ending: &Result<Durable, Ending>, ended: oneshot::Receiver<ByteCount>) {
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
