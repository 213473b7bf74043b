//! Tokens into the vault and out of it.

use settlement_chain::Address;
use settlement_interface::errors::SettlementError as E;

use super::{Agent, Done, Model, Refusal, at, need, no, sum, take};

/// As an amount: all there is.
const ALL: u64 = u64::MAX;

impl Model {
    pub fn deposit(&mut self, by: Address, account: Address, owner: Address, source: Address, amount: u64) -> Done {
        need(!self.config.paused, E::Paused)?;
        self.is_payout(&source)?;
        need(amount > 0, E::BadAmount)?;
        if !self.agents.contains_key(&account) {
            self.pay_rent(by, account, 72);
            self.agents.insert(account, Agent { owner, available: 0, next_nonce: 0 });
        }
        let agent = at(&mut self.agents, &account)?;
        need(agent.owner == owner, E::WrongParty)?;
        agent.available = sum(agent.available, amount)?;
        self.move_tokens(source, self.vault, by, amount)
    }

    pub fn withdraw_available(&mut self, by: Address, account: Address, destination: Address, amount: u64) -> Done {
        let agent = at(&mut self.agents, &account)?;
        need(agent.owner == by, E::Unauthorised)?;
        let amount = if amount == ALL { agent.available } else { amount };
        agent.available = take(agent.available, amount)?;
        self.is_payout(&destination)?;
        self.pay_out(destination, amount)
    }

    pub fn withdraw_earned(
        &mut self,
        by: Address,
        account: Address,
        operator: Option<Address>,
        destination: Address,
        amount: u64,
    ) -> Done {
        self.may_act(by, account, operator)?;
        self.promote_payout(account)?;
        let node = at(&mut self.nodes, &account)?;
        need(node.payout == destination, E::BadTokenAccount)?;
        let amount = if amount == ALL { node.earned } else { amount };
        node.earned = take(node.earned, amount)?;
        self.is_payout(&destination)?;
        self.pay_out(destination, amount)
    }

    /// From an operator's fees or from the protocol's fees at a node.
    pub fn withdraw_fees(&mut self, source: Address, destination: Address, amount: u64) -> Done {
        let payout = if let Some(operator) = self.operators.get_mut(&source) {
            let amount = if amount == ALL { operator.fees } else { amount };
            operator.fees = take(operator.fees, amount)?;
            (operator.payout, amount)
        } else if let Some(node) = self.nodes.get_mut(&source) {
            let amount = if amount == ALL { node.protocol_fees } else { amount };
            node.protocol_fees = take(node.protocol_fees, amount)?;
            (self.config.treasury, amount)
        } else {
            return no(E::WrongOwner);
        };
        need(payout.0 == destination, E::BadTokenAccount)?;
        self.is_payout(&destination)?;
        self.pay_out(destination, payout.1)
    }

    /// Only the node's owner and its present operator's authority act for it.
    pub(super) fn may_act(&mut self, by: Address, node: Address, operator: Option<Address>) -> Result<(), Refusal> {
        let node = at(&mut self.nodes, &node)?;
        let owner = node.owner;
        need(node.operator == operator, E::WrongParty)?;
        let authority = match operator {
            Some(account) => Some(at(&mut self.operators, &account)?.authority),
            None => None,
        };
        need(by == owner || Some(by) == authority, E::Unauthorised)
    }

    fn pay_out(&mut self, destination: Address, amount: u64) -> Done {
        let owner = self.tokens[&self.vault].owner;
        self.move_tokens(self.vault, destination, owner, amount)
    }

    /// As the token program does it: the owner's signature, and no more than there is.
    fn move_tokens(&mut self, from: Address, to: Address, by: Address, amount: u64) -> Done {
        let source = self.tokens.get_mut(&from).ok_or(Refusal::Tokens)?;
        if source.owner != by || source.amount < amount {
            return Err(Refusal::Tokens);
        }
        source.amount -= amount;
        let target = self.tokens.get_mut(&to).ok_or(Refusal::Tokens)?;
        target.amount = target.amount.checked_add(amount).ok_or(Refusal::Tokens)?;
        Ok(None)
    }
}
