//! One question to all servers at once, and an end to the waiting.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use solana_signature::Signature;
use tokio::{
    sync::{OnceCell, Semaphore, mpsc},
    time::{Instant, timeout_at},
};

use super::seen::FirstSeen;
use crate::{ChainClient, ChainError};

/// How a server has been doing, for metrics and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHealth {
    /// Scheme, host and port.
    pub name: String,
    /// Questions that it answered.
    pub answered: u64,
    /// Questions that it failed to answer, or answered with an error of its own.
    pub failed: u64,
    /// True if it answered the last question that it was asked.
    pub is_up: bool,
    /// True if it was too slow for the last question that waited for it.
    pub is_late: bool,
    /// Slots that its last read of accounts was behind the newest of their last ones.
    pub lag_slots: u64,
    /// True if it has said nothing of transactions for so long that the others decide without it.
    pub is_absent: bool,
    /// Times that the servers contradicted each other; the same for each of them.
    pub contradictions: u64,
}

/// When a question is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// When all have answered, or the first has and the others have had their time.
    All,
    /// With the first good answer. The question still reaches the others.
    FirstGood,
}

pub(super) struct Members {
    members: Vec<Arc<Member>>,
    patience: Patience,
    contradictions: AtomicU64,
    first_seen: Mutex<FirstSeen>,
}

/// How long servers are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// What the slower ones get, once the first has answered. Default two seconds; more waits for a bad one.
    pub slower: Duration,
    /// A server that has said nothing of transactions for so long has no say in whether one is dead. Default five
    /// minutes; less lets a short outage leave the word to the others, more holds work up while one is down.
    pub absent: Duration,
    /// A server that is alone, because all others are absent, is believed that a transaction is dead only when so much
    /// time has passed since it was first seen here. Default five minutes: a blockhash lives about one.
    pub alone: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let five_minutes = Duration::from_secs(300);
        Self { slower: Duration::from_secs(2), absent: five_minutes, alone: five_minutes }
    }
}

struct Member {
    name: String,
    chain: Arc<dyn ChainClient>,
    /// The chain that it is of, asked for before its first answer counts.
    genesis: OnceCell<[u8; 32]>,
    /// The chain that all must be of: that of the first who said.
    agreed: Arc<OnceCell<[u8; 32]>>,
    questions: Arc<Semaphore>,
    is_up: AtomicBool,
    is_late: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    slot: AtomicU64,
    /// Since when it has said nothing of transactions.
    silent_since: Mutex<Option<Instant>>,
}

/// What each server said; nothing from those that were silent.
pub(super) struct Answers<T> {
    replies: Vec<(String, Option<Result<T, ChainError>>)>,
}

/// Who has not been heard about transactions.
pub(super) struct Unheard {
    /// Their names.
    pub(super) names: String,
    /// True if they are absent and leave one server alone, which is believed of what is old.
    pub(super) is_for_good: bool,
}

impl Members {
    pub(super) fn new(members: Vec<(String, Arc<dyn ChainClient>)>, patience: Patience) -> Self {
        let agreed = Arc::new(OnceCell::new());
        let member = |(name, chain)| {
            Arc::new(Member {
                name,
                chain,
                genesis: OnceCell::new(),
                agreed: Arc::clone(&agreed),
                questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
                is_up: AtomicBool::new(false),
                is_late: AtomicBool::new(false),
                answered: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                slot: AtomicU64::new(0),
                silent_since: Mutex::default(),
            })
        };
        Self {
            members: members.into_iter().map(member).collect(),
            patience,
            contradictions: AtomicU64::new(0),
            first_seen: Mutex::default(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.members.len()
    }

    pub(super) fn contradicted(&self) {
        self.contradictions.fetch_add(1, Relaxed);
    }

    /// What reads of accounts were of which slot.
    pub(super) fn read_at<T>(&self, answers: &Answers<(u64, T)>) {
        for (member, (_, reply)) in self.members.iter().zip(&answers.replies) {
            if let Some(Ok((slot, _))) = reply {
                member.slot.store(*slot, Relaxed);
            }
        }
    }

    /// These transactions are known here from now on, if they were not.
    pub(super) fn saw(&self, signatures: &[Signature]) {
        let now = Instant::now();
        let mut first_seen = self.first_seen.lock().unwrap_or_else(PoisonError::into_inner);
        for signature in signatures {
            first_seen.insert(*signature, now, self.patience.alone);
        }
    }

    /// Who must still be heard before a transaction may be called dead, by the answers to a question about
    /// transactions; `None` if the word of those who answered is enough.
    // r[impl settlement.servers.absent]
    pub(super) fn unheard<T>(&self, answers: &Answers<T>) -> Option<Unheard> {
        let mut waiting = Vec::new();
        let mut absent = Vec::new();
        let mut heard = 0_usize;
        for (member, (_, reply)) in self.members.iter().zip(&answers.replies) {
            let is_silent = !matches!(reply, Some(Ok(_)));
            match (is_silent, member.silent_for(is_silent) >= self.patience.absent) {
                (false, _) => heard = heard.saturating_add(1),
                (true, true) => absent.push(member.name.as_str()),
                (true, false) => waiting.push(member.name.as_str()),
            }
        }
        if !waiting.is_empty() {
            return Some(Unheard { names: waiting.join(", "), is_for_good: false });
        }
        (heard == 1 && !absent.is_empty()).then(|| Unheard { names: absent.join(", "), is_for_good: true })
    }

    /// True if this transaction was first seen so long ago that one server's word is enough for its death.
    pub(super) fn is_old(&self, signature: &Signature) -> bool {
        let first_seen = self.first_seen.lock().unwrap_or_else(PoisonError::into_inner);
        first_seen.since(signature).is_some_and(|at| at.elapsed() >= self.patience.alone)
    }

    pub(super) fn health(&self) -> Vec<ServerHealth> {
        let contradictions = self.contradictions.load(Relaxed);
        let newest = self.members.iter().map(|member| member.slot.load(Relaxed)).max().unwrap_or_default();
        let one = |member: &Arc<Member>| ServerHealth {
            name: member.name.clone(),
            answered: member.answered.load(Relaxed),
            failed: member.failed.load(Relaxed),
            is_up: member.is_up.load(Relaxed),
            is_late: member.is_late.load(Relaxed),
            lag_slots: newest.saturating_sub(member.slot.load(Relaxed)),
            is_absent: member.silent_since().is_some_and(|since| since.elapsed() >= self.patience.absent),
            contradictions,
        };
        self.members.iter().map(one).collect()
    }

    pub(super) async fn ask<T, Q, F>(&self, until: Until, question: Q) -> Answers<T>
    where
        T: Send + 'static,
        Q: Fn(Arc<dyn ChainClient>) -> F,
        F: Future<Output = Result<T, ChainError>> + Send + 'static,
    {
        let mut replies: Vec<Option<Result<T, ChainError>>> = self.members.iter().map(|_| None).collect();
        let (sender, mut receiver) = mpsc::channel(self.members.len().max(1));
        let mut waiting = 0_usize;
        for (index, member) in self.members.iter().enumerate() {
            // One that leaves too many questions open gets no more; it counts as silent.
            let Ok(permit) = Arc::clone(&member.questions).try_acquire_owned() else { continue };
            waiting += 1;
            let (member, sender) = (Arc::clone(member), sender.clone());
            let answer = question(Arc::clone(&member.chain));
            let in_time = self.patience.slower;
            tokio::spawn(async move {
                let reply = member.reply(answer, in_time).await;
                drop(permit);
                // Nobody may be waiting any more.
                let _ = sender.send((index, reply)).await;
            });
        }
        drop(sender);

        let mut deadline = Instant::now() + LONGEST;
        let mut has_good = false;
        while waiting > 0 {
            let Ok(Some((index, reply))) = timeout_at(deadline, receiver.recv()).await else { break };
            waiting -= 1;
            if reply.is_ok() && !has_good {
                has_good = true;
                if until == Until::FirstGood {
                    replies[index] = Some(reply);
                    return self.answers(replies);
                }
                deadline = deadline.min(Instant::now() + self.time_left(&replies, index));
            }
            replies[index] = Some(reply);
        }
        for (member, reply) in self.members.iter().zip(&replies) {
            if reply.is_none() {
                member.is_late.store(true, Relaxed);
                member.is_up.store(false, Relaxed);
            }
        }
        self.answers(replies)
    }

    /// What those get who have not answered yet: next to nothing if they were late before.
    fn time_left<T>(&self, replies: &[Option<T>], answering: usize) -> Duration {
        let mut open =
            self.members.iter().zip(replies).enumerate().filter(|(i, (_, r))| r.is_none() && *i != answering);
        let all_late = open.all(|(_, (member, _))| member.is_late.load(Relaxed));
        if all_late { self.patience.slower.min(LATE_PATIENCE) } else { self.patience.slower }
    }

    fn answers<T>(&self, replies: Vec<Option<Result<T, ChainError>>>) -> Answers<T> {
        let names = self.members.iter().map(|member| member.name.clone());
        Answers { replies: names.zip(replies).collect() }
    }
}

impl Member {
    /// Its answer. One that comes `in_time`, even if nobody waits for it any more, earns it the usual wait again.
    async fn reply<T>(
        &self,
        answer: impl Future<Output = Result<T, ChainError>>,
        in_time: Duration,
    ) -> Result<T, ChainError> {
        let started = Instant::now();
        let reply = match self.belongs().await {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        };
        match &reply {
            Ok(_) => self.answered.fetch_add(1, Relaxed),
            Err(_) => self.failed.fetch_add(1, Relaxed),
        };
        // What a server refuses it has answered.
        self.is_up.store(!matches!(reply, Err(ChainError::Unreachable(_) | ChainError::Malformed(_))), Relaxed);
        if started.elapsed() <= in_time {
            self.is_late.store(false, Relaxed);
        }
        reply
    }

    fn silent_since(&self) -> Option<Instant> {
        *self.silent_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long it has said nothing of transactions, the last question included.
    fn silent_for(&self, is_silent: bool) -> Duration {
        let mut since = self.silent_since.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_silent {
            *since = None;
        } else if since.is_none() {
            *since = Some(Instant::now());
        }
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Makes sure that it is of the same chain as the others.
    async fn belongs(&self) -> Result<(), ChainError> {
        let own = *self.genesis.get_or_try_init(|| self.chain.genesis_hash()).await?;
        let agreed = *self.agreed.get_or_init(|| async { own }).await;
        if own == agreed {
            return Ok(());
        }
        Err(ChainError::Disagreement(format!(
            "{} is a server of another chain than the first that answered",
            self.name
        )))
    }
}

impl<T> Answers<T> {
    /// The good ones, or the first error.
    pub(super) fn good(self) -> Result<Vec<T>, ChainError> {
        let mut good = Vec::new();
        let mut first_error = None;
        for (name, reply) in self.replies {
            match reply {
                Some(Ok(answer)) => good.push(answer),
                Some(Err(error)) => first_error = first_error.or(Some(error)),
                None => first_error = first_error.or_else(|| Some(not_answered(&name))),
            }
        }
        match (good.is_empty(), first_error) {
            (true, Some(error)) => Err(error),
            _ => Ok(good),
        }
    }

    /// Any good one.
    pub(super) fn any(self) -> Result<T, ChainError> {
        self.good()?.into_iter().next().ok_or_else(|| ChainError::Unreachable("no server is named".into()))
    }

    /// The word of a server that is of another chain.
    pub(super) fn stranger(&self) -> Option<ChainError> {
        self.replies.iter().find_map(|(_, reply)| match reply {
            Some(Err(ChainError::Disagreement(why))) => Some(ChainError::Disagreement(why.clone())),
            _ => None,
        })
    }

    /// The outcome of a send: taken if one took it; refused only if all did, for who has not answered may have it.
    pub(super) fn sent(self) -> Result<T, ChainError> {
        let mut refusal = None;
        let mut trouble = None;
        for (name, reply) in self.replies {
            match reply {
                Some(Ok(answer)) => return Ok(answer),
                // What heals by itself says nothing about the transaction.
                Some(Err(error @ ChainError::Refused(_))) if !error.is_retryable() => {
                    refusal = refusal.or(Some(error));
                }
                Some(Err(error)) => trouble = trouble.or(Some(error)),
                None => trouble = trouble.or_else(|| Some(not_answered(&name))),
            }
        }
        Err(trouble.or(refusal).unwrap_or_else(|| ChainError::Unreachable("no server is named".into())))
    }
}

fn not_answered(name: &str) -> ChainError {
    ChainError::Unreachable(format!("{name} has not answered in time"))
}

/// The longest wait for the first answer: above the time that a client gives its server.
const LONGEST: Duration = Duration::from_secs(30);

/// What a server gets that was late before, and what counts as being in time again.
const LATE_PATIENCE: Duration = Duration::from_millis(250);

/// Questions that a server may leave open.
const MAX_QUESTIONS: usize = 128;
