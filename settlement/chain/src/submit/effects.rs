//! What a transaction leaves on the channels that it names, told from its own bytes.
//!
//! Servers may contradict each other about a transaction; its effects are in the accounts, where a lie has an age and
//! another server's read beside it.

use settlement_interface::{
    accounts::{Channel, status},
    instructions::{FinalizeBatch, ReclaimBatch, VoucherBatch, VoucherEntry, tag},
};
use solana_address::Address;
use solana_message::VersionedMessage;

use crate::{
    Account, ChainClient, ChainError,
    instructions::SYSTEM_PROGRAM,
    tokens::{ASSOCIATED_TOKEN_PROGRAM, TOKEN_PROGRAM},
};

/// The effects of one transaction's settlement instructions. Other instructions have none that could be told.
pub(super) struct Effects(Vec<Effect>);

struct Effect {
    program: Address,
    channel: Address,
    end: End,
}

/// How a channel stands when the work on it is done, by this transaction or by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Settled at least so far, in base units, or gone.
    Settled(u64),
    /// Closed, or gone.
    Closed,
    /// Gone.
    Gone,
}

/// How much of it the accounts show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    All,
    /// Of a batch that landed, entries may have been skipped.
    Some,
    /// Nothing; or nothing could ever be seen.
    Nothing,
}

impl Effects {
    pub(super) fn of(message: &VersionedMessage) -> Self {
        let keys = message.static_account_keys();
        let mut effects = Vec::new();
        for instruction in message.instructions() {
            let Some(program) = keys.get(usize::from(instruction.program_id_index)) else { continue };
            // Their data has other meanings.
            if [SYSTEM_PROGRAM, TOKEN_PROGRAM, ASSOCIATED_TOKEN_PROGRAM].contains(program) {
                continue;
            }
            let accounts: Option<Vec<Address>> =
                instruction.accounts.iter().map(|index| keys.get(usize::from(*index)).copied()).collect();
            let ends = accounts.and_then(|accounts| ends(&instruction.data, &accounts));
            let effect = |(channel, end)| Effect { program: *program, channel, end };
            effects.extend(ends.into_iter().flatten().map(effect));
        }
        Self(effects)
    }

    /// True if it has none that could be told.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks at the channels as the newest read shows them, at commitment confirmed.
    pub(super) async fn shown(&self, chain: &dyn ChainClient) -> Result<Shown, ChainError> {
        if self.is_empty() {
            return Ok(Shown::Nothing);
        }
        let accounts = chain.accounts(&self.addresses()).await?;
        Ok(match self.seen_in(&accounts) {
            0 => Shown::Nothing,
            seen if seen == self.0.len() => Shown::All,
            _ => Shown::Some,
        })
    }

    /// True if no server shows anything of it: the newest read is one server's word.
    pub(super) async fn shown_nowhere(&self, chain: &dyn ChainClient) -> Result<bool, ChainError> {
        let views = chain.accounts_by_server(&self.addresses(), 2).await?;
        Ok(views.iter().all(|accounts| self.seen_in(accounts) == 0))
    }

    fn addresses(&self) -> Vec<Address> {
        self.0.iter().map(|effect| effect.channel).collect()
    }

    fn seen_in(&self, accounts: &[Option<Account>]) -> usize {
        self.0.iter().zip(accounts).filter(|(effect, account)| effect.is_in(account.as_ref())).count()
    }
}

impl Effect {
    fn is_in(&self, account: Option<&Account>) -> bool {
        let Some(account) = account else { return true };
        // Lamports that somebody sent to where a channel was.
        if account.data.is_empty() && account.owner == SYSTEM_PROGRAM {
            return true;
        }
        if account.owner != self.program {
            return false;
        }
        let Ok(channel) = Channel::decode(&account.data) else { return false };
        match self.end {
            End::Settled(cumulative) => channel.settled >= cumulative,
            End::Closed => channel.status == status::CLOSED,
            End::Gone => false,
        }
    }
}

/// The channels of one instruction, each with how it stands afterwards; `None` for any other instruction.
fn ends(data: &[u8], accounts: &[Address]) -> Option<Vec<(Address, End)>> {
    let all = |head: usize, end: End| Some(accounts.get(head..)?.iter().map(|channel| (*channel, end)).collect());
    match *data.first()? {
        tag::SETTLE_BATCH => {
            let entries = data.get(VoucherBatch::LEN..)?.chunks_exact(VoucherEntry::LEN);
            let channels = accounts.get(SETTLE_HEAD..)?;
            let settled = |(channel, entry): (&Address, &[u8])| {
                let cumulative = VoucherEntry::from_bytes(entry.first_chunk()?).cumulative;
                Some((*channel, End::Settled(cumulative)))
            };
            (usize::from(*data.get(COUNT)?) == channels.len())
                .then(|| channels.iter().zip(entries).filter_map(settled).collect())
        }
        tag::CLOSE_BATCH if usize::from(*data.get(COUNT)?) == accounts.len().checked_sub(CLOSE_HEAD)? => {
            all(CLOSE_HEAD, End::Closed)
        }
        tag::FINALIZE_BATCH if data.len() == FinalizeBatch::LEN => all(0, End::Closed),
        tag::RECLAIM_BATCH if data.len() == ReclaimBatch::LEN => all(RECLAIM_HEAD, End::Gone),
        _ => None,
    }
}

/// Accounts before the channels of a settle batch: node, operator.
const SETTLE_HEAD: usize = 2;
/// Of a close batch: who closes, node, operator.
const CLOSE_HEAD: usize = 3;
/// Of a reclaim batch: agent, rent payer.
const RECLAIM_HEAD: usize = 2;
/// Where a batch of vouchers says how many they are.
const COUNT: usize = 2;

#[cfg(test)]
mod tests {
    use settlement_interface::accounts::discriminator;
    use solana_message::Message;

    use super::*;
    use crate::{Instruction, Program, instructions, tokens};

    const PAYER: Address = Address::new_from_array([1; 32]);
    const CHANNELS: [Address; 2] = [Address::new_from_array([2; 32]), Address::new_from_array([3; 32])];

    fn effects(instruction: Instruction) -> Effects {
        Effects::of(&VersionedMessage::Legacy(Message::new(&[instruction], Some(&PAYER))))
    }

    fn shown_by(effects: &Effects, settled: u64, status: u8) -> Vec<bool> {
        let channel = Channel { discriminator: discriminator::CHANNEL, version: 1, settled, status, ..channel() };
        let account = Account { owner: Program::local().id, lamports: 1, data: channel.to_bytes().to_vec() };
        effects.0.iter().map(|effect| effect.is_in(Some(&account))).collect()
    }

    fn channel() -> Channel {
        Channel::from_bytes(&[0; Channel::LEN])
    }

    #[test]
    fn each_batch_shows_what_it_does_and_no_more() {
        let program = Program::local();
        let voucher =
            |(channel, cumulative): (&Address, u64)| (*channel, VoucherEntry { signature: [0; 64], cumulative }, 0);
        let vouchers: Vec<_> = CHANNELS.iter().zip([7, 9]).map(voucher).collect();
        let settle = effects(instructions::settle_batch(&program, &PAYER, &PAYER, &vouchers));
        assert_eq!(shown_by(&settle, 8, status::OPEN), [true, false]);
        assert_eq!(shown_by(&settle, 9, status::CLOSED), [true, true]);
        for closing in [
            effects(instructions::close_batch(&program, &PAYER, &PAYER, &PAYER, &vouchers)),
            effects(instructions::finalize_batch(&program, &CHANNELS)),
        ] {
            assert_eq!(shown_by(&closing, 9, status::CLOSING), [false, false]);
            assert_eq!(shown_by(&closing, 0, status::CLOSED), [true, true]);
        }
        let reclaim = effects(instructions::reclaim_batch(&program, &PAYER, &PAYER, &CHANNELS));
        assert_eq!(shown_by(&reclaim, 9, status::CLOSED), [false, false]);
        assert!(reclaim.0.iter().all(|effect| effect.is_in(None)), "gone is gone");
        let strange = Account { owner: PAYER, lamports: 1, data: channel().to_bytes().to_vec() };
        assert!(!settle.0.iter().any(|effect| effect.is_in(Some(&strange))));
    }

    #[test]
    fn what_leaves_no_trace_on_channels_has_no_effects() {
        let program = Program::local();
        assert!(effects(tokens::transfer_lamports(&PAYER, &CHANNELS[0], 5)).is_empty());
        assert!(effects(instructions::deposit(&program, &PAYER, &PAYER, &CHANNELS[0], 5)).is_empty());
        let mut cut = instructions::finalize_batch(&program, &CHANNELS);
        cut.data.push(0);
        assert!(effects(cut).is_empty());
    }
}
