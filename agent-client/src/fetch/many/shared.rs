//! What the requests of one fetch of many share: what all contents together may cost, and how much of it each request
//! may.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aro_proto::merkle::{ByteRanges, GroupSize};
use aro_proto::message::{Fetch, FetchHead, FetchItem, Message, Refused};
use aro_proto::{Amount, Charge, ContentId, NodeId, RefusalCode, error::close};
use quinn::VarInt;
use tokio::time::timeout;

use super::answer::ManyAnswer;
use super::{Fetched, Tap};
use crate::agent::Agent;
use crate::budget::Purpose;
use crate::error::{FetchError, Misbehaviour};
use crate::fetch::UNBOUNDED;
use crate::fetch::account::StreamAccount;
use crate::fetch::offer::Offer;
use crate::fetch::request::{Request, decode, frame_failure};
use crate::receipts::Subject;
use crate::transport::{Exchange, Session, read_any_frame};

/// What the requests of one fetch share.
pub(super) struct Shared {
    pub(super) session: Arc<Session>,
    pub(super) agent: Agent,
    pub(super) allowance: Arc<Allowance>,
    /// Whether a deposit that does not suffice may grow.
    pub(super) provides: bool,
    pub(super) purpose: Purpose,
    pub(super) tap: Option<Arc<Tap>>,
}

/// What all requests together may cost and bring.
pub(super) struct Allowance {
    /// In base units.
    most: Amount,
    /// In bytes.
    limit: u64,
    books: Mutex<Books>,
}

struct Books {
    /// Of everything accepted, exactly: contents are smaller than what a base unit pays for, and bills add up charges.
    accepted: Charge,
    /// Of that, what requests that still run have accepted.
    running: Charge,
    /// What those may cost in all, in base units.
    promised: Amount,
    /// Bytes that may still come.
    bytes: u64,
}

/// What one request may cost. Ends with it.
pub(super) struct Promise {
    allowance: Arc<Allowance>,
    most: Amount,
    contents: usize,
    accepted: Charge,
}

/// Contents that are asked for in one request.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Which of the parts it is.
    pub(super) place: usize,
    pub(super) contents: Vec<ContentId>,
    /// What they cost, if the node has said it, in base units.
    pub(super) price: Option<Amount>,
}

/// What came of one request.
pub(super) enum Outcome {
    Came(Batch),
    /// Nothing, for what it costs is not to be had while others run: they may cost less than they might.
    Short {
        price: Option<Amount>,
        error: FetchError,
    },
}

/// What one request brought.
pub(super) struct Batch {
    pub(super) results: Vec<Fetched>,
    pub(super) wire_bytes: u64,
    pub(super) paid: Amount,
}

impl Shared {
    /// One part, asked for with what is set aside for it. A node that wants more says how much, and is asked again with
    /// that.
    pub(super) async fn fetch(&self, part: &Part, has_company: bool) -> Result<Outcome, FetchError> {
        let mut price = part.price;
        loop {
            let short = |error| Ok(Outcome::Short { price, error });
            let mut promise = match self.allowance.promise(part.contents.len(), price, has_company) {
                Ok(promise) => promise,
                Err(error) => return short(error),
            };
            let mut offer = match Offer::of_many(&self.agent, &self.purpose, promise.most, price).await {
                Err(error @ FetchError::BudgetExceeded(_)) => return short(error),
                offer => offer?,
            };
            promise.lower_to(offer.most());
            let asked = self.ask(&part.contents, &mut offer, &mut promise).await;
            match asked {
                Err(FetchError::PriceTooHigh { price: wanted, .. }) if price.is_none() && wanted > promise.most => {
                    price = Some(wanted);
                }
                done => return done.map(Outcome::Came),
            }
        }
    }

    /// One signed request, its answer proven content by content.
    async fn ask(&self, contents: &[ContentId], offer: &mut Offer, promise: &mut Promise) -> Result<Batch, FetchError> {
        let allowed = promise.most;
        let Exchange { stream, recv } = self.request(contents, allowed).await?;
        let account = {
            let subject = Subject::fetch_many(contents);
            StreamAccount::open(self.session.control().clone(), stream, self.purpose.clone(), subject)
        };
        let mut answer = ManyAnswer::new(self, offer, promise, recv, account);
        let mut results = Vec::with_capacity(contents.len());
        for content in contents {
            let request = Request {
                content: *content,
                ranges: ByteRanges::all(),
                group: GROUP,
                allowed,
                price: None,
                limit: self.allowance.limit,
                purpose: self.purpose.clone(),
            };
            match answer.next(&request, results.len()).await {
                Ok(fetched) => results.push(match &self.tap {
                    Some(tap) => tap.keep(*content, fetched),
                    None => fetched,
                }),
                Err(error @ FetchError::DepositExhausted { .. }) if self.provides && results.is_empty() => {
                    // A refusal of the whole request, of which nothing was begun.
                    let results = contents.iter().map(|_| Err(error.clone())).collect();
                    return Ok(Batch { results, wire_bytes: answer.wire_bytes(), paid: Amount::ZERO });
                }
                Err(error) => {
                    answer.stop(&error);
                    return Err(error);
                }
            }
        }
        let (wire_bytes, paid) = answer.end().await;
        Ok(Batch { results, wire_bytes, paid })
    }

    /// What the node wants for these contents, which it says to whoever offers nothing. Nothing is brought or owed.
    pub(super) async fn price_of(&self, contents: &[ContentId]) -> Result<Amount, FetchError> {
        let (session, limit_ms) = (&self.session, self.agent.config().answer_timeout_ms);
        let Exchange { mut recv, .. } = self.request(contents, Amount::ZERO).await?;
        let heard = timeout(Duration::from_millis(limit_ms), read_any_frame(&mut recv)).await;
        let late = FetchError::Timeout { doing: "waiting for an answer", waited_ms: limit_ms };
        let frame = heard.map_err(|_| late)?.map_err(|error| frame_failure(session, error))?;
        // What is free begins to come; it is asked for again with the rest.
        let _ = recv.stop(VarInt::from_u32(close::CANCELLED));
        if frame.kind != Refused::KIND {
            let _: FetchHead = decode(session, &frame)?;
            return Ok(Amount::ZERO);
        }
        let Refused { refusal } = decode(session, &frame)?;
        // Any other refusal is heard again where it matters.
        let price = refusal.amount.filter(|_| refusal.code() == RefusalCode::PriceTooHigh);
        Ok(price.unwrap_or_default())
    }

    async fn request(&self, contents: &[ContentId], max_price: Amount) -> Result<Exchange, FetchError> {
        let items = contents.iter().map(|content| FetchItem { content: *content, ranges: ByteRanges::all() }).collect();
        let fetch = Fetch { items, group_log2: GROUP.log2(), max_price };
        self.session.request(&fetch, self.agent.config().answer_timeout_ms).await
    }
}

impl Allowance {
    pub(super) fn new(most: Amount, limit: u64) -> Arc<Self> {
        let (accepted, running, promised) = (Charge::ZERO, Charge::ZERO, Amount::ZERO);
        Arc::new(Self { most, limit, books: Mutex::new(Books { accepted, running, promised, bytes: limit }) })
    }

    /// Promises a request its price, or where nobody knows that what is left, half of it if others come beside it.
    ///
    /// # Errors
    /// What all would come to, if that is above what is allowed.
    fn promise(
        self: &Arc<Self>,
        contents: usize,
        price: Option<Amount>,
        has_company: bool,
    ) -> Result<Promise, FetchError> {
        let mut books = self.lock();
        let ended = books.accepted.saturating_sub(books.running);
        let left = if self.most < UNBOUNDED {
            // Rounded up: the part of a unit may be what is missing, and the exact sum is held against it all the same.
            let left = Charge::from_amount(self.most).saturating_sub(ended);
            left.to_amount().unwrap_or(UNBOUNDED).saturating_sub(books.promised)
        } else {
            UNBOUNDED
        };
        let most = match price {
            Some(price) if price > left => {
                let taken = ended.to_amount().unwrap_or(UNBOUNDED).saturating_add(books.promised);
                return Err(FetchError::PriceTooHigh { price: taken.saturating_add(price), allowed: self.most });
            }
            Some(price) => price,
            None if has_company && left < UNBOUNDED => Amount::new(left.get() / 2),
            None => left,
        };
        books.promised = books.promised.saturating_add(most);
        let allowance = Arc::clone(self);
        Ok(Promise { allowance, most, contents, accepted: Charge::ZERO })
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // Plain numbers, changed in one go.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Promise {
    /// The most that the request may cost, in base units.
    pub(super) fn most(&self) -> Amount {
        self.most
    }

    /// Contents of the request.
    pub(super) fn contents(&self) -> usize {
        self.contents
    }

    /// No more than this is set aside for it.
    fn lower_to(&mut self, most: Amount) {
        let less = self.most.saturating_sub(most);
        let mut books = self.allowance.lock();
        books.promised = books.promised.saturating_sub(less);
        self.most = self.most.saturating_sub(less);
    }

    /// Takes a content's charge and bytes from what may still be accepted, by this request and by all.
    pub(super) fn take(&mut self, node: NodeId, charge: Charge, bytes: u64) -> Result<(), FetchError> {
        let mut books = self.allowance.lock();
        let Some(rest) = books.bytes.checked_sub(bytes) else {
            let limit = self.allowance.limit;
            let size = limit.saturating_sub(books.bytes).saturating_add(bytes);
            return Err(FetchError::TooLarge { size, limit });
        };
        let sum = |before: Charge| before.checked_add(charge).unwrap_or(Charge::from_parts(u128::MAX));
        let (all, ours, running) = (sum(books.accepted), sum(self.accepted), sum(books.running));
        let price = |charge: Charge| charge.to_amount().unwrap_or(UNBOUNDED);
        if price(all) > self.allowance.most {
            return Err(FetchError::PriceTooHigh { price: price(all), allowed: self.allowance.most });
        }
        if price(ours) > self.most {
            let (price, allowed) = (price(ours), self.most);
            return Err(FetchError::misbehaved(node, Misbehaviour::AboveMaxPrice { price, allowed }));
        }
        self.accepted = ours;
        (books.accepted, books.running, books.bytes) = (all, running, rest);
        Ok(())
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let accepted = mem::take(&mut self.accepted);
        let mut books = self.allowance.lock();
        books.promised = books.promised.saturating_sub(self.most);
        books.running = books.running.saturating_sub(accepted);
    }
}

/// Whole contents are asked for in the groups of bulk, which are one group for small ones.
const GROUP: GroupSize = GroupSize::KIB64;
