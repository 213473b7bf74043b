//! Names: asking nodes what they mean, and giving them a new meaning; never an older one than was ever seen.

mod error;
pub(crate) mod memory;
mod publish;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aro_proto::message::{Message, Refused, Resolve, Resolved};
use aro_proto::naming::{NameRecord, Standing, VerifiedName};
use aro_proto::{ContentId, NameAddress, NodeAddress};
use tokio::task::JoinSet;

pub use error::NameError;
pub use publish::PublishNameBuilder;

use crate::agent::Agent;
use crate::error::{FetchError, Misbehaviour};
use crate::fetch::request::{decode, frame_failure};
use crate::transport::{Frame, Session, read_any_frame};

/// Asks every node at once, and takes the newest record that its publisher signed.
// r[impl name.newest]
pub(crate) async fn resolve(agent: &Agent, name: &NameAddress, nodes: &[NodeAddress]) -> Result<NameRecord, NameError> {
    let mut asking = JoinSet::new();
    for node in nodes {
        let (agent, name, node) = (agent.clone(), name.clone(), node.clone());
        asking.spawn(async move { look_up(&agent, &name, &node).await });
    }
    let (mut best, mut failed): (Option<VerifiedName>, Option<FetchError>) = (None, None);
    while let Some(answer) = asking.join_next().await {
        let record = match answer {
            Ok(Ok(Some(record))) => record,
            Ok(Ok(None)) => continue,
            Ok(Err(error)) => {
                tracing::debug!(%error, %name, "a node does not say what a name means");
                failed.get_or_insert(error);
                continue;
            }
            Err(panicked) => match panicked.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => continue,
            },
        };
        match record.against(best.as_ref()) {
            Standing::Newer => best = Some(record),
            Standing::Same | Standing::NotRising => {}
            Standing::EqualDiffers => return Err(NameError::two_records(&record)),
        }
    }
    let Some(best) = best else {
        return Err(failed.map_or_else(|| NameError::NotFound { name: name.clone() }, NameError::Fetch));
    };
    remember(agent, &best).await?;
    let record = best.record().clone();
    // r[impl name.withdrawn]
    if record.is_withdrawn() {
        return Err(NameError::Withdrawn { name: name.clone() });
    }
    match record.valid_until {
        Some(until) if !record.is_valid_at(unix_now()) => Err(NameError::Expired { name: name.clone(), until }),
        _ => Ok(record),
    }
}

/// What one node says of a name; none if it knows nothing of it.
// r[impl name.resolve.checked]
async fn look_up(agent: &Agent, name: &NameAddress, node: &NodeAddress) -> Result<Option<VerifiedName>, FetchError> {
    let request = Resolve { publisher: name.publisher, name: name.name.clone() };
    let (session, frame) = ask(agent, node, &request).await?;
    if frame.kind == Refused::KIND {
        let refused: Refused = decode(&session, &frame)?;
        return match refused.refusal.code() {
            aro_proto::RefusalCode::NameNotFound => Ok(None),
            _ => Err(FetchError::Refused(refused.refusal)),
        };
    }
    let resolved: Resolved = decode(&session, &frame)?;
    let record = resolved.record.verify().ok().filter(|record| record.record().address() == *name);
    record.map(Some).ok_or_else(|| FetchError::misbehaved(session.node(), Misbehaviour::Name))
}

/// One request, and the first frame of its answer.
async fn ask<M: Message>(agent: &Agent, node: &NodeAddress, message: &M) -> Result<(Arc<Session>, Frame), FetchError> {
    let session = agent.session(&node.with_content(ContentId::from_bytes([0; 32]))).await?;
    let waited_ms = agent.config().answer_timeout_ms;
    let mut exchange = session.request(message, waited_ms).await?;
    let reading = read_any_frame(&mut exchange.recv);
    match tokio::time::timeout(Duration::from_millis(waited_ms), reading).await {
        Err(_) => Err(FetchError::Timeout { doing: "waiting for an answer", waited_ms }),
        Ok(Err(error)) => Err(frame_failure(&session, error)),
        Ok(Ok(frame)) => Ok((session, frame)),
    }
}

/// Holds a record against the newest one ever seen, and remembers it if it is newer; what is returned from here as good
/// has survived.
// r[impl name.remembered]
async fn remember(agent: &Agent, record: &VerifiedName) -> Result<(), NameError> {
    let (memory, raised) = (agent.keys().names(), record.clone());
    let (standing, known) = blocking(move || memory.raise(&raised)).await?;
    match standing {
        Standing::Newer | Standing::Same => Ok(()),
        Standing::EqualDiffers => Err(NameError::two_records(record)),
        Standing::NotRising => Err(NameError::Stale {
            name: record.record().address(),
            shown: record.record().sequence,
            seen: known.map_or(0, |known| known.record().sequence),
        }),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, NameError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|ended| Err(std::io::Error::other(ended)));
    done.map_err(|error| NameError::Memory(Arc::new(error)))
}

/// Unix seconds now, by this machine's clock.
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
