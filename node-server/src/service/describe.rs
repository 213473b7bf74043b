//! Saying what a fetch would cost: free, from memory or one look at the disk, signed.

use std::sync::Arc;

use aro_proto::message::{Describe, Description, Quote};
use aro_proto::{ByteCount, ContentId, Refusal, RefusalCode};
use quinn::SendStream;

use super::{Outcome, group_size, say_last};
use crate::shared::{Shared, unix_now};
use crate::transport::{Fault, Session};

pub(super) async fn answer(
    session: &Arc<Session>,
    request: &Describe,
    send: &mut SendStream,
) -> Result<Outcome, Fault> {
    let node = &session.node;
    let quote = match quote(node, request).await {
        Ok(quote) => quote,
        Err(refusal) => return Ok(Outcome::Refused(refusal)),
    };
    let description = Description { quote: quote.sign(&node.key) };
    say_last(session, send, &description).await;
    Ok(Outcome::Done)
}

async fn quote(node: &Arc<Shared>, request: &Describe) -> Result<Quote, Refusal> {
    let group = group_size(request.group_log2)?;
    let size = size(node, request.content).await?.ok_or_else(|| not_found(request.content))?;
    let content_bytes = ByteCount::new(request.ranges.answered(size, group).content_bytes());
    let tariff = node.config.tariff;
    let price = tariff.price(content_bytes).ok_or_else(unpayable)?;
    let valid_until = unix_now().saturating_add(QUOTE_VALID_S);
    Ok(Quote { content: request.content, size: ByteCount::new(size), content_bytes, price, tariff, valid_until })
}

/// The size of a content, `None` if it is not here; see [`sizes`].
pub(super) async fn size(node: &Arc<Shared>, content: ContentId) -> Result<Option<u64>, Refusal> {
    sizes(node, vec![content]).await?.pop().unwrap_or(Ok(None))
}

/// The sizes of contents, `None` for those that are not here, a refusal for each that cannot be read. Only what is neither
/// open nor in memory costs a disk access, and nothing is read of it.
pub(super) async fn sizes(
    node: &Arc<Shared>,
    contents: Vec<ContentId>,
) -> Result<Vec<Result<Option<u64>, Refusal>>, Refusal> {
    let at_hand = contents.iter().map(|id| {
        let small = node.store.small(*id).map(|content| content.size());
        small.or_else(|| node.store.cached(*id).map(|content| content.size())).map(|size| Ok(Some(size)))
    });
    if let Some(sizes) = at_hand.collect::<Option<Vec<_>>>() {
        return Ok(sizes);
    }
    let store = node.store.clone();
    let look = move |id| {
        store.look_up(id).map_err(|error| {
            tracing::error!(%error, "a content cannot be read");
            unreadable()
        })
    };
    let looked = tokio::task::spawn_blocking(move || contents.into_iter().map(look).collect()).await;
    looked.map_err(|_| unreadable())
}

pub(super) fn not_found(content: ContentId) -> Refusal {
    Refusal::new(RefusalCode::NotFound, format!("this node does not hold {content}"))
}

pub(super) fn unpayable() -> Refusal {
    Refusal::new(RefusalCode::BadRequest, "the price of these ranges does not fit any amount: ask for less at once")
}

pub(super) fn unreadable() -> Refusal {
    Refusal::new(RefusalCode::Internal, "the content cannot be read")
}

/// Seconds for which a quote holds: the price list changes only with a restart.
const QUOTE_VALID_S: i64 = 60;
