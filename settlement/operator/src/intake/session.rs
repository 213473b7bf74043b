//! One connection: its control stream and its handoffs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aro_proto::error::close;
use aro_proto::identity::{Binding, EnvelopeError, Signed};
use aro_proto::limits::{EXPORTER_LABEL, EXPORTER_LEN, MAX_BAD_SIGNATURES};
use aro_proto::message::{Goaway, Handoff, Hello, Message, Refused};
use aro_proto::wire::Frame;
use aro_proto::{Refusal, RefusalCode};
use quinn::{Connection, Incoming, RecvStream, SendStream, VarInt};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::endpoint::Bounds;
use super::framed::{FrameError, PATIENCE, next_frame, read_body, read_frame, read_head, write_message};
use super::{Answer, Intake};
use crate::stop::Stop;

/// Serves one connection to its end.
pub(super) async fn run(incoming: Incoming, intake: Arc<Intake>, bounds: Bounds, mut stop: Stop) {
    let Ok(connecting) = incoming.accept() else { return };
    let Ok(Ok(connection)) = timeout(PATIENCE, connecting).await else { return };
    let mut exporter = [0; EXPORTER_LEN];
    if connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").is_err() {
        connection.close(VarInt::from_u32(close::PROTOCOL), b"no exporter");
        return;
    }
    let (agreed, mut greeted) = watch::channel(false);
    let session = Arc::new(Session {
        connection: connection.clone(),
        exporter,
        intake,
        agreed,
        bad_signatures: AtomicU32::new(0),
        handoffs: Semaphore::new(1),
    });
    let mut streams = JoinSet::new();
    let mut control = JoinSet::new();
    let hello = timeout(bounds.hello_timeout, async move { greeted.wait_for(|agreed| *agreed).await.is_ok() });
    let end = sleep(bounds.max_age);
    tokio::pin!(hello, end);
    let mut has_hello = false;
    loop {
        tokio::select! {
            stream = connection.accept_bi() => {
                let Ok((send, recv)) = stream else { return };
                let session = Arc::clone(&session);
                if send.id().index() == 0 {
                    control.spawn(session.control(send, recv, stop.clone()));
                } else {
                    streams.spawn(session.request(send, recv));
                }
            }
            Some(_) = streams.join_next() => {}
            outcome = &mut hello, if !has_hello => match outcome {
                Ok(_) => has_hello = true,
                Err(_) => return session.protocol_error("no hello came in time"),
            },
            () = &mut end => {
                let begun = async { while streams.join_next().await.is_some() {} };
                let _ = timeout(PATIENCE, begun).await;
                connection.close(VarInt::from_u32(close::DONE), b"dial again when there is news");
                return;
            }
            () = stop.told() => break,
        }
    }
    // Begun handoffs are answered; then the goodbye, for which the control task waits.
    while streams.join_next().await.is_some() {}
    while control.join_next().await.is_some() {}
    connection.close(VarInt::from_u32(close::SHUTDOWN), b"shutting down");
}

struct Session {
    connection: Connection,
    exporter: [u8; EXPORTER_LEN],
    intake: Arc<Intake>,
    /// True once the chains are known to be the same.
    agreed: watch::Sender<bool>,
    bad_signatures: AtomicU32,
    /// One at a time; the others wait in their streams, unread.
    handoffs: Semaphore,
}

impl Session {
    // r[impl identity.chain]
    async fn control(self: Arc<Self>, mut send: SendStream, mut recv: RecvStream, mut stop: Stop) {
        let hello = match read_frame(&mut recv).await {
            Ok(frame) => frame.decode::<Hello>().map_err(FrameError::from),
            Err(error) => Err(error),
        };
        let hello = match hello {
            Ok(hello) => hello,
            Err(error) => return self.broken(&error),
        };
        if hello.chain != self.intake.chain_ids {
            let reason = "genesis hash, program and mint must be those of this operator";
            let refusal = Refusal::new(RefusalCode::WrongChain, reason);
            self.goaway(&mut send, refusal).await;
            self.connection.close(VarInt::from_u32(close::WRONG_CHAIN), b"wrong chain");
            return;
        }
        if write_message(&mut send, &self.intake.hello()).await.is_err() {
            return;
        }
        self.agreed.send_replace(true);
        tokio::select! {
            frame = next_frame(&mut recv) => match frame {
                Ok(Some(_)) => return self.protocol_error("nothing more is due on this control stream"),
                Ok(None) => {}
                Err(error) => return self.broken(&error),
            },
            () = stop.told() => {}
        }
        stop.told().await;
        self.goaway(&mut send, Refusal::new(RefusalCode::ShuttingDown, "the operator is stopping")).await;
    }

    async fn request(self: Arc<Self>, mut send: SendStream, mut recv: RecvStream) {
        let head = match read_head(&mut recv).await {
            Ok(head) => head,
            Err(error) => return self.broken(&error),
        };
        // Requests leave with the hello; they wait here until the chains are known to be the same.
        let mut agreed = self.agreed.subscribe();
        let Ok(Ok(_)) = timeout(PATIENCE, agreed.wait_for(|agreed| *agreed)).await else {
            return self.protocol_error("a request without a hello");
        };
        let Ok(permit) = self.handoffs.acquire().await else { return };
        let frame = match read_body(&mut recv, head).await {
            Ok(frame) => frame,
            Err(error) => return self.broken(&error),
        };
        let answer = self.handoff(frame, u64::from(VarInt::from(send.id()))).await;
        drop(permit);
        match answer {
            Ok(Answer::Ack { ack, bad_signatures }) => {
                let sent = write_message(&mut send, &ack).await;
                self.conclude(sent.is_ok(), &mut send).await;
                self.count_bad(bad_signatures);
            }
            Ok(Answer::Refused(refusal)) => {
                let is_bad_signature = refusal.code() == RefusalCode::Unauthorised;
                if is_bad_signature {
                    self.intake.fairness.strange(self.connection.remote_address().ip());
                }
                let sent = write_message(&mut send, &Refused { refusal }).await;
                self.conclude(sent.is_ok(), &mut send).await;
                self.count_bad(u32::from(is_bad_signature));
            }
            Err(error) => self.broken(&error),
        }
    }

    // r[impl request.signature.bound]
    async fn handoff(&self, frame: Frame, stream: u64) -> Result<Answer, FrameError> {
        if frame.kind != Signed::KIND {
            return Ok(Answer::Refused(Refusal::new(RefusalCode::BadRequest, "requests come in a signed envelope")));
        }
        let signed = Signed::from_bytes(&frame.body)?;
        drop(frame);
        if signed.kind() != Handoff::KIND {
            return Ok(Answer::Refused(Refusal::new(RefusalCode::BadRequest, "an operator takes only handoffs")));
        }
        let binding = Binding { exporter: self.exporter, stream };
        let handoff = match signed.verify::<Handoff>(&binding) {
            Ok(handoff) => handoff,
            Err(EnvelopeError::Decode(error)) => return Err(error.into()),
            Err(error @ EnvelopeError::Signature(_)) => {
                return Ok(Answer::Refused(Refusal::new(RefusalCode::Unauthorised, error.to_string())));
            }
        };
        Ok(self.intake.take(handoff.signer(), handoff.message()).await)
    }

    /// Finishes an answer and waits until the peer has it, so that a close right after does not cut it off.
    async fn conclude(&self, sent: bool, send: &mut SendStream) {
        if sent && send.finish().is_ok() {
            let _ = timeout(FAREWELL, send.stopped()).await;
        }
    }

    async fn goaway(&self, send: &mut SendStream, refusal: Refusal) {
        let sent = write_message(send, &Goaway { refusal }).await;
        self.conclude(sent.is_ok(), send).await;
    }

    fn count_bad(&self, bad: u32) {
        let before = self.bad_signatures.fetch_add(bad, Ordering::Relaxed);
        if before.saturating_add(bad) > MAX_BAD_SIGNATURES {
            self.connection.close(VarInt::from_u32(close::ABUSE), b"too many bad signatures");
        }
    }

    fn broken(&self, error: &FrameError) {
        match error {
            FrameError::Gone => {}
            FrameError::Slow | FrameError::Decode(_) => self.protocol_error(&error.to_string()),
        }
    }

    fn protocol_error(&self, reason: &str) {
        tracing::debug!(peer = %self.connection.remote_address(), reason, "connection closed");
        self.intake.fairness.strange(self.connection.remote_address().ip());
        self.connection.close(VarInt::from_u32(close::PROTOCOL), reason.as_bytes());
    }
}

/// How long a last word may take to reach the peer.
const FAREWELL: Duration = Duration::from_secs(1);
