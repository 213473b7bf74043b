//! Channels and nodes as last read from the chain, for a moment: handoffs come in bursts.
//!
//! Old facts are harmless: deposits and watermarks only rise, and the chain judges again at the end. A node whose
//! handoff is refused by an old fact gets a second, fresh look.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use aro_proto::ChannelId;
use aro_proto::identity::{Verifier, VerifyingKey};
use settlement_chain::reads::{self, ReadError};
use settlement_chain::{Address, ChainClient, Program};
use settlement_interface::accounts::{Channel, Node};

/// Remembers what was read, misses included.
#[derive(Debug)]
pub struct ChannelCache {
    lifetime: Duration,
    state: Mutex<State>,
    verifier: Arc<Verifier>,
}

#[derive(Debug, Default)]
struct State {
    channels: HashMap<ChannelId, (Instant, Option<KnownChannel>)>,
    nodes: HashMap<Address, (Instant, Option<Node>)>,
    clock: Option<(Instant, i64)>,
}

/// What the chain says of some channels.
#[derive(Clone, Debug)]
pub(super) struct ChannelFacts {
    now: i64,
    channels: HashMap<ChannelId, (Option<KnownChannel>, Source)>,
    verifier: Arc<Verifier>,
}

/// A channel and its signer's key, which is decoded when it is first needed and kept as long as the channel is asked
/// for: neither changes during the life of a channel's address.
#[derive(Clone, Debug)]
pub(super) struct KnownChannel {
    pub(super) account: Channel,
    signer: Arc<OnceLock<Option<VerifyingKey>>>,
}

impl KnownChannel {
    fn new(account: Channel, before: Option<&Self>) -> Self {
        let same_signer = before.filter(|before| before.account.signer == account.signer);
        let signer = same_signer.map_or_else(Arc::default, |before| Arc::clone(&before.signer));
        Self { account, signer }
    }

    /// The key that signs its vouchers, unless it is one that nobody can sign with.
    pub(super) fn signer(&self) -> Option<&VerifyingKey> {
        self.signer.get_or_init(|| VerifyingKey::from_bytes(&self.account.signer).ok()).as_ref()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Fresh,
    Remembered,
}

impl ChannelCache {
    /// A cache whose facts are good for `lifetime`.
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { lifetime, state: Mutex::default(), verifier: Arc::default() }
    }

    /// How long facts are good. Must stay below what finality takes: see where it is asked for.
    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Makes the next read of these channels a fresh one.
    pub(crate) fn forget(&self, channels: impl IntoIterator<Item = ChannelId>) {
        let mut state = self.lock();
        for channel in channels {
            state.channels.remove(&channel);
        }
    }

    /// The chain's time and these channels, read together where they are not remembered.
    pub(super) async fn read(
        &self,
        chain: &dyn ChainClient,
        program: &Program,
        ids: &[ChannelId],
    ) -> Result<ChannelFacts, ReadError> {
        let (mut channels, missing, clock) = self.remembered(ids);
        let now = match clock {
            Some(now) => now,
            None => chain.clock().await?,
        };
        let addresses: Vec<Address> = missing.iter().map(|id| Address::new_from_array(id.to_bytes())).collect();
        let read = if addresses.is_empty() { Vec::new() } else { reads_lenient(chain, program, &addresses).await? };
        let mut state = self.lock();
        let at = Instant::now();
        if clock.is_none() {
            state.clock = Some((at, now));
        }
        make_room(&mut state.channels, self.lifetime);
        for (id, account) in missing.into_iter().zip(read) {
            let before = state.channels.get(&id).and_then(|(_, channel)| channel.as_ref());
            let channel = account.map(|account| KnownChannel::new(account, before));
            state.channels.insert(id, (at, channel.clone()));
            channels.insert(id, (channel, Source::Fresh));
        }
        Ok(ChannelFacts { now, channels, verifier: Arc::clone(&self.verifier) })
    }

    /// A node account as it was read a moment ago, if it was and was there.
    pub(super) fn remembered_node(&self, address: &Address) -> Option<Node> {
        let state = self.lock();
        let (at, node) = state.nodes.get(address)?;
        node.clone().filter(|_| at.elapsed() < self.lifetime)
    }

    /// A node account, read now.
    pub(super) async fn node(
        &self,
        chain: &dyn ChainClient,
        program: &Program,
        address: &Address,
    ) -> Result<Option<Node>, ReadError> {
        let node = reads::node_at(chain, program, address).await?;
        let mut state = self.lock();
        make_room(&mut state.nodes, self.lifetime);
        state.nodes.insert(*address, (Instant::now(), node.clone()));
        Ok(node)
    }

    #[expect(clippy::type_complexity, reason = "one private step of `read`")]
    fn remembered(
        &self,
        ids: &[ChannelId],
    ) -> (HashMap<ChannelId, (Option<KnownChannel>, Source)>, Vec<ChannelId>, Option<i64>) {
        let state = self.lock();
        let mut channels = HashMap::new();
        let mut missing = Vec::new();
        for id in ids {
            match state.channels.get(id) {
                Some((at, channel)) if at.elapsed() < self.lifetime => {
                    channels.insert(*id, (channel.clone(), Source::Remembered));
                }
                _ if missing.contains(id) => {}
                _ => missing.push(*id),
            }
        }
        let clock = state.clock.filter(|(at, _)| at.elapsed() < self.lifetime).map(|(_, now)| now);
        (channels, missing, clock)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever a panic left behind is at worst old.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChannelFacts {
    /// The chain's time in unix seconds.
    pub(super) fn now(&self) -> i64 {
        self.now
    }

    /// A channel's account, if there is one.
    pub(super) fn channel(&self, id: ChannelId) -> Option<&Channel> {
        self.known(id).map(|channel| &channel.account)
    }

    /// A channel with its signer's key, if there is one.
    pub(super) fn known(&self, id: ChannelId) -> Option<&KnownChannel> {
        self.channels.get(&id)?.0.as_ref()
    }

    /// Who verifies the vouchers of these channels, strictly.
    pub(super) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// True if this channel was not read just now.
    pub(super) fn is_remembered(&self, id: ChannelId) -> bool {
        self.channels.get(&id).is_some_and(|(_, source)| *source == Source::Remembered)
    }

    #[cfg(test)]
    pub(super) fn of(now: i64, channels: impl IntoIterator<Item = (ChannelId, Option<Channel>)>) -> Self {
        let known = |channel: Option<Channel>| channel.map(|account| KnownChannel::new(account, None));
        let channels = channels.into_iter().map(|(id, channel)| (id, (known(channel), Source::Fresh))).collect();
        Self { now, channels, verifier: Arc::default() }
    }
}

/// Channels by address. An address where something else lies is no channel: peers choose the addresses.
async fn reads_lenient(
    chain: &dyn ChainClient,
    program: &Program,
    addresses: &[Address],
) -> Result<Vec<Option<Channel>>, ReadError> {
    let accounts = chain.accounts(addresses).await?;
    let decode = |account: settlement_chain::Account| {
        (account.owner == program.id).then(|| Channel::decode(&account.data).ok()).flatten()
    };
    Ok(accounts.into_iter().map(|account| account.and_then(decode)).collect())
}

/// Keeps a map that peers can fill under its bound.
fn make_room<K: Eq + Hash, V>(map: &mut HashMap<K, (Instant, V)>, lifetime: Duration) {
    if map.len() >= MAX_REMEMBERED {
        map.retain(|_, (at, _)| at.elapsed() < lifetime);
    }
    if map.len() >= MAX_REMEMBERED {
        map.clear();
    }
}

/// Accounts remembered at most: some 25 MB.
const MAX_REMEMBERED: usize = 50_000;
