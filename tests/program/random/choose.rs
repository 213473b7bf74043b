//! What to do next: mostly something that the present state allows, often at one of its edges, and now and then
//! something that nobody may do.

use settlement_chain::Address;

use super::{
    cast::{AGENTS, Cast, NODES, OPERATORS, RENT_PAYERS},
    op::{ChannelName, Entry, Op, Parameters, Party, Signed, Source, ToOpen, Wallet},
};
use crate::{
    ledger::{MAX_GRACE_S, MAX_OPERATOR_FEE_BPS, MIN_GRACE_S, START},
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

    fn register_operator(&mut self) -> Op {
        let operator = self.chance.index(OPERATORS);
        let payout = if self.wrong() { self.wallet() } else { Wallet::OfOperator(operator) };
        let highest = u64::from(MAX_OPERATOR_FEE_BPS);
        let fee_bps = if self.wrong() { highest + 1 } else { self.chance.below(highest + 1) } as u16;
        Op::RegisterOperator { operator, fee_bps, payout }
    }

    fn register_node(&mut self) -> Op {
        let node = self.chance.index(NODES);
        let operator = (!self.chance.one_in(3)).then(|| self.chance.index(OPERATORS));
        let payout = if self.wrong() { self.wallet() } else { Wallet::OfNode(node) };
        let min_grace_s = if self.wrong() { MAX_GRACE_S + 1 } else { self.chance.below(2_000) as u32 };
        let max_fee_bps = if self.chance.one_in(4) { self.chance.below(500) as u16 } else { 10_000 };
        Op::RegisterNode { node, operator, min_grace_s, max_fee_bps, payout }
    }

    fn update_node(&mut self) -> Op {
        let node = self.registered_node();
        let found = self.model.nodes.get(&self.cast.nodes[node].account);
        let kept = found.and_then(|node| node.operator).and_then(|key| self.operator_index(&key));
        let payouts: Vec<Address> = found
            .map(|node| [Some(node.payout), node.pending_payout.map(|(payout, _)| payout)].into_iter().flatten())
            .into_iter()
            .flatten()
            .collect();
        let min_grace_s = found.map_or(0, |node| node.min_grace_s);
        let operator = match self.chance.below(4) {
            0 => None,
            1 => Some(self.chance.index(OPERATORS)),
            _ => kept,
        };
        let payout = match self.chance.below(4) {
            0 => self.wallet(),
            1 => Wallet::OfNode(self.chance.index(NODES)),
            _ if payouts.is_empty() => self.wallet(),
            _ => {
                let payout = self.chance.pick(&payouts);
                self.wallet_at(&payout).unwrap()
            }
        };
        let min_grace_s = match self.chance.below(8) {
            0 => self.model.config.max_grace_s.saturating_add(1),
            1..=3 => self.chance.below(2_000) as u32,
            _ => min_grace_s,
        };
        let max_fee_bps = if self.chance.one_in(6) { self.chance.below(500) as u16 } else { 10_000 };
        let by = if self.wrong() { self.anybody() } else { Party::NodeOwner(node) };
        Op::UpdateNode { by, node, operator, min_grace_s, max_fee_bps, payout }
    }

    fn set_config(&mut self) -> Op {
        let config = &self.model.config;
        let (treasury, admin) = (self.wallet_at(&config.treasury).unwrap(), self.cast.party(&config.admin).unwrap());
        let pending = config.pending_admin.and_then(|key| self.cast.party(&key));
        let mut new = Parameters {
            treasury,
            pending_admin: pending,
            paused: self.chance.one_in(4),
            max_grace_s: self.chance.pick(&[MAX_GRACE_S, MAX_GRACE_S, 1_500, 100_000]),
            protocol_fee_bps: self.chance.below(2_001) as u16,
            max_operator_fee_bps: self.chance.pick(&[500, 500, 5_000, 100]),
            payout_delay_s: self.chance.below(4_000) as u32,
        };
        match self.chance.below(12) {
            0 => new.treasury = self.wallet(),
            1..=3 => new.pending_admin = Some(self.anybody()),
            4 => new.pending_admin = None,
            5 if self.chance.one_in(3) => new.protocol_fee_bps = 2_001,
            6 if self.chance.one_in(3) => new.max_operator_fee_bps = 5_001,
            7 if self.chance.one_in(3) => new.payout_delay_s = 30 * 86_400 + 1,
            8 => new.payout_delay_s = 0,
            _ => {}
        }
        Op::SetConfig { by: if self.wrong() { self.anybody() } else { admin }, new }
    }

    fn accept_admin(&mut self) -> Op {
        let pending = self.model.config.pending_admin.and_then(|key| self.cast.party(&key));
        let by = if self.wrong() { self.anybody() } else { pending.unwrap_or(Party::Admin) };
        Op::AcceptAdmin { by }
    }

    fn anybody(&mut self) -> Party {
        match self.chance.below(4) {
            0 => Party::Admin,
            1 => Party::Agent(self.chance.index(AGENTS)),
            2 => Party::NodeOwner(self.chance.index(NODES)),
            _ => Party::OperatorAuthority(self.chance.index(OPERATORS)),
        }
    }

    fn deposit(&mut self) -> Op {
        let by = self.chance.index(AGENTS);
        let to = self.mostly(by, AGENTS);
        let from = if self.wrong() { self.wallet() } else { Wallet::OfAgent(by) };
        let held = self.model.tokens[&self.cast.wallet(from)].amount;
        // Amounts that overflow a ledger cannot be paid; the ledger refuses first.
        let amount = if self.chance.one_in(8) { self.amount(held) } else { self.chance.between(1, 30_000) };
        Op::Deposit { by, to, from, amount }
    }

    fn withdraw_available(&mut self) -> Op {
        let by = self.chance.index(AGENTS);
        let of = self.mostly(by, AGENTS);
        let to = if self.wrong() { self.wallet() } else { Wallet::OfAgent(by) };
        let available = self.available(of);
        Op::WithdrawAvailable { by, of, to, amount: self.amount(available) }
    }

    fn available(&self, agent: usize) -> u64 {
        self.model.agents.get(&self.cast.agents[agent].account).map_or(0, |agent| agent.available)
    }

    fn open(&mut self) -> Op {
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

    fn registered_node(&mut self) -> usize {
        let known: Vec<usize> =
            (0..NODES).filter(|index| self.model.nodes.contains_key(&self.cast.nodes[*index].account)).collect();
        if known.is_empty() || self.chance.one_in(40) { self.chance.index(NODES) } else { self.chance.pick(&known) }
    }

    fn top_up(&mut self) -> Op {
        let channel = self.channel(|channel| channel.state == State::Open);
        let of = self.mostly(channel.agent, AGENTS);
        let available = self.available(of);
        let amount = if self.chance.one_in(4) { self.amount(available) } else { self.chance.between(1, 500) };
        Op::TopUp { by: self.mostly(of, AGENTS), of, channel, amount }
    }

    fn settle(&mut self) -> Op {
        let (node, operator, entries) = self.vouchers();
        Op::Settle { node, operator, entries }
    }

    fn close(&mut self) -> Op {
        let (node, operator, entries) = self.vouchers();
        Op::Close { by: self.acting(node, operator), node, operator, entries }
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

    /// A node, its operator as the chain has it (mostly), and entries for its channels (mostly).
    fn vouchers(&mut self) -> (usize, Option<usize>, Vec<Entry>) {
        let node = self.registered_node();
        let account = self.cast.nodes[node].account;
        let chosen = self.model.nodes.get(&account).and_then(|node| node.operator);
        let mut operator = chosen.and_then(|chosen| self.operator_index(&chosen));
        if self.chance.one_in(40) {
            operator = (!self.chance.one_in(2)).then(|| self.chance.index(OPERATORS));
        }
        let count = if self.chance.one_in(50) { 0 } else { self.chance.between(1, 6) };
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..count {
            if !entries.is_empty() && self.chance.one_in(8) {
                // The same channel once more: as it was, or higher.
                let mut again = entries[self.chance.index(entries.len())].clone();
                again.cumulative = again.cumulative.saturating_add(self.chance.below(2));
                entries.push(again);
                continue;
            }
            let channel = if self.chance.one_in(60) {
                self.channel(|_| true)
            } else {
                match self.live(|channel| channel.node == account && channel.state != State::Closed) {
                    Some((name, _)) => name,
                    // Whoever is closed or gone is skipped, whichever node it was of.
                    None if !self.gone.is_empty() => self.chance.pick(self.gone),
                    None => self.channel(|channel| channel.node == account),
                }
            };
            let entry = self.entry(channel);
            entries.push(entry);
        }
        (node, operator, entries)
    }

    fn operator_index(&self, account: &Address) -> Option<usize> {
        self.cast.operators.iter().position(|party| party.account == *account)
    }

    fn entry(&mut self, channel: ChannelName) -> Entry {
        let (settled, deposit) = self
            .model
            .channels
            .get(&self.cast.channel(channel))
            .map_or((10, 100), |channel| (channel.settled, channel.deposit));
        let cumulative = match self.chance.below(40) {
            0..=2 => settled,
            3 => settled.saturating_sub(1),
            4 | 5 => deposit,
            6 => deposit + 1,
            7 => 0,
            8 if self.wrong() => u64::MAX,
            _ if deposit > settled => settled + self.chance.between(1, ((deposit - settled) / 3).max(1)),
            _ => settled,
        };
        let now = self.model.now;
        let expires_at = match self.chance.below(20) {
            0 => now,
            1 => now - 1,
            2 => now + 1,
            3 => now + 1_000_000,
            4 => self.chance.pick(&[i64::MIN, -1, 1, i64::MAX]),
            _ => 0,
        };
        let signed = match self.chance.below(50) {
            0 => Signed::ByOwner,
            1 => Signed::ForAnotherAmount,
            2 => Signed::ForAnotherExpiry,
            3 => Signed::ForAnotherChannel(ChannelName { nonce: channel.nonce + 1, ..channel }),
            4 => Signed::WithBitFlipped(self.chance.index(512)),
            5 => Signed::NotAtAll,
            _ => Signed::Honestly,
        };
        Entry { channel, cumulative, expires_at, signed }
    }

    fn request_close(&mut self) -> Op {
        let channel = self.channel(|channel| channel.state == State::Open);
        let of = self.mostly(channel.agent, AGENTS);
        Op::RequestClose { by: self.mostly(of, AGENTS), of, channel }
    }

    fn finalize(&mut self) -> Op {
        let count = if self.wrong() { 0 } else { self.chance.between(1, 5) };
        let channels = (0..count).map(|_| self.channel(|channel| deadline(channel).is_some())).collect();
        Op::Finalize { channels }
    }

    fn reclaim(&mut self) -> Op {
        let Some((_, first)) = self.live(|channel| channel.state == State::Closed).or_else(|| self.live(|_| true))
        else {
            return Op::Reclaim { of: self.chance.index(AGENTS), rent_payer: 0, channels: Vec::new() };
        };
        let of = self.cast.name(&first.agent, &first.node, first.nonce).agent;
        let payers = &self.cast.rent_payers;
        let payer = payers.iter().position(|key| settlement_chain::Signer::pubkey(key) == first.rent_payer).unwrap();
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

    fn withdraw_earned(&mut self) -> Op {
        let node = self.registered_node();
        let found = self.model.nodes.get(&self.cast.nodes[node].account).cloned();
        let mut operator = found.as_ref().and_then(|node| node.operator).and_then(|key| self.operator_index(&key));
        if self.wrong() {
            operator = Some(self.chance.index(OPERATORS));
        }
        let now = self.model.now;
        let payout = found.as_ref().map(|node| match node.pending_payout {
            Some((payout, from)) if now >= from => payout,
            _ => node.payout,
        });
        let to = payout.and_then(|payout| self.wallet_at(&payout));
        let to = if self.wrong() { self.wallet() } else { to.unwrap_or(Wallet::OfNode(node)) };
        let amount = self.amount(found.map_or(0, |node| node.earned));
        Op::WithdrawEarned { by: self.acting(node, operator), node, operator, to, amount }
    }

    fn withdraw_fees(&mut self) -> Op {
        let (from, right, most) = if self.chance.one_in(2) {
            let operator = self.chance.index(OPERATORS);
            let found = self.model.operators.get(&self.cast.operators[operator].account);
            let most = found.map_or(0, |operator| operator.fees);
            let payout = found.and_then(|operator| self.wallet_at(&operator.payout));
            (Source::Operator(operator), payout.unwrap_or(Wallet::OfOperator(operator)), most)
        } else {
            let node = self.chance.index(NODES);
            let most = self.model.nodes.get(&self.cast.nodes[node].account).map_or(0, |node| node.protocol_fees);
            let treasury = self.wallet_at(&self.model.config.treasury).unwrap_or(Wallet::Treasury);
            (Source::Node(node), treasury, most)
        };
        let to = if self.wrong() { self.wallet() } else { right };
        Op::WithdrawFees { from, to, amount: self.amount(most) }
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
