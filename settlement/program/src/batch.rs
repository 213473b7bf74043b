//! Batches of vouchers: the piece that settling and closing share, and the bitmap of skipped entries.
//!
//! An entry that lost a race (settled as high, expired, closed, past its deadline, reclaimed) is skipped, so that
//! one agent cannot burn the fee of all others. An entry that could never have been right fails the whole batch.

use pinocchio::{AccountView, Address, ProgramResult, cpi::set_return_data, error::ProgramError};
use settlement_interface::{
    accounts::{ChannelView, status},
    errors::SettlementError,
    instructions::{FLAG_EXPIRIES, MAX_BATCH, VoucherBatch, VoucherEntry},
    voucher::{NEVER, is_expired},
};

use crate::{
    account::{self, is_vacant, same},
    ledger::Earnings,
    refuse::{refusal, require},
    voucher::{self, Voucher},
};

/// What happens to a channel whose voucher counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It stays as it is: settle_batch.
    Unchanged,
    /// Nothing settles any more: close_batch.
    Closed,
}

/// The bitmap of skipped entries, returned to the caller as u64 LE.
#[derive(Default)]
pub struct Skipped(u64);

impl Skipped {
    /// Marks the entry at `index`, below [`MAX_BATCH`].
    #[inline(always)]
    pub fn mark(&mut self, index: usize) {
        self.0 |= 1u64.wrapping_shl(index as u32);
    }

    /// Sets the transaction's return data.
    #[inline(always)]
    pub fn report(&self) {
        set_return_data(&self.0.to_le_bytes());
    }
}

/// The vouchers of one instruction, with lengths checked.
pub struct Vouchers<'a> {
    entries: &'a [[u8; VoucherEntry::LEN]],
    expiries: &'a [[u8; 8]],
}

impl<'a> Vouchers<'a> {
    /// Reads head, entries and expiries.
    ///
    /// # Errors
    /// [`SettlementError::MalformedData`], [`SettlementError::BadBatch`].
    #[inline(always)]
    pub fn parse(data: &'a [u8]) -> Result<Self, ProgramError> {
        let Some((head, rest)) = data.split_first_chunk::<{ VoucherBatch::LEN }>() else {
            return Err(refusal(SettlementError::MalformedData));
        };
        let head = VoucherBatch::from_bytes(head);
        let count = batch_size(usize::from(head.count))?;
        require(head.flags & !FLAG_EXPIRIES == 0, SettlementError::MalformedData)?;
        // Cannot overflow: at most 64 entries.
        let Some((entries, expiries)) = rest.split_at_checked(count.wrapping_mul(VoucherEntry::LEN)) else {
            return Err(refusal(SettlementError::MalformedData));
        };
        let expected = if head.flags & FLAG_EXPIRIES == 0 { 0 } else { count };
        let (expiries, left) = expiries.as_chunks();
        require(expiries.len() == expected && left.is_empty(), SettlementError::MalformedData)?;
        Ok(Self { entries: entries.as_chunks().0, expiries })
    }

    /// The voucher of the entry at `index`, and when it expires.
    #[inline(always)]
    fn entry(&self, index: usize) -> Result<(VoucherEntry, i64), ProgramError> {
        let Some(entry) = self.entries.get(index) else {
            return Err(refusal(SettlementError::MalformedData));
        };
        let expires_at = self.expires_at(index);
        Ok((VoucherEntry::from_bytes(entry), expires_at))
    }

    #[inline(always)]
    fn expires_at(&self, index: usize) -> i64 {
        self.expiries.get(index).map_or(NEVER, |bytes| i64::from_le_bytes(*bytes))
    }

    /// One channel account per entry.
    ///
    /// # Errors
    /// [`SettlementError::MissingAccount`].
    #[inline(always)]
    pub fn match_accounts(&self, channels: &[AccountView]) -> ProgramResult {
        require(channels.len() == self.entries.len(), SettlementError::MissingAccount)
    }
}

/// A number of entries that the bitmap can hold.
///
/// # Errors
/// [`SettlementError::BadBatch`].
#[inline(always)]
pub const fn batch_size(count: usize) -> Result<usize, ProgramError> {
    if count == 0 || count > MAX_BATCH { Err(refusal(SettlementError::BadBatch)) } else { Ok(count) }
}

/// Settles every entry's channel up to its voucher and credits node, operator and protocol.
pub struct Settlement<'a> {
    /// This program.
    pub program: &'a Address,
    /// The node's account, which all channels must belong to.
    pub node_account: &'a mut AccountView,
    /// The operator's part, in basis points, as the node's account says.
    pub operator_fee_bps: u16,
    /// The node's operator, or the system program.
    pub operator_account: &'a mut AccountView,
    /// One voucher per channel.
    pub vouchers: &'a Vouchers<'a>,
    /// What becomes of the channels.
    pub after: After,
}

impl Settlement<'_> {
    /// Runs over the channels in order. State is read anew for each entry, so a channel named twice is credited
    /// once.
    ///
    /// # Errors
    /// See [`settlement_interface::instructions::VoucherBatch`].
    // r[impl settlement.batch.skip]
    // r[impl settlement.batch.fail]
    pub fn run(self, channels: &mut [AccountView]) -> ProgramResult {
        self.vouchers.match_accounts(channels)?;
        let now = account::now()?;
        let mut skipped = Skipped::default();
        let mut earnings = Earnings::default();
        for (index, channel) in channels.iter_mut().enumerate() {
            match self.entry(index, channel, now)? {
                Entry::Skipped => skipped.mark(index),
                Entry::Watermark => {}
                Entry::Rise { amount, protocol_fee_bps } => {
                    earnings.credit(amount, self.operator_fee_bps, protocol_fee_bps)?;
                }
            }
        }
        earnings.pay(self.program, self.node_account, self.operator_account)?;
        skipped.report();
        Ok(())
    }

    #[inline(always)]
    fn entry(&self, index: usize, account: &mut AccountView, now: i64) -> Result<Entry, ProgramError> {
        if is_vacant(account) {
            return Ok(Entry::Skipped);
        }
        let address = *account.address();
        let mut bytes = account::channel(account, self.program)?;
        let mut channel = ChannelView::new(&mut bytes);
        let (entry, expires_at) = self.vouchers.entry(index)?;
        require(same(&channel.node(), self.node_account.address()), SettlementError::WrongParty)?;
        if !is_settleable(&channel, now) {
            return Ok(Entry::Skipped);
        }
        let settled = channel.settled();
        // r[impl voucher.amount.monotonic]
        let Some(amount) = entry.cumulative.checked_sub(settled).filter(|&amount| amount > 0) else {
            return Ok(match self.after {
                After::Unchanged => Entry::Skipped,
                After::Closed => {
                    close(&mut channel);
                    Entry::Watermark
                }
            });
        };
        // r[impl settlement.voucher.expired]
        if is_expired(expires_at, now) {
            return Ok(Entry::Skipped);
        }
        // r[impl voucher.amount.deposit]
        require(entry.cumulative <= channel.deposit(), SettlementError::AboveDeposit)?;
        voucher::verify(&Voucher {
            channel: &address,
            signer: &channel.signer(),
            signature: &entry.signature,
            cumulative: entry.cumulative,
            expires_at,
        })?;
        channel.set_settled(entry.cumulative);
        if self.after == After::Closed {
            close(&mut channel);
        }
        Ok(Entry::Rise { amount, protocol_fee_bps: channel.protocol_fee_bps() })
    }
}

/// What became of one entry.
enum Entry {
    /// It lost a race; nothing changed.
    Skipped,
    /// The channel closed where it stood.
    Watermark,
    /// The watermark rose by `amount` base units.
    Rise { amount: u64, protocol_fee_bps: u16 },
}

/// Ends a channel: from here on only reclaim touches it.
#[inline(always)]
pub fn close(channel: &mut ChannelView<'_>) {
    channel.set_status(status::CLOSED);
    channel.set_deadline(0);
}

/// [`settlement_interface::accounts::Channel::is_settleable`] without reading the whole account.
#[inline(always)]
// r[impl channel.grace.deadline]
fn is_settleable(channel: &ChannelView<'_>, now: i64) -> bool {
    match channel.status() {
        status::OPEN => true,
        status::CLOSING => now < channel.deadline(),
        _ => false,
    }
}
