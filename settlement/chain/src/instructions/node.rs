//! A node's account: making it, changing it, paying out of it.

use settlement_interface::{
    accounts::{NO_KEY, Node},
    instructions::{self as encoding, tag},
};
use solana_address::Address;
use solana_instruction::Instruction;

use super::{SYSTEM_PROGRAM, instruction, payer, readonly, signer, writable};
use crate::{Program, tokens::TOKEN_PROGRAM};

/// What [`register_node`] needs.
#[derive(Clone, Debug)]
pub struct RegisterNode {
    /// Pays the rent; signs.
    pub payer: Address,
    /// The cold key; signs.
    pub owner: Address,
    /// The node id, its transport key; signs.
    pub id: Address,
    /// Token account of the $ARO mint that earnings go to.
    pub payout: Address,
    /// The operator account that settles for this node.
    pub operator: Option<Address>,
    /// Shortest grace of channels to this node, in seconds.
    pub min_grace_s: u32,
    /// Refuse if the operator asks more than this, in basis points.
    pub max_operator_fee_bps: u16,
}

/// Creates a node account.
pub fn register_node(program: &Program, node: &RegisterNode) -> Instruction {
    let data = encoding::RegisterNode {
        tag: tag::REGISTER_NODE,
        min_grace_s: node.min_grace_s,
        max_operator_fee_bps: node.max_operator_fee_bps,
    };
    let accounts = vec![
        payer(node.payer),
        signer(node.owner),
        signer(node.id),
        writable(program.node(&node.id).0),
        readonly(node.payout),
        readonly(program.config().0),
        readonly(node.operator.unwrap_or(SYSTEM_PROGRAM)),
        readonly(SYSTEM_PROGRAM),
    ];
    instruction(program, accounts, &data.to_bytes())
}

/// What [`update_node`] writes: all of it, changed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateNode {
    /// The cold key; signs.
    pub owner: Address,
    /// The node's account.
    pub node: Address,
    /// Token account of the $ARO mint that earnings shall go to. Another than the present one counts when the
    /// config's delay is over; the present one takes a pending one back.
    pub payout: Address,
    /// The operator account that settles for this node from now on.
    pub operator: Option<Address>,
    /// Shortest grace of channels to this node, in seconds; for channels that open from now on.
    pub min_grace_s: u32,
    /// Refuse if the operator takes more than this, in basis points.
    pub max_operator_fee_bps: u16,
}

impl UpdateNode {
    /// All of it as it is, a pending payout included, for a caller to change what it wants changed. `account` is the
    /// node's account.
    pub fn keeping(account: Address, node: &Node) -> Self {
        let payout = if node.payout_from == 0 { node.payout } else { node.pending_payout };
        Self {
            owner: node.owner.into(),
            node: account,
            payout: payout.into(),
            operator: (node.operator != NO_KEY).then(|| node.operator.into()),
            min_grace_s: node.min_grace_s,
            max_operator_fee_bps: node.operator_fee_bps,
        }
    }
}

/// Changes a node's operator and shortest grace at once, and its payout after the delay.
pub fn update_node(program: &Program, update: &UpdateNode) -> Instruction {
    let data = encoding::UpdateNode {
        tag: tag::UPDATE_NODE,
        min_grace_s: update.min_grace_s,
        max_operator_fee_bps: update.max_operator_fee_bps,
    };
    let accounts = vec![
        signer(update.owner),
        writable(update.node),
        readonly(update.payout),
        readonly(program.config().0),
        readonly(update.operator.unwrap_or(SYSTEM_PROGRAM)),
    ];
    instruction(program, accounts, &data.to_bytes())
}

/// What [`withdraw_earned`] needs.
#[derive(Clone, Debug)]
pub struct WithdrawEarned {
    /// The node's owner or its operator's authority; signs.
    pub authority: Address,
    /// The node's account.
    pub node: Address,
    /// As the node's account says; zeros are [`SYSTEM_PROGRAM`].
    pub operator: Address,
    /// As the node's account says for this second: see [`Node::payout_at`].
    pub payout: Address,
    /// Base units, or [`EVERYTHING`](encoding::EVERYTHING).
    pub amount: u64,
}

/// Pays a node's earnings to its stored payout.
pub fn withdraw_earned(program: &Program, withdraw: &WithdrawEarned) -> Instruction {
    let accounts = vec![
        signer(withdraw.authority),
        writable(withdraw.node),
        readonly(withdraw.operator),
        writable(withdraw.payout),
        writable(program.vault().0),
        readonly(program.config().0),
        readonly(TOKEN_PROGRAM),
    ];
    let data = encoding::WithdrawEarned { tag: tag::WITHDRAW_EARNED, amount: withdraw.amount };
    instruction(program, accounts, &data.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeping_repeats_a_pending_payout_and_no_operator() {
        let node = Node {
            owner: [1; 32],
            payout: [2; 32],
            min_grace_s: 900,
            operator_fee_bps: 150,
            ..Node::from_bytes(&[0; Node::LEN])
        };
        let account = Address::new_from_array([9; 32]);
        let kept = UpdateNode::keeping(account, &node);
        assert_eq!((kept.payout, kept.operator), (Address::new_from_array([2; 32]), None));
        assert_eq!((kept.min_grace_s, kept.max_operator_fee_bps, kept.node), (900, 150, account));
        let waiting = Node { pending_payout: [3; 32], payout_from: 7, operator: [4; 32], ..node };
        let kept = UpdateNode::keeping(account, &waiting);
        assert_eq!(kept.payout, Address::new_from_array([3; 32]));
        assert_eq!(kept.operator, Some(Address::new_from_array([4; 32])));
    }
}
