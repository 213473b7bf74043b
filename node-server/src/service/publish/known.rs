//! An upload of a content whose id and size are known: only what is missing travels, and every group is proven.

use std::iter::Peekable;

use aro_proto::channel::BATCH_BYTES;
use aro_proto::merkle::{ByteRanges, Encoder, PAIR_LEN, Step};
use aro_proto::message::PublishHead;
use aro_proto::{ByteCount, ContentId, RefusalCode};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::describe::size as stored_size;
use super::super::group_size;
use super::{Durable, Ending, Upload, blocking, disk, refused, stalled, store, sweep};
use crate::content::{Intake, IntakeError, Partial, Place};
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
        let opened = blocking(move || Partial::open(&path, content, size, held)).await?;
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
            let said = send_frame_within(self.send, &head, self.session.stall_timeout()).await;
            said.map_err(|_| Ending::Gone)?;
            let batches = Batches { steps: Encoder::new(answered.clone()).peekable() };
            self.receive(Intake::new(partial, answered), batches, &mut admitted.place).await
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
    async fn receive(&mut self, intake: Intake, batches: Batches, place: &mut Place) -> Result<Partial, Ending> {
        let (start, mut writing) = (place.held(), None);
        let outcome = self.pump(intake, batches, place, &mut writing).await;
        if let Some(written) = writing
            && let Ok((_, _, Ok(bytes))) = written.await
        {
            // The agent may be gone; then this is for our own count.
            let _ = self.acknowledge(bytes).await;
            place.holds(start + self.taken);
        }
        outcome
    }

    /// Reads, bills, proves, writes and acknowledges batch by batch; one is written while the next is read.
    async fn pump(
        &mut self,
        intake: Intake,
        mut batches: Batches,
        place: &mut Place,
        writing: &mut Option<Writing>,
    ) -> Result<Partial, Ending> {
        let (start, data, patience) = (place.held(), intake.data(), self.session.stall_timeout());
        let mut buffers = vec![Vec::new(), Vec::new()];
        let mut idle = Some(intake);
        let (mut syncing, mut unsynced): (Option<JoinHandle<_>>, u64) = (None, 0);
        loop {
            let next = match batches.next() {
                Some((wire, content)) => {
                    let mut buffer = buffers.pop().unwrap_or_default();
                    buffer.clear();
                    // A batch, not a byte, is what must come in time: who drips must not keep a place.
                    let read = timeout(patience, self.read_to(&mut buffer, wire)).await;
                    if !read.map_err(|_| stalled(patience))?? {
                        return Err(refused(RefusalCode::BadRequest, "the upload ends before its content"));
                    }
                    Some((buffer, content))
                }
                None => None,
            };
            if let Some(written) = writing.take() {
                let (intake, buffer, taken) = written.await.map_err(|_| cut_off())?;
                self.acknowledge(taken.map_err(failed)?).await?;
                place.holds(start + self.taken);
                buffers.push(buffer);
                idle = Some(intake);
            }
            let Some(mut intake) = idle.take() else { return Err(cut_off()) };
            let Some((buffer, content)) = next else { return Ok(intake.into_partial()) };
            self.bill(content).await?;
            *writing = Some(tokio::task::spawn_blocking(move || {
                let taken = intake.take(&buffer);
                (intake, buffer, taken)
            }));
            // Most of the bytes are on their way to the disk before the end, which then waits for little.
            unsynced += content;
            if unsynced >= SYNC_EVERY && syncing.as_ref().is_none_or(JoinHandle::is_finished) {
                unsynced = 0;
                let data = data.clone();
                syncing = Some(tokio::task::spawn_blocking(move || data.sync_data()));
            }
        }
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

type Writing = JoinHandle<(Intake, Vec<u8>, Result<u64, IntakeError>)>;

/// Cuts an encoding into batches: bytes on the wire, and content bytes among them.
struct Batches {
    steps: Peekable<Encoder>,
}

impl Iterator for Batches {
    type Item = (usize, u64);

    // r[impl channel.batch]
    fn next(&mut self) -> Option<(usize, u64)> {
        self.steps.peek()?;
        let (mut wire, mut content) = (0, 0);
        let has_room = |content: u64, step: &Step| match step {
            Step::Parent(_) => content < BATCH_BYTES,
            Step::Leaf { len, .. } => content + u64::from(*len) <= BATCH_BYTES,
        };
        while let Some(step) = self.steps.next_if(|step| has_room(content, step)) {
            match step {
                Step::Parent(_) => wire += PAIR_LEN,
                Step::Leaf { len, .. } => {
                    wire += len as usize;
                    content += u64::from(len);
                }
            }
        }
        Some((wire, content))
    }
}

fn failed(error: IntakeError) -> Ending {
    match error {
        IntakeError::Wrong(error) => refused(RefusalCode::WrongContent, error.to_string()),
        IntakeError::Disk(error) => disk(&error),
    }
}

fn cut_off() -> Ending {
    refused(RefusalCode::Internal, "the upload was cut off inside the node")
}

fn wrong_size(stored: u64, announced: u64) -> Ending {
    refused(RefusalCode::WrongContent, format!("{announced} bytes are announced, the content has {stored}"))
}

/// Bytes after which the disk is asked to write, beside the upload.
const SYNC_EVERY: u64 = 32 << 20;
