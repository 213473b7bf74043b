//! Registering, and changing what was registered.

use settlement_chain::Address;

use super::Chooser;
use crate::{
    ledger::{MAX_GRACE_S, MAX_OPERATOR_FEE_BPS},
    random::{
        cast::{AGENTS, NODES, OPERATORS},
        op::{Op, Parameters, Party, Wallet},
    },
};

impl Chooser<'_> {
    pub(super) fn register_operator(&mut self) -> Op {
        let operator = self.chance.index(OPERATORS);
        let payout = if self.wrong() { self.wallet() } else { Wallet::OfOperator(operator) };
        let highest = u64::from(MAX_OPERATOR_FEE_BPS);
        let fee_bps = if self.wrong() { highest + 1 } else { self.chance.below(highest + 1) } as u16;
        Op::RegisterOperator { operator, fee_bps, payout }
    }

    pub(super) fn register_node(&mut self) -> Op {
        let node = self.chance.index(NODES);
        let operator = (!self.chance.one_in(3)).then(|| self.chance.index(OPERATORS));
        let payout = if self.wrong() { self.wallet() } else { Wallet::OfNode(node) };
        let min_grace_s = if self.wrong() { MAX_GRACE_S + 1 } else { self.chance.below(2_000) as u32 };
        let max_fee_bps = if self.chance.one_in(4) { self.chance.below(500) as u16 } else { 10_000 };
        Op::RegisterNode { node, operator, min_grace_s, max_fee_bps, payout }
    }

    pub(super) fn update_node(&mut self) -> Op {
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

    pub(super) fn set_config(&mut self) -> Op {
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

    pub(super) fn accept_admin(&mut self) -> Op {
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
}
