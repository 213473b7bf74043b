//! Registering, and changing what was registered.

use settlement_chain::Address;
use settlement_interface::errors::SettlementError as E;

use super::{Config, Done, Model, Node, Operator, Refusal, at, need, no};

/// The highest fees that any admin may set, in basis points, and the longest delay, in seconds.
const CEILINGS: (u16, u16, u32) = (2_000, 5_000, 30 * 86_400);

/// Parameters as the admin wants them from now on.
#[derive(Clone, Debug)]
pub struct NewConfig {
    pub treasury: Address,
    pub pending_admin: Option<Address>,
    pub paused: bool,
    pub max_grace_s: u32,
    pub protocol_fee_bps: u16,
    pub max_operator_fee_bps: u16,
    pub payout_delay_s: u32,
}

/// A node as its owner wants it.
#[derive(Clone, Debug)]
pub struct NewNode {
    pub operator: Option<Address>,
    pub payout: Address,
    pub min_grace_s: u32,
    /// The most that the owner lets the operator take.
    pub max_fee_bps: u16,
}

impl Model {
    pub fn set_config(&mut self, by: Address, new: NewConfig) -> Done {
        need(by == self.config.admin, E::Unauthorised)?;
        need(new.protocol_fee_bps <= CEILINGS.0 && new.max_operator_fee_bps <= CEILINGS.1, E::FeeTooHigh)?;
        need(new.payout_delay_s <= CEILINGS.2, E::DelayTooLong)?;
        if new.treasury != self.config.treasury {
            self.is_payout(&new.treasury)?;
        }
        self.config = Config {
            admin: self.config.admin,
            mint: self.config.mint,
            treasury: new.treasury,
            pending_admin: new.pending_admin,
            paused: new.paused,
            max_grace_s: new.max_grace_s,
            protocol_fee_bps: new.protocol_fee_bps,
            max_operator_fee_bps: new.max_operator_fee_bps,
            payout_delay_s: new.payout_delay_s,
        };
        Ok(None)
    }

    pub fn accept_admin(&mut self, by: Address) -> Done {
        need(self.config.pending_admin == Some(by), E::Unauthorised)?;
        self.config.admin = by;
        self.config.pending_admin = None;
        Ok(None)
    }

    pub fn register_operator(
        &mut self,
        payer: Address,
        account: Address,
        authority: Address,
        payout: Address,
        fee_bps: u16,
    ) -> Done {
        self.is_payout(&payout)?;
        need(fee_bps <= self.config.max_operator_fee_bps, E::FeeTooHigh)?;
        need(!self.operators.contains_key(&account), E::AlreadyExists)?;
        self.pay_rent(payer, account, 96);
        self.operators.insert(account, Operator { authority, payout, fees: 0, fee_bps });
        Ok(None)
    }

    pub fn register_node(
        &mut self,
        payer: Address,
        account: Address,
        id: Address,
        owner: Address,
        new: NewNode,
    ) -> Done {
        self.is_payout(&new.payout)?;
        need(new.min_grace_s <= self.config.max_grace_s, E::BadGrace)?;
        let operator_fee_bps = self.fee_of(new.operator)?;
        let highest = new.max_fee_bps.min(self.config.max_operator_fee_bps);
        need(operator_fee_bps <= highest, E::FeeTooHigh)?;
        need(!self.nodes.contains_key(&account), E::AlreadyExists)?;
        self.pay_rent(payer, account, 224);
        let node = Node {
            id,
            owner,
            operator: new.operator,
            payout: new.payout,
            pending_payout: None,
            earned: 0,
            protocol_fees: 0,
            min_grace_s: new.min_grace_s,
            operator_fee_bps,
        };
        self.nodes.insert(account, node);
        Ok(None)
    }

    /// What stays as it is is not judged anew, but for what the owner lets the operator take.
    pub fn update_node(&mut self, by: Address, account: Address, new: NewNode) -> Done {
        let before = at(&mut self.nodes, &account)?.clone();
        need(before.owner == by, E::Unauthorised)?;
        need(new.min_grace_s == before.min_grace_s || new.min_grace_s <= self.config.max_grace_s, E::BadGrace)?;
        let mut fee_bps = self.fee_of(new.operator)?;
        if new.operator == before.operator {
            fee_bps = before.operator_fee_bps;
        } else {
            need(fee_bps <= self.config.max_operator_fee_bps, E::FeeTooHigh)?;
        }
        need(fee_bps <= new.max_fee_bps, E::FeeTooHigh)?;

        self.promote_payout(account)?;
        let present = at(&mut self.nodes, &account)?.clone();
        let pending_payout = if new.payout == present.payout {
            None
        } else {
            self.is_payout(&new.payout)?;
            match present.pending_payout {
                Some((payout, from)) if payout == new.payout => Some((payout, from)),
                _ => Some((new.payout, self.now + i64::from(self.config.payout_delay_s))),
            }
        };
        let node = at(&mut self.nodes, &account)?;
        node.operator = new.operator;
        node.operator_fee_bps = fee_bps;
        node.min_grace_s = new.min_grace_s;
        node.pending_payout = pending_payout;
        Ok(None)
    }

    /// A payout whose second has come takes its place.
    pub(super) fn promote_payout(&mut self, account: Address) -> Result<(), Refusal> {
        let now = self.now;
        let node = at(&mut self.nodes, &account)?;
        if let Some((payout, from)) = node.pending_payout
            && now >= from
        {
            node.payout = payout;
            node.pending_payout = None;
        }
        Ok(())
    }

    /// What an operator publishes; without one there is nothing to pay.
    fn fee_of(&self, operator: Option<Address>) -> Result<u16, Refusal> {
        match operator {
            None => Ok(0),
            Some(account) => match self.operators.get(&account) {
                Some(operator) => Ok(operator.fee_bps),
                None => no(E::WrongOwner),
            },
        }
    }

    /// Payouts go to any token account but the vault.
    pub(super) fn is_payout(&self, account: &Address) -> Result<(), Refusal> {
        need(*account != self.vault && self.tokens.contains_key(account), E::BadTokenAccount)
    }
}
