//! Adds available money to an open channel's deposit.

use pinocchio::ProgramResult;
use settlement_interface::{
    accounts::{AgentView, ChannelView, discriminator, status},
    errors::SettlementError,
    instructions::TopUp,
};

use crate::{
    account::{self, load, same},
    entrypoint::Call,
    ledger::{add, take},
    refuse::{refusal, require},
};

/// See [`TopUp`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [owner, agent_account, channel_account] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    let amount = TopUp::from_bytes(account::instruction(data)?).amount;
    account::signed(owner)?;
    let agent_address = *agent_account.address();
    let mut bytes = load(agent_account, program, discriminator::AGENT)?;
    let mut agent = AgentView::new(&mut bytes);
    require(same(&agent.owner(), owner.address()), SettlementError::Unauthorised)?;

    let mut bytes = account::channel(channel_account, program)?;
    let mut channel = ChannelView::new(&mut bytes);
    require(same(&channel.agent(), &agent_address), SettlementError::WrongParty)?;
    require(channel.status() == status::OPEN, SettlementError::WrongStatus)?;
    agent.set_available(take(agent.available(), amount)?);
    channel.set_deposit(add(channel.deposit(), amount)?);
    Ok(())
}
