//! One question to all servers at once, and an end to the waiting.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{OnceCell, Semaphore, mpsc},
    time::{Instant, timeout_at},
};

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
    /// True if it was too slow for the last question that waited for it.
    pub is_late: bool,
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
    patience: Duration,
    contradictions: AtomicU64,
}

struct Member {
    name: String,
    chain: Arc<dyn ChainClient>,
    /// The chain that it is of, asked for before its first answer counts.
    genesis: OnceCell<[u8; 32]>,
    /// The chain that all must be of: that of the first who said.
    agreed: Arc<OnceCell<[u8; 32]>>,
    questions: Arc<Semaphore>,
    is_late: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

/// What each server said; nothing from those that were silent.
pub(super) struct Answers<T> {
    replies: Vec<(String, Option<Result<T, ChainError>>)>,
}

impl Members {
    pub(super) fn new(members: Vec<(String, Arc<dyn ChainClient>)>, patience: Duration) -> Self {
        let agreed = Arc::new(OnceCell::new());
        let member = |(name, chain)| {
            Arc::new(Member {
                name,
                chain,
                genesis: OnceCell::new(),
                agreed: Arc::clone(&agreed),
                questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
                is_late: AtomicBool::new(false),
                answered: AtomicU64::new(0),
                failed: AtomicU64::new(0),
            })
        };
        Self { members: members.into_iter().map(member).collect(), patience, contradictions: AtomicU64::new(0) }
    }

    pub(super) fn count(&self) -> usize {
        self.members.len()
    }

    pub(super) fn contradicted(&self) {
        self.contradictions.fetch_add(1, Relaxed);
    }

    pub(super) fn health(&self) -> Vec<ServerHealth> {
        let contradictions = self.contradictions.load(Relaxed);
        let one = |member: &Arc<Member>| ServerHealth {
            name: member.name.clone(),
            answered: member.answered.load(Relaxed),
            failed: member.failed.load(Relaxed),
            is_late: member.is_late.load(Relaxed),
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
            tokio::spawn(async move {
                let reply = member.reply(answer).await;
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
            }
        }
        self.answers(replies)
    }

    /// What those get who have not answered yet: next to nothing if they were late before.
    fn time_left<T>(&self, replies: &[Option<T>], answering: usize) -> Duration {
        let mut open =
            self.members.iter().zip(replies).enumerate().filter(|(i, (_, r))| r.is_none() && *i != answering);
        let all_late = open.all(|(_, (member, _))| member.is_late.load(Relaxed));
        if all_late { self.patience.min(LATE_PATIENCE) } else { self.patience }
    }

    fn answers<T>(&self, replies: Vec<Option<Result<T, ChainError>>>) -> Answers<T> {
        let names = self.members.iter().map(|member| member.name.clone());
        Answers { replies: names.zip(replies).collect() }
    }
}

impl Member {
    async fn reply<T>(&self, answer: impl Future<Output = Result<T, ChainError>>) -> Result<T, ChainError> {
        let started = Instant::now();
        let reply = match self.belongs().await {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        };
        match &reply {
            Ok(_) => self.answered.fetch_add(1, Relaxed),
            Err(_) => self.failed.fetch_add(1, Relaxed),
        };
        if started.elapsed() <= LATE_PATIENCE {
            self.is_late.store(false, Relaxed);
        }
        reply
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

    /// Who has given no good answer, if anyone.
    pub(super) fn silent(&self) -> Option<String> {
        let silent: Vec<&str> = self
            .replies
            .iter()
            .filter(|(_, reply)| !matches!(reply, Some(Ok(_))))
            .map(|(name, _)| name.as_str())
            .collect();
        (!silent.is_empty()).then(|| silent.join(", "))
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
