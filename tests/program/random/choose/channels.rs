//! A channel's life, its vouchers aside.

use settlement_chain::Signer;

use super::{Chooser, deadline};
use crate::{
    model::State,
    random::{
        cast::{AGENTS, RENT_PAYERS},
        op::{Op, ToOpen},
    },
};

impl Chooser<'_> {
    pub(super) fn open(&mut self) -> Op {
        let by = self.chance.index(AGENTS);
        let of = self.mostly(by, AGENTS);
        let mut nonce = self.model.agents.get(&self.cast.agents[of].account).map_or(0, |agent| agent.next_nonce);
        let count = if self.wrong() { self.chance.below(3) } else { self.chance.between(1, 4) };
        let most = self.available(of) / count.max(1);
        let entries = (0..count)
            .map(|_| {
                let used = if self.wrong() { nonce.saturating_sub(self.chance.below(3)) } else { nonce };
                nonce = used + if self.chance.one_in(5) { 1 + self.chance.below(5) } else { 1 };
                let deposit = if self.wrong() { self.amount(most) } else { self.chance.between(1, most.max(1)) };
                let node = self.registered_node();
                let min = self.model.nodes.get(&self.cast.nodes[node].account).map_or(0, |node| node.min_grace_s);
                let max = self.model.config.max_grace_s;
                let grace_s = match self.chance.below(10) {
                    0 => max,
                    1 if self.wrong() => max + 1,
                    2 if self.wrong() => min.saturating_sub(1),
                    3..=5 => min + self.chance.below(300) as u32,
                    _ => min,
                };
                ToOpen { node, nonce: used, deposit, grace_s, is_weak: self.chance.one_in(60) }
            })
            .collect();
        Op::Open { by, of, rent_payer: self.chance.index(RENT_PAYERS), entries }
    }

    pub(super) fn top_up(&mut self) -> Op {
        let channel = self.channel(|channel| channel.state == State::Open);
        let of = self.mostly(channel.agent, AGENTS);
        let available = self.available(of);
        let amount = if self.chance.one_in(4) { self.amount(available) } else { self.chance.between(1, 500) };
        Op::TopUp { by: self.mostly(of, AGENTS), of, channel, amount }
    }

    pub(super) fn request_close(&mut self) -> Op {
        let channel = self.channel(|channel| channel.state == State::Open);
        let of = self.mostly(channel.agent, AGENTS);
        Op::RequestClose { by: self.mostly(of, AGENTS), of, channel }
    }

    pub(super) fn finalize(&mut self) -> Op {
        let count = if self.wrong() { 0 } else { self.chance.between(1, 5) };
        let channels = (0..count).map(|_| self.channel(|channel| deadline(channel).is_some())).collect();
        Op::Finalize { channels }
    }

    pub(super) fn reclaim(&mut self) -> Op {
        let Some((_, first)) = self.live(|channel| channel.state == State::Closed).or_else(|| self.live(|_| true))
        else {
            return Op::Reclaim { of: self.chance.index(AGENTS), rent_payer: 0, channels: Vec::new() };
        };
        let of = self.cast.name(&first.agent, &first.node, first.nonce).agent;
        let payers = &self.cast.rent_payers;
        let payer = payers.iter().position(|key| key.pubkey() == first.rent_payer).unwrap();
        let count = self.chance.between(1, 5);
        let channels = (0..count)
            .map(|_| {
                if self.chance.one_in(30) {
                    return self.channel(|_| true);
                }
                let closed = self.live(|channel| {
                    channel.agent == first.agent
                        && channel.rent_payer == first.rent_payer
                        && (channel.state == State::Closed || first.state != State::Closed)
                });
                closed.map_or_else(|| self.channel(|_| true), |(name, _)| name)
            })
            .collect();
        Op::Reclaim { of: self.mostly(of, AGENTS), rent_payer: self.mostly(payer, RENT_PAYERS), channels }
    }
}
