//! Chain against model, field by field and lamport by lamport, and what must hold whatever the model says.

use std::collections::{BTreeMap, BTreeSet};

use settlement_chain::Address;
use settlement_interface::{
    accounts::{self, discriminator, status},
    seeds,
};

use super::play::Stage;
use crate::{
    ledger::{PROGRAM, SYSTEM_PROGRAM, World, config, vault},
    model::{Model, State},
};

/// What the run has seen, to hold later steps against.
#[derive(Default)]
pub struct Memory {
    /// The highest watermark and the deposit of each channel that was ever there.
    watermarks: BTreeMap<Address, (u64, u64)>,
    /// Channels that were reclaimed: they must stay gone.
    gone: BTreeSet<Address>,
    /// Tokens and lamports of all together, as they were at first.
    whole: Option<(u128, u128)>,
    /// The bump of every address that was derived; each takes many hashes to find.
    bumps: Bumps,
}

impl Memory {
    /// Says what is wrong, if anything is.
    pub fn check(&mut self, stage: &Stage<'_>) -> Result<(), String> {
        let (world, model) = (&stage.world, &stage.model);
        let expected = accounts_of(model, &mut self.bumps);
        let found: BTreeMap<_, _> =
            world.svm.get_program_accounts(&PROGRAM).into_iter().map(|(key, account)| (key, account.data)).collect();
        for (address, data) in &expected {
            match found.get(address) {
                Some(there) if there == data => {}
                there => {
                    return Err(format!("{address}: the chain has {}, the model {}", show(there), show(Some(data))));
                }
            }
        }
        if let Some(surplus) = found.keys().find(|address| !expected.contains_key(address)) {
            return Err(format!("{surplus} should not be there: {}", show(found.get(surplus))));
        }
        for (address, account) in &model.tokens {
            same("tokens", address, world.tokens(address), account.amount)?;
        }
        for (address, lamports) in &model.lamports {
            same("lamports", address, world.svm.get_balance(address).unwrap_or(0), *lamports)?;
        }
        self.solvent(world, model)?;
        self.conserved(stage)?;
        self.rising(world, model)
    }

    /// The vault has what the ledgers on chain owe: not less, and nothing got stuck either.
    // r[verify settlement.vault.solvent]
    fn solvent(&self, world: &World, model: &Model) -> Result<(), String> {
        world.assert_solvent();
        let (held, owed) = (u128::from(world.tokens(&vault())), model.owed());
        if held == owed { Ok(()) } else { Err(format!("the vault holds {held} and owes {owed}")) }
    }

    /// All tokens and all lamports of the world, the network's fees included, stay what they were.
    fn conserved(&mut self, stage: &Stage<'_>) -> Result<(), String> {
        let tokens = stage.model.tokens.keys().map(|address| u128::from(stage.world.tokens(address))).sum();
        let balance = |address| u128::from(stage.world.svm.get_balance(address).unwrap_or(0));
        let lamports = stage.model.lamports.keys().map(balance).sum::<u128>() + stage.fees;
        let whole = *self.whole.get_or_insert((tokens, lamports));
        let modelled = (stage.model.all_tokens(), stage.model.all_lamports() + stage.fees);
        if whole == (tokens, lamports) && modelled == whole {
            Ok(())
        } else {
            Err(format!("all tokens and lamports were {whole:?} and are {:?}", (tokens, lamports)))
        }
    }

    /// Watermarks and deposits never fall, a watermark never passes its deposit, and what is gone stays gone.
    fn rising(&mut self, world: &World, model: &Model) -> Result<(), String> {
        for address in model.channels.keys() {
            let channel = world.read_channel(address);
            let before = self.watermarks.insert(*address, (channel.settled, channel.deposit)).unwrap_or_default();
            if channel.settled < before.0 || channel.deposit < before.1 || channel.settled > channel.deposit {
                return Err(format!("{address} went from {before:?} to {:?}", (channel.settled, channel.deposit)));
            }
            if self.gone.contains(address) {
                return Err(format!("{address} came back"));
            }
        }
        let left: Vec<_> = self.watermarks.keys().filter(|key| !model.channels.contains_key(key)).copied().collect();
        for address in left {
            self.watermarks.remove(&address);
            self.gone.insert(address);
            let remains = world.svm.get_account(&address).unwrap_or_default();
            if remains.owner != SYSTEM_PROGRAM || !remains.data.is_empty() {
                return Err(format!("{address} was reclaimed and is not empty"));
            }
        }
        Ok(())
    }
}

/// Every account of the program as its bytes should be.
fn accounts_of(model: &Model, bumps: &mut Bumps) -> BTreeMap<Address, Vec<u8>> {
    let mut all = BTreeMap::new();
    let config = config();
    let vault_bump = bumps.of(&model.vault, &[seeds::VAULT]);
    let parameters = &model.config;
    let found = accounts::Config {
        discriminator: discriminator::CONFIG,
        version: accounts::VERSION,
        bump: bumps.of(&config, &[seeds::CONFIG]),
        paused: parameters.paused.into(),
        vault_bump,
        reserved_head: [0; 3],
        admin: parameters.admin.to_bytes(),
        mint: parameters.mint.to_bytes(),
        vault: model.vault.to_bytes(),
        treasury: parameters.treasury.to_bytes(),
        max_grace_s: parameters.max_grace_s,
        protocol_fee_bps: parameters.protocol_fee_bps,
        max_operator_fee_bps: parameters.max_operator_fee_bps,
        pending_admin: parameters.pending_admin.map_or([0; 32], |key| key.to_bytes()),
        payout_delay_s: parameters.payout_delay_s,
        reserved: [0; 12],
    };
    all.insert(config, found.to_bytes().to_vec());
    for (address, agent) in &model.agents {
        let found = accounts::Agent {
            discriminator: discriminator::AGENT,
            version: accounts::VERSION,
            bump: bumps.of(address, &[seeds::AGENT, agent.owner.as_ref()]),
            reserved_head: [0; 5],
            owner: agent.owner.to_bytes(),
            available: agent.available,
            next_nonce: agent.next_nonce,
            reserved: [0; 16],
        };
        all.insert(*address, found.to_bytes().to_vec());
    }
    for (address, node) in &model.nodes {
        let found = accounts::Node {
            discriminator: discriminator::NODE,
            version: accounts::VERSION,
            bump: bumps.of(address, &[seeds::NODE, node.id.as_ref()]),
            reserved_head: [0; 5],
            id: node.id.to_bytes(),
            owner: node.owner.to_bytes(),
            operator: node.operator.map_or([0; 32], |operator| operator.to_bytes()),
            payout: node.payout.to_bytes(),
            earned: node.earned,
            protocol_fees: node.protocol_fees,
            min_grace_s: node.min_grace_s,
            operator_fee_bps: node.operator_fee_bps,
            reserved_middle: [0; 2],
            pending_payout: node.pending_payout.map_or([0; 32], |(payout, _)| payout.to_bytes()),
            payout_from: node.pending_payout.map_or(0, |(_, from)| from),
            reserved: [0; 24],
        };
        all.insert(*address, found.to_bytes().to_vec());
    }
    for (address, operator) in &model.operators {
        let found = accounts::Operator {
            discriminator: discriminator::OPERATOR,
            version: accounts::VERSION,
            bump: bumps.of(address, &[seeds::OPERATOR, operator.authority.as_ref()]),
            reserved_head: [0; 5],
            authority: operator.authority.to_bytes(),
            payout: operator.payout.to_bytes(),
            fees: operator.fees,
            fee_bps: operator.fee_bps,
            reserved: [0; 14],
        };
        all.insert(*address, found.to_bytes().to_vec());
    }
    for (address, channel) in &model.channels {
        let seeds = [seeds::CHANNEL, channel.agent.as_ref(), channel.node.as_ref(), &channel.nonce.to_le_bytes()];
        let (status, deadline) = match channel.state {
            State::Open => (status::OPEN, 0),
            State::Closing { deadline } => (status::CLOSING, deadline),
            State::Closed => (status::CLOSED, 0),
        };
        let found = accounts::Channel {
            discriminator: discriminator::CHANNEL,
            version: accounts::VERSION,
            bump: bumps.of(address, &seeds),
            status,
            protocol_fee_bps: channel.protocol_fee_bps,
            reserved_head: [0; 2],
            agent: channel.agent.to_bytes(),
            node: channel.node.to_bytes(),
            signer: channel.signer,
            rent_payer: channel.rent_payer.to_bytes(),
            nonce: channel.nonce,
            deposit: channel.deposit,
            settled: channel.settled,
            deadline,
            grace_s: channel.grace_s,
            reserved: [0; 4],
        };
        all.insert(*address, found.to_bytes().to_vec());
    }
    all
}

#[derive(Default)]
struct Bumps(BTreeMap<Address, u8>);

impl Bumps {
    fn of(&mut self, address: &Address, seeds: &[&[u8]]) -> u8 {
        *self.0.entry(*address).or_insert_with(|| {
            let (derived, bump) = Address::find_program_address(seeds, &PROGRAM);
            assert_eq!(derived, *address);
            bump
        })
    }
}

fn same(what: &str, address: &Address, chain: u64, model: u64) -> Result<(), String> {
    if chain == model { Ok(()) } else { Err(format!("{what} of {address}: the chain has {chain}, the model {model}")) }
}

/// An account for people: decoded where it decodes.
fn show(data: Option<&Vec<u8>>) -> String {
    let Some(data) = data else { return "nothing".into() };
    match data.first() {
        Some(&discriminator::CONFIG) => format!("{:?}", accounts::Config::decode(data)),
        Some(&discriminator::AGENT) => format!("{:?}", accounts::Agent::decode(data)),
        Some(&discriminator::NODE) => format!("{:?}", accounts::Node::decode(data)),
        Some(&discriminator::OPERATOR) => format!("{:?}", accounts::Operator::decode(data)),
        Some(&discriminator::CHANNEL) => format!("{:?}", accounts::Channel::decode(data)),
        _ => format!("{data:?}"),
    }
}
