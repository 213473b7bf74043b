//! Registering.

use settlement_chain::Address;
use settlement_interface::errors::SettlementError as E;

use super::{Done, Model, Node, Operator, need, no};

impl Model {
    pub fn register_operator(
        &mut self,
        payer: Address,
        account: Address,
        authority: Address,
        payout: Address,
        fee_bps: u16,
    ) -> Done {
        need(fee_bps <= self.config.max_operator_fee_bps, E::FeeTooHigh)?;
        self.is_payout(&payout)?;
        need(!self.operators.contains_key(&account), E::AlreadyExists)?;
        self.pay_rent(payer, account, 96);
        self.operators.insert(account, Operator { authority, payout, fees: 0, fee_bps });
        Ok(None)
    }

    /// `max_fee_bps` is what the node accepts of its operator.
    pub fn register_node(&mut self, payer: Address, account: Address, wish: Node, max_fee_bps: u16) -> Done {
        need(wish.min_grace_s <= self.config.max_grace_s, E::BadGrace)?;
        self.is_payout(&wish.payout)?;
        let fee_bps = self.fee_of(wish.operator, max_fee_bps)?;
        need(!self.nodes.contains_key(&account), E::AlreadyExists)?;
        self.pay_rent(payer, account, 224);
        self.nodes.insert(account, Node { operator_fee_bps: fee_bps, earned: 0, protocol_fees: 0, ..wish });
        Ok(None)
    }

    /// What an operator asks, if that is not too much for the node and for the config.
    pub(super) fn fee_of(&self, operator: Option<Address>, max_fee_bps: u16) -> Result<u16, super::Refusal> {
        let fee_bps = match operator {
            None => 0,
            Some(account) => match self.operators.get(&account) {
                Some(operator) => operator.fee_bps,
                None => return no(E::WrongOwner),
            },
        };
        need(fee_bps <= max_fee_bps && fee_bps <= self.config.max_operator_fee_bps, E::FeeTooHigh)?;
        Ok(fee_bps)
    }

    /// Payouts go to any token account but the vault.
    pub(super) fn is_payout(&self, account: &Address) -> Result<(), super::Refusal> {
        need(*account != self.vault && self.tokens.contains_key(account), E::BadTokenAccount)
    }
}
