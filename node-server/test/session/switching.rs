//! A node whose owner changes what the chain says of it, while it serves.

use node_server::{AccountError, NodeChange, NodeConfig, NodeTerms, update, withdraw};
use settlement_chain::instructions::register_operator;
use settlement_chain::submit::submit;
use settlement_chain::{Address, Keypair, Program, Signer, reads};

use crate::agent::Agent;
use crate::handing_over::Scripted;
use crate::world::{Funded, World, units};

/// Makes the owner's change.
async fn change(world: &World, owner: &Keypair, change: NodeChange) -> Result<NodeTerms, AccountError> {
    update(&world.chain, &Program::local(), &world.admin, owner, world.key.node_id(), &change).await
}

/// An operator account on chain.
async fn operator_account(world: &World) -> Address {
    let (authority, program) = (Keypair::new(), Program::local());
    let payout = world.chain.mint_to(&world.setup.mint, &world.admin, &authority.pubkey(), 1).await.unwrap();
    let register = register_operator(&program, &world.admin.pubkey(), &authority.pubkey(), &payout, 100);
    submit(&world.chain, &world.admin, &[&authority], &[register]).await.unwrap();
    program.operator(&authority.pubkey()).0
}

// r[verify settlement.handoff.several]
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_of_operators_on_chain_is_followed_without_a_restart() {
    let world = World::new().await;
    let (first, second) = (operator_account(&world).await, operator_account(&world).await);
    let before = Scripted::start_as(&world, 21, first.to_bytes());
    let after = Scripted::start_as(&world, 22, second.to_bytes());
    let named = |operator| NodeChange {
        operator: Some(Some(operator)),
        max_operator_fee_bps: Some(100),
        ..NodeChange::default()
    };
    change(&world, &world.admin, named(first)).await.unwrap();
    let operators = vec![before.endpoint.clone(), after.endpoint.clone()];
    let node = world.start(NodeConfig { operators, ..world.config() }).await;
    let funded: Funded = world.fund(1_000_000).await;
    Agent::bound(&world, &node, &funded).await.pay(&funded, 400).await.unwrap();
    node.hand_off_to_close().await.unwrap();
    assert!(before.got().pop().unwrap().close);
    assert!(!after.got().pop().unwrap().close);

    let terms = change(&world, &world.admin, named(second)).await.unwrap();
    assert_eq!((terms.operator, terms.operator_fee_bps), (Some(second), 100));
    node.follow_now().await.unwrap();
    // The bell has rung; whichever handoff comes first asks the new operator.
    node.hand_off().await.unwrap();
    let asked = after.got().pop().unwrap();
    assert!(asked.close && asked.cumulative == units(400));
    assert!(before.got().is_empty(), "who is named no more is asked no more");
    let status = node.status().await;
    assert_eq!(status.named_operator, Some(second.to_string()));

    // Nobody is named, and status says so.
    let none =
        change(&world, &world.admin, NodeChange { operator: Some(None), ..NodeChange::default() }).await.unwrap();
    assert_eq!(none.operator, None);
    node.follow_now().await.unwrap();
    let warnings = node.status().await.warnings;
    assert!(warnings.iter().any(|warning| warning.contains("names no operator")), "{warnings:?}");
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_payout_waits_for_its_second_and_withdrawals_follow_it() {
    let world = World::new().await;
    world.chain.warp_clock(1_900_000_000);
    let node = world.start(world.config()).await;
    let funded = world.fund(1_000_000).await;
    Agent::bound(&world, &node, &funded).await.pay(&funded, 10_000).await.unwrap();
    node.settle(Some(world.fee_key())).await.unwrap();
    let elsewhere = Keypair::new().pubkey();
    let payout = world.chain.mint_to(&world.setup.mint, &world.admin, &elsewhere, 1).await.unwrap();

    let terms =
        change(&world, &world.admin, NodeChange { payout: Some(payout), ..NodeChange::default() }).await.unwrap();
    let (pending, from) = terms.pending_payout.unwrap();
    assert_eq!(pending, payout);
    assert!(from > 1_900_000_000);
    let status = node.status().await;
    assert_eq!((status.pending_payout, status.payout_from), (Some(payout.to_string()), Some(from)));
    let program = Program::local();
    let pay = async |amount| {
        withdraw(&world.chain, &program, &world.admin, &world.admin, world.key.node_id(), Some(units(amount)))
            .await
            .unwrap()
            .payout
    };
    assert_eq!(pay(100).await, terms.payout);

    world.chain.warp_clock(from);
    assert_eq!(pay(70).await, payout);
    assert_eq!(reads::token_balance(&world.chain, &payout).await.unwrap(), 71);
    let now = change(&world, &world.admin, NodeChange::default()).await.unwrap();
    assert_eq!((now.payout, now.pending_payout, now.signature), (payout, None, None));
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_changes_a_node_and_new_agents_hear_the_new_grace() {
    let world = World::new().await;
    let node = world.start(world.config()).await;
    let longer = NodeChange { min_grace_s: Some(1_800), ..NodeChange::default() };
    let stranger = change(&world, &Keypair::new(), longer).await;
    assert!(matches!(stranger, Err(AccountError::OtherOwner { owner, .. }) if owner == world.admin.pubkey()));
    assert_eq!(change(&world, &world.admin, longer).await.unwrap().min_grace_s, 1_800);
    node.follow_now().await.unwrap();
    assert_eq!(Agent::greet(&world, &node).await.min_grace_s, 1_800);
    node.shutdown().await.unwrap();
}
