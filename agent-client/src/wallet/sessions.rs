//! Session keys: the owner lets other keys pay, from channels of their own, and takes that back.
//!
//! The bounds are held twice. The session's wallet holds what the owner signed: nodes, cap, end. The chain holds what no
//! wallet can break: a voucher counts only on a channel that names the session key, and only up to the deposit that the
//! owner gave it. So whoever steals a session key has no more than what its channels hold, until the owner closes them.

use std::path::PathBuf;

use aro_proto::identity::Delegation;
use aro_proto::{AgentId, Amount, NodeId, OwnerId};
use serde::{Serialize, Serializer};

use super::channels::{ChannelInfo, ChannelPhase, OpenedChannel};
use super::money::MoneyError;
use super::purse::detached;
use super::{WalletError, keystore};
use crate::agent::Agent;

/// What an owner wants to delegate.
#[derive(Clone, Debug)]
pub struct DelegateRequest {
    /// Folder of the new wallet, which must have no keys yet.
    pub dir: PathBuf,
    /// The nodes that may be paid, in any order, at most 16.
    pub nodes: Vec<NodeId>,
    /// The most that may be signed away in all, in base units. It is locked in one channel for each node, in equal parts.
    pub cap: Amount,
    /// Seconds of the chain's time from now on after which nothing may be signed any more.
    pub lifetime_s: u32,
    /// Seconds that nodes have to settle after a request to close; default each node's least.
    pub grace_s: Option<u32>,
}

/// A session key and what it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionInfo {
    /// The key.
    #[serde(serialize_with = "as_text")]
    pub session: AgentId,
    /// The most that it may sign away, in base units; none if the delegation's copy is lost.
    pub cap: Option<Amount>,
    /// Unix second from which on it may sign nothing; none if the delegation's copy is lost.
    pub expires_at: Option<i64>,
    /// Its channels that are not taken back.
    pub channels: Vec<ChannelInfo>,
}

impl Agent {
    /// Makes a wallet in a folder that can pay some nodes up to a cap and until an end, without the owner's key: a session
    /// key, what the owner signed for it, and a channel to each node with its part of the cap. Budget and available money
    /// must cover the cap. If a channel cannot be opened the wallet stays as it is, with those that were; delegate anew, or
    /// revoke it.
    ///
    /// # Errors
    /// This wallet is not the owner's, the folder has keys, the request makes no sense, or a channel cannot be opened.
    pub async fn delegate(&self, request: DelegateRequest) -> Result<(AgentId, Vec<OpenedChannel>), MoneyError> {
        let agent = self.clone();
        detached(async move { agent.delegate_now(request).await }).await
    }

    async fn delegate_now(&self, request: DelegateRequest) -> Result<(AgentId, Vec<OpenedChannel>), MoneyError> {
        let DelegateRequest { dir, mut nodes, cap, lifetime_s, grace_s } = request;
        let owner = keystore::secret(self.keys().owner_key()?);
        nodes.sort();
        let expires_at = self.chain().clock().await?.saturating_add(i64::from(lifetime_s));
        let parts = parts(cap, nodes.len());
        if parts.iter().any(|part| part.is_zero()) {
            return Err(MoneyError::ZeroAmount);
        }
        let chain = *self.chain_ids();
        let delegation = |session| Delegation {
            chain,
            owner: OwnerId::from_bytes(owner.public()),
            session,
            nodes: nodes.clone(),
            cap,
            expires_at,
        };
        // Before any key is written: what makes no sense leaves nothing behind.
        delegation(self.keys().signer()).sign(&owner)?;
        let (home, signing) = (self.keys().dir().to_owned(), owner.clone());
        let write = {
            let (dir, delegation) = (dir.clone(), delegation(self.keys().signer()));
            move || {
                let session = keystore::create_signer(&dir)?.agent_id();
                let signed = Delegation { session, ..delegation }.sign(&signing);
                let signed = signed.map_err(|source| WalletError::Delegation { path: dir.clone(), source })?;
                // The owner's copy first: a session that exists can be found again and revoked.
                keystore::keep_issued(&home, &session.to_string(), &signed)?;
                keystore::write_delegation(&dir, &signed)?;
                Ok(session)
            }
        };
        let session = self.blocking(write).await?;
        let purse = self.purse().await?;
        let mut opened = Vec::with_capacity(nodes.len());
        for (node, part) in nodes.iter().zip(parts) {
            opened.push(self.open_in(&purse, *node, session, part, grace_s).await?);
        }
        Ok((session, opened))
    }

    /// All session keys that this owner has delegated to, or that have channels of this owner.
    ///
    /// # Errors
    /// Chain or folder cannot be read.
    pub async fn sessions(&self) -> Result<Vec<SessionInfo>, MoneyError> {
        self.keys().owner_key()?;
        let own = self.keys().signer();
        let mut sessions: Vec<SessionInfo> = self.issued().await?.into_iter().map(SessionInfo::new).collect();
        for channel in self.channels().await? {
            if channel.signer == own {
                continue;
            }
            match sessions.iter_mut().find(|info| info.session == channel.signer) {
                Some(info) => info.channels.push(channel),
                None => sessions.push(SessionInfo {
                    session: channel.signer,
                    cap: None,
                    expires_at: None,
                    channels: vec![channel],
                }),
            }
        }
        sessions.sort_by_key(|info| info.session);
        Ok(sessions)
    }

    /// Asks to close all channels of a session key. Until their deadlines the nodes may still settle what it has signed;
    /// a sweep then takes back the rest. What comes back are the channels that close now.
    ///
    /// # Errors
    /// There is no such session key, or a transaction fails; then call it again.
    pub async fn revoke(&self, session: AgentId) -> Result<Vec<ChannelInfo>, MoneyError> {
        let info = self.sessions().await?.into_iter().find(|info| info.session == session);
        let info = info.ok_or(MoneyError::UnknownSession(session))?;
        for channel in &info.channels {
            if channel.phase == ChannelPhase::Open {
                let _ = self.request_close(channel.channel).await?;
            }
        }
        let ids: Vec<_> = info.channels.iter().map(|channel| channel.channel).collect();
        Ok(self.channels().await?.into_iter().filter(|channel| ids.contains(&channel.channel)).collect())
    }

    /// What was delegated to a key, as far as the owner's copies know.
    pub(super) async fn delegation_to(&self, session: AgentId) -> Result<Option<Delegation>, MoneyError> {
        Ok(self.issued().await?.into_iter().find(|delegation| delegation.session == session))
    }

    async fn issued(&self) -> Result<Vec<Delegation>, MoneyError> {
        let (dir, owner) = (self.keys().dir().to_owned(), self.keys().owner());
        let read = move || {
            let issued = keystore::issued(&dir)?.into_iter().map(|delegated| delegated.delegation().clone());
            Ok(issued.filter(|delegation| delegation.owner.to_bytes() == owner.to_bytes()).collect())
        };
        Ok(self.blocking(read).await?)
    }
}

impl SessionInfo {
    fn new(delegation: Delegation) -> Self {
        let Delegation { session, cap, expires_at, .. } = delegation;
        Self { session, cap: Some(cap), expires_at: Some(expires_at), channels: Vec::new() }
    }
}

/// A cap in equal parts; the first ones have the base units that are left over.
fn parts(cap: Amount, count: usize) -> Vec<Amount> {
    let count = count as u64;
    let each = cap.get().checked_div(count).unwrap_or_default();
    let over = cap.get().checked_rem(count).unwrap_or_default();
    (0..count).map(|place| Amount::new(each.saturating_add(u64::from(place < over)))).collect()
}

fn as_text<T: std::fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_parted_to_the_last_unit() {
        for (cap, count, expected) in [(10, 3, &[4, 3, 3][..]), (3, 3, &[1, 1, 1]), (2, 3, &[1, 1, 0]), (7, 1, &[7])] {
            let parts: Vec<u64> = parts(Amount::new(cap), count).into_iter().map(Amount::get).collect();
            assert_eq!(parts, expected);
        }
        assert_eq!(parts(Amount::new(5), 0), []);
    }
}
