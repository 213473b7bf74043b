//! Who may take up how much of the intake's work.

use std::net::IpAddr;
use std::time::Duration;

use aro_proto::places::network_of;
use aro_proto::{AgentId, Refusal, RefusalCode};
use tokio::sync::Semaphore;

use super::strikes::Strikes;
use super::turns::Turns;

/// Keeps nodes, and strangers, from taking each other's turns.
///
/// Work comes in the order of nodes, one handoff of each at a time; a key that nobody has registered gets none. Who
/// makes work for nothing waits: a node by its key, a stranger by its address, so that nodes behind one address do not
/// pay for each other.
#[derive(Debug)]
pub(crate) struct Fairness {
    /// Handoffs that read the chain or the store at once.
    pub(super) work: Semaphore,
    /// Handoffs whose signatures are verified at once: one for each CPU. More of them would all be done at the same time,
    /// and then all wait for the disk while nobody computes.
    pub(super) cpus: Semaphore,
    /// Questions to the chain about who a signer is, at once.
    pub(super) lookups: Semaphore,
    /// One handoff of a node at a time.
    pub(super) turns: Turns,
    /// Nodes whose vouchers do not verify.
    pub(super) forgers: Strikes<AgentId>,
    /// Nodes whose vouchers name no channel of theirs.
    pub(super) guessers: Strikes<AgentId>,
    /// Addresses of strangers, and of who breaks the framing.
    strangers: Strikes<IpAddr>,
}

impl Fairness {
    pub(crate) fn new(max_handoffs_at_once: usize) -> Self {
        Self {
            work: Semaphore::new(max_handoffs_at_once.max(1)),
            cpus: Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)),
            lookups: Semaphore::new(MAX_LOOKUPS),
            turns: Turns::default(),
            forgers: Strikes::new(MAX_FORGED, Duration::from_secs(10)),
            guessers: Strikes::new(MAX_GUESSED, Duration::from_secs(1)),
            strangers: Strikes::new(MAX_STRANGE, Duration::from_secs(1)),
        }
    }

    /// Refuses a node whose vouchers were wrong too often.
    pub(super) fn check(&self, signer: AgentId) -> Result<(), Refusal> {
        let Some(wait) = self.forgers.out_for(&signer).max(self.guessers.out_for(&signer)) else { return Ok(()) };
        let seconds = wait.as_secs().max(1);
        let reason = format!("too many vouchers of yours were not valid; come back in {seconds} s");
        Err(Refusal::new(RefusalCode::OverCapacity, reason))
    }

    /// True if an address has made too much trouble to be let in now.
    pub(crate) fn is_out(&self, ip: IpAddr) -> bool {
        self.strangers.out_for(&network_of(ip)).is_some()
    }

    /// Somebody at this address, of whom nothing else is known, has made work for nothing.
    pub(crate) fn strange(&self, ip: IpAddr) {
        self.strangers.add(network_of(ip), 1);
    }
}

/// Questions to the chain about who a signer is, at once.
const MAX_LOOKUPS: usize = 8;
/// Wrong signatures that a node is forgiven; one wears off in ten seconds.
const MAX_FORGED: u32 = 16;
/// Channels that a node may name in vain; one wears off each second. What has just been opened may not be seen yet.
const MAX_GUESSED: u32 = 1_024;
/// Requests for nothing that an address is forgiven; one wears off each second.
const MAX_STRANGE: u32 = 64;
