//! Who takes part in a random run, and the world and the model as they stand before its first step.

use std::collections::BTreeMap;

use settlement_chain::{Address, Keypair, Program, Signer};

use super::op::{ChannelName, Party, Source, Wallet};
use crate::{
    instructions as ix,
    ledger::{
        MAX_GRACE_S, MAX_OPERATOR_FEE_BPS, PAYOUT_DELAY_S, PROTOCOL_FEE_BPS, START, TOKEN_PROGRAM, World, config,
        token_data, vault,
    },
    model::{Config, Model, Tokens},
    seed::Chance,
};

pub const AGENTS: usize = 3;
pub const NODES: usize = 4;
pub const OPERATORS: usize = 3;
pub const RENT_PAYERS: usize = 2;

/// Base units in each agent's wallet; the last one's is soon empty.
const WALLETS: [u64; AGENTS] = [1_000_000_000, 50_000_000, 20_000];
const LAMPORTS: u64 = 1_000_000_000_000;

pub struct Agent {
    pub owner: Keypair,
    pub signer: Keypair,
    pub account: Address,
}

pub struct Node {
    pub owner: Keypair,
    pub id: Keypair,
    pub account: Address,
}

pub struct Operator {
    pub authority: Keypair,
    pub account: Address,
}

/// The parties' keys; all follow from the seed.
pub struct Cast {
    pub program: Program,
    pub admin: Keypair,
    pub agents: Vec<Agent>,
    pub nodes: Vec<Node>,
    pub operators: Vec<Operator>,
    pub rent_payers: Vec<Keypair>,
    treasury: Address,
    wallets: BTreeMap<(u8, usize), Address>,
}

impl Cast {
    pub fn gather(chance: &mut Chance) -> Self {
        let program = Program::local();
        let mut key = || chance.key();
        let agents: Vec<Agent> = (0..AGENTS)
            .map(|_| {
                let (owner, signer) = (key(), key());
                Agent { account: program.agent(&owner.pubkey()).0, owner, signer }
            })
            .collect();
        let nodes: Vec<Node> = (0..NODES)
            .map(|_| {
                let (owner, id) = (key(), key());
                Node { account: program.node(&id.pubkey()).0, owner, id }
            })
            .collect();
        let operators: Vec<Operator> = (0..OPERATORS)
            .map(|_| {
                let authority = key();
                Operator { account: program.operator(&authority.pubkey()).0, authority }
            })
            .collect();
        let rent_payers = (0..RENT_PAYERS).map(|_| key()).collect();
        let admin = key();
        let mut wallets = BTreeMap::new();
        for (kind, count) in [(0, AGENTS), (1, NODES), (2, OPERATORS)] {
            for index in 0..count {
                wallets.insert((kind, index), key().pubkey());
            }
        }
        let treasury = key().pubkey();
        Self { program, admin, agents, nodes, operators, rent_payers, treasury, wallets }
    }

    /// The program configured, the parties rich and nobody registered; world and model alike.
    pub fn set_stage(&self, chance: &mut Chance) -> (World, Model) {
        let mut world = World::bare();
        (world.payer, world.sponsor, world.admin) = (chance.key(), chance.key(), self.admin.insecure_clone());
        world.mint = chance.key().pubkey();
        world.place_at(world.mint, TOKEN_PROGRAM, crate::ledger::mint_data(None, 6));
        world.treasury = self.treasury;
        let mut lamports = BTreeMap::new();
        for key in self.keys().chain([&world.payer, &world.sponsor]).map(Keypair::pubkey).collect::<Vec<_>>() {
            world.svm.airdrop(&key, LAMPORTS).unwrap();
        }
        let mut tokens = BTreeMap::new();
        for wallet in self.all_wallets() {
            let (address, owner) = (self.wallet(wallet), self.owner_of(wallet));
            let amount = if let Wallet::OfAgent(agent) = wallet { WALLETS[agent] } else { 0 };
            if wallet != Wallet::Vault {
                world.place_at(address, TOKEN_PROGRAM, token_data(&world.mint, &owner, amount));
            }
            tokens.insert(address, Tokens { owner, amount });
        }
        world.run(&[ix::init_config(&world)], &[]).unwrap();

        let keys = self.keys().chain([&world.payer, &world.sponsor]).map(Keypair::pubkey);
        for address in keys.chain(tokens.keys().copied()).chain([config()]) {
            lamports.insert(address, world.svm.get_balance(&address).unwrap());
        }
        let model = Model {
            now: START,
            lamports_per_byte: 6_960,
            vault: vault(),
            config: Config {
                admin: self.admin.pubkey(),
                mint: world.mint,
                treasury: self.treasury,
                pending_admin: None,
                paused: false,
                max_grace_s: MAX_GRACE_S,
                protocol_fee_bps: PROTOCOL_FEE_BPS,
                max_operator_fee_bps: MAX_OPERATOR_FEE_BPS,
                payout_delay_s: PAYOUT_DELAY_S,
            },
            agents: BTreeMap::new(),
            nodes: BTreeMap::new(),
            operators: BTreeMap::new(),
            channels: BTreeMap::new(),
            tokens,
            lamports,
        };
        (world, model)
    }

    pub fn channel(&self, name: ChannelName) -> Address {
        self.program.channel(&self.agents[name.agent].account, &self.nodes[name.node].account, name.nonce).0
    }

    /// The name of a channel between parties of this cast.
    pub fn name(&self, agent: &Address, node: &Address, nonce: u64) -> ChannelName {
        let agent = self.agents.iter().position(|party| party.account == *agent).unwrap();
        let node = self.nodes.iter().position(|party| party.account == *node).unwrap();
        ChannelName { agent, node, nonce }
    }

    pub fn key(&self, party: Party) -> &Keypair {
        match party {
            Party::Admin => &self.admin,
            Party::Agent(index) => &self.agents[index].owner,
            Party::NodeOwner(index) => &self.nodes[index].owner,
            Party::OperatorAuthority(index) => &self.operators[index].authority,
        }
    }

    /// Whose key has this address.
    pub fn party(&self, address: &Address) -> Option<Party> {
        let agents = (0..AGENTS).map(Party::Agent);
        let nodes = (0..NODES).map(Party::NodeOwner);
        let operators = (0..OPERATORS).map(Party::OperatorAuthority);
        let mut all = agents.chain(nodes).chain(operators).chain([Party::Admin]);
        all.find(|party| self.key(*party).pubkey() == *address)
    }

    pub fn wallet(&self, wallet: Wallet) -> Address {
        match wallet {
            Wallet::Vault => vault(),
            Wallet::Treasury => self.treasury,
            Wallet::OfAgent(index) => self.wallets[&(0, index)],
            Wallet::OfNode(index) => self.wallets[&(1, index)],
            Wallet::OfOperator(index) => self.wallets[&(2, index)],
        }
    }

    pub fn source(&self, source: Source) -> Address {
        match source {
            Source::Operator(index) => self.operators[index].account,
            Source::Node(index) => self.nodes[index].account,
        }
    }

    pub fn operator(&self, operator: Option<usize>) -> Option<Address> {
        operator.map(|index| self.operators[index].account)
    }

    fn owner_of(&self, wallet: Wallet) -> Address {
        match wallet {
            Wallet::Vault => config(),
            Wallet::Treasury => self.admin.pubkey(),
            Wallet::OfAgent(index) => self.agents[index].owner.pubkey(),
            Wallet::OfNode(index) => self.nodes[index].owner.pubkey(),
            Wallet::OfOperator(index) => self.operators[index].authority.pubkey(),
        }
    }

    pub fn all_wallets(&self) -> Vec<Wallet> {
        let mut wallets = vec![Wallet::Vault, Wallet::Treasury];
        wallets.extend((0..AGENTS).map(Wallet::OfAgent));
        wallets.extend((0..NODES).map(Wallet::OfNode));
        wallets.extend((0..OPERATORS).map(Wallet::OfOperator));
        wallets
    }

    /// Every key that may sign.
    pub fn keys(&self) -> impl Iterator<Item = &Keypair> {
        let agents = self.agents.iter().map(|party| &party.owner);
        let nodes = self.nodes.iter().flat_map(|party| [&party.owner, &party.id]);
        let operators = self.operators.iter().map(|party| &party.authority);
        agents.chain(nodes).chain(operators).chain(&self.rent_payers).chain([&self.admin])
    }
}
