//! The words in which a random run is told: every operation stands for itself, so any part of a list still plays.

/// A channel by what its address derives from; it may be open, gone, or never have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelName {
    pub agent: usize,
    pub node: usize,
    pub nonce: u64,
}

/// Somebody with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    Admin,
    Agent(usize),
    NodeOwner(usize),
    OperatorAuthority(usize),
}

/// A token account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wallet {
    Vault,
    Treasury,
    OfAgent(usize),
    OfNode(usize),
    OfOperator(usize),
}

/// An account that holds fees.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    Operator(usize),
    Node(usize),
}

/// How the bytes in an entry's signature came about.
#[derive(Clone, Copy, Debug)]
pub enum Signed {
    Honestly,
    /// By the owner's key, where the session key should have.
    ByOwner,
    /// For one unit more or less.
    ForAnotherAmount,
    ForAnotherExpiry,
    ForAnotherChannel(ChannelName),
    WithBitFlipped(usize),
    NotAtAll,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub channel: ChannelName,
    pub cumulative: u64,
    pub expires_at: i64,
    pub signed: Signed,
}

#[derive(Clone, Debug)]
pub struct ToOpen {
    pub node: usize,
    pub nonce: u64,
    pub deposit: u64,
    pub grace_s: u32,
    /// Names a signer of small order.
    pub is_weak: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct Parameters {
    pub treasury: Wallet,
    pub pending_admin: Option<Party>,
    pub paused: bool,
    pub max_grace_s: u32,
    pub protocol_fee_bps: u16,
    pub max_operator_fee_bps: u16,
    pub payout_delay_s: u32,
}

/// One step of a run. `by` signs; an `operator` of `None` puts the system program in the operator's slot.
#[derive(Clone, Debug)]
pub enum Op {
    SetTime { unix: i64 },
    SetRent { lamports_per_byte: u64 },
    SendAhead { to: ChannelName, lamports: u64 },
    SetConfig { by: Party, new: Parameters },
    AcceptAdmin { by: Party },
    RegisterOperator { operator: usize, fee_bps: u16, payout: Wallet },
    RegisterNode { node: usize, operator: Option<usize>, min_grace_s: u32, max_fee_bps: u16, payout: Wallet },
    UpdateNode { by: Party, node: usize, operator: Option<usize>, min_grace_s: u32, max_fee_bps: u16, payout: Wallet },
    Deposit { by: usize, to: usize, from: Wallet, amount: u64 },
    WithdrawAvailable { by: usize, of: usize, to: Wallet, amount: u64 },
    Open { by: usize, of: usize, rent_payer: usize, entries: Vec<ToOpen> },
    TopUp { by: usize, of: usize, channel: ChannelName, amount: u64 },
    Settle { node: usize, operator: Option<usize>, entries: Vec<Entry> },
    Close { by: Party, node: usize, operator: Option<usize>, entries: Vec<Entry> },
    RequestClose { by: usize, of: usize, channel: ChannelName },
    Finalize { channels: Vec<ChannelName> },
    Reclaim { of: usize, rent_payer: usize, channels: Vec<ChannelName> },
    WithdrawEarned { by: Party, node: usize, operator: Option<usize>, to: Wallet, amount: u64 },
    WithdrawFees { from: Source, to: Wallet, amount: u64 },
}

impl Op {
    /// The instruction's name, for counting; `None` for what happens outside the program.
    pub const fn instruction(&self) -> Option<&'static str> {
        Some(match self {
            Self::SetTime { .. } | Self::SetRent { .. } | Self::SendAhead { .. } => return None,
            Self::SetConfig { .. } => "set_config",
            Self::AcceptAdmin { .. } => "accept_admin",
            Self::UpdateNode { .. } => "update_node",
            Self::RegisterOperator { .. } => "register_operator",
            Self::RegisterNode { .. } => "register_node",
            Self::Deposit { .. } => "deposit",
            Self::WithdrawAvailable { .. } => "withdraw_available",
            Self::Open { .. } => "open_batch",
            Self::TopUp { .. } => "top_up",
            Self::Settle { .. } => "settle_batch",
            Self::Close { .. } => "close_batch",
            Self::RequestClose { .. } => "request_close",
            Self::Finalize { .. } => "finalize_batch",
            Self::Reclaim { .. } => "reclaim_batch",
            Self::WithdrawEarned { .. } => "withdraw_earned",
            Self::WithdrawFees { .. } => "withdraw_fees",
        })
    }
}
