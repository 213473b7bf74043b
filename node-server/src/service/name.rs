//! Names: taking a publisher's newest record, and saying what a name means. No content moves and nothing is billed.

use std::sync::Arc;

use aro_proto::identity::Verified;
use aro_proto::message::{NameRefused, NameTaken, PublishName, Resolve, Resolved};
use aro_proto::naming::{Standing, VerifiedName};
use aro_proto::{NameAddress, Refusal, RefusalCode};
use quinn::SendStream;

use super::{Outcome, say_last};
use crate::config::Publishers;
use crate::names::{NameStoreError, Names, Taking};
use crate::shared::unix_now;
use crate::transport::{Fault, Session};

/// Takes a record if its publisher may publish here, and it is newer than what is known.
pub(super) async fn take(
    session: &Arc<Session>,
    request: &Verified<PublishName>,
    send: &mut SendStream,
) -> Result<Outcome, Fault> {
    let record = match check(session, request).await? {
        Ok(record) => record,
        Err(refusal) => return Ok(Outcome::Refused(refusal)),
    };
    // A record costs a sync, so a connection has as few at once as it has uploads.
    let Ok(_place) = session.uploads.try_acquire() else {
        let reason = "too many uploads and names at once on this connection";
        return Ok(Outcome::Refused(Refusal::new(RefusalCode::OverCapacity, reason)));
    };
    let sequence = record.record().sequence;
    let taking = match blocking(session, move |names| names.take(&record)).await {
        Ok(taking) => taking,
        Err(refusal) => return Ok(Outcome::Refused(refusal)),
    };
    match taking {
        Taking::Taken => {
            say_last(session, send, &NameTaken { sequence }).await;
            Ok(Outcome::Done)
        }
        Taking::Refused { standing, current } => {
            let known = current.record().sequence;
            let refusal = match standing {
                Standing::EqualDiffers => {
                    Refusal::new(RefusalCode::NameEqualDiffers, format!("another record has the number {known}"))
                }
                _ => Refusal::new(RefusalCode::NameNotRising, format!("{sequence} is not above {known}")),
            };
            // r[impl name.refused.current]
            say_last(session, send, &NameRefused { refusal, current: current.signed().clone() }).await;
            Ok(Outcome::Done)
        }
        Taking::Quota => {
            let reason = "no more names are taken from this publisher, or from any";
            Ok(Outcome::Refused(Refusal::new(RefusalCode::QuotaExceeded, reason)))
        }
    }
}

/// Says what a name means, as far as this node knows.
// r[impl name.resolve]
pub(super) async fn resolve(
    session: &Arc<Session>,
    request: &Resolve,
    send: &mut SendStream,
) -> Result<Outcome, Fault> {
    let name = NameAddress { publisher: request.publisher, name: request.name.clone() };
    let not_found = Refusal::new(RefusalCode::NameNotFound, format!("this node knows no {name}"));
    match blocking(session, move |names| names.look_up(&name)).await {
        Ok(Some(record)) => {
            say_last(session, send, &Resolved { record }).await;
            Ok(Outcome::Done)
        }
        Ok(None) => Ok(Outcome::Refused(not_found)),
        Err(refusal) => Ok(Outcome::Refused(refusal)),
    }
}

/// Whether the signer may publish here, and the record is its own.
// r[impl name.authorised]
async fn check(
    session: &Arc<Session>,
    request: &Verified<PublishName>,
) -> Result<Result<VerifiedName, Refusal>, Fault> {
    let (config, signer) = (&session.node.config.publish, request.signer());
    let refused = |code, reason: String| Ok(Err(Refusal::new(code, reason)));
    if !config.allows(&signer) {
        return refused(RefusalCode::PublishDenied, format!("this node takes no names from {signer}"));
    }
    let signed = &request.message().record;
    if signed.record.publisher != signer {
        return refused(RefusalCode::Unauthorised, "the name belongs to another key than the request's".into());
    }
    let Ok(record) = signed.verify() else {
        session.bad_signature()?;
        return refused(RefusalCode::Unauthorised, "the record's signature does not hold".into());
    };
    // One that withdraws the name was valid at no time, and is taken all the same.
    if !record.record().is_withdrawn() && !record.record().is_valid_at(unix_now()) {
        return refused(RefusalCode::BadRequest, "the record is not valid any more".into());
    }
    if config.publishers == Publishers::WhoPays {
        // A key costs nothing; a channel does.
        match session.channel().await {
            Ok(channel) if channel.signer() == signer => {}
            Ok(_) => return refused(RefusalCode::Unauthorised, "the channel has another signer".into()),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    Ok(Ok(record))
}

/// Runs one look or write at the disk, within the bound on how many there are at once.
async fn blocking<T: Send + 'static>(
    session: &Arc<Session>,
    work: impl FnOnce(&Names) -> Result<T, NameStoreError> + Send + 'static,
) -> Result<T, Refusal> {
    let failed = || Refusal::new(RefusalCode::Internal, "the name cannot be read or written");
    let node = Arc::clone(&session.node);
    // Never closed.
    let _place = session.node.names.at_once.acquire().await.map_err(|_| failed())?;
    match tokio::task::spawn_blocking(move || work(&node.names)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            tracing::error!(%error, "a name cannot be read or written");
            Err(failed())
        }
        Err(_) => Err(failed()),
    }
}
