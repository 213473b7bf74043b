//! Ends closed channels: what was not settled goes back to the agent, the lamports to whoever paid them.

use pinocchio::{AccountView, Address, ProgramResult, error::ProgramError};
use settlement_interface::{
    accounts::{AgentView, Channel, ChannelView, discriminator, status},
    errors::SettlementError,
    instructions::ReclaimBatch,
};

use crate::{
    account::{self, is_vacant, load, same},
    batch::{Skipped, batch_size},
    entrypoint::Call,
    ledger::add,
    refuse::{refusal, require},
};

/// See [`ReclaimBatch`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts, data } = call;
    let [agent_account, rent_payer, channels @ ..] = accounts else {
        return Err(refusal(SettlementError::MissingAccount));
    };
    account::instruction::<{ ReclaimBatch::LEN }>(data)?;
    batch_size(channels.len())?;
    let mut skipped = Skipped::default();
    let mut refund = 0u64;
    for (index, channel) in channels.iter_mut().enumerate() {
        match refund_of(program, agent_account, rent_payer, channel)? {
            Some(rest) => {
                refund = add(refund, rest)?;
                end(program, channel, rent_payer)?;
            }
            None => skipped.mark(index),
        }
    }
    let mut bytes = load(agent_account, program, discriminator::AGENT)?;
    let mut agent = AgentView::new(&mut bytes);
    agent.set_available(add(agent.available(), refund)?);
    skipped.report();
    Ok(())
}

/// What a channel owes its agent, in base units; `None` if it is not closed or is gone already.
fn refund_of(
    program: &Address,
    agent: &AccountView,
    rent_payer: &AccountView,
    account: &mut AccountView,
) -> Result<Option<u64>, ProgramError> {
    if is_vacant(account) {
        return Ok(None);
    }
    let mut bytes = account::channel(account, program)?;
    let channel = ChannelView::new(&mut bytes);
    require(same(&channel.agent(), agent.address()), SettlementError::WrongParty)?;
    require(same(&channel.rent_payer(), rent_payer.address()), SettlementError::WrongParty)?;
    if channel.status() != status::CLOSED {
        return Ok(None);
    }
    let rest = channel.deposit().checked_sub(channel.settled());
    Ok(Some(rest.ok_or(refusal(SettlementError::Overflow))?))
}

/// Empties the account and gives it back to the system program, so that lamports sent to it later in the same
/// transaction find nothing of ours to revive.
// r[impl channel.reclaim.final]
fn end(program: &Address, channel: &mut AccountView, rent_payer: &mut AccountView) -> ProgramResult {
    *account::channel(channel, program)? = [0; Channel::LEN];
    let lamports = add(rent_payer.lamports(), channel.lamports())?;
    rent_payer.set_lamports(lamports);
    channel.close()
}
