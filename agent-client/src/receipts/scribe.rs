//! The thread that writes entries, many in one transaction.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aro_proto::NodeId;
use aro_proto::limits::MAX_AWAITED_RECEIPTS;
use aro_proto::message::Receipt;

use super::{Check, Entry, store};
use crate::ledger::{Durability, Ledger, LedgerError};

/// Takes entries and writes them in their order. The thread begins with the first and ends with this.
#[derive(Debug)]
pub(crate) struct Scribe {
    ledger: Ledger,
    /// Each entry is of a request of our own, so there are no more than requests end.
    notes: Mutex<Option<Sender<Note>>>,
    last_key: AtomicU64,
}

/// Names a noted entry until it has its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EntryKey(u64);

enum Note {
    Entry(EntryKey, Box<Entry>),
    Receipt(NodeId, Box<Receipt>, Vec<(EntryKey, Check)>),
    Flush(SyncSender<()>),
}

impl Scribe {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { ledger, notes: Mutex::default(), last_key: AtomicU64::new(0) }
    }

    /// Unix seconds by this machine's clock.
    pub(crate) fn now(&self) -> i64 {
        self.ledger.clock()
    }

    /// Notes an entry; its number is given when it is written.
    pub(crate) fn note(&self, entry: Entry) -> EntryKey {
        let key = self.key();
        self.send(Note::Entry(key, Box::new(entry)));
        key
    }

    /// A key for an entry that is noted by it alone.
    pub(crate) fn key(&self) -> EntryKey {
        EntryKey(self.last_key.fetch_add(1, Ordering::Relaxed))
    }

    /// Notes what a node has signed, and what that was found to be for each of the entries.
    pub(crate) fn receipt(&self, node: NodeId, receipt: Receipt, checks: Vec<(EntryKey, Check)>) {
        self.send(Note::Receipt(node, Box::new(receipt), checks));
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
    // Entries that may still get a receipt, the newest.
    let mut numbers: BTreeMap<EntryKey, i64> = BTreeMap::new();
    while let Ok(first) = notes.recv() {
        let (mut batch, mut waiting) = (Vec::new(), Vec::new());
        for note in std::iter::once(first).chain(notes.try_iter().take(BATCH)) {
            match note {
                Note::Flush(done) => waiting.push(done),
                other => batch.push(other),
            }
        }
        let written = ledger.write::<_, LedgerError>(Durability::Written, |tx| {
            for note in &batch {
                match note {
                    Note::Entry(key, entry) => {
                        numbers.insert(*key, store::insert(tx, entry)?);
                    }
                    Note::Receipt(node, receipt, checks) => {
                        let known = |(key, check): &(EntryKey, Check)| Some((numbers.remove(key)?, *check));
                        store::attach(tx, *node, receipt, &checks.iter().filter_map(known).collect::<Vec<_>>())?;
                    }
                    Note::Flush(_) => {}
                }
            }
            Ok(())
        });
        if let Err(error) = written {
            tracing::error!(%error, count = batch.len(), "entries of the account are lost; what was spent is not");
        }
        while numbers.len() > KEPT {
            numbers.pop_first();
        }
        for done in waiting {
            let _ = done.try_send(());
        }
    }
}

/// Entries that wait for a receipt: more than several connections together have.
const KEPT: usize = 16 * MAX_AWAITED_RECEIPTS;
/// Entries written at once.
const BATCH: usize = 512;
/// Time for what was noted to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
