//! Opens channels from an agent's available money.

use pinocchio::{AccountView, Address, ProgramResult, cpi::Seed, error::ProgramError};
use settlement_interface::{
    accounts::{AgentView, Channel, Config, VERSION, discriminator, status},
    errors::SettlementError,
    instructions::{OpenBatch, OpenEntry},
    seeds,
};

use crate::{
    account::{self, load, same},
    batch::batch_size,
    create::NewAccount,
    entrypoint::Call,
    ledger::take,
    refuse::{refusal, require},
    voucher,
};

/// See [`OpenBatch`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [owner, rent_payer, agent_account, config_account, system, pairs @ ..] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let entries = parse(data)?;
    let (pairs, left) = pairs.as_chunks_mut::<2>();
    require(pairs.len() == entries.len() && left.is_empty(), SettlementError::MissingAccount)?;
    account::signed(owner)?;
    account::signed(rent_payer)?;
    account::is_system_program(system)?;
    let config = account::config(config_account, program)?;
    // r[impl settlement.pause.scope]
    require(config.paused == 0, SettlementError::Paused)?;

    let (mut available, mut next_nonce) = {
        let mut bytes = load(agent_account, program, discriminator::AGENT)?;
        let agent = AgentView::new(&mut bytes);
        require(same(&agent.owner(), owner.address()), SettlementError::Unauthorised)?;
        (agent.available(), agent.next_nonce())
    };
    for (entry, [node, channel]) in entries.iter().zip(pairs) {
        let entry = OpenEntry::from_bytes(entry);
        // r[impl channel.nonce.rising]
        require(entry.nonce >= next_nonce, SettlementError::NonceUsed)?;
        next_nonce = entry.nonce.checked_add(1).ok_or(refusal(SettlementError::Overflow))?;
        available = take(available, entry.deposit)?;
        Opening { program, config: &config, agent: agent_account, rent_payer, node, channel }.open(&entry)?;
    }
    let mut bytes = load(agent_account, program, discriminator::AGENT)?;
    let mut agent = AgentView::new(&mut bytes);
    agent.set_available(available);
    agent.set_next_nonce(next_nonce);
    Ok(())
}

fn parse(data: &[u8]) -> Result<&[[u8; OpenEntry::LEN]], ProgramError> {
    let Some((head, rest)) = data.split_first_chunk::<{ OpenBatch::LEN }>() else {
        return Err(refusal(SettlementError::MalformedData));
    };
    let count = batch_size(usize::from(OpenBatch::from_bytes(head).count))?;
    let (entries, left) = rest.as_chunks();
    require(entries.len() == count && left.is_empty(), SettlementError::MalformedData)?;
    Ok(entries)
}

/// One channel about to open.
struct Opening<'a> {
    program: &'a Address,
    config: &'a Config,
    agent: &'a AccountView,
    rent_payer: &'a AccountView,
    node: &'a mut AccountView,
    channel: &'a mut AccountView,
}

impl Opening<'_> {
    #[inline(never)]
    fn open(self, entry: &OpenEntry) -> ProgramResult {
        let node = account::node(self.node, self.program)?;
        // r[impl channel.grace.range]
        let grace = node.min_grace_s..=self.config.max_grace_s;
        require(grace.contains(&entry.grace_s), SettlementError::BadGrace)?;
        voucher::check_signer(&entry.signer)?;
        self.create(entry)?;
        let channel = Channel {
            discriminator: discriminator::CHANNEL,
            version: VERSION,
            bump: entry.bump,
            status: status::OPEN,
            protocol_fee_bps: self.config.protocol_fee_bps,
            reserved_head: [0; 2],
            agent: *self.agent.address().as_array(),
            node: *self.node.address().as_array(),
            signer: entry.signer,
            rent_payer: *self.rent_payer.address().as_array(),
            nonce: entry.nonce,
            deposit: entry.deposit,
            settled: 0,
            deadline: 0,
            grace_s: entry.grace_s,
            reserved: [0; 4],
        };
        self.channel.try_borrow_mut()?.copy_from_slice(&channel.to_bytes());
        Ok(())
    }

    #[inline(always)]
    fn create(&self, entry: &OpenEntry) -> ProgramResult {
        let (agent, node) = (self.agent.address().as_array(), self.node.address().as_array());
        let nonce = entry.nonce.to_le_bytes();
        let derived = Address::derive_address(&[seeds::CHANNEL, agent, node, &nonce], Some(entry.bump), self.program);
        require(derived == *self.channel.address(), SettlementError::WrongAddress)?;
        let bump = [entry.bump];
        let seeds =
            [Seed::from(seeds::CHANNEL), Seed::from(agent), Seed::from(node), Seed::from(&nonce), Seed::from(&bump)];
        let new = NewAccount {
            payer: self.rent_payer,
            account: self.channel,
            owner: self.program,
            space: Channel::LEN as u64,
            seeds: &seeds,
        };
        new.create()
    }
}
