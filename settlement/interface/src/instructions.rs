//! Instruction data: a tag byte, then fixed fields; a batch adds `count` entries of fixed size.
//!
//! Each struct documents its account list in order: `w` writable, `s` signer. `[...]` repeats per entry.

use crate::{Key, layout::layout};

/// First byte of the instruction data.
pub mod tag {
    #![allow(missing_docs, reason = "each tag is the struct of the same name below")]
    pub const INIT_CONFIG: u8 = 0;
    pub const REGISTER_OPERATOR: u8 = 1;
    pub const REGISTER_NODE: u8 = 2;
    pub const DEPOSIT: u8 = 3;
    pub const WITHDRAW_AVAILABLE: u8 = 4;
    pub const OPEN_BATCH: u8 = 5;
    pub const TOP_UP: u8 = 6;
    pub const SETTLE_BATCH: u8 = 7;
    pub const CLOSE_BATCH: u8 = 8;
    pub const REQUEST_CLOSE: u8 = 9;
    pub const FINALIZE_BATCH: u8 = 10;
    pub const RECLAIM_BATCH: u8 = 11;
    pub const WITHDRAW_EARNED: u8 = 12;
    pub const WITHDRAW_FEES: u8 = 13;
}

/// Most entries of one batch: the skip bitmap has one bit for each.
pub const MAX_BATCH: usize = 64;

layout! {
    /// Creates the config and the vault.
    ///
    /// Accounts: `ws` payer, `s` admin, `w` config, `w` vault, mint, treasury (token account),
    /// program data (the upgradeable loader's account for this program; if it names an upgrade authority, that
    /// must be the admin, so that nobody can configure another's deployment first), token program, system program.
    pub struct InitConfig / InitConfigView [9] {
        /// [`tag::INIT_CONFIG`].
        tag / set_tag: u8 = 0,
        /// See [`crate::accounts::Config`].
        max_grace_s / set_max_grace_s: u32 = 1,
        /// See [`crate::accounts::Config`].
        protocol_fee_bps / set_protocol_fee_bps: u16 = 5,
        /// See [`crate::accounts::Config`].
        max_operator_fee_bps / set_max_operator_fee_bps: u16 = 7,
    }
}

layout! {
    /// Creates an operator account.
    ///
    /// Accounts: `ws` payer, `s` authority, `w` operator, payout (token account), config, system program.
    pub struct RegisterOperator / RegisterOperatorView [3] {
        /// [`tag::REGISTER_OPERATOR`].
        tag / set_tag: u8 = 0,
        /// Published fee, at most the config's maximum.
        fee_bps / set_fee_bps: u16 = 1,
    }
}

layout! {
    /// Creates a node account. The node's transport key signs, so that nobody can take another's id.
    ///
    /// Accounts: `ws` payer, `s` owner, `s` node id, `w` node, payout (token account), config,
    /// operator (its account, or the system program for none), system program.
    pub struct RegisterNode / RegisterNodeView [7] {
        /// [`tag::REGISTER_NODE`].
        tag / set_tag: u8 = 0,
        /// Shortest grace of channels to this node, in seconds, at most the config's maximum.
        min_grace_s / set_min_grace_s: u32 = 1,
        /// Refuse if the operator asks more than this.
        max_operator_fee_bps / set_max_operator_fee_bps: u16 = 5,
    }
}

layout! {
    /// Moves tokens into the vault and credits the beneficiary's agent account, creating it if needed.
    ///
    /// Accounts: `ws` depositor (authority of the source, pays rent), owner (the beneficiary), `w` agent,
    /// `w` source (token account), `w` vault, config, token program, system program.
    pub struct Deposit / DepositView [9] {
        /// [`tag::DEPOSIT`].
        tag / set_tag: u8 = 0,
        /// Base units, above zero.
        amount / set_amount: u64 = 1,
    }
}

layout! {
    /// Pays available money out to a token account of the owner's choice.
    ///
    /// Accounts: `s` owner, `w` agent, `w` destination (token account), `w` vault, config, token program.
    pub struct WithdrawAvailable / WithdrawAvailableView [9] {
        /// [`tag::WITHDRAW_AVAILABLE`].
        tag / set_tag: u8 = 0,
        /// Base units, above zero.
        amount / set_amount: u64 = 1,
    }
}

layout! {
    /// One channel to open.
    pub struct OpenEntry / OpenEntryView [53] {
        /// At least the agent's `next_nonce`, and rising within the batch.
        nonce / set_nonce: u64 = 0,
        /// Base units, taken from `available`.
        deposit / set_deposit: u64 = 8,
        /// Seconds of grace, between the node's minimum and the config's maximum.
        grace_s / set_grace_s: u32 = 16,
        /// Bump of the channel's address.
        bump / set_bump: u8 = 20,
        /// The key whose vouchers count; not of small order.
        signer / set_signer: Key = 21,
    }
}

layout! {
    /// Head of settle and close batches; `count` [`VoucherEntry`] follow, one per channel account, and if
    /// `flags` has [`FLAG_EXPIRIES`] then `count` i64 LE expiries after all of them.
    ///
    /// settle_batch (anyone): `w` node, `w` operator (the node's, or the system program for none),
    /// `[w channel]`.
    ///
    /// close_batch (node owner or its operator's authority): `s` authority, `w` node, `w` operator (as above),
    /// `[w channel]`. An entry whose cumulative is not above `settled` closes at the current watermark;
    /// its signature is not looked at (write zeros).
    ///
    /// Both set return data to a u64 LE bitmap of skipped entries: already settled as high (settle only),
    /// voucher expired, closed or past its deadline, or reclaimed. Anything else wrong fails the batch.
    pub struct VoucherBatch / VoucherBatchView [3] {
        /// [`tag::SETTLE_BATCH`] or [`tag::CLOSE_BATCH`].
        tag / set_tag: u8 = 0,
        /// [`FLAG_EXPIRIES`] or 0.
        flags / set_flags: u8 = 1,
        /// Entries, 1 to [`MAX_BATCH`].
        count / set_count: u8 = 2,
    }
}

/// In [`VoucherBatch::flags`]: expiries follow the entries. Without it every expiry is 0 (never).
pub const FLAG_EXPIRIES: u8 = 1;

layout! {
    /// One voucher of a batch.
    pub struct VoucherEntry / VoucherEntryView [72] {
        /// The agent's signature over the voucher bytes.
        signature / set_signature: [u8; 64] = 0,
        /// Base units.
        cumulative / set_cumulative: u64 = 64,
    }
}

layout! {
    /// Opens channels: `count` [`OpenEntry`] follow.
    ///
    /// Accounts: `s` owner, `ws` rent payer, `w` agent, config, system program, `[node, w channel]`.
    pub struct OpenBatch / OpenBatchView [2] {
        /// [`tag::OPEN_BATCH`].
        tag / set_tag: u8 = 0,
        /// Entries, 1 to [`MAX_BATCH`].
        count / set_count: u8 = 1,
    }
}

layout! {
    /// Adds available money to an open channel's deposit.
    ///
    /// Accounts: `s` owner, `w` agent, `w` channel.
    pub struct TopUp / TopUpView [9] {
        /// [`tag::TOP_UP`].
        tag / set_tag: u8 = 0,
        /// Base units, above zero.
        amount / set_amount: u64 = 1,
    }
}

layout! {
    /// The agent's owner starts the grace of an open channel.
    ///
    /// Accounts: `s` owner, agent, `w` channel.
    pub struct RequestClose / RequestCloseView [1] {
        /// [`tag::REQUEST_CLOSE`].
        tag / set_tag: u8 = 0,
    }
}

layout! {
    /// Closes channels whose deadline has passed; anyone may. Others are skipped, in a bitmap as above.
    ///
    /// Accounts: `[w channel]`, 1 to [`MAX_BATCH`].
    pub struct FinalizeBatch / FinalizeBatchView [1] {
        /// [`tag::FINALIZE_BATCH`].
        tag / set_tag: u8 = 0,
    }
}

layout! {
    /// Returns `deposit - settled` of closed channels to the agent and their lamports to the rent payer;
    /// anyone may. Channels not closed, or reclaimed before, are skipped, in a bitmap as above.
    ///
    /// Accounts: `w` agent, `w` rent payer, `[w channel]`, 1 to [`MAX_BATCH`].
    pub struct ReclaimBatch / ReclaimBatchView [1] {
        /// [`tag::RECLAIM_BATCH`].
        tag / set_tag: u8 = 0,
    }
}

/// As an amount of a withdrawal: all that is there.
pub const EVERYTHING: u64 = u64::MAX;

layout! {
    /// Pays a node's earnings to its stored payout.
    ///
    /// Accounts: `s` authority (node owner or its operator's authority), `w` node, operator (the node's, or the
    /// system program for none), `w` payout, `w` vault, config, token program.
    pub struct WithdrawEarned / WithdrawEarnedView [9] {
        /// [`tag::WITHDRAW_EARNED`].
        tag / set_tag: u8 = 0,
        /// Base units, above zero, or [`EVERYTHING`].
        amount / set_amount: u64 = 1,
    }
}

layout! {
    /// Pays fees to where they always go; anyone may, for no choice is left. The source is an operator account
    /// (its `fees`, to its payout) or a node account (its `protocol_fees`, to the config's treasury).
    ///
    /// Accounts: `w` source, `w` destination, `w` vault, config, token program.
    pub struct WithdrawFees / WithdrawFeesView [9] {
        /// [`tag::WITHDRAW_FEES`].
        tag / set_tag: u8 = 0,
        /// Base units, above zero, or [`EVERYTHING`].
        amount / set_amount: u64 = 1,
    }
}
