//! What vouchers earn, and who gets which part.

use settlement_chain::Address;
use settlement_interface::errors::SettlementError as E;

use super::{Done, Model, State, at, need, sum};

/// One entry of a batch of vouchers.
#[derive(Clone, Debug)]
pub struct Payment {
    pub channel: Address,
    pub cumulative: u64,
    /// Unix seconds, 0 for never.
    pub expires_at: i64,
    /// The channel's signer has signed exactly this.
    pub is_genuine: bool,
}

impl Model {
    pub fn settle(&mut self, node: Address, operator: Option<Address>, payments: &[Payment]) -> Done {
        need((1..=64).contains(&payments.len()), E::BadBatch)?;
        need(at(&mut self.nodes, &node)?.operator == operator, E::WrongParty)?;
        self.pay(node, payments, false)
    }

    pub fn close(&mut self, by: Address, node: Address, operator: Option<Address>, payments: &[Payment]) -> Done {
        need((1..=64).contains(&payments.len()), E::BadBatch)?;
        self.may_act(by, node, operator)?;
        self.pay(node, payments, true)
    }

    fn pay(&mut self, node: Address, payments: &[Payment], closes: bool) -> Done {
        let mut skipped = 0;
        for (index, payment) in payments.iter().enumerate() {
            let Some(channel) = self.channels.get_mut(&payment.channel) else {
                skipped |= 1 << index;
                continue;
            };
            need(channel.node == node, E::WrongParty)?;
            let takes_vouchers = match channel.state {
                State::Open => true,
                State::Closing { deadline } => self.now < deadline,
                State::Closed => false,
            };
            let is_higher = payment.cumulative > channel.settled;
            let is_alive = payment.expires_at == 0 || self.now < payment.expires_at;
            if !takes_vouchers || (!is_higher && !closes) || (is_higher && !is_alive) {
                skipped |= 1 << index;
                continue;
            }
            if is_higher {
                need(payment.cumulative <= channel.deposit, E::AboveDeposit)?;
                need(payment.is_genuine, E::BadSignature)?;
                let rise = payment.cumulative - channel.settled;
                channel.settled = payment.cumulative;
                let protocol_fee_bps = channel.protocol_fee_bps;
                if closes {
                    channel.state = State::Closed;
                }
                self.credit(node, rise, protocol_fee_bps)?;
            } else {
                channel.state = State::Closed;
            }
        }
        Ok(Some(skipped))
    }

    /// Fees are rounded down, and what is left is the node's.
    fn credit(&mut self, node: Address, rise: u64, protocol_fee_bps: u16) -> Result<(), super::Refusal> {
        let node = at(&mut self.nodes, &node)?;
        let protocol = (u128::from(rise) * u128::from(protocol_fee_bps) / 10_000) as u64;
        let operator = (u128::from(rise) * u128::from(node.operator_fee_bps) / 10_000) as u64;
        node.protocol_fees = sum(node.protocol_fees, protocol)?;
        node.earned = sum(node.earned, rise - protocol - operator)?;
        if let Some(account) = node.operator {
            let account = at(&mut self.operators, &account)?;
            account.fees = sum(account.fees, operator)?;
        }
        Ok(())
    }
}
