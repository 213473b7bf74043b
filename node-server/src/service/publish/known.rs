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
            Err(error) => return Err(self.break_off(admitted.place, store(error)).await),
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
        if let Err(error) = blocking(move || partial.finish(&contents, &publisher)).await? {
            return Err(self.break_off(admitted.place, store(error)).await);
        }
        admitted.place.keep(size);
        Ok(Durable { content, size })
    }

    /// Takes the encoding. If it breaks off, what is being written still counts.
    async fn receive(&mut self, intake: Intake, partial: Partial, place: &mut Place) -> Result<Partial, Ending> {
        let patience = self.session.stall_timeout();
        let (full, to_write) = mpsc::channel(BUFFERS);
        let (empty, written) = mpsc::channel(BUFFERS);
        for _ in 0..BUFFERS {
            let _ = empty.try_send(ProvenBatch::default());
        }
        let mut writing = None;
        let outcome = {
            let taking = take(to_write, empty, partial, &mut self.answers, place, &mut writing);
            tokio::pin!(taking);
            let ending = tokio::select! {
                biased;
                taken = &mut taking => Ok(taken),
                ending = read(intake, &mut self.incoming, patience, full, written) => Err(ending),
            };
            match ending {
                Ok(taken) => taken,
                // What was proven before stays.
                Err(Ending::Refused(why)) => tokio::select! {
                    biased;
                    taken = taking => taken.and(Err(Ending::Refused(why))),
                    () = self.incoming.gone() => Err(Ending::Gone),
                },
                Err(Ending::Gone) => Err(Ending::Gone),
            }
        };
        if let Some(unheard) = writing
            && let Ok((partial, batch, Ok(()))) = unheard.await
        {
            self.answers.count(batch.len());
            place.holds(partial.held());
            // The agent may be gone; then this is for our own count.
            let _ = self.answers.acknowledge().await;
        }
        outcome
    }

    /// Leaves what is proven for a resumption, unless it is nothing or the disk is full.
    // r[impl publish.partial.bounded]
    async fn break_off(&self, place: Place, ending: Ending) -> Ending {
        let is_full = matches!(&ending, Ending::Refused(why) if why.code() == RefusalCode::StorageFull);
        if is_full || place.held() == 0 {
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
    writing: &mut Option<Writing>,
) -> Result<Partial, Ending> {
    let data = partial.data();
    let (mut syncing, mut unsynced): (Option<JoinHandle<_>>, u64) = (None, 0);
    while let Some(batch) = full.recv().await {
        answers.bill(batch.len()).await?;
        let running = writing.insert(tokio::task::spawn_blocking(move || {
            let written = partial.write(&batch);
            (partial, batch, written)
        }));
        let ended = running.await;
        *writing = None;
        let (back, batch, written) = ended.map_err(|_| cut_off())?;
        written.map_err(|error| disk(&error))?;
        answers.count(batch.len());
        place.holds(back.held());
        partial = back;
        // Most of the bytes are on their way to the disk before the end, which then waits for little.
        unsynced += batch.len();
        if unsynced >= SYNC_EVERY && syncing.as_ref().is_none_or(JoinHandle::is_finished) {
            unsynced = 0;
            let data = data.clone();
            syncing = Some(tokio::task::spawn_blocking(move || data.sync_data()));
        }
        // There is room for all batches; nobody fills them any more after the last.
        let _ = empty.send(batch).await;
        answers.acknowledge().await?;
    }
    Ok(partial)
}

type Writing = JoinHandle<(Partial, ProvenBatch, io::Result<()>)>;

fn cut_off() -> Ending {
    refused(RefusalCode::Internal, "the upload was cut off inside the node")
}

fn wrong_size(stored: u64, announced: u64) -> Ending {
    refused(RefusalCode::WrongContent, format!("{announced} bytes are announced, the content has {stored}"))
}

/// Batches of an upload: one that is being read, one that is being written, and one that waits in between.
const BUFFERS: usize = 3;
/// Bytes after which the disk is asked to write, beside the upload.
const SYNC_EVERY: u64 = 32 << 20;
