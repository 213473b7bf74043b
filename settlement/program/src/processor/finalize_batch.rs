//! Closes channels whose grace is over; anyone may.

use pinocchio::ProgramResult;
use settlement_interface::{
    accounts::{ChannelView, status},
    instructions::FinalizeBatch,
};

use crate::{
    account::{self, is_vacant},
    batch::{Skipped, batch_size, close},
    entrypoint::Call,
};

/// See [`FinalizeBatch`].
pub fn process(call: Call<'_>) -> ProgramResult {
    let Call { program, accounts: channels, data } = call;
    account::instruction::<{ FinalizeBatch::LEN }>(data)?;
    batch_size(channels.len())?;
    let now = account::now()?;
    let mut skipped = Skipped::default();
    for (index, account) in channels.iter_mut().enumerate() {
        if is_vacant(account) {
            skipped.mark(index);
            continue;
        }
        let mut bytes = account::channel(account, program)?;
        let mut channel = ChannelView::new(&mut bytes);
        // r[impl channel.grace.deadline]
        if channel.status() == status::CLOSING && now >= channel.deadline() {
            close(&mut channel);
        } else {
            skipped.mark(index);
        }
    }
    skipped.report();
    Ok(())
}
