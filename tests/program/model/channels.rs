//! A channel's life, its vouchers aside.

use settlement_chain::Address;
use settlement_interface::errors::SettlementError as E;

use super::{Channel, Done, Model, State, at, need, no, sum, take};

/// One channel of a batch to open.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Where the channel will be.
    pub account: Address,
    pub node: Address,
    pub nonce: u64,
    pub deposit: u64,
    pub grace_s: u32,
    pub signer: [u8; 32],
    /// The signer's key is of small order.
    pub is_weak: bool,
}

impl Model {
    pub fn open(&mut self, by: Address, account: Address, rent_payer: Address, openings: &[Opening]) -> Done {
        need((1..=64).contains(&openings.len()), E::BadBatch)?;
        need(!self.config.paused, E::Paused)?;
        need(at(&mut self.agents, &account)?.owner == by, E::Unauthorised)?;
        for opening in openings {
            let agent = at(&mut self.agents, &account)?;
            need(opening.nonce >= agent.next_nonce, E::NonceUsed)?;
            agent.next_nonce = sum(opening.nonce, 1)?;
            agent.available = take(agent.available, opening.deposit)?;
            let min_grace_s = at(&mut self.nodes, &opening.node)?.min_grace_s;
            need(min_grace_s <= opening.grace_s && opening.grace_s <= self.config.max_grace_s, E::BadGrace)?;
            need(!opening.is_weak, E::WeakKey)?;
            need(!self.channels.contains_key(&opening.account), E::AlreadyExists)?;
            self.pay_rent(rent_payer, opening.account, 176);
            let channel = Channel {
                agent: account,
                node: opening.node,
                signer: opening.signer,
                rent_payer,
                nonce: opening.nonce,
                deposit: opening.deposit,
                settled: 0,
                grace_s: opening.grace_s,
                protocol_fee_bps: self.config.protocol_fee_bps,
                state: State::Open,
            };
            self.channels.insert(opening.account, channel);
        }
        Ok(None)
    }

    pub fn top_up(&mut self, by: Address, account: Address, channel: Address, amount: u64) -> Done {
        need(at(&mut self.agents, &account)?.owner == by, E::Unauthorised)?;
        let channel = at(&mut self.channels, &channel)?;
        need(channel.agent == account, E::WrongParty)?;
        need(channel.state == State::Open, E::WrongStatus)?;
        let agent = at(&mut self.agents, &account)?;
        agent.available = take(agent.available, amount)?;
        channel.deposit = sum(channel.deposit, amount)?;
        Ok(None)
    }

    pub fn request_close(&mut self, by: Address, account: Address, channel: Address) -> Done {
        need(at(&mut self.agents, &account)?.owner == by, E::Unauthorised)?;
        let now = self.now;
        let channel = at(&mut self.channels, &channel)?;
        need(channel.agent == account, E::WrongParty)?;
        need(channel.state == State::Open, E::WrongStatus)?;
        channel.state = State::Closing { deadline: now + i64::from(channel.grace_s) };
        Ok(None)
    }

    pub fn finalize(&mut self, channels: &[Address]) -> Done {
        need((1..=64).contains(&channels.len()), E::BadBatch)?;
        let mut skipped = 0;
        for (index, account) in channels.iter().enumerate() {
            match self.channels.get_mut(account) {
                Some(channel @ Channel { state: State::Closing { .. }, .. }) if is_over(channel.state, self.now) => {
                    channel.state = State::Closed;
                }
                _ => skipped |= 1 << index,
            }
        }
        Ok(Some(skipped))
    }

    pub fn reclaim(&mut self, account: Address, rent_payer: Address, channels: &[Address]) -> Done {
        need((1..=64).contains(&channels.len()), E::BadBatch)?;
        let mut skipped = 0;
        for (index, address) in channels.iter().enumerate() {
            let Some(channel) = self.channels.get(address).cloned() else {
                skipped |= 1 << index;
                continue;
            };
            if channel.agent != account || channel.rent_payer != rent_payer {
                return no(E::WrongParty);
            }
            if channel.state != State::Closed {
                skipped |= 1 << index;
                continue;
            }
            let agent = at(&mut self.agents, &account)?;
            agent.available = sum(agent.available, channel.deposit - channel.settled)?;
            self.channels.remove(address);
            self.move_lamports(*address, rent_payer, self.lamports[address]);
        }
        at(&mut self.agents, &account)?;
        Ok(Some(skipped))
    }
}

/// True from the second of the deadline on.
fn is_over(state: State, now: i64) -> bool {
    matches!(state, State::Closing { deadline } if now >= deadline)
}
