//! What every chain behind [`ChainClient`] must do, as code: each implementation's test runs it on a chain of its
//! own, so that what holds for the embedded chain holds for a cluster.
//!
//! Violations are panics. Both functions need a chain where the program is set up and `faucet` has SOL and is the
//! mint authority; they use fresh keys for everything else, so they may run again and again on one chain.

use std::error::Error;

use settlement_interface::{
    accounts::{Channel, discriminator, status},
    errors::SettlementError,
    fees,
    instructions::{EVERYTHING, VoucherEntry},
    voucher::{NEVER, voucher_bytes},
};

use crate::{
    AccountFilter, Address, ChainClient, ChainError, Commitment, Hash, Instruction, Keypair, MAX_RECENT_FEES, Message,
    Program, Signature, Signer, TransactionSigner, VersionedMessage,
    instructions::{self as ix, NO_VOUCHER, OpenChannel, RegisterNode, WithdrawEarned},
    reads,
    setup::{self, Setup},
    submit::{self, Outcome, Remedy, SubmitError},
    tokens,
};

/// The trait's promises: order, gaps, filters, sizes, repeated sends, refusals without effect.
pub async fn answers_as_promised(
    chain: &dyn ChainClient,
    program: &Program,
    faucet: &Keypair,
    setup: &Setup,
) -> Result<(), Box<dyn Error>> {
    assert_eq!(chain.genesis_hash().await?, chain.genesis_hash().await?, "the genesis hash never changes");
    assert!(chain.clock().await? > 0, "the clock shows unix time");

    // More addresses than one JSON-RPC call takes, with gaps, and one of them twice.
    let mut addresses: Vec<Address> = (0..150).map(|_| Keypair::new().pubkey()).collect();
    addresses[3] = setup.mint;
    addresses[120] = setup.config;
    addresses[149] = setup.mint;
    let accounts = chain.accounts(&addresses).await?;
    let there: Vec<usize> = (0..150).filter(|i| accounts[*i].is_some()).collect();
    assert_eq!(there, [3, 120, 149], "accounts come in the order asked for");
    assert_eq!(accounts[3], accounts[149]);
    assert_eq!(accounts[120].as_ref().map(|account| account.owner), Some(program.id));
    let (slot, again) = chain.accounts_at(&addresses).await?;
    let (later, _) = chain.accounts_at(&addresses[..1]).await?;
    assert!(again == accounts && later >= slot, "answers say how old they are");

    let by_mint = |key| AccountFilter { discriminator: discriminator::CONFIG, data_len: 192, key: Some((40, key)) };
    let found = chain.program_accounts(&program.id, &by_mint(setup.mint)).await?;
    assert_eq!(found.iter().map(|(address, _)| *address).collect::<Vec<_>>(), [setup.config]);
    assert_eq!(chain.program_accounts(&program.id, &by_mint(setup.vault)).await?, vec![]);

    // The same bytes twice: one effect.
    let to = Keypair::new().pubkey();
    let transfer = tokens::transfer_lamports(&faucet.pubkey(), &to, RICH);
    let prepared = submit::prepare(chain, faucet, &[], std::slice::from_ref(&transfer)).await?;
    let unknown = submit::outcome(chain, &prepared.signature, prepared.last_valid_block_height).await?;
    assert_eq!(unknown, Outcome::Live, "what was never sent may still land");
    assert_eq!(submit::confirm(chain, &prepared).await?, prepared.signature);
    assert_eq!(submit::confirm(chain, &prepared).await?, prepared.signature);
    assert_eq!(reads::lamports(chain, &to).await?, RICH, "a transaction lands once");
    let statuses = chain.statuses(&[Signature::default(), prepared.signature]).await?.statuses;
    assert_eq!(statuses[0], None);
    assert!(statuses[1].as_ref().is_some_and(|s| s.err.is_none() && s.commitment >= Commitment::Confirmed));
    assert!(matches!(submit::outcome(chain, &Signature::default(), 0).await?, Outcome::Dead), "past its height");

    // Simulated: what it would take, and no effect. Neither signature nor blockhash count.
    let mut draft = prepared.transaction.clone();
    draft.signatures = vec![Signature::default()];
    draft.message.set_recent_blockhash(Hash::default());
    let simulation = chain.simulate(&draft).await?;
    assert_eq!(simulation.err, None);
    assert!((1..10_000).contains(&simulation.units), "{} units for a transfer", simulation.units);
    assert!(simulation.loaded_data_bytes.is_none_or(|bytes| (1..100_000).contains(&bytes)));
    assert_eq!(reads::lamports(chain, &to).await?, RICH, "a simulation moves nothing");
    let pauper = Keypair::new().pubkey();
    let message = Message::new(&[tokens::transfer_lamports(&pauper, &to, 1)], Some(&pauper));
    draft.message = VersionedMessage::Legacy(message);
    assert!(chain.simulate(&draft).await?.err.is_some(), "what would fail says so");
    let fees = chain.recent_fees(&[faucet.pubkey(), setup.vault]).await?;
    assert!(fees.len() <= MAX_RECENT_FEES);

    // Refused before landing: no effect, and the fault is named.
    let poor = Keypair::new();
    let error = submit::submit(chain, &poor, &[], &[tokens::transfer_lamports(&poor.pubkey(), &to, 1)]).await;
    let error = error.expect_err("a payer without SOL cannot pay");
    assert_eq!(error.remedy(), Remedy::FundFees, "{error}");
    let beyond = tokens::transfer_lamports(&faucet.pubkey(), &to, u64::MAX);
    let error = submit::submit(chain, faucet, &[], &[transfer, beyond]).await.expect_err("nobody has that much");
    assert_eq!(error.remedy(), Remedy::FundFees, "{error}");
    assert_eq!(reads::lamports(chain, &to).await?, RICH, "a refused transaction moves nothing");

    // Too large: refused before it leaves.
    // r[verify settlement.transaction.size]
    let wide = Instruction { program_id: program.id, accounts: vec![], data: vec![0; 1300] };
    let error = submit::submit(chain, faucet, &[], &[wide]).await.expect_err("above one packet");
    assert!(matches!(error, SubmitError::NotSent(ChainError::TooLarge { limit: 1232, .. })), "{error}");
    Ok(())
}

/// Money through the whole program: deposit, open, settle, top up, close, reclaim, withdraw. After every
/// transaction the vault's tokens equal the sum of what the ledgers owe, and in the end every party holds what the
/// fees say.
// r[verify settlement.vault.solvent]
pub async fn money_cycle(
    chain: &dyn ChainClient,
    program: &Program,
    faucet: &Keypair,
    setup: &Setup,
) -> Result<(), Box<dyn Error>> {
    let world = World::new(chain, program, faucet, setup).await?;
    let (program, owner) = (world.program, world.owner.pubkey());
    let (agent, _) = program.agent(&owner);
    let (node, _) = program.node(&world.node_id.pubkey());
    let (operator, _) = program.operator(&world.authority.pubkey());
    let config = reads::config(chain, &program).await?;

    let source = setup::mint_to(chain, &setup.mint, faucet, &owner, 10_000_000).await?;
    world.step(&[ix::deposit(&program, &owner, &owner, &source, 9_000_000)]).await?;
    assert_eq!(reads::token_balance(chain, &source).await?, 1_000_000);

    // A deposit of what is not there, and one channel of what is not there.
    let error = world.step(&[ix::deposit(&program, &owner, &owner, &source, 1_000_001)]).await;
    assert_eq!(error.expect_err("more than the wallet holds").remedy(), Remedy::FundTokens);

    let session = Keypair::new();
    let grace_s = 60;
    let open = |nonce, deposit| OpenChannel { node, nonce, deposit, grace_s, signer: session.pubkey() };
    let error = world.step(&[ix::open_batch(&program, &owner, &owner, &[open(0, 9_000_001)])]).await;
    assert_eq!(error.expect_err("more than is available").program_error(), Some(SettlementError::BadAmount));

    world.step(&[ix::open_batch(&program, &owner, &owner, &[open(0, 4_000_000), open(1, 2_000_000)])]).await?;
    let (first, second) = (program.channel(&agent, &node, 0).0, program.channel(&agent, &node, 1).0);
    let mut of_node: Vec<Address> = addresses(reads::channels_of_node(chain, &program, &node).await?);
    let mut of_agent: Vec<Address> = addresses(reads::channels_of_agent(chain, &program, &agent).await?);
    of_node.sort();
    of_agent.sort();
    let mut both = vec![first, second];
    both.sort();
    assert_eq!((of_node, of_agent), (both.clone(), both));
    assert_eq!(addresses(reads::nodes_of_operator(chain, &program, &operator).await?), [node]);

    let signed = |channel: &Address, cumulative| {
        let message = voucher_bytes(channel.as_array(), cumulative, NEVER);
        let signature = *session.sign_message(&message).as_array();
        (*channel, VoucherEntry { signature, cumulative }, NEVER)
    };
    let vouchers = [signed(&first, 1_234_567), signed(&second, 999)];
    world.step(&[ix::settle_batch(&program, &node, &operator, &vouchers)]).await?;
    let channel = reads::channel(chain, &program, &first).await?.expect("the channel is open");
    assert_eq!((channel.settled, channel.status), (1_234_567, status::OPEN));

    world.step(&[ix::top_up(&program, &owner, &first, 500_000)]).await?;

    // A signature over another amount fails the batch, and nothing of it counts.
    let mut forged = signed(&first, 2_000_000);
    forged.1.cumulative = 2_000_001;
    let error = world.step(&[ix::settle_batch(&program, &node, &operator, &[signed(&second, 2_000), forged])]).await;
    assert_eq!(error.expect_err("a forged voucher").program_error(), Some(SettlementError::BadSignature));

    let authority = world.authority.pubkey();
    let last = [signed(&first, 3_000_000), (second, NO_VOUCHER, NEVER)];
    world.step(&[ix::close_batch(&program, &authority, &node, &operator, &last)]).await?;
    let settled: Vec<_> = reads::channels(chain, &program, &[first, second]).await?;
    let settled: Vec<_> = settled.into_iter().flatten().map(|c| (c.settled, c.status)).collect();
    assert_eq!(settled, [(3_000_000, status::CLOSED), (999, status::CLOSED)]);

    world.step(&[ix::reclaim_batch(&program, &agent, &owner, &[first, second])]).await?;
    assert_eq!(reads::channels(chain, &program, &[first, second]).await?, [None, None]);
    let account = reads::agent(chain, &program, &owner).await?.expect("the agent is there");
    assert_eq!((account.available, account.next_nonce), (9_000_000 - 3_000_999, 2));

    // Three settlements, each split on its own.
    let parts = [1_234_567, 999, 3_000_000 - 1_234_567]
        .map(|amount| fees::split(amount, OPERATOR_FEE_BPS, config.protocol_fee_bps).expect("fees within the whole"));
    let earned: u64 = parts.iter().map(|part| part.node).sum();
    let operator_fees: u64 = parts.iter().map(|part| part.operator).sum();
    let protocol_fees: u64 = parts.iter().map(|part| part.protocol).sum();

    let treasury_before = reads::token_balance(chain, &setup.treasury).await?;
    let withdraw = WithdrawEarned { authority, node, operator, payout: world.node_payout, amount: EVERYTHING };
    world.step(&[ix::withdraw_earned(&program, &withdraw)]).await?;
    world.step(&[ix::withdraw_fees(&program, &operator, &world.operator_payout, EVERYTHING)]).await?;
    if protocol_fees > 0 {
        world.step(&[ix::withdraw_fees(&program, &node, &setup.treasury, EVERYTHING)]).await?;
    }
    world.step(&[ix::withdraw_available(&program, &owner, &source, 9_000_000 - 3_000_999)]).await?;

    assert_eq!(reads::token_balance(chain, &world.node_payout).await?, earned);
    assert_eq!(reads::token_balance(chain, &world.operator_payout).await?, operator_fees);
    assert_eq!(reads::token_balance(chain, &setup.treasury).await?, treasury_before + protocol_fees);
    assert_eq!(reads::token_balance(chain, &source).await?, 10_000_000 - 3_000_999);
    assert_eq!(earned + operator_fees + protocol_fees, 3_000_999, "no unit is lost");
    Ok(())
}

/// One agent, one node and its operator, on a chain where others may have money but do not move it meanwhile.
struct World<'a> {
    chain: &'a dyn ChainClient,
    program: Program,
    faucet: &'a Keypair,
    owner: Keypair,
    node_owner: Keypair,
    node_id: Keypair,
    authority: Keypair,
    node_payout: Address,
    operator_payout: Address,
    vault: Address,
    /// Vault tokens that belong to accounts outside this world.
    foreign: u64,
}

impl<'a> World<'a> {
    /// Registers everyone; the faucet pays their rent.
    async fn new(
        chain: &'a dyn ChainClient,
        program: &Program,
        faucet: &'a Keypair,
        setup: &Setup,
    ) -> Result<Self, Box<dyn Error>> {
        let [owner, node_owner, node_id, authority] = [(); 4].map(|()| Keypair::new());
        let payer = faucet.pubkey();
        let mint = setup.mint;
        let mut world = Self {
            chain,
            program: *program,
            faucet,
            node_payout: tokens::associated_token_address(&node_owner.pubkey(), &mint),
            operator_payout: tokens::associated_token_address(&authority.pubkey(), &mint),
            vault: setup.vault,
            foreign: 0,
            owner,
            node_owner,
            node_id,
            authority,
        };
        world.foreign = reads::token_balance(chain, &setup.vault).await?;
        let owner = world.owner.pubkey();
        let operator_key = world.authority.pubkey();
        let node = RegisterNode {
            payer,
            owner: world.node_owner.pubkey(),
            id: world.node_id.pubkey(),
            payout: world.node_payout,
            operator: Some(program.operator(&operator_key).0),
            min_grace_s: 30,
            max_operator_fee_bps: OPERATOR_FEE_BPS,
        };
        world
            .step(&[
                tokens::transfer_lamports(&payer, &owner, RICH),
                tokens::create_associated_idempotent(&payer, &world.node_owner.pubkey(), &mint),
                tokens::create_associated_idempotent(&payer, &operator_key, &mint),
            ])
            .await?;
        world
            .step(&[ix::register_operator(program, &payer, &operator_key, &world.operator_payout, OPERATOR_FEE_BPS)])
            .await?;
        world.step(&[ix::register_node(program, &node)]).await?;
        Ok(world)
    }

    /// One transaction, signed by whom it needs; then the books must balance, whether it succeeded or not.
    async fn step(&self, instructions: &[Instruction]) -> Result<(), SubmitError> {
        let signers: [&dyn TransactionSigner; 4] = [&self.owner, &self.node_owner, &self.node_id, &self.authority];
        let result = submit::submit(self.chain, self.faucet, &signers, instructions).await;
        let owed = self.owed().await.expect("the ledgers can be read");
        let vault = reads::token_balance(self.chain, &self.vault).await.expect("the vault can be read");
        assert_eq!(vault - self.foreign, owed, "the vault holds what the ledgers owe");
        result.map(|_| ())
    }

    async fn owed(&self) -> Result<u64, Box<dyn Error>> {
        let (chain, program) = (self.chain, &self.program);
        let agent = reads::agent(chain, program, &self.owner.pubkey()).await?;
        let node = reads::node(chain, program, &self.node_id.pubkey()).await?;
        let operator = reads::operator(chain, program, &self.authority.pubkey()).await?;
        let channels = reads::channels_of_agent(chain, program, &program.agent(&self.owner.pubkey()).0).await?;
        Ok(agent.map_or(0, |agent| agent.available)
            + node.map_or(0, |node| node.earned + node.protocol_fees)
            + operator.map_or(0, |operator| operator.fees)
            + channels.iter().map(|(_, channel): &(Address, Channel)| ix::refundable(channel)).sum::<u64>())
    }
}

fn addresses<T>(found: Vec<(Address, T)>) -> Vec<Address> {
    found.into_iter().map(|(address, _)| address).collect()
}

/// Lamports that a wallet of this world begins with: rent for all that it creates.
const RICH: u64 = 1_000_000_000;

/// The operator's fee in basis points.
const OPERATOR_FEE_BPS: u16 = 150;
