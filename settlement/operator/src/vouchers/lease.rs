//! Who settles, where several machines share a database.
//!
//! One lease covers an operator account, not a node: its hot key, its SOL and its caps on fees are one purse, and
//! refunds and closes after a grace are batched over all its nodes. Every transaction is recorded under the lease's
//! fence, a number that rises with each new holder, and the store compares it in the very transaction that records:
//! who has lost the lease without noticing sends nothing any more. What it had recorded before, its successor finds
//! in the journal. Time is the store's own, so that clocks of machines do not matter.

use std::time::Duration;

/// The right to plan and to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The lease.
    pub name: String,
    /// Who has it.
    pub holder: String,
    /// Rises with each new holder.
    pub fence: u64,
}

/// How a lease stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It is ours.
    Held(Grant),
    /// Somebody else settles.
    Elsewhere {
        /// Who.
        holder: String,
        /// Milliseconds until it lapses, if its holder has died.
        for_ms: u64,
    },
}

/// What an operator asks a lease with.
#[derive(Clone, Debug)]
pub struct LeaseTerms {
    /// The lease: the operator's account.
    pub name: String,
    /// This process; no two may say the same.
    pub holder: String,
    /// After this without news a holder counts as dead. Longer delays the takeover, shorter lets a holder lose it
    /// over a slow database. Default 30 s.
    pub ttl: Duration,
}

impl LeaseTerms {
    /// A lease of this name for this process.
    pub fn new(name: impl Into<String>) -> Self {
        // Random enough: two processes must not take each other for themselves.
        let holder = settlement_chain::Keypair::new();
        let mark = settlement_chain::Signer::pubkey(&holder).to_string();
        let holder = format!("{}-{}", std::process::id(), mark.get(..12).unwrap_or(&mark));
        Self { name: name.into(), holder, ttl: DEFAULT_TTL }
    }
}

/// Some rounds of a database that has a bad moment.
const DEFAULT_TTL: Duration = Duration::from_secs(30);
