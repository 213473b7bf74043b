//! Giving a name a new meaning, or none any more.

use aro_proto::message::{Message, NameRefused, NameTaken, PublishName, Refused};
use aro_proto::naming::{NameRecord, Standing, TargetKind, VerifiedName};
use aro_proto::{ContentId, Name, NameAddress, NodeAddress};

use super::{NameError, ask, blocking, look_up, remember, unix_now};
use crate::agent::Agent;
use crate::error::{FetchError, Misbehaviour};
use crate::fetch::request::decode;

/// A name being published; [`run`](Self::run) runs it.
///
/// Dropping the running future may leave the name as it was or with its new meaning; the same call again settles it.
#[must_use = "nothing is published until run is awaited"]
pub struct PublishNameBuilder {
    agent: Agent,
    node: NodeAddress,
    name: Name,
    meaning: Meaning,
}

/// What the name is to mean.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    Target { target: ContentId, kind: TargetKind, valid_until: Option<i64> },
    Withdrawn,
}

impl PublishNameBuilder {
    pub(crate) fn new(agent: Agent, node: NodeAddress, name: Name, target: ContentId, kind: TargetKind) -> Self {
        Self { agent, node, name, meaning: Meaning::Target { target, kind, valid_until: None } }
    }

    pub(crate) fn withdrawing(agent: Agent, node: NodeAddress, name: Name) -> Self {
        Self { agent, node, name, meaning: Meaning::Withdrawn }
    }

    /// Unix seconds after which nobody shall take this meaning for the name's; default never. A name that is withdrawn has
    /// none.
    pub fn valid_until(mut self, unix_s: i64) -> Self {
        if let Meaning::Target { valid_until, .. } = &mut self.meaning {
            *valid_until = Some(unix_s);
        }
        self
    }

    /// Publishes at the node. The number is above every one that this wallet and the node know; where the name already
    /// means the same, the same record is sent, so that many nodes can be given it one after another.
    ///
    /// # Errors
    /// See [`NameError`].
    pub async fn run(self) -> Result<NameRecord, NameError> {
        let publisher = self.agent.keys().signer();
        let name = NameAddress { publisher, name: self.name.clone() };
        let at_node = look_up(&self.agent, &name, &self.node).await?;
        let record = self.next_record(&name, at_node.as_ref()).await?;
        // Before it leaves: whatever becomes of it, no other record is ever signed under this number.
        // r[impl name.record.before_send]
        remember(&self.agent, &record).await?;
        self.send(&record).await?;
        Ok(record.record().clone())
    }

    async fn next_record(&self, name: &NameAddress, at_node: Option<&VerifiedName>) -> Result<VerifiedName, NameError> {
        let (memory, asked) = (self.agent.keys().names(), name.clone());
        let known = blocking(move || memory.latest(&asked)).await?;
        let newest = match (known, at_node) {
            (Some(known), Some(at_node)) => match at_node.against(Some(&known)) {
                Standing::Newer => Some(at_node.clone()),
                _ => Some(known),
            },
            (known, at_node) => known.or_else(|| at_node.cloned()),
        };
        let above = newest.as_ref().map_or(0, |newest| newest.record().sequence);
        // Two records under one number, or a number that is spent: only a higher one settles it.
        let is_settled = at_node.is_none_or(|at_node| {
            newest.as_ref().is_some_and(|newest| newest.against(Some(at_node)) != Standing::EqualDiffers)
        });
        if let Some(newest) = newest.filter(|newest| is_settled && self.is_same(newest.record())) {
            return Ok(newest);
        }
        if above == 0 && matches!(self.meaning, Meaning::Withdrawn) {
            return Err(NameError::NotFound { name: name.clone() });
        }
        let Some(sequence) = above.checked_add(1) else {
            return Err(NameError::Spent { name: name.clone() });
        };
        let (issued_at, NameAddress { publisher, name }) = (unix_now(), name.clone());
        let record = match self.meaning {
            Meaning::Target { target, kind, valid_until } => {
                NameRecord { publisher, name, sequence, target, kind, issued_at, valid_until }
            }
            Meaning::Withdrawn => NameRecord::withdrawn(NameAddress { publisher, name }, sequence, issued_at),
        };
        Ok(record.sign(self.agent.keys().signer_key()))
    }

    fn is_same(&self, record: &NameRecord) -> bool {
        match self.meaning {
            Meaning::Target { target, kind, valid_until } => {
                (record.target, record.kind, record.valid_until) == (target, kind, valid_until)
            }
            Meaning::Withdrawn => record.is_withdrawn(),
        }
    }

    async fn send(&self, record: &VerifiedName) -> Result<(), NameError> {
        let request = PublishName { record: record.signed().clone() };
        let (session, frame) = ask(&self.agent, &self.node, &request).await?;
        let misbehaved = || FetchError::misbehaved(session.node(), Misbehaviour::Name);
        match frame.kind {
            Refused::KIND => {
                let refused: Refused = decode(&session, &frame)?;
                Err(FetchError::Refused(refused.refusal).into())
            }
            NameRefused::KIND => {
                let NameRefused { refusal, current } = decode(&session, &frame)?;
                // Only what the publisher itself signed, and what is not older, speaks against it.
                // r[impl name.refused.checked]
                let current = current.verify().map_err(|_| misbehaved())?;
                let is_same_name = current.record().address() == record.record().address();
                if !is_same_name
                    || !matches!(record.against(Some(&current)), Standing::NotRising | Standing::EqualDiffers)
                {
                    return Err(misbehaved().into());
                }
                Err(NameError::Outdated { refusal, current: Box::new(current.record().clone()) })
            }
            _ => {
                let taken: NameTaken = decode(&session, &frame)?;
                if taken.sequence == record.record().sequence { Ok(()) } else { Err(misbehaved().into()) }
            }
        }
    }
}
