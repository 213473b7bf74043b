//! Channels without the caller's help: what a request lacks to be paid is provided, and then it is asked again.
//!
//! Only a refusal makes it act, so that nothing is locked for a node that does not have the content. What it may lock, the
//! [`ChannelPolicy`](super::ChannelPolicy) and the budget say.

use std::sync::Arc;
use std::time::Duration;

use aro_proto::channel::ReconcileError;
use aro_proto::{Amount, ChannelId, NodeId};
use settlement_chain::{Address, reads};
use settlement_interface::accounts::status;

use super::channels::{ChannelInfo, ChannelPhase};
use super::money::{MoneyError, Place};
use super::policy::{Bound, ChannelCap, Narrow, Room};
use super::purse::{Purse, detached};
use crate::agent::Agent;
use crate::budget::Purpose;
use crate::error::{FetchError, Misbehaviour};
use crate::transport::Session;

/// Something that the agent did with a channel unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelEvent {
    /// Opened one, for a request that needed it.
    Opened {
        /// The channel.
        channel: ChannelId,
        /// The node that it pays.
        node: NodeId,
        /// Base units set aside.
        deposit: Amount,
    },
    /// Added to a deposit, for a request that needed it.
    ToppedUp {
        /// The channel.
        channel: ChannelId,
        /// The node that it pays.
        node: NodeId,
        /// Base units added.
        added: Amount,
    },
    /// Asked to close one that nobody uses any more, or whose session key has expired.
    Closing {
        /// The channel.
        channel: ChannelId,
        /// The node that it pays.
        node: NodeId,
    },
    /// Took back what a closed one held.
    Reclaimed {
        /// The channel.
        channel: ChannelId,
        /// Base units that are available again.
        refunded: Amount,
    },
}

/// Provides for one request, a bounded number of times.
pub(crate) struct Provider {
    agent: Agent,
    node: NodeId,
    opens: u32,
    top_ups: u32,
    waits: u32,
    has_refreshed: bool,
}

/// A request that could not be paid, and what is needed for it to be.
#[derive(Debug)]
pub(crate) enum Lack {
    /// A channel. How much it must hold, the price says.
    Channel,
    /// So many base units in the channel.
    Deposit { channel: ChannelId, missing: Amount },
    /// Nothing: it can be asked again as it is.
    Nothing,
}

impl Provider {
    pub(crate) fn new(agent: &Agent, node: NodeId) -> Self {
        Self { agent: agent.clone(), node, opens: 0, top_ups: 0, waits: 0, has_refreshed: false }
    }

    /// What a request lacks that failed with this error.
    ///
    /// # Errors
    /// The error itself, if nothing can or may be done about it.
    pub(crate) async fn lack(&mut self, error: FetchError) -> Result<Lack, FetchError> {
        if let FetchError::Misbehaved {
            what: Misbehaviour::Accounts(ReconcileError::AboveDeposit { shown, .. }), ..
        } = &error
        {
            return if self.deposit_covers(*shown).await? { Ok(Lack::Nothing) } else { Err(error) };
        }
        match error {
            FetchError::ChannelUnusable { channel } => {
                self.agent.forget_channel(self.node, channel).await;
                let is_open = self.agent.keys().record(channel)?.is_some_and(|record| record.is_open());
                // A node that does not take a channel that is open cannot be helped with another one.
                if is_open || !self.may_provide() { Err(error) } else { Ok(Lack::Channel) }
            }
            FetchError::NoChannel { .. } if self.may_provide() => Ok(Lack::Channel),
            FetchError::DepositExhausted { channel: Some(channel), missing } if self.may_provide() => {
                Ok(Lack::Deposit { channel, missing })
            }
            other => Err(other),
        }
    }

    /// Sees to it that a channel is open that can pay `price`. One that is open already is enough: what it lacks, the
    /// next refusal says.
    pub(crate) async fn open(&mut self, price: Amount) -> Result<(), FetchError> {
        self.opens += 1;
        if self.opens > MAX_OPENS {
            return Err(FetchError::NoChannel { node: self.node });
        }
        let (agent, node) = (self.agent.clone(), self.node);
        Ok(detached(async move {
            let purse = agent.purse().await?;
            agent.provide_channel(&purse, node, price).await
        })
        .await?)
    }

    /// Sees to it that a channel's deposit has grown since this request failed.
    pub(crate) async fn top_up(
        &mut self,
        session: &Session,
        channel: ChannelId,
        missing: Amount,
    ) -> Result<(), FetchError> {
        let known = session.deposit();
        if self.top_ups > 0 && self.gives_time().await {
            return Ok(());
        }
        self.top_ups += 1;
        if self.top_ups > MAX_TOP_UPS {
            return Err(FetchError::DepositExhausted { channel: Some(channel), missing });
        }
        self.waits = 0;
        let (agent, node) = (self.agent.clone(), self.node);
        Ok(detached(async move {
            let purse = agent.purse().await?;
            agent.provide_deposit(&purse, node, channel, known, missing).await
        })
        .await?)
    }

    /// Waits a moment, for a node follows the chain and may not have seen yet how far a deposit has grown. False once it has
    /// had time enough: then its count is believed.
    pub(crate) async fn gives_time(&mut self) -> bool {
        if self.waits == MAX_WAITS {
            return false;
        }
        self.waits += 1;
        tokio::time::sleep(WAIT).await;
        true
    }

    /// Whether anything is locked unasked.
    pub(crate) fn may_provide(&self) -> bool {
        self.agent.policy().automatic && self.agent.keys().is_owner()
    }

    /// Asks the chain once whether the deposit is larger than the record says.
    async fn deposit_covers(&mut self, shown: Amount) -> Result<bool, FetchError> {
        if std::mem::replace(&mut self.has_refreshed, true) {
            return Ok(false);
        }
        let Some(record) = self.agent.keys().open_channel_to(self.node)? else { return Ok(false) };
        self.agent.forget_session(self.node).await;
        self.agent.look_up_channel(record.channel).await?;
        Ok(self.agent.keys().record(record.channel)?.is_some_and(|record| record.deposit >= shown))
    }
}

impl Agent {
    async fn provide_channel(&self, purse: &Purse, node: NodeId, price: Amount) -> Result<(), MoneyError> {
        self.finish_pending(purse, node).await?;
        if let Some(open) = self.channel_to(node).await? {
            // Somebody else opened it while this one waited; a connection that began before is not bound to it.
            if let Some(session) = self.live_session(node).await
                && session.channel() != Some(open.channel)
            {
                self.forget_session(node).await;
            }
            return Ok(());
        }
        let policy = self.policy();
        let id = Address::new_from_array(node.to_bytes());
        let account = reads::node(self.chain(), self.program(), &id).await?.ok_or(MoneyError::UnknownNode(node))?;
        if account.min_grace_s > policy.max_grace_s {
            let (min_s, asked_s) = (account.min_grace_s, policy.max_grace_s);
            return Err(MoneyError::Grace { asked_s, min_s, max_s: u32::MAX });
        }
        let deposit = self.deposit_for(node, price).await?;
        let signer = self.keys().signer();
        let opened = self.open_in(purse, node, signer, deposit, None).await?;
        self.tell(&ChannelEvent::Opened { channel: opened.channel, node, deposit });
        Ok(())
    }

    async fn provide_deposit(
        &self,
        purse: &Purse,
        node: NodeId,
        channel: ChannelId,
        known: Option<Amount>,
        missing: Amount,
    ) -> Result<(), MoneyError> {
        self.finish_pending(purse, node).await?;
        let (_, account) = self.our_channel(channel).await?;
        let before = self.keys().record(channel)?.map(|record| record.deposit);
        self.take_in(channel, node, &account).await?;
        if account.status != status::OPEN {
            // The next request finds no channel, and opens another.
            self.forget_session(node).await;
            return Ok(());
        }
        let grown = |known: Option<Amount>| known.is_some_and(|known| account.deposit > known.get());
        if grown(known) || grown(before) {
            return Ok(());
        }
        let added = self.deposit_for(node, missing).await?;
        self.top_up_in(purse, channel, added).await?;
        self.tell(&ChannelEvent::ToppedUp { channel, node, added });
        Ok(())
    }

    /// How much to lock so that `needed` more can be paid to a node.
    async fn deposit_for(&self, node: NodeId, needed: Amount) -> Result<Amount, MoneyError> {
        let agent = reads::agent(self.chain(), self.program(), &self.keys().owner()).await?;
        let signer = self.keys().signer();
        let channels = self.channels().await?;
        let locked = |of: &dyn Fn(&ChannelInfo) -> bool| {
            let counted = channels.iter().filter(|c| c.signer == signer && c.phase != ChannelPhase::Closed && of(c));
            counted.map(ChannelInfo::unspent).fold(Amount::ZERO, Amount::saturating_add)
        };
        let room = Room {
            locked_to_node: locked(&|channel| channel.node == node),
            locked_in_all: locked(&|_| true),
            budget_left: self.budget().left(&Purpose::deposit(node)),
            available: Amount::new(agent.map_or(0, |agent| agent.available)),
        };
        self.policy().deposit_for(needed, &room).map_err(|Narrow { bound, most }| match bound {
            Bound::Node => MoneyError::Cap { cap: ChannelCap::Node, needed, left: most },
            Bound::Total => MoneyError::Cap { cap: ChannelCap::Total, needed, left: most },
            Bound::Available => MoneyError::NotEnough { needed, there: most, place: Place::Available },
            Bound::Budget => match self.budget().reserve(&Purpose::deposit(node), needed) {
                Err(exceeded) => exceeded.into(),
                // Given back since: as good as a cap that is reached for now.
                Ok(_) => MoneyError::Cap { cap: ChannelCap::Total, needed, left: most },
            },
        })
    }
}

/// Tells the caller what was done unasked.
pub(crate) type Listener = Arc<dyn Fn(&ChannelEvent) + Send + Sync>;

/// Channels that one request may open: the second where the first was closed meanwhile.
const MAX_OPENS: u32 = 2;
/// Top-ups for one request. Each but the last may have been used up by other requests.
const MAX_TOP_UPS: u32 = 3;
/// Questions to a node that has not seen what a channel holds, before its count is believed: 5 seconds' worth.
const MAX_WAITS: u32 = 20;
const WAIT: Duration = Duration::from_millis(250);
