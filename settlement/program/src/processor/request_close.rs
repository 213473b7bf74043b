//! Starts a channel's grace: the node has that long to settle its last voucher.

use pinocchio::ProgramResult;
use settlement_interface::{
    accounts::{Agent, ChannelView, discriminator, status},
    errors::SettlementError,
    instructions::RequestClose,
};

use crate::{
    account::{self, load, same},
    entrypoint::Call,
    refuse::{refusal, require},
};

/// See [`RequestClose`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [owner, agent_account, channel_account] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    account::instruction::<{ RequestClose::LEN }>(data)?;
    account::signed(owner)?;
    let agent = Agent::from_bytes(&*load(agent_account, program, discriminator::AGENT)?);
    require(same(&agent.owner, owner.address()), SettlementError::Unauthorised)?;

    let mut bytes = account::channel(channel_account, program)?;
    let mut channel = ChannelView::new(&mut bytes);
    require(same(&channel.agent(), agent_account.address()), SettlementError::WrongParty)?;
    require(channel.status() == status::OPEN, SettlementError::WrongStatus)?;
    // r[impl channel.grace.deadline]
    let deadline = account::now()?.checked_add(i64::from(channel.grace_s()));
    channel.set_deadline(deadline.ok_or(refusal(SettlementError::Overflow))?);
    channel.set_status(status::CLOSING);
    Ok(())
}
