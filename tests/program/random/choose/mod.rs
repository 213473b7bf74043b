//! What to do next: mostly something that the present state allows, often at one of its edges, and now and then
//! something that nobody may do.

mod channels;
mod money;
mod parties;
mod vouchers;

use settlement_chain::Address;

use super::{
    cast::{AGENTS, Cast, NODES, OPERATORS},
    op::{ChannelName, Op, Party, Wallet},
};
use crate::{
    ledger::{MAX_GRACE_S, MIN_GRACE_S, START},
    model::{Channel, Model, State},
    seed::Chance,
};

/// One choice in this many is a wrong one.
const WRONG: u64 = 16;

/// A way to draw an operation.
type Draw<T> = fn(&mut T) -> Op;

/// Draws operations that fit a model's state.
pub struct Chooser<'a> {
    pub chance: &'a mut Chance,
    pub cast: &'a Cast,
    pub model: &'a Model,
    /// Channels that are no more.
    pub gone: &'a [ChannelName],
}

impl Chooser<'_> {
    pub fn next(&mut self) -> Op {
        let crowded = self.model.channels.len() > 24;
        let early = self.model.nodes.len() < 2 || self.model.operators.is_empty();
        let kinds: &[(u64, Draw<Self>)] = &[
            (6, Self::set_time),
            (1, Self::set_rent),
            (2, Self::send_ahead),
            (if self.model.config.paused { 12 } else { 2 }, Self::set_config),
            (if self.model.config.pending_admin.is_some() { 4 } else { 1 }, Self::accept_admin),
            (if early { 1 } else { 4 }, Self::update_node),
            (if early { 20 } else { 1 }, Self::register_operator),
            (if early { 20 } else { 1 }, Self::register_node),
            (8, Self::deposit),
            (4, Self::withdraw_available),
            (if crowded { 2 } else { 14 }, Self::open),
            (5, Self::top_up),
            (22, Self::settle),
            (if crowded { 14 } else { 8 }, Self::close),
            (8, Self::request_close),
            (6, Self::finalize),
            (if crowded { 20 } else { 10 }, Self::reclaim),
            (4, Self::withdraw_earned),
            (4, Self::withdraw_fees),
        ];
        let mut draw = self.chance.below(kinds.iter().map(|(weight, _)| weight).sum());
        for (weight, make) in kinds {
            match draw.checked_sub(*weight) {
                Some(rest) => draw = rest,
                None => return make(self),
            }
        }
        unreachable!("the draw lies below the sum of the weights")
    }

    fn wrong(&mut self) -> bool {
        self.chance.one_in(WRONG)
    }

    /// The right index, or now and then any.
    fn mostly(&mut self, right: usize, count: usize) -> usize {
        if self.wrong() { self.chance.index(count) } else { right }
    }

    /// Up to `most`, and now and then one of the amounts where mistakes live.
    fn amount(&mut self, most: u64) -> u64 {
        match self.chance.below(12) {
            0 => 0,
            1 => most,
            2 => most.saturating_add(1),
            3 => u64::MAX,
            4 => u64::MAX - 1,
            5 => 1,
            _ => self.chance.between(1, (most / 3).max(1)),
        }
    }

    fn wallet(&mut self) -> Wallet {
        let all = self.cast.all_wallets();
        self.chance.pick(&all)
    }

    fn live(&mut self, fits: impl Fn(&Channel) -> bool) -> Option<(ChannelName, Channel)> {
        let all: Vec<&Channel> = self.model.channels.values().filter(|channel| fits(channel)).collect();
        if all.is_empty() {
            return None;
        }
        let channel = all[self.chance.index(all.len())].clone();
        Some((self.cast.name(&channel.agent, &channel.node, channel.nonce), channel))
    }

    /// Any channel: mostly one that fits, else one that is gone or never was.
    fn channel(&mut self, fits: impl Fn(&Channel) -> bool) -> ChannelName {
        let found = if self.wrong() { self.live(|_| true) } else { self.live(fits) };
        match found {
            Some((name, _)) if !self.chance.one_in(24) => name,
            _ if !self.gone.is_empty() && !self.wrong() => self.chance.pick(self.gone),
            _ => {
                let (agent, node) = (self.chance.index(AGENTS), self.chance.index(NODES));
                ChannelName { agent, node, nonce: self.chance.below(1_000) + 1_000_000 }
            }
        }
    }

    fn set_time(&mut self) -> Op {
        let now = self.model.now;
        let mut deadlines: Vec<i64> = self.model.channels.values().filter_map(deadline).collect();
        let payouts = self.model.nodes.values().filter_map(|node| node.pending_payout);
        deadlines.extend(payouts.map(|(_, from)| from));
        let unix = match self.chance.below(8) {
            0..=3 if !deadlines.is_empty() => self.chance.pick(&deadlines) + self.chance.pick(&[-1, 0, 1]),
            // A cluster's clock may step back a little.
            0 => now - self.chance.below(30) as i64,
            1 => now + i64::from(MAX_GRACE_S),
            _ => now + self.chance.below(u64::from(MIN_GRACE_S)) as i64,
        };
        Op::SetTime { unix: unix.max(START / 2) }
    }

    fn set_rent(&mut self) -> Op {
        Op::SetRent { lamports_per_byte: self.chance.pick(&[6_960, 5_080, 696]) }
    }

    fn send_ahead(&mut self) -> Op {
        let (agent, node) = (self.chance.index(AGENTS), self.chance.index(NODES));
        let next = self.model.agents.get(&self.cast.agents[agent].account).map_or(0, |agent| agent.next_nonce);
        let mut to = ChannelName { agent, node, nonce: next };
        if self.wrong() {
            to = self.channel(|_| true);
        }
        let exact = (128 + 176) * self.model.lamports_per_byte;
        let lamports = self.chance.pick(&[1, exact - 1, exact, exact + 1, 1_000_000_000]);
        Op::SendAhead { to, lamports }
    }

    fn available(&self, agent: usize) -> u64 {
        self.model.agents.get(&self.cast.agents[agent].account).map_or(0, |agent| agent.available)
    }

    fn registered_node(&mut self) -> usize {
        let known: Vec<usize> =
            (0..NODES).filter(|index| self.model.nodes.contains_key(&self.cast.nodes[*index].account)).collect();
        if known.is_empty() || self.chance.one_in(40) { self.chance.index(NODES) } else { self.chance.pick(&known) }
    }

    /// Whoever may act for a node, mostly.
    fn acting(&mut self, node: usize, operator: Option<usize>) -> Party {
        match (operator, self.chance.below(2 * WRONG)) {
            (_, 0) => Party::Agent(self.chance.index(AGENTS)),
            (_, 1) => Party::OperatorAuthority(self.chance.index(OPERATORS)),
            (_, 2) => Party::NodeOwner(self.chance.index(NODES)),
            (_, 3) => Party::Admin,
            (Some(operator), 4..16) => Party::OperatorAuthority(operator),
            _ => Party::NodeOwner(node),
        }
    }

    fn operator_index(&self, account: &Address) -> Option<usize> {
        self.cast.operators.iter().position(|party| party.account == *account)
    }

    fn wallet_at(&self, address: &Address) -> Option<Wallet> {
        self.cast.all_wallets().into_iter().find(|wallet| self.cast.wallet(*wallet) == *address)
    }
}

const fn deadline(channel: &Channel) -> Option<i64> {
    match channel.state {
        State::Closing { deadline } => Some(deadline),
        State::Open | State::Closed => None,
    }
}
