//! The one thread that writes. Changes that have queued up meanwhile go into one transaction and share its sync: a
//! sync costs the same for one voucher as for a thousand.

use std::sync::Arc;
use std::thread::JoinHandle;

use redb::WriteTransaction;
use tokio::sync::{mpsc, oneshot};

use super::super::StoreError;
use super::{Queue, Shelf, interrupted};

/// A handle of the writing thread; dropping it waits for what is queued.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<Queue>,
    thread: Option<JoinHandle<()>>,
}

/// A change and whoever waits for its result.
pub(super) struct Task(Box<dyn Change>);

impl Writer {
    pub(super) fn start(shelf: Arc<Shelf>) -> Result<Self, StoreError> {
        let (queue, tasks) = mpsc::channel(2 * MAX_GROUP);
        let thread = std::thread::Builder::new()
            .name("operator-store".into())
            .spawn(move || run(&shelf, tasks))
            .map_err(|error| StoreError::Database(format!("no thread for writing: {error}")))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    pub(super) async fn send(&self, task: Task) -> Result<(), StoreError> {
        let queue = self.queue.as_ref().ok_or_else(interrupted)?;
        queue.send(task).await.map_err(|_| interrupted())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        // So that the file is free when the store is gone.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Task {
    pub(super) fn new<T, F>(change: F) -> (Self, oneshot::Receiver<Result<T, StoreError>>)
    where
        T: Send + 'static,
        F: FnMut(&WriteTransaction) -> Result<T, StoreError> + Send + 'static,
    {
        let (answer, receiver) = oneshot::channel();
        (Self(Box::new(Waiting { change, value: None, answer })), receiver)
    }
}

/// What a task does, whatever it results in.
trait Change: Send {
    fn apply(&mut self, transaction: &WriteTransaction) -> Result<(), StoreError>;
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Waiting<T, F> {
    change: F,
    value: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Change for Waiting<T, F>
where
    T: Send,
    F: FnMut(&WriteTransaction) -> Result<T, StoreError> + Send,
{
    fn apply(&mut self, transaction: &WriteTransaction) -> Result<(), StoreError> {
        self.value = Some((self.change)(transaction)?);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { value, answer, .. } = *self;
        // Nobody waits any more if the caller was cut off; what is durable stays so.
        let _ = answer.send(committed.and_then(|()| value.ok_or_else(interrupted)));
    }
}

fn run(shelf: &Shelf, mut tasks: mpsc::Receiver<Task>) {
    while let Some(first) = tasks.blocking_recv() {
        let mut group = vec![first];
        while group.len() < MAX_GROUP
            && let Ok(next) = tasks.try_recv()
        {
            group.push(next);
        }
        match commit(shelf, &mut group) {
            Err(_) if group.len() > 1 => {
                // One of them may be the reason: each for itself.
                for task in group {
                    let mut alone = [task];
                    let result = commit(shelf, &mut alone);
                    let [task] = alone;
                    task.0.answer(result);
                }
            }
            result => group.into_iter().for_each(|task| task.0.answer(result.clone())),
        }
    }
}

/// All or none, in one synced transaction.
fn commit(shelf: &Shelf, group: &mut [Task]) -> Result<(), StoreError> {
    shelf.ensure_open()?;
    let result = shelf.write(|transaction| group.iter_mut().try_for_each(|task| task.0.apply(transaction)));
    if let Err(StoreError::Full(_) | StoreError::Unavailable(_)) = &result {
        // redb takes no more writes after one that the disk refused. If opening fails too, the next write tries again.
        if let Err(error) = shelf.reopen() {
            tracing::error!(%error, "the operator's database could not be opened again");
        }
    }
    result
}

/// Changes that share a sync, at most.
const MAX_GROUP: usize = 64;
