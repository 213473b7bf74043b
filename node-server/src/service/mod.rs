//! Requests: one task and one stream each.

mod credit;
mod deposit;
mod describe;
mod fetch;
mod name;
mod publish;

pub(crate) use publish::sweep_uploads;

use std::sync::Arc;

use aro_proto::error::close;
use aro_proto::identity::{EnvelopeError, Signed, Verified};
use aro_proto::merkle::GroupSize;
use aro_proto::message::{Describe, Fetch, Message, Publish, PublishName, Refused, Resolve};
use aro_proto::wire::{DecodeError, Frame};
use aro_proto::{ByteCount, Refusal, RefusalCode};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::shared::Counters;
use crate::transport::{Fault, FrameError, FrameReader, OpenRequest, SendFrameError, Session, send_frame_within};

/// Answers one request. `ended` hears what the agent says of its end.
pub(crate) async fn answer(
    open: OpenRequest,
    mut send: SendStream,
    receive: RecvStream,
    ended: oneshot::Receiver<ByteCount>,
) {
    let session = open.session();
    let _running = session.node.request_runs();
    let stream = send.id();
    let outcome = serve(session, &mut send, receive, ended).await;
    session.forget_request(stream);
    if let Err(fault) = outcome
        && !matches!(fault, Fault::Gone)
    {
        tracing::info!(peer = %session.connection.remote_address(), %fault, "a connection is closed");
        session.fail(&fault);
    }
}

/// What became of a request.
enum Outcome {
    /// Answered, or cancelled by the agent.
    Done,
    /// Refused, which is still to be said.
    Refused(Refusal),
}

async fn serve(
    session: &Arc<Session>,
    send: &mut SendStream,
    receive: RecvStream,
    ended: oneshot::Receiver<ByteCount>,
) -> Result<(), Fault> {
    let mut frames = FrameReader::new(receive, session.exchange_timeout());
    let frame = match timeout(session.exchange_timeout(), frames.next()).await {
        Ok(Ok(Some(frame))) => frame,
        Ok(Ok(None)) => return Err(DecodeError::Truncated.into()),
        Ok(Err(FrameError::Decode(error))) => return Err(error.into()),
        // Cancelled before it was asked.
        Ok(Err(FrameError::Read(_))) => return Ok(()),
        Ok(Err(FrameError::Timeout)) | Err(_) => return Err(Fault::Protocol("a request did not come in time".into())),
    };
    if frame.kind != Signed::KIND {
        return Err(DecodeError::Unexpected { found: frame.kind, expected: "signed request" }.into());
    }
    session.greeted().await?;
    let outcome = if session.node.is_stopping() {
        Outcome::Refused(Refusal::new(RefusalCode::ShuttingDown, "the node is stopping"))
    } else {
        dispatch(session, send, &mut frames, &frame, ended).await?
    };
    match outcome {
        Outcome::Done => Counters::add(&session.node.counters.answered, 1),
        Outcome::Refused(refusal) => {
            Counters::add(&session.node.counters.refused, 1);
            refuse(session, send, refusal).await;
        }
    }
    // Kept until here: dropping it would tell the agent to stop sending.
    drop(frames.into_stream());
    Ok(())
}

async fn dispatch(
    session: &Arc<Session>,
    send: &mut SendStream,
    frames: &mut FrameReader,
    frame: &Frame,
    ended: oneshot::Receiver<ByteCount>,
) -> Result<Outcome, Fault> {
    let signed = Signed::from_bytes(&frame.body)?;
    match signed.kind() {
        Describe::KIND => match verify::<Describe>(session, send, &signed)? {
            Ok(request) => describe::answer(session, request.message(), send).await,
            Err(refusal) => Ok(Outcome::Refused(refusal)),
        },
        Fetch::KIND => match verify::<Fetch>(session, send, &signed)? {
            Ok(request) => fetch::answer(session, &request, send, ended).await,
            Err(refusal) => Ok(Outcome::Refused(refusal)),
        },
        Publish::KIND => match verify::<Publish>(session, send, &signed)? {
            Ok(request) => Ok(publish::answer(session, &request, send, frames.stream(), ended).await),
            Err(refusal) => Ok(Outcome::Refused(refusal)),
        },
        PublishName::KIND => match verify::<PublishName>(session, send, &signed)? {
            Ok(request) => name::take(session, &request, send).await,
            Err(refusal) => Ok(Outcome::Refused(refusal)),
        },
        Resolve::KIND => match verify::<Resolve>(session, send, &signed)? {
            Ok(request) => name::resolve(session, request.message(), send).await,
            Err(refusal) => Ok(Outcome::Refused(refusal)),
        },
        found => Err(DecodeError::Unexpected { found, expected: "a request to a node" }.into()),
    }
}

fn verify<M: Message>(
    session: &Session,
    send: &SendStream,
    signed: &Signed,
) -> Result<Result<Verified<M>, Refusal>, Fault> {
    match signed.verify::<M>(&session.binding(send.id())) {
        Ok(request) => Ok(Ok(request)),
        Err(EnvelopeError::Decode(error)) => Err(error.into()),
        Err(EnvelopeError::Signature(error)) => {
            session.bad_signature()?;
            let reason = format!("the signature does not hold on this stream of this connection: {error}");
            Ok(Err(Refusal::new(RefusalCode::Unauthorised, reason)))
        }
    }
}

/// A refusal is a message followed by a clean finish, never a bare reset.
// r[impl request.refusal.finish]
async fn refuse(session: &Session, send: &mut SendStream, refusal: Refusal) {
    tracing::debug!(%refusal, "a request is refused");
    say_last(session, send, &Refused { refusal }).await;
}

/// Sends the one frame that answers a request, and finishes.
async fn say_last<M: Message>(session: &Session, send: &mut SendStream, message: &M) {
    match send_frame_within(send, message, session.stall_timeout()).await {
        Ok(()) => {
            let _ = send.finish();
        }
        // A peer that does not read must not keep the stream.
        Err(SendFrameError::Stalled) => {
            let _ = send.reset(VarInt::from_u32(close::CANCELLED));
        }
        // An agent that is gone, or has stopped listening, need not hear it.
        Err(SendFrameError::Write(_)) => {}
    }
}

fn group_size(log2: u8) -> Result<GroupSize, Refusal> {
    GroupSize::from_log2(log2).map_err(|error| Refusal::new(RefusalCode::BadRequest, error.to_string()))
}
