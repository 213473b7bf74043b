//! The thread that writes entries, many in one transaction.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Entry, store};
use crate::ledger::{Durability, Ledger, LedgerError};

/// Takes entries and writes them in their order. The thread begins with the first and ends with this.
#[derive(Debug)]
pub(crate) struct Scribe {
    ledger: Ledger,
    /// Each entry is of a request of our own, so there are no more than requests end.
    notes: Mutex<Option<Sender<Note>>>,
}

enum Note {
    Entry(Box<Entry>),
    Flush(SyncSender<()>),
}

impl Scribe {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { ledger, notes: Mutex::default() }
    }

    /// Unix seconds by this machine's clock.
    pub(crate) fn now(&self) -> i64 {
        self.ledger.clock()
    }

    /// Notes an entry; its number is given when it is written.
    pub(crate) fn note(&self, entry: Entry) {
        self.send(Note::Entry(Box::new(entry)));
    }

    /// Waits until all that was noted is written, bounded in time.
    pub(crate) fn flush(&self) {
        let (done, written) = sync_channel(1);
        self.send(Note::Flush(done));
        // A disk that takes longer than this has its own trouble, which is logged.
        let _ = written.recv_timeout(FLUSH_TIMEOUT);
    }

    fn send(&self, note: Note) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = notes.get_or_insert_with(|| {
            let (sender, receiver) = channel();
            let ledger = self.ledger.clone();
            std::thread::spawn(move || write_all(&ledger, &receiver));
            sender
        });
        // The thread ends only after this sender.
        let _ = sender.send(note);
    }
}

fn write_all(ledger: &Ledger, notes: &Receiver<Note>) {
    while let Ok(first) = notes.recv() {
        let (mut entries, mut waiting) = (Vec::new(), Vec::new());
        for note in std::iter::once(first).chain(notes.try_iter().take(BATCH)) {
            match note {
                Note::Entry(entry) => entries.push(*entry),
                Note::Flush(done) => waiting.push(done),
            }
        }
        let written = ledger.write::<_, LedgerError>(Durability::Written, |tx| {
            entries.iter().try_for_each(|entry| store::insert(tx, entry))
        });
        if let Err(error) = written {
            tracing::error!(%error, count = entries.len(), "entries of the account are lost; what was spent is not");
        }
        for done in waiting {
            let _ = done.try_send(());
        }
    }
}

/// Entries written at once.
const BATCH: usize = 512;
/// Time for what was noted to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
