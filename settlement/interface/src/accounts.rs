//! Layouts of the accounts that the program owns. All integers are little-endian; all amounts are base units.
//!
//! Every account begins with the same three bytes: discriminator, version, bump. Reserved bytes are zero.
//!
//! Solvency, after every instruction: the vault's tokens are at least the sum of every agent's `available`,
//! every channel's `deposit - settled`, every node's `earned + protocol_fees` and every operator's `fees`.

use crate::{Key, layout::layout};

/// Version byte of all layouts below.
pub const VERSION: u8 = 1;

/// The longest that a node's new payout may have to wait, in seconds: 30 days. A longer delay would be a lock.
pub const MAX_PAYOUT_DELAY_S: u32 = 30 * 24 * 3_600;

/// In place of a key: none.
pub const NO_KEY: Key = [0; 32];

/// First byte of an account: which layout follows.
pub mod discriminator {
    /// [`Config`](super::Config).
    pub const CONFIG: u8 = 1;
    /// [`Agent`](super::Agent).
    pub const AGENT: u8 = 2;
    /// [`Node`](super::Node).
    pub const NODE: u8 = 3;
    /// [`Operator`](super::Operator).
    pub const OPERATOR: u8 = 4;
    /// [`Channel`](super::Channel).
    pub const CHANNEL: u8 = 5;
}

/// Values of [`Channel::status`].
pub mod status {
    /// Vouchers settle, the deposit can be topped up.
    pub const OPEN: u8 = 0;
    /// The agent asked to close: vouchers settle until the deadline.
    pub const CLOSING: u8 = 1;
    /// Nothing settles any more; the rest awaits reclaim.
    pub const CLOSED: u8 = 2;
}

/// Why bytes are not the account that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The account's length is not the layout's.
    Length,
    /// The first byte names another kind of account.
    Discriminator,
    /// The second byte names a version that this code does not know.
    Version,
}

macro_rules! account {
    ($name:ident, $discriminator:ident) => {
        impl $name {
            /// Reads an account's data after checking length, discriminator and version.
            pub fn decode(data: &[u8]) -> Result<Self, LayoutError> {
                let bytes: &[u8; Self::LEN] = data.try_into().map_err(|_| LayoutError::Length)?;
                check_header(bytes, discriminator::$discriminator)?;
                Ok(Self::from_bytes(bytes))
            }
        }
    };
}

/// Checks the first two bytes of an account against the expected layout.
#[inline(always)]
pub const fn check_header(data: &[u8], expected: u8) -> Result<(), LayoutError> {
    if data.len() < 2 {
        return Err(LayoutError::Length);
    }
    if data[0] != expected {
        return Err(LayoutError::Discriminator);
    }
    if data[1] != VERSION {
        return Err(LayoutError::Version);
    }
    Ok(())
}

layout! {
    /// The program's parameters. One per program.
    pub struct Config / ConfigView [192] {
        /// [`discriminator::CONFIG`].
        discriminator / set_discriminator: u8 = 0,
        /// [`VERSION`].
        version / set_version: u8 = 1,
        /// Bump of this address.
        bump / set_bump: u8 = 2,
        /// 1 while deposits and opens are stopped, else 0.
        paused / set_paused: u8 = 3,
        /// Bump of the vault's address.
        vault_bump / set_vault_bump: u8 = 4,
        /// Zero.
        reserved_head / set_reserved_head: [u8; 3] = 5,
        /// May change the parameters, and nothing else: no money passes through it.
        admin / set_admin: Key = 8,
        /// The $ARO mint: classic SPL token, 6 decimals, no freeze authority.
        mint / set_mint: Key = 40,
        /// The one token account that holds all deposits.
        vault / set_vault: Key = 72,
        /// Token account that protocol fees go to.
        treasury / set_treasury: Key = 104,
        /// Longest grace a channel may have, in seconds.
        max_grace_s / set_max_grace_s: u32 = 136,
        /// The protocol's part of what settles, in basis points; copied into a channel when it opens.
        protocol_fee_bps / set_protocol_fee_bps: u16 = 140,
        /// The largest part an operator may ask, in basis points.
        max_operator_fee_bps / set_max_operator_fee_bps: u16 = 142,
        /// The key that becomes admin when it accepts; zeros for none.
        pending_admin / set_pending_admin: Key = 144,
        /// Seconds between a node's wish for another payout and the first second at which that counts.
        payout_delay_s / set_payout_delay_s: u32 = 176,
        /// Zero.
        reserved / set_reserved: [u8; 12] = 180,
    }
}
account!(Config, CONFIG);

layout! {
    /// An agent's money outside channels.
    pub struct Agent / AgentView [72] {
        /// [`discriminator::AGENT`].
        discriminator / set_discriminator: u8 = 0,
        /// [`VERSION`].
        version / set_version: u8 = 1,
        /// Bump of this address.
        bump / set_bump: u8 = 2,
        /// Zero.
        reserved_head / set_reserved_head: [u8; 5] = 3,
        /// The key that opens channels and withdraws.
        owner / set_owner: Key = 8,
        /// Base units free to open channels with or to withdraw.
        available / set_available: u64 = 40,
        /// The smallest nonce that the next channel may take.
        next_nonce / set_next_nonce: u64 = 48,
        /// Zero.
        reserved / set_reserved: [u8; 16] = 56,
    }
}
account!(Agent, AGENT);

layout! {
    /// A node: who it is, who settles for it, what it has earned.
    pub struct Node / NodeView [224] {
        /// [`discriminator::NODE`].
        discriminator / set_discriminator: u8 = 0,
        /// [`VERSION`].
        version / set_version: u8 = 1,
        /// Bump of this address.
        bump / set_bump: u8 = 2,
        /// Zero.
        reserved_head / set_reserved_head: [u8; 5] = 3,
        /// The node id: its transport key, which agents dial.
        id / set_id: Key = 8,
        /// The cold key: may close, withdraw and change this account. It stays what it was at registration: a
        /// thief who could replace it would lock the owner out and then wait for the payout that he chose.
        owner / set_owner: Key = 40,
        /// The operator account that settles for this node, or zeros for none.
        operator / set_operator: Key = 72,
        /// Token account that earnings go to, until a pending one counts: see [`Node::payout_at`].
        payout / set_payout: Key = 104,
        /// Base units earned and not yet withdrawn.
        earned / set_earned: u64 = 136,
        /// Base units of protocol fees taken from this node's settlements and not yet swept.
        protocol_fees / set_protocol_fees: u64 = 144,
        /// Shortest grace of channels to this node, in seconds.
        min_grace_s / set_min_grace_s: u32 = 152,
        /// What the operator takes of what settles, in basis points; fixed when the node chose it.
        operator_fee_bps / set_operator_fee_bps: u16 = 156,
        /// Zero.
        reserved_middle / set_reserved_middle: [u8; 2] = 158,
        /// Token account that takes the payout's place at [`payout_from`](Self::payout_from); zeros for none.
        pending_payout / set_pending_payout: Key = 160,
        /// The unix second from which the pending payout counts, and the present one no longer; 0 for none pending.
        payout_from / set_payout_from: i64 = 192,
        /// Zero.
        reserved / set_reserved: [u8; 24] = 200,
    }
}
account!(Node, NODE);

impl Node {
    /// The token account that earnings go to at `now` (unix seconds, the chain's clock).
    pub const fn payout_at(&self, now: i64) -> &Key {
        if self.is_payout_due(now) { &self.pending_payout } else { &self.payout }
    }

    /// True if the pending payout counts at `now` (unix seconds) and has not been written into the payout's place.
    pub const fn is_payout_due(&self, now: i64) -> bool {
        self.payout_from != 0 && now >= self.payout_from
    }
}

layout! {
    /// A settlement operator and its fees.
    pub struct Operator / OperatorView [96] {
        /// [`discriminator::OPERATOR`].
        discriminator / set_discriminator: u8 = 0,
        /// [`VERSION`].
        version / set_version: u8 = 1,
        /// Bump of this address.
        bump / set_bump: u8 = 2,
        /// Zero.
        reserved_head / set_reserved_head: [u8; 5] = 3,
        /// The hot key that signs closes; it can send money nowhere but to the stored payouts.
        authority / set_authority: Key = 8,
        /// Token account that fees go to, always.
        payout / set_payout: Key = 40,
        /// Base units earned and not yet withdrawn.
        fees / set_fees: u64 = 72,
        /// Published fee in basis points; nodes that choose this operator copy it.
        fee_bps / set_fee_bps: u16 = 80,
        /// Zero.
        reserved / set_reserved: [u8; 14] = 82,
    }
}
account!(Operator, OPERATOR);

layout! {
    /// A one-way payment relation from an agent to a node. `settled <= deposit`, and `settled` only rises.
    pub struct Channel / ChannelView [176] {
        /// [`discriminator::CHANNEL`].
        discriminator / set_discriminator: u8 = 0,
        /// [`VERSION`].
        version / set_version: u8 = 1,
        /// Bump of this address.
        bump / set_bump: u8 = 2,
        /// One of [`status`].
        status / set_status: u8 = 3,
        /// The protocol's fee in basis points, as it was at open.
        protocol_fee_bps / set_protocol_fee_bps: u16 = 4,
        /// Zero.
        reserved_head / set_reserved_head: [u8; 2] = 6,
        /// The paying agent's account.
        agent / set_agent: Key = 8,
        /// The earning node's account.
        node / set_node: Key = 40,
        /// The key whose vouchers count.
        signer / set_signer: Key = 72,
        /// Gets the account's lamports back at reclaim.
        rent_payer / set_rent_payer: Key = 104,
        /// The incarnation: part of the address, never used twice.
        nonce / set_nonce: u64 = 136,
        /// Base units set aside for this channel.
        deposit / set_deposit: u64 = 144,
        /// Base units credited so far: the chain's watermark.
        settled / set_settled: u64 = 152,
        /// While closing: vouchers settle before this unix second, not at it. Else 0.
        deadline / set_deadline: i64 = 160,
        /// Seconds between a request to close and the deadline.
        grace_s / set_grace_s: u32 = 168,
        /// Zero.
        reserved / set_reserved: [u8; 4] = 172,
    }
}
account!(Channel, CHANNEL);

impl Channel {
    /// True while a voucher above `settled` would still be credited at `now` (unix seconds).
    pub const fn is_settleable(&self, now: i64) -> bool {
        self.status == status::OPEN || (self.status == status::CLOSING && now < self.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_cover_every_byte_of_every_account() {
        let layouts = [
            (Config::FIELDS, Config::LEN),
            (Agent::FIELDS, Agent::LEN),
            (Node::FIELDS, Node::LEN),
            (Operator::FIELDS, Operator::LEN),
            (Channel::FIELDS, Channel::LEN),
        ];
        for (fields, len) in layouts {
            let end = fields.iter().fold(0, |at, field| {
                assert_eq!(field.offset, at, "{}", field.name);
                assert!(!field.docs.is_empty(), "{} is not documented", field.name);
                at + field.len
            });
            assert_eq!(end, len);
            assert_eq!(fields[0].name, "discriminator");
        }
        let admin = Config::FIELDS.iter().find(|field| field.name == "pending_admin").unwrap();
        assert_eq!((admin.offset, admin.len, admin.ty), (144, 32, "Key"));
    }

    #[test]
    fn a_pending_payout_counts_from_its_second_on() {
        let bytes = [0; Node::LEN];
        let waiting = Node { payout: [1; 32], pending_payout: [2; 32], payout_from: 50, ..Node::from_bytes(&bytes) };
        assert_eq!((waiting.payout_at(49), waiting.payout_at(50)), (&[1; 32], &[2; 32]));
        let none = Node { payout_from: 0, pending_payout: NO_KEY, ..waiting };
        assert_eq!(none.payout_at(i64::MAX), &[1; 32]);
    }
}
