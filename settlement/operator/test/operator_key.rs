//! What could break: an operator's hot key in the wrong hands that moves money anywhere but to nodes, fees and refunds.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod fixture;

use std::collections::BTreeSet;

use aro_proto::SecretKey;
use fixture::{FUNDS, GRACE_S, NOW, World, address, keypair};
use settlement_chain::instructions::{
    self, InitConfig, OpenChannel, RegisterNode, SetConfig, UpdateNode, WithdrawEarned,
};
use settlement_chain::reads::{self, associated_token_address};
use settlement_chain::{Address, Instruction, Signer, submit, tokens};
use settlement_interface::accounts::status;
use settlement_interface::instructions::{EVERYTHING, VoucherEntry, tag};
use settlement_interface::voucher::NEVER;

/// What a thief tries, all signed by the operator's authority alone.
struct Attempts {
    world: World,
    /// Where the money shall go: a wallet of the authority and one of a stranger.
    loot: [Address; 2],
    tried: BTreeSet<u8>,
}

impl Attempts {
    /// Sends it. Whether it is refused or has an effect, no loot may come of it.
    async fn attempt(&mut self, instruction: Instruction) -> bool {
        self.tried.insert(instruction.data[0]);
        let world = &self.world;
        let done = submit::submit(&world.chain, &world.authority, &[], &[instruction]).await.is_ok();
        for account in &self.loot {
            assert_eq!(self.world.tokens(account).await, 0, "instruction {:?}", self.tried.last());
        }
        done
    }
}

// r[verify settlement.payout.stored]
#[tokio::test]
async fn operator_key_alone_can_never_move_funds_anywhere_but_to_nodes_fees_and_refunds() {
    let world = World::new().await;
    let thief = world.authority.pubkey();
    let stranger = Address::new_from_array([66; 32]);
    let mint = world.setup.mint;
    let loot = [thief, stranger].map(|owner| associated_token_address(&owner, &mint));
    for owner in [thief, stranger] {
        let step = tokens::create_associated_idempotent(&thief, &owner, &mint);
        submit::submit(&world.chain, &world.authority, &[], &[step]).await.unwrap();
    }
    // The operator is registered with the authority's own wallet as payout; its fees are its own and leave last.
    let channels = world.open(4, 100_000).await;
    let [open, closing, sealed, other] = channels[..] else { panic!("four channels") };
    let entry = |channel, cumulative| {
        let voucher = world.voucher(channel, cumulative);
        (address(channel), VoucherEntry { signature: voucher.signature, cumulative }, NEVER)
    };
    let (program, node, operator) = (world.program, world.node_account(), world.operator_account());
    let settle = instructions::settle_batch(&program, &node, &operator, &[entry(open, 10_000), entry(other, 10_000)]);
    submit::submit(&world.chain, &world.node_owner, &[], &[settle]).await.unwrap();
    world.request_close(closing).await;
    let (agent, owner) = (world.agent_account(), world.agent.pubkey());
    let node_before = world.node().await;
    let vault_before = world.tokens(&world.setup.vault).await;
    let treasury = world.setup.treasury;
    let [to_thief, to_stranger] = loot;
    let forged = |channel| (address(channel), VoucherEntry { signature: [7; 64], cumulative: 90_000 }, NEVER);
    let (genuine, bare) = (entry(open, 20_000), (address(sealed), instructions::NO_VOUCHER, NEVER));
    let signer = Address::new_from_array(world.signer.public());
    let register = RegisterNode {
        payer: thief,
        owner: thief,
        id: thief,
        payout: to_thief,
        operator: Some(operator),
        min_grace_s: 60,
        max_operator_fee_bps: 500,
    };
    let set =
        SetConfig { treasury: to_thief, ..SetConfig::keeping(&reads::config(&world.chain, &program).await.unwrap()) };
    let hostile_set = SetConfig { admin: thief, ..set.clone() };
    let init = InitConfig {
        payer: thief,
        admin: thief,
        mint,
        treasury: to_thief,
        max_grace_s: 1,
        protocol_fee_bps: 0,
        max_operator_fee_bps: 0,
        payout_delay_s: 0,
    };
    let update = UpdateNode { payout: to_thief, ..UpdateNode::keeping(node, &node_before) };
    let hostile_update = UpdateNode { owner: thief, ..update.clone() };
    let earned = |payout| WithdrawEarned { authority: thief, node, operator, payout, amount: EVERYTHING };
    let source = associated_token_address(&owner, &mint);
    // The same instruction with the thief in the place of who must sign.
    let as_thief = |mut instruction: Instruction| {
        for meta in &mut instruction.accounts {
            if meta.is_signer {
                meta.pubkey = thief;
            }
        }
        instruction
    };
    // The same instruction with the rightful key named, but not asked to sign.
    let unsigned = |mut instruction: Instruction| {
        for meta in &mut instruction.accounts {
            meta.is_signer = meta.pubkey == thief;
        }
        instruction
    };
    let other_node = keypair(&SecretKey::from_bytes(&[77; 32])).pubkey();
    let open_channel = OpenChannel { node, nonce: 1_000, deposit: 1, grace_s: GRACE_S, signer };
    let mut attempts = Attempts { world, loot, tried: BTreeSet::new() };

    let refused = [
        instructions::init_config(&program, &init),
        instructions::set_config(&program, &hostile_set),
        unsigned(instructions::set_config(&program, &set)),
        instructions::accept_admin(&program, &thief),
        instructions::update_node(&program, &hostile_update),
        unsigned(instructions::update_node(&program, &update)),
        as_thief(instructions::register_operator(&program, &thief, &thief, &to_thief, 10_000)),
        unsigned(instructions::register_node(&program, &RegisterNode { id: other_node, ..register.clone() })),
        unsigned(instructions::deposit(&program, &owner, &thief, &source, 1)),
        as_thief(instructions::deposit(&program, &owner, &thief, &treasury, 1)),
        instructions::withdraw_available(&program, &thief, &to_thief, 1),
        unsigned(instructions::withdraw_available(&program, &owner, &to_thief, FUNDS / 2)),
        as_thief(instructions::withdraw_available(&program, &owner, &to_thief, FUNDS / 2)),
        unsigned(instructions::open_batch(&program, &owner, &thief, std::slice::from_ref(&open_channel))),
        as_thief(instructions::open_batch(&program, &owner, &thief, &[open_channel])),
        unsigned(instructions::top_up(&program, &owner, &address(open), 1)),
        as_thief(instructions::top_up(&program, &owner, &address(open), 1)),
        unsigned(instructions::request_close(&program, &owner, &address(open))),
        as_thief(instructions::request_close(&program, &owner, &address(open))),
        instructions::settle_batch(&program, &node, &operator, &[forged(open)]),
        instructions::close_batch(&program, &thief, &node, &operator, &[forged(open)]),
        instructions::withdraw_earned(&program, &earned(to_thief)),
        instructions::withdraw_earned(&program, &earned(to_stranger)),
        instructions::withdraw_fees(&program, &node, &to_thief, EVERYTHING),
        instructions::withdraw_fees(&program, &operator, &to_stranger, EVERYTHING),
        instructions::reclaim_batch(&program, &agent, &thief, &[address(open)]),
    ];
    for (number, instruction) in refused.into_iter().enumerate() {
        let what = format!("attempt {number}, instruction {}", instruction.data[0]);
        let was_skipped = matches!(instruction.data[0], tag::RECLAIM_BATCH);
        assert!(!attempts.attempt(instruction).await || was_skipped, "{what} was let through");
    }
    assert_eq!(attempts.world.node().await, node_before);
    assert_eq!(attempts.world.tokens(&attempts.world.setup.vault).await, vault_before);

    // What the key may do: each moves money only along the ledger, to nodes, fees and refunds.
    let world = &attempts.world;
    let available = world.available().await;
    world.chain.warp_clock(NOW + i64::from(GRACE_S));
    let rent_payer = Address::from(world.channel(sealed).await.unwrap().rent_payer);
    let lamports = reads::lamports(&world.chain, &thief).await.unwrap();
    for instruction in [
        instructions::settle_batch(&program, &node, &operator, &[genuine]),
        instructions::close_batch(&program, &thief, &node, &operator, &[bare]),
        instructions::finalize_batch(&program, &[address(closing)]),
        instructions::reclaim_batch(&program, &agent, &rent_payer, &[address(sealed), address(closing)]),
        instructions::withdraw_earned(&program, &earned(Address::from(node_before.payout))),
        instructions::withdraw_fees(&program, &node, &treasury, EVERYTHING),
    ] {
        let what = instruction.data[0];
        assert!(attempts.attempt(instruction).await, "instruction {what}");
    }
    let world = &attempts.world;
    assert_eq!(world.channel(open).await.unwrap().settled, 20_000);
    assert_eq!(world.channel(open).await.unwrap().status, status::OPEN);
    assert_eq!((world.channel(sealed).await, world.channel(closing).await), (None, None));
    assert_eq!(world.available().await, available + 200_000, "refunds go to the agent");
    assert!(reads::lamports(&world.chain, &thief).await.unwrap() < lamports, "rent went back to who paid it");
    let fees = world.operator_fees().await;
    let paid_out = world.tokens(&Address::from(node_before.payout)).await + world.tokens(&treasury).await;
    assert_eq!(paid_out + fees, 30_000, "of 30,000 settled nothing went elsewhere");
    assert_eq!(world.tokens(&world.setup.vault).await, vault_before - paid_out);

    // Its own fees, to the payout that was stored when it registered, and those alone.
    let own = instructions::withdraw_fees(&program, &operator, &to_thief, EVERYTHING);
    submit::submit(&world.chain, &world.authority, &[], &[own]).await.unwrap();
    assert_eq!(world.tokens(&to_thief).await, fees);

    // As a node of its own it serves nobody, and costs nobody anything.
    let node_key = instructions::register_node(&program, &register);
    submit::submit(&world.chain, &world.authority, &[], &[node_key]).await.unwrap();
    attempts.tried.insert(tag::REGISTER_NODE);
    let every: BTreeSet<u8> = (0..u8::try_from(tag::COUNT).unwrap()).collect();
    assert_eq!(attempts.tried, every, "every instruction was tried");
}
