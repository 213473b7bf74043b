//! Changing a node's account: its operator and shortest grace at once, its payout after the delay.

use aro_proto::NodeId;
use settlement_chain::instructions::{self, UpdateNode};
use settlement_chain::interface::accounts::{NO_KEY, Node};
use settlement_chain::submit::submit;
use settlement_chain::{Address, ChainClient, Keypair, Program, Signature, Signer, reads};

use super::AccountError;

/// What is to be changed; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// The operator account that settles and closes from now on; `Some(None)` for nobody.
    pub operator: Option<Option<Address>>,
    /// Token account that earnings shall go to; another than the present one counts only after a delay.
    pub payout: Option<Address>,
    /// Shortest grace of channels that open from now on, in seconds.
    pub min_grace_s: Option<u32>,
    /// Refuse if the operator takes more than this, in basis points.
    pub max_operator_fee_bps: Option<u16>,
}

/// A node's account as its owner has set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeTerms {
    /// The account on chain.
    pub account: Address,
    /// The operator account that settles and closes, if there is one.
    pub operator: Option<Address>,
    /// What the operator takes of what settles, in basis points.
    pub operator_fee_bps: u16,
    /// Shortest grace of a new channel, in seconds.
    pub min_grace_s: u32,
    /// Where earnings go now.
    pub payout: Address,
    /// Where they go from a unix second on, by the chain's clock.
    pub pending_payout: Option<(Address, i64)>,
    /// The transaction that changed it; none if nothing was to be changed.
    pub signature: Option<Signature>,
}

/// Changes a node's account; `owner` must be its owner, `payer` pays the fee and may be the same. With nothing to
/// change it only reads.
///
/// # Errors
/// The node is not registered or owned by someone else, or the transaction fails.
pub async fn update(
    chain: &dyn ChainClient,
    program: &Program,
    payer: &Keypair,
    owner: &Keypair,
    id: NodeId,
    change: &NodeChange,
) -> Result<NodeTerms, AccountError> {
    let address = Address::from(id.to_bytes());
    let (account, _) = program.node(&address);
    let node = reads::node(chain, program, &address).await?.ok_or(AccountError::NotRegistered(id))?;
    let found = Address::from(node.owner);
    if found != owner.pubkey() {
        return Err(AccountError::OtherOwner { id, owner: found });
    }
    let kept = UpdateNode::keeping(account, &node);
    let wanted = UpdateNode {
        operator: change.operator.unwrap_or(kept.operator),
        payout: change.payout.unwrap_or(kept.payout),
        min_grace_s: change.min_grace_s.unwrap_or(kept.min_grace_s),
        max_operator_fee_bps: change.max_operator_fee_bps.unwrap_or(kept.max_operator_fee_bps),
        ..kept.clone()
    };
    // A fee that the owner accepts changes nothing by itself.
    if (UpdateNode { max_operator_fee_bps: kept.max_operator_fee_bps, ..wanted.clone() }) == kept {
        return Ok(terms(account, &node, chain.clock().await?, None));
    }
    let signature = submit(chain, payer, &[owner], &[instructions::update_node(program, &wanted)]).await?;
    let node = reads::node(chain, program, &address).await?.ok_or(AccountError::NotRegistered(id))?;
    Ok(terms(account, &node, chain.clock().await?, Some(signature)))
}

fn terms(account: Address, node: &Node, now: i64, signature: Option<Signature>) -> NodeTerms {
    let is_pending = node.payout_from != 0 && !node.is_payout_due(now);
    NodeTerms {
        account,
        operator: (node.operator != NO_KEY).then(|| node.operator.into()),
        operator_fee_bps: node.operator_fee_bps,
        min_grace_s: node.min_grace_s,
        payout: Address::from(*node.payout_at(now)),
        pending_payout: is_pending.then(|| (node.pending_payout.into(), node.payout_from)),
        signature,
    }
}
