//! A world for one test: the program in LiteSVM, a mint, parties with keys, and the solvency check that runs after
//! every transaction.

use std::sync::LazyLock;

use litesvm::{LiteSVM, types::TransactionMetadata};
use settlement_chain::{Address, Instruction, InstructionError, Keypair, Signer, TransactionError};
use settlement_interface::{
    LOCAL_PROGRAM_ID,
    accounts::{Agent, Channel, Config, Node, Operator, discriminator},
    errors::SettlementError,
    instructions::OpenEntry,
    seeds,
    voucher::voucher_bytes,
};
use solana_account::Account;
use solana_clock::Clock;
use solana_transaction::Transaction;

use crate::{instructions as ix, seed::Chance};

pub const PROGRAM: Address = Address::new_from_array(LOCAL_PROGRAM_ID);
pub const TOKEN_PROGRAM: Address = Address::from_str_const("TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA");
pub const SYSTEM_PROGRAM: Address = Address::new_from_array([0; 32]);
pub const LOADER: Address = Address::from_str_const("BPFLoaderUpgradeab1e11111111111111111111111");

/// Unix seconds at which every world begins.
pub const START: i64 = 1_800_000_000;
/// Parameters that [`World::new`] configures.
pub const MAX_GRACE_S: u32 = 86_400;
pub const PROTOCOL_FEE_BPS: u16 = 50;
pub const MAX_OPERATOR_FEE_BPS: u16 = 500;
pub const PAYOUT_DELAY_S: u32 = 3_600;
/// Shortest grace of every node here.
pub const MIN_GRACE_S: u32 = 900;

/// Bytes of one legacy transaction on the network.
const MAX_TRANSACTION_LEN: usize = 1_232;

static ELF: &[u8] = include_bytes!("../../settlement/program/aro_settlement.so");

pub struct World {
    pub svm: LiteSVM,
    /// Pays transaction fees.
    pub payer: Keypair,
    /// Pays rent.
    pub sponsor: Keypair,
    pub admin: Keypair,
    pub mint: Address,
    pub treasury: Address,
    /// Every key and address of a world follows from it, so that bumps and compute repeat.
    pub chance: Chance,
}

pub struct AgentParty {
    pub owner: Keypair,
    /// Signs vouchers: a session key, not the owner's.
    pub signer: Keypair,
    pub account: Address,
    pub tokens: Address,
}

pub struct OperatorParty {
    pub authority: Keypair,
    pub account: Address,
    pub payout: Address,
}

pub struct NodeParty {
    pub owner: Keypair,
    pub id: Keypair,
    pub account: Address,
    pub payout: Address,
    /// The operator account, or the system program.
    pub operator: Address,
}

/// What a transaction came to; refusals keep only the cause.
pub type Outcome = Result<TransactionMetadata, TransactionError>;

impl Clone for World {
    /// The same chain once more, to go on from separately.
    fn clone(&self) -> Self {
        Self {
            svm: self.svm.clone(),
            payer: self.payer.insecure_clone(),
            sponsor: self.sponsor.insecure_clone(),
            admin: self.admin.insecure_clone(),
            mint: self.mint,
            treasury: self.treasury,
            chance: self.chance.clone(),
        }
    }
}

impl Clone for NodeParty {
    fn clone(&self) -> Self {
        let (owner, id) = (self.owner.insecure_clone(), self.id.insecure_clone());
        Self { owner, id, account: self.account, payout: self.payout, operator: self.operator }
    }
}

impl World {
    /// Program and mint, but no config yet.
    pub fn bare() -> Self {
        // Loading and verifying the program is most of a test's time.
        static LOADED: LazyLock<LiteSVM> = LazyLock::new(|| {
            let mut svm = LiteSVM::new();
            svm.add_program(PROGRAM, ELF).unwrap();
            svm
        });
        let mut svm = LOADED.clone();
        let mut chance = Chance::new(0);
        let [payer, sponsor, admin] = [(); 3].map(|()| chance.key());
        for key in [&payer, &sponsor, &admin] {
            svm.airdrop(&key.pubkey(), 1_000_000_000_000).unwrap();
        }
        let (mint, treasury) = Default::default();
        let mut world = Self { svm, payer, sponsor, admin, mint, treasury, chance };
        world.set_time(START);
        world.mint = world.place(TOKEN_PROGRAM, mint_data(None, 6));
        world.treasury = world.token_account(&SYSTEM_PROGRAM, 0);
        world
    }

    /// A configured program.
    pub fn new() -> Self {
        let mut world = Self::bare();
        world.run(&[ix::init_config(&world)], &[]).unwrap();
        world
    }

    /// Sends one transaction and checks its size and, afterwards, solvency. The world's own keys sign where they
    /// are asked to.
    pub fn run(&mut self, instructions: &[Instruction], signers: &[&Keypair]) -> Outcome {
        let outcome = self.send(instructions, signers);
        self.assert_solvent();
        outcome
    }

    /// As [`run`](Self::run), for worlds whose accounts a test has broken on purpose.
    pub fn send(&mut self, instructions: &[Instruction], signers: &[&Keypair]) -> Outcome {
        let is_asked = |key: &Address| {
            instructions.iter().flat_map(|ix| &ix.accounts).any(|meta| meta.is_signer && meta.pubkey == *key)
        };
        let mut keys = vec![&self.payer];
        for key in [&self.sponsor, &self.admin].into_iter().chain(signers.iter().copied()) {
            if is_asked(&key.pubkey()) && keys.iter().all(|held| held.pubkey() != key.pubkey()) {
                keys.push(key);
            }
        }
        let transaction = Transaction::new_signed_with_payer(
            instructions,
            Some(&self.payer.pubkey()),
            &keys,
            self.svm.latest_blockhash(),
        );
        let length = 1 + 64 * transaction.signatures.len() + transaction.message_data().len();
        assert!(length <= MAX_TRANSACTION_LEN, "{length} bytes do not fit a legacy transaction");
        let outcome = self.svm.send_transaction(transaction).map_err(|failed| failed.err);
        self.svm.expire_blockhash();
        outcome
    }

    /// The vault's tokens equal the sum of all ledgers: nothing created, nothing lost.
    // r[verify settlement.vault.solvent]
    pub fn assert_solvent(&self) {
        if self.svm.get_account(&vault()).is_none_or(|account| account.owner != TOKEN_PROGRAM) {
            return;
        }
        let mut owed = 0u128;
        for (_, account) in self.svm.get_program_accounts(&PROGRAM) {
            let data = &account.data;
            owed += u128::from(match data.first() {
                Some(&discriminator::AGENT) => Agent::decode(data).unwrap().available,
                Some(&discriminator::OPERATOR) => Operator::decode(data).unwrap().fees,
                Some(&discriminator::CHANNEL) => {
                    let channel = Channel::decode(data).unwrap();
                    assert!(channel.settled <= channel.deposit);
                    channel.deposit - channel.settled
                }
                Some(&discriminator::NODE) => {
                    let node = Node::decode(data).unwrap();
                    node.earned + node.protocol_fees
                }
                Some(&discriminator::CONFIG) => 0,
                other => panic!("an account of unknown kind {other:?}"),
            });
        }
        assert_eq!(u128::from(self.tokens(&vault())), owed, "the vault and the ledgers differ");
    }

    pub fn now(&self) -> i64 {
        self.svm.get_sysvar::<Clock>().unix_timestamp
    }

    pub fn set_time(&mut self, unix_timestamp: i64) {
        let clock = Clock { unix_timestamp, ..self.svm.get_sysvar::<Clock>() };
        self.svm.set_sysvar(&clock);
    }

    /// Puts an account with this data at a new address.
    pub fn place(&mut self, owner: Address, data: Vec<u8>) -> Address {
        let address = Address::new_from_array(self.chance.bytes());
        self.place_at(address, owner, data);
        address
    }

    pub fn place_at(&mut self, address: Address, owner: Address, data: Vec<u8>) {
        let lamports = self.svm.minimum_balance_for_rent_exemption(data.len());
        let account = Account { lamports, data, owner, executable: false, rent_epoch: u64::MAX };
        self.svm.set_account(address, account).unwrap();
    }

    /// Another mint of the right kind.
    pub fn mint_account(&mut self) -> Address {
        self.place(TOKEN_PROGRAM, mint_data(None, 6))
    }

    /// A wallet that no instruction names.
    pub fn payer_address(&self) -> Address {
        self.payer.pubkey()
    }

    pub fn token_account(&mut self, owner: &Address, amount: u64) -> Address {
        self.place(TOKEN_PROGRAM, token_data(&self.mint, owner, amount))
    }

    pub fn tokens(&self, account: &Address) -> u64 {
        let data = self.svm.get_account(account).unwrap().data;
        u64::from_le_bytes(data[64..72].try_into().unwrap())
    }

    /// Changes one byte of an account behind the program's back.
    pub fn poke(&mut self, address: &Address, offset: usize, byte: u8) {
        let mut account = self.svm.get_account(address).unwrap();
        account.data[offset] = byte;
        self.svm.set_account(*address, account).unwrap();
    }

    pub fn pause(&mut self) {
        self.set_config(|config| config.paused = 1);
    }

    /// The admin changes some of the parameters.
    pub fn set_config(&mut self, change: impl FnOnce(&mut Config)) {
        let mut new = self.read_config();
        change(&mut new);
        let instruction = ix::set_config(self, &new);
        self.run(&[instruction], &[]).unwrap();
    }

    /// An agent with this much available, and as much again in its token account.
    pub fn agent(&mut self, available: u64) -> AgentParty {
        let agent = self.agent_without_account(2 * available);
        self.run(&[ix::deposit(&agent, available)], &[&agent.owner]).unwrap();
        agent
    }

    pub fn agent_without_account(&mut self, tokens: u64) -> AgentParty {
        let owner = self.funded();
        let tokens = self.token_account(&owner.pubkey(), tokens);
        let account = address(&[seeds::AGENT, owner.pubkey().as_ref()]);
        AgentParty { owner, signer: self.chance.key(), account, tokens }
    }

    pub fn operator(&mut self, fee_bps: u16) -> OperatorParty {
        let operator = self.unregistered_operator();
        let instruction = ix::register_operator(self, &operator, fee_bps);
        self.run(&[instruction], &[&operator.authority]).unwrap();
        operator
    }

    pub fn unregistered_operator(&mut self) -> OperatorParty {
        let authority = self.funded();
        let payout = self.token_account(&authority.pubkey(), 0);
        let account = address(&[seeds::OPERATOR, authority.pubkey().as_ref()]);
        OperatorParty { authority, account, payout }
    }

    pub fn node(&mut self, operator: Option<&OperatorParty>) -> NodeParty {
        let node = self.unregistered_node(operator);
        let instruction = ix::register_node(self, &node, MIN_GRACE_S, MAX_OPERATOR_FEE_BPS);
        self.run(&[instruction], &[&node.owner, &node.id]).unwrap();
        node
    }

    pub fn unregistered_node(&mut self, operator: Option<&OperatorParty>) -> NodeParty {
        let (owner, id) = (self.funded(), self.chance.key());
        let payout = self.token_account(&owner.pubkey(), 0);
        let account = address(&[seeds::NODE, id.pubkey().as_ref()]);
        let operator = operator.map_or(SYSTEM_PROGRAM, |operator| operator.account);
        NodeParty { owner, id, account, payout, operator }
    }

    /// Opens a channel with the agent's next nonce and the shortest grace.
    pub fn channel(&mut self, agent: &AgentParty, node: &NodeParty, deposit: u64) -> Address {
        let nonce = self.read_agent(agent).next_nonce;
        let (entry, channel) = open_entry(agent, node, nonce, deposit);
        let instruction = ix::open_batch(self, agent, &[(entry, node.account, channel)]);
        self.run(&[instruction], &[&agent.owner]).unwrap();
        channel
    }

    pub fn funded(&mut self) -> Keypair {
        let key = self.chance.key();
        self.svm.airdrop(&key.pubkey(), 1_000_000_000).unwrap();
        key
    }

    pub fn data(&self, address: &Address) -> Vec<u8> {
        self.svm.get_account(address).map(|account| account.data).unwrap_or_default()
    }

    pub fn read_agent(&self, agent: &AgentParty) -> Agent {
        Agent::decode(&self.data(&agent.account)).unwrap()
    }

    pub fn read_node(&self, node: &NodeParty) -> Node {
        Node::decode(&self.data(&node.account)).unwrap()
    }

    pub fn read_operator(&self, operator: &OperatorParty) -> Operator {
        Operator::decode(&self.data(&operator.account)).unwrap()
    }

    pub fn read_channel(&self, channel: &Address) -> Channel {
        Channel::decode(&self.data(channel)).unwrap()
    }

    pub fn read_config(&self) -> Config {
        Config::decode(&self.data(&config())).unwrap()
    }
}

/// The entry and address of a channel not yet open.
pub fn open_entry(agent: &AgentParty, node: &NodeParty, nonce: u64, deposit: u64) -> (OpenEntry, Address) {
    let seeds = [seeds::CHANNEL, agent.account.as_ref(), node.account.as_ref(), &nonce.to_le_bytes()];
    let (channel, bump) = Address::find_program_address(&seeds, &PROGRAM);
    let signer = agent.signer.pubkey().to_bytes();
    (OpenEntry { nonce, deposit, grace_s: MIN_GRACE_S, bump, signer }, channel)
}

/// One batch entry: an amount with its signature, and when it expires.
#[derive(Clone)]
pub struct Voucher {
    pub cumulative: u64,
    pub signature: [u8; 64],
    pub expires_at: i64,
}

impl Voucher {
    pub fn signed(signer: &Keypair, channel: &Address, cumulative: u64, expires_at: i64) -> Self {
        let message = voucher_bytes(&channel.to_bytes(), cumulative, expires_at);
        Self { cumulative, signature: signer.sign_message(&message).into(), expires_at }
    }

    /// A voucher of the agent's session key that never expires.
    pub fn of(agent: &AgentParty, channel: &Address, cumulative: u64) -> Self {
        Self::signed(&agent.signer, channel, cumulative, 0)
    }

    /// What a close entry at the present watermark holds.
    pub fn none() -> Self {
        Self { cumulative: 0, signature: [0; 64], expires_at: 0 }
    }
}

/// The bitmap of skipped entries.
pub fn skipped(done: &TransactionMetadata) -> u64 {
    assert_eq!(done.return_data.program_id, PROGRAM);
    // The runtime trims trailing zeros from what it reports.
    let mut bytes = [0; 8];
    bytes[..done.return_data.data.len()].copy_from_slice(&done.return_data.data);
    u64::from_le_bytes(bytes)
}

#[track_caller]
pub fn assert_refused(outcome: Outcome, expected: SettlementError) {
    let refusal = outcome.expect_err("the program should have refused");
    match &refusal {
        TransactionError::InstructionError(_, InstructionError::Custom(code)) => {
            assert_eq!(SettlementError::from_code(*code), Some(expected));
        }
        _ => panic!("{refusal:?} is not a refusal of the program"),
    }
}

pub fn address(seeds: &[&[u8]]) -> Address {
    Address::find_program_address(seeds, &PROGRAM).0
}

pub fn config() -> Address {
    address(&[seeds::CONFIG])
}

pub fn vault() -> Address {
    address(&[seeds::VAULT])
}

pub fn mint_data(freeze_authority: Option<Address>, decimals: u8) -> Vec<u8> {
    let mut data = vec![0; 82];
    data[0] = 1;
    data[4..36].copy_from_slice(Address::new_unique().as_ref());
    data[44] = decimals;
    data[45] = 1;
    if let Some(authority) = freeze_authority {
        data[46] = 1;
        data[50..82].copy_from_slice(authority.as_ref());
    }
    data
}

pub fn token_data(mint: &Address, owner: &Address, amount: u64) -> Vec<u8> {
    let mut data = vec![0; 165];
    data[..32].copy_from_slice(mint.as_ref());
    data[32..64].copy_from_slice(owner.as_ref());
    data[64..72].copy_from_slice(&amount.to_le_bytes());
    data[108] = 1;
    data
}
