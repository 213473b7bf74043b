//! Instruction data: a tag byte, then fixed fields; a batch adds `count` entries of fixed size.
//!
//! The account list of each is a table in [`table`].

use crate::{Key, layout::layout};

pub mod table;

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
    pub const SET_CONFIG: u8 = 14;
    pub const ACCEPT_ADMIN: u8 = 15;
    pub const UPDATE_NODE: u8 = 16;
    /// Tags are the numbers below this one.
    pub const COUNT: usize = 17;
}

/// Most entries of one batch: the skip bitmap has one bit for each.
pub const MAX_BATCH: usize = 64;

layout! {
    /// Creates the config and the vault. If the program has an upgrade authority, that must be the admin, so that
    /// nobody can configure another's deployment first.
    pub struct InitConfig / InitConfigView [13] {
        /// [`tag::INIT_CONFIG`].
        tag / set_tag: u8 = 0,
        /// See [`crate::accounts::Config`].
        max_grace_s / set_max_grace_s: u32 = 1,
        /// See [`crate::accounts::Config`]; at most [`crate::fees::MAX_PROTOCOL_FEE_BPS`].
        protocol_fee_bps / set_protocol_fee_bps: u16 = 5,
        /// See [`crate::accounts::Config`]; at most [`crate::fees::MAX_OPERATOR_FEE_BPS`].
        max_operator_fee_bps / set_max_operator_fee_bps: u16 = 7,
        /// See [`crate::accounts::Config`]; at most [`crate::accounts::MAX_PAYOUT_DELAY_S`].
        payout_delay_s / set_payout_delay_s: u32 = 9,
    }
}

layout! {
    /// Writes every parameter anew. A caller who wants to change one reads the config first and repeats the rest.
    /// Fees that channels and nodes have copied stay what they are.
    pub struct SetConfig / SetConfigView [46] {
        /// [`tag::SET_CONFIG`].
        tag / set_tag: u8 = 0,
        /// 1 stops deposits and opens and nothing else; 0 lets them go on.
        paused / set_paused: u8 = 1,
        /// See [`InitConfig`].
        max_grace_s / set_max_grace_s: u32 = 2,
        /// See [`InitConfig`].
        protocol_fee_bps / set_protocol_fee_bps: u16 = 6,
        /// See [`InitConfig`].
        max_operator_fee_bps / set_max_operator_fee_bps: u16 = 8,
        /// See [`InitConfig`]. Payouts that are pending keep their second.
        payout_delay_s / set_payout_delay_s: u32 = 10,
        /// The key that becomes admin when it accepts; zeros for none, which takes a proposal back.
        pending_admin / set_pending_admin: Key = 14,
    }
}

layout! {
    /// The proposed admin takes the office; the former one has no right any more.
    pub struct AcceptAdmin / AcceptAdminView [1] {
        /// [`tag::ACCEPT_ADMIN`].
        tag / set_tag: u8 = 0,
    }
}

layout! {
    /// Creates an operator account.
    pub struct RegisterOperator / RegisterOperatorView [3] {
        /// [`tag::REGISTER_OPERATOR`].
        tag / set_tag: u8 = 0,
        /// Published fee, at most the config's maximum.
        fee_bps / set_fee_bps: u16 = 1,
    }
}

layout! {
    /// Creates a node account. The node's transport key signs, so that nobody can take another's id.
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
    /// Changes who settles for a node, the shortest grace, and where earnings go.
    ///
    /// Operator and grace count at once: only the operator that is named now closes, and open channels go on. Another
    /// operator's fee is copied; who keeps the operator keeps the rate. Another payout becomes pending and counts when
    /// the config's delay is over; naming it again lets it wait on, naming a third begins anew, and naming the present
    /// one takes the wish back.
    pub struct UpdateNode / UpdateNodeView [7] {
        /// [`tag::UPDATE_NODE`].
        tag / set_tag: u8 = 0,
        /// See [`RegisterNode`].
        min_grace_s / set_min_grace_s: u32 = 1,
        /// See [`RegisterNode`].
        max_operator_fee_bps / set_max_operator_fee_bps: u16 = 5,
    }
}

layout! {
    /// Moves tokens into the vault and credits the owner's agent account, creating it if needed.
    pub struct Deposit / DepositView [9] {
        /// [`tag::DEPOSIT`].
        tag / set_tag: u8 = 0,
        /// Base units, above zero.
        amount / set_amount: u64 = 1,
    }
}

layout! {
    /// Pays available money out to a token account of the owner's choice.
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
    /// Anyone may settle. Only the node's owner and its operator's authority may close; there an entry whose
    /// cumulative is not above `settled` closes at the current watermark, and its signature is not looked at (write
    /// zeros).
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
    pub struct OpenBatch / OpenBatchView [2] {
        /// [`tag::OPEN_BATCH`].
        tag / set_tag: u8 = 0,
        /// Entries, 1 to [`MAX_BATCH`].
        count / set_count: u8 = 1,
    }
}

layout! {
    /// Adds available money to an open channel's deposit.
    pub struct TopUp / TopUpView [9] {
        /// [`tag::TOP_UP`].
        tag / set_tag: u8 = 0,
        /// Base units, above zero.
        amount / set_amount: u64 = 1,
    }
}

layout! {
    /// The agent's owner starts the grace of an open channel.
    pub struct RequestClose / RequestCloseView [1] {
        /// [`tag::REQUEST_CLOSE`].
        tag / set_tag: u8 = 0,
    }
}

layout! {
    /// Closes channels whose deadline has passed, 1 to [`MAX_BATCH`] of them; anyone may. Others are skipped, in a
    /// bitmap as above.
    pub struct FinalizeBatch / FinalizeBatchView [1] {
        /// [`tag::FINALIZE_BATCH`].
        tag / set_tag: u8 = 0,
    }
}

layout! {
    /// Returns `deposit - settled` of closed channels, 1 to [`MAX_BATCH`] of them, to the agent and their lamports to
    /// the rent payer; anyone may. Channels not closed, or reclaimed before, are skipped, in a bitmap as above.
    pub struct ReclaimBatch / ReclaimBatchView [1] {
        /// [`tag::RECLAIM_BATCH`].
        tag / set_tag: u8 = 0,
    }
}

/// As an amount of a withdrawal: all that is there.
pub const EVERYTHING: u64 = u64::MAX;

layout! {
    /// Pays a node's earnings to its stored payout; a pending one takes its place first if its second has come.
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
    pub struct WithdrawFees / WithdrawFeesView [9] {
        /// [`tag::WITHDRAW_FEES`].
        tag / set_tag: u8 = 0,
        /// Base units, above zero, or [`EVERYTHING`].
        amount / set_amount: u64 = 1,
    }
}
