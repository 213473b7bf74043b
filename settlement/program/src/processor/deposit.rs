//! Brings tokens into the vault and credits an agent.

use pinocchio::{AccountView, Address, ProgramResult};
use settlement_interface::{
    accounts::{Agent, AgentView, VERSION, discriminator},
    errors::SettlementError,
    instructions::Deposit,
    seeds,
};

use crate::{
    account::{self, is_vacant, load, same},
    create::NewParty,
    entrypoint::Call,
    ledger::add,
    refuse::{refusal, require},
    token,
    vault::{is_vault, pay_in},
};

/// See [`Deposit`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [depositor, owner, agent_account, source, vault, config_account, token_program, system] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let amount = Deposit::from_bytes(account::instruction(data)?).amount;
    account::signed(depositor)?;
    token::is_token_program(token_program)?;
    account::is_system_program(system)?;
    let config = account::config(config_account, program)?;
    // r[impl settlement.pause.scope]
    require(config.paused == 0, SettlementError::Paused)?;
    is_vault(vault, &config)?;
    token::check_payout(source, &config)?;
    require(amount > 0, SettlementError::BadAmount)?;

    if is_vacant(agent_account) {
        create_agent(program, depositor, owner.address(), agent_account)?;
    }
    {
        let mut bytes = load(agent_account, program, discriminator::AGENT)?;
        let mut agent = AgentView::new(&mut bytes);
        require(same(&agent.owner(), owner.address()), SettlementError::WrongParty)?;
        agent.set_available(add(agent.available(), amount)?);
    }
    pay_in(source, vault, depositor, amount)
}

fn create_agent(program: &Address, payer: &AccountView, owner: &Address, account: &mut AccountView) -> ProgramResult {
    let key = owner.as_array();
    let bump = NewParty { program, payer, account, seed: seeds::AGENT, key, space: Agent::LEN as u64 }.create()?;
    let agent = Agent {
        discriminator: discriminator::AGENT,
        version: VERSION,
        bump,
        reserved_head: [0; 5],
        owner: *key,
        available: 0,
        next_nonce: 0,
        reserved: [0; 16],
    };
    account.try_borrow_mut()?.copy_from_slice(&agent.to_bytes());
    Ok(())
}
