//! An upload of a content whose id and size are known: only what is missing travels, and every group is proven.

use std::io;
use std::time::Duration;

use aro_proto::merkle::ByteRanges;
use aro_proto::message::PublishHead;
use aro_proto::{ByteCount, ContentId, RefusalCode};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::describe::size as stored_size;
use super::super::group_size;
use super::syncing::Syncing;
use super::{Answers, Durable, Ending, Incoming, Upload, blocking, disk, refused, stalled, store, sweep};
use crate::content::{Intake, Partial, Place, ProvenBatch};
use crate::transport::send_frame_within;

impl Upload<'_> {
    pub(super) async fn take_known(&mut self, content: ContentId) -> Result<Durable, Ending> {
        self.check()?;
        let size = self.request.message().size;
        let group = group_size(self.request.message().group_log2).map_err(Ending::Refused)?;
        let node = self.session.node.clone();
        if let Some(stored) = stored_size(&node, content).await.map_err(Ending::Refused)? {
            return if stored == size { Ok(Durable { content, size }) } else { Err(wrong_size(stored, size)) };
        }
        // Before a place is taken: a request that waits for its channel must not keep others out.
        let channel = self.payer(size).await?;
        let mut admitted = self.enter(Some(content), size)?;
        let (path, held) = (admitted.place.path().to_owned(), admitted.place.held_before());
        let cached_bytes = node.config.publish.page_cache_bytes;
        let opened = blocking(move || Partial::open(&path, content, size, held, cached_bytes)).await?;
        let partial = match opened {
            Ok(partial) => partial,
            Err(error) => {
                admitted.place.doubts();
                return Err(self.break_off(admitted.place, store(error)).await);
            }
        };
        admitted.place.holds(partial.held());
        let taken = async {
            if partial.is_whole() {
                return Ok(partial);
            }
            // r[impl publish.resume.missing]
            let missing = ByteRanges::single(partial.held(), u64::MAX).expect("less than all of a content is held");
            let answered = missing.answered(size, group);
            let bytes = answered.content_bytes();
            let price = self.reserve(bytes, channel).await?;
            let head = PublishHead { missing, content_bytes: ByteCount::new(bytes), price };
            let said = send_frame_within(self.answers.send, &head, self.session.stall_timeout()).await;
            said.map_err(|_| Ending::Gone)?;
            self.receive(Intake::new(content, answered), partial, &mut admitted.place).await
        };
        let partial = match taken.await {
            Ok(partial) => partial,
            Err(ending) => return Err(self.break_off(admitted.place, ending).await),
        };
        let (contents, publisher) = (node.store.folder().to_owned(), self.request.signer());
        let finished = match blocking(move || partial.finish(&contents, &publisher)).await {
            Ok(finished) => finished.map_err(store),
            Err(ending) => Err(ending),
        };
        if let Err(ending) = finished {
            // What could not be synced may look written and be lost all the same: it must come again.
            admitted.place.holds(0);
            return Err(self.break_off(admitted.place, ending).await);
        }
        admitted.place.keep(size);
        Ok(Durable { content, size })
    }

    /// Takes the encoding. If it breaks off, what is being written still counts, and a sync that runs is waited for.
    async fn receive(&mut self, intake: Intake, partial: Partial, place: &mut Place) -> Result<Partial, Ending> {
        let patience = self.session.stall_timeout();
        let (full, to_write) = mpsc::channel(BUFFERS);
        let (empty, written) = mpsc::channel(BUFFERS);
        for _ in 0..BUFFERS {
            let _ = empty.try_send(ProvenBatch::default());
        }
        let mut behind = Behind::default();
        let mut outcome = {
            let taking = take(to_write, empty, partial, &mut self.answers, place, &mut behind);
            tokio::pin!(taking);
            let ending = tokio::select! {
                biased;
                taken = &mut taking => Ok(taken),
                ending = read(intake, &mut self.incoming, patience, full, written) => Err(ending),
            };
            match ending {
                Ok(taken) => taken,
                // Whole batches that were proven before stay.
                Err(Ending::Refused(why)) => tokio::select! {
                    biased;
                    taken = taking => taken.and(Err(Ending::Refused(why))),
                    () = self.incoming.gone() => Err(Ending::Gone),
                },
                Err(Ending::Gone) => Err(Ending::Gone),
            }
        };
        if let Some(mut unheard) = behind.writing {
            match ended(&mut unheard).await {
                Ok((partial, batch)) => {
                    self.answers.count(batch.len());
                    place.holds(partial.held());
                    // It is counted, whether the agent is there to hear of it or not.
                    let _ = self.answers.acknowledge().await;
                }
                // The batch is billed and is not here.
                Err(ending) => outcome = Err(ending),
            }
        }
        if let Err(error) = behind.syncing.end().await {
            place.holds(0);
            outcome = Err(disk(&error));
        }
        outcome
    }

    /// Leaves what there is for a resumption, unless that is known to be nothing or the disk is full. What was there
    /// before a restart and could not be proven anew may still prove another time.
    // r[impl publish.partial.bounded]
    async fn break_off(&self, place: Place, ending: Ending) -> Ending {
        let is_full = matches!(&ending, Ending::Refused(why) if why.code() == RefusalCode::StorageFull);
        if is_full || place.held_before() == Some(0) {
            let _ = blocking(move || place.discard()).await;
        } else {
            drop(place);
            sweep(&self.session.node).await;
        }
        ending
    }
}

/// Reads and proves batch by batch, while there are empty ones. Ends with an upload that breaks off; where it does not, it
/// only watches whether the agent is still there.
async fn read(
    mut intake: Intake,
    incoming: &mut Incoming<'_>,
    patience: Duration,
    full: mpsc::Sender<ProvenBatch>,
    mut empty: mpsc::Receiver<ProvenBatch>,
) -> Ending {
    while !intake.is_complete() {
        let mut batch = tokio::select! {
            Some(batch) = empty.recv() => batch,
            () = incoming.gone() => return Ending::Gone,
        };
        // A batch, not a byte, is what must come in time: who drips must not keep a place.
        match timeout(patience, fill(&mut intake, incoming, &mut batch)).await {
            Ok(Ok(())) => {}
            Ok(Err(ending)) => return ending,
            Err(_) => return stalled(patience),
        }
        // There is room for all batches.
        let _ = full.send(batch).await;
    }
    drop(full);
    incoming.gone().await;
    Ending::Gone
}

async fn fill(intake: &mut Intake, incoming: &mut Incoming<'_>, batch: &mut ProvenBatch) -> Result<(), Ending> {
    intake.begin(batch);
    loop {
        let taken = intake.take(incoming.bytes(), batch);
        incoming.taken(taken.map_err(|error| refused(RefusalCode::WrongContent, error.to_string()))?);
        if batch.is_whole() {
            return Ok(());
        }
        if !incoming.more().await? {
            return Err(refused(RefusalCode::BadRequest, "the upload ends before its content"));
        }
    }
}

/// Bills, writes and acknowledges batch by batch, until no more come.
async fn take(
    mut full: mpsc::Receiver<ProvenBatch>,
    empty: mpsc::Sender<ProvenBatch>,
    mut partial: Partial,
    answers: &mut Answers<'_>,
    place: &mut Place,
    behind: &mut Behind,
) -> Result<Partial, Ending> {
    let data = partial.data();
    while let Some(batch) = full.recv().await {
        answers.bill(batch.len()).await?;
        let running = behind.writing.insert(tokio::task::spawn_blocking(move || {
            let written = partial.write(&batch);
            (partial, batch, written)
        }));
        let outcome = ended(running).await;
        behind.writing = None;
        let (back, batch) = outcome?;
        answers.count(batch.len());
        place.holds(back.held());
        partial = back;
        let data = data.clone();
        if let Err(error) = behind.syncing.wrote(batch.len(), move || data.sync_data()).await {
            place.holds(0);
            return Err(disk(&error));
        }
        // There is room for all batches; nobody fills them any more after the last.
        let _ = empty.send(batch).await;
        answers.acknowledge().await?;
    }
    Ok(partial)
}

/// What goes on at the disk while an upload is taken, and is not over when that is given up.
#[derive(Default)]
struct Behind {
    writing: Option<Writing>,
    syncing: Syncing,
}

type Writing = JoinHandle<(Partial, ProvenBatch, io::Result<()>)>;

/// Waits for a write.
async fn ended(writing: &mut Writing) -> Result<(Partial, ProvenBatch), Ending> {
    let (partial, batch, written) = writing.await.map_err(|_| cut_off())?;
    written.map_err(|error| disk(&error))?;
    Ok((partial, batch))
}

fn cut_off() -> Ending {
    refused(RefusalCode::Internal, "the upload was cut off inside the node")
}

fn wrong_size(stored: u64, announced: u64) -> Ending {
    refused(RefusalCode::WrongContent, format!("{announced} bytes are announced, the content has {stored}"))
}

/// Batches of an upload: one that is being read, one that is being written, and one that waits in between.
const BUFFERS: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_has_brought_its_batch_or_says_whose_fault_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let ends_with = |outcome: io::Result<()>| {
            let partial = Partial::open(dir.path(), ContentId::of(b"content"), 7, None, u64::MAX).unwrap();
            tokio::task::spawn_blocking(move || (partial, ProvenBatch::default(), outcome))
        };
        assert!(ended(&mut ends_with(Ok(()))).await.is_ok());
        let code = |ended: Result<(Partial, ProvenBatch), Ending>| match ended {
            Err(Ending::Refused(refusal)) => refusal.code(),
            other => panic!("{other:?}"),
        };
        let full = ended(&mut ends_with(Err(io::ErrorKind::StorageFull.into()))).await;
        assert_eq!(code(full), RefusalCode::StorageFull);
        let mut cut: Writing = tokio::task::spawn_blocking(|| panic!("on purpose"));
        assert_eq!(code(ended(&mut cut).await), RefusalCode::Internal);
    }
}
