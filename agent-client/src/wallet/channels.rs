//! Channels on chain: open, top up, ask to close, take back.

use aro_proto::{AgentId, Amount, ChannelId, NodeId};
use serde::{Serialize, Serializer};
use settlement_chain::submit::submit;
use settlement_chain::{Address, Signature, instructions, reads};
use settlement_interface::accounts::{Channel, status};

use super::money::{MoneyError, Place, enough};
use super::purse::{Purse, detached};
use super::state::ChannelRecord;
use crate::agent::Agent;
use crate::budget::{Approval, Purpose, SpendPermit, Spending, unlock_deposit};
use crate::ledger::Durability;

/// A channel as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelInfo {
    /// Its address on chain.
    #[serde(serialize_with = "as_text")]
    pub channel: ChannelId,
    /// The node that it pays.
    #[serde(serialize_with = "as_text")]
    pub node: NodeId,
    /// The key whose vouchers count: this wallet's, or a session key's that it delegated to.
    #[serde(serialize_with = "as_text")]
    pub signer: AgentId,
    /// Where it is in its life.
    pub phase: ChannelPhase,
    /// Base units set aside.
    pub deposit: Amount,
    /// Base units signed away, as far as this wallet knows: nothing of what a session key has signed and no node settled.
    pub signed: Amount,
    /// Base units credited to the node on chain.
    pub settled: Amount,
    /// While closing: unix second from which on it can be taken back.
    pub deadline: Option<i64>,
}

/// Where a channel is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelPhase {
    /// Pays.
    Open,
    /// The agent asked to close; the node still settles until the deadline.
    Closing,
    /// What is left can be taken back.
    Closed,
}

/// A channel that was just opened.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpenedChannel {
    /// Its address on chain.
    #[serde(serialize_with = "as_text")]
    pub channel: ChannelId,
    /// The node that it pays.
    #[serde(serialize_with = "as_text")]
    pub node: NodeId,
    /// Base units set aside.
    pub deposit: Amount,
    /// Seconds between a request to close and the deadline.
    pub grace_s: u32,
    /// The transaction.
    #[serde(serialize_with = "as_text")]
    pub signature: Signature,
}

/// A channel that was just taken back.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reclaimed {
    /// Its address, which never returns.
    #[serde(serialize_with = "as_text")]
    pub channel: ChannelId,
    /// Base units that are available again.
    pub refunded: Amount,
    /// Base units that the node got.
    pub settled: Amount,
    /// The transaction.
    #[serde(serialize_with = "as_text")]
    pub signature: Signature,
}

impl ChannelInfo {
    /// Base units that lie in the channel and are neither signed away nor settled.
    pub fn unspent(&self) -> Amount {
        self.deposit.saturating_sub(self.signed.max(self.settled))
    }
}

impl Agent {
    /// Opens a channel to a node with `deposit` base units of what is available. `grace_s` is the time that the node
    /// has to settle after a request to close; default the node's least. Once begun it goes on if nobody waits for it.
    ///
    /// # Errors
    /// The node is unknown, a channel to it is open already, budget or money do not suffice, or the transaction
    /// fails.
    pub async fn open_channel(
        &self,
        node: NodeId,
        deposit: Amount,
        grace_s: Option<u32>,
    ) -> Result<OpenedChannel, MoneyError> {
        let agent = self.clone();
        detached(async move {
            let purse = agent.purse().await?;
            let signer = agent.keys().signer();
            agent.open_in(&purse, node, signer, deposit, grace_s).await
        })
        .await
    }

    /// Opens a channel whose vouchers `signer` signs. Whatever opened one before, in an earlier life too, is seen first:
    /// a transaction on its way is brought to its end, and the nonce is read before the channels are, so that a channel
    /// that appears in between takes the nonce and this one fails.
    pub(super) async fn open_in(
        &self,
        purse: &Purse,
        node: NodeId,
        signer: AgentId,
        deposit: Amount,
        grace_s: Option<u32>,
    ) -> Result<OpenedChannel, MoneyError> {
        let (chain, program) = (self.chain(), self.program());
        let owner = self.keys().owner();
        let id = Address::new_from_array(node.to_bytes());
        self.finish_pending(purse, node).await?;
        let account = reads::node(chain, program, &id).await?.ok_or(MoneyError::UnknownNode(node))?;
        let max_s = reads::config(chain, program).await?.max_grace_s;
        let grace_s = grace_s.unwrap_or(account.min_grace_s);
        if !(account.min_grace_s..=max_s).contains(&grace_s) {
            return Err(MoneyError::Grace { asked_s: grace_s, min_s: account.min_grace_s, max_s });
        }
        let agent = reads::agent(chain, program, &owner).await?;
        let is_open = |c: &&ChannelInfo| c.node == node && c.signer == signer && c.phase == ChannelPhase::Open;
        if let Some(open) = self.channels().await?.iter().find(is_open) {
            return Err(MoneyError::AlreadyOpen(open.channel));
        }
        enough(deposit, Amount::new(agent.as_ref().map_or(0, |agent| agent.available)), Place::Available)?;
        let nonce = agent.map_or(0, |agent| agent.next_nonce);
        let node_account = program.node(&id).0;
        let (address, _) = program.channel(&program.agent(&owner).0, &node_account, nonce);
        let open = instructions::OpenChannel {
            node: node_account,
            nonce,
            deposit: deposit.get(),
            grace_s,
            signer: Address::new_from_array(signer.to_bytes()),
        };
        let channel = ChannelId::from_bytes(address.to_bytes());
        let permit = self.set_aside(node, deposit).await?;
        let open = instructions::open_batch(program, &owner, &owner, &[open]);
        let sent = self.lock(purse, channel, node, permit, open).await?;
        if signer == self.keys().signer() {
            self.remember(ChannelRecord::open(channel, node, deposit, nonce)).await?;
            // A connection is bound for life; the next fetch binds the new channel.
            self.forget_session(node).await;
        }
        let signature = sent.done(self).await?;
        Ok(OpenedChannel { channel, node, deposit, grace_s, signature })
    }

    /// Adds `amount` base units of what is available to an open channel, and tells its node. Once begun it goes on if
    /// nobody waits for it.
    ///
    /// # Errors
    /// The channel is not open, budget or money do not suffice, or the transaction fails.
    pub async fn top_up(&self, channel: ChannelId, amount: Amount) -> Result<Signature, MoneyError> {
        let agent = self.clone();
        detached(async move {
            let purse = agent.purse().await?;
            let (_, account) = agent.our_channel(channel).await?;
            agent.finish_pending(&purse, agent.node_of(channel, &account).await?).await?;
            agent.top_up_in(&purse, channel, amount).await
        })
        .await
    }

    /// The same, where no transaction to the node is on its way any more.
    pub(super) async fn top_up_in(
        &self,
        purse: &Purse,
        channel: ChannelId,
        amount: Amount,
    ) -> Result<Signature, MoneyError> {
        let (chain, program) = (self.chain(), self.program());
        let owner = self.keys().owner();
        let (address, account) = self.our_channel(channel).await?;
        if account.status != status::OPEN {
            return Err(MoneyError::NotOpen(channel));
        }
        let agent = reads::agent(chain, program, &owner).await?;
        enough(amount, Amount::new(agent.map_or(0, |agent| agent.available)), Place::Available)?;
        let node = self.node_of(channel, &account).await?;
        let permit = self.set_aside(node, amount).await?;
        let top_up = instructions::top_up(program, &owner, &address, amount.get());
        let sent = self.lock(purse, channel, node, permit, top_up).await?;
        let deposit = account.deposit.saturating_add(amount.get());
        self.take_in(channel, node, &Channel { deposit, ..account }).await?;
        sent.done(self).await
    }

    /// Asks to close: the node has the channel's grace to settle, then [`reclaim`](Self::reclaim) takes back the
    /// rest.
    ///
    /// # Errors
    /// The channel is not open, or the transaction fails.
    pub async fn request_close(&self, channel: ChannelId) -> Result<Signature, MoneyError> {
        let (address, account) = self.our_channel(channel).await?;
        if account.status != status::OPEN {
            return Err(MoneyError::NotOpen(channel));
        }
        let node = self.node_of(channel, &account).await?;
        let close = instructions::request_close(self.program(), &self.keys().owner(), &address);
        let signature = submit(self.chain(), self.keys().owner_key()?, &[], &[close]).await?;
        self.take_in(channel, node, &Channel { status: status::CLOSING, ..account }).await?;
        if self.is_mine(&account) {
            self.forget_session(node).await;
        }
        Ok(signature)
    }

    /// Takes back what a closed channel holds; one whose grace has passed is finalized first.
    ///
    /// # Errors
    /// The channel is open or in its grace, or the transaction fails.
    pub async fn reclaim(&self, channel: ChannelId) -> Result<Reclaimed, MoneyError> {
        let (address, account) = self.our_channel(channel).await?;
        let mut steps = Vec::with_capacity(2);
        match account.status {
            status::OPEN => return Err(MoneyError::StillOpen(channel)),
            status::CLOSING => {
                let left_s = account.deadline.saturating_sub(self.chain().clock().await?);
                if left_s > 0 {
                    return Err(MoneyError::InGrace { channel, left_s });
                }
                steps.push(instructions::finalize_batch(self.program(), &[address]));
            }
            _ => {}
        }
        let agent = Address::new_from_array(account.agent);
        let rent_payer = Address::new_from_array(account.rent_payer);
        steps.push(instructions::reclaim_batch(self.program(), &agent, &rent_payer, &[address]));
        let node = self.node_of(channel, &account).await?;
        let signature = submit(self.chain(), self.keys().owner_key()?, &[], &steps).await?;
        self.take_in(channel, node, &Channel { status: status::CLOSED, ..account }).await?;
        self.unlock(channel).await?;
        let refunded = Amount::new(instructions::refundable(&account));
        Ok(Reclaimed { channel, refunded, settled: Amount::new(account.settled), signature })
    }

    /// All channels of this agent's owner that are on chain, those of session keys too, with what the wallet knows of
    /// them.
    ///
    /// # Errors
    /// Chain or record cannot be read.
    pub async fn channels(&self) -> Result<Vec<ChannelInfo>, MoneyError> {
        let (agent, _) = self.program().agent(&self.keys().owner());
        let mut infos = Vec::new();
        for (address, account) in reads::channels_of_agent(self.chain(), self.program(), &agent).await? {
            let channel = ChannelId::from_bytes(address.to_bytes());
            let node = self.node_of(channel, &account).await?;
            self.take_in(channel, node, &account).await?;
            let signed = self.keys().record(channel)?.map_or(Amount::ZERO, |record| record.signed);
            infos.push(ChannelInfo {
                channel,
                node,
                signer: AgentId::from_bytes(account.signer),
                phase: match account.status {
                    status::OPEN => ChannelPhase::Open,
                    status::CLOSING => ChannelPhase::Closing,
                    _ => ChannelPhase::Closed,
                },
                deposit: Amount::new(account.deposit),
                signed,
                settled: Amount::new(account.settled),
                deadline: (account.status == status::CLOSING).then_some(account.deadline),
            });
        }
        infos.sort_by_key(|info| info.channel);
        Ok(infos)
    }

    pub(super) async fn our_channel(&self, channel: ChannelId) -> Result<(Address, Channel), MoneyError> {
        let address = Address::new_from_array(channel.to_bytes());
        let found = reads::channel(self.chain(), self.program(), &address).await?;
        let account = found.ok_or(MoneyError::UnknownChannel(channel))?;
        let (agent, _) = self.program().agent(&self.keys().owner());
        if account.agent != agent.to_bytes() {
            return Err(MoneyError::NotOurs(channel));
        }
        Ok((address, account))
    }

    /// The node id behind a channel: from the record, else from the node's account.
    pub(super) async fn node_of(&self, channel: ChannelId, account: &Channel) -> Result<NodeId, MoneyError> {
        if let Some(record) = self.keys().record(channel)? {
            return Ok(record.node);
        }
        let address = Address::new_from_array(account.node);
        let node = reads::node_at(self.chain(), self.program(), &address).await?;
        node.map(|node| NodeId::from_bytes(node.id)).ok_or(MoneyError::UnknownChannel(channel))
    }

    /// Takes what the chain says of a channel into the record and the live connection, if its vouchers are this wallet's
    /// to sign.
    pub(super) async fn take_in(&self, channel: ChannelId, node: NodeId, account: &Channel) -> Result<(), MoneyError> {
        if !self.is_mine(account) {
            return Ok(());
        }
        let record = ChannelRecord::from_chain(channel, node, account);
        let before = self.keys().record(channel)?;
        self.remember(record).await?;
        if before.is_some_and(|before| before.deposit < record.deposit)
            && let Some(session) = self.live_session(node).await
        {
            session.deposit_grew(&record);
        }
        Ok(())
    }

    /// Whether this wallet signs the channel's vouchers.
    pub(super) fn is_mine(&self, account: &Channel) -> bool {
        account.signer == *self.keys().signer().as_bytes()
    }

    /// Sets a deposit aside in the budget, asked about if it is above the threshold.
    async fn set_aside(&self, node: NodeId, amount: Amount) -> Result<SpendPermit, MoneyError> {
        let permit = self.budget().reserve(&Purpose::deposit(node), amount)?;
        if let Some(threshold) = self.budget().ask_above() {
            let approval = Approval { amount, threshold, node, content: None, spending: Spending::Deposits };
            self.approve(approval).await?;
        }
        Ok(permit)
    }

    /// The channel is taken back, and what was locked in it is free again.
    async fn unlock(&self, channel: ChannelId) -> Result<(), MoneyError> {
        let ledger = self.keys().ledger().clone();
        let unlock = move || ledger.write(Durability::Synced, |tx| Ok(unlock_deposit(tx, channel)?));
        Ok(self.blocking(unlock).await?)
    }
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}
