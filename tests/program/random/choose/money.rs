//! Tokens in and out.

use super::Chooser;
use crate::random::{
    cast::{AGENTS, NODES, OPERATORS},
    op::{Op, Source, Wallet},
};

impl Chooser<'_> {
    pub(super) fn deposit(&mut self) -> Op {
        let by = self.chance.index(AGENTS);
        let to = self.mostly(by, AGENTS);
        let from = if self.wrong() { self.wallet() } else { Wallet::OfAgent(by) };
        let held = self.model.tokens[&self.cast.wallet(from)].amount;
        // Amounts that overflow a ledger cannot be paid; the ledger refuses first.
        let amount = if self.chance.one_in(8) { self.amount(held) } else { self.chance.between(1, 30_000) };
        Op::Deposit { by, to, from, amount }
    }

    pub(super) fn withdraw_available(&mut self) -> Op {
        let by = self.chance.index(AGENTS);
        let of = self.mostly(by, AGENTS);
        let to = if self.wrong() { self.wallet() } else { Wallet::OfAgent(by) };
        let available = self.available(of);
        Op::WithdrawAvailable { by, of, to, amount: self.amount(available) }
    }

    pub(super) fn withdraw_earned(&mut self) -> Op {
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

    pub(super) fn withdraw_fees(&mut self) -> Op {
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
}
