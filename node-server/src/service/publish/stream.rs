//! An upload whose end is not known: raw bytes to the end of the stream, hashed as they come, and a trailer.

use aro_proto::channel::BATCH_BYTES;
use aro_proto::limits::MAX_CONTENT_SIZE;
use aro_proto::merkle::ByteRanges;
use aro_proto::message::{PublishHead, TRAILER_LEN, Trailer};
use aro_proto::{Amount, ByteCount, Refusal, RefusalCode, Tariff};
use tokio::time::timeout;

use super::super::deposit::look_again;
use super::{Durable, Ending, Upload, blocking, disk, refused, stalled, store};
use crate::channels::PaidChannel;
use crate::content::Spool;
use crate::transport::send_frame_within;

impl Upload<'_> {
    pub(super) async fn take_stream(&mut self) -> Result<Durable, Ending> {
        self.check()?;
        let node = self.session.node.clone();
        let asked = self.request.message().size.min(node.config.publish.max_content_bytes).min(MAX_CONTENT_SIZE);
        let channel = self.payer(asked).await?;
        // r[impl publish.stream.bound]
        let allowed = self.request.message().max_price;
        let most = asked.min(self.tariff().affordable(allowed).get());
        // Before a place is taken: a request that waits for the chain must not keep others out.
        let deposit = self.deposit_for(most, channel.as_deref()).await;
        let admitted = self.enter(None, asked)?;
        let bound = most.min(admitted.place.room()).min(self.tariff().affordable(deposit).get());
        if bound == 0 && asked > 0 {
            return Err(nothing_affordable(self.tariff(), allowed, deposit));
        }
        let price = self.reserve(bound, channel).await?;
        let path = admitted.place.path().to_owned();
        let mut spool = blocking(move || Spool::create(&path)).await?.map_err(store)?;
        let head = PublishHead { missing: ByteRanges::all(), content_bytes: ByteCount::new(bound), price };
        let said = send_frame_within(self.answers.send, &head, self.session.stall_timeout()).await;
        said.map_err(|_| Ending::Gone)?;

        let (mut buffer, patience) = (Vec::new(), self.session.stall_timeout());
        let trailer = loop {
            // A pipe may be slow, but not silent.
            let mut goes_on = true;
            while goes_on && buffer.len() < BATCH + TRAILER_LEN {
                goes_on = timeout(patience, self.incoming.more()).await.map_err(|_| stalled(patience))??;
                let bytes = self.incoming.bytes();
                let len = bytes.len().min(BATCH + TRAILER_LEN - buffer.len());
                buffer.extend_from_slice(&bytes[..len]);
                self.incoming.taken(len);
            }
            let Some((content, last)) = buffer.split_last_chunk::<TRAILER_LEN>() else {
                return Err(refused(RefusalCode::BadRequest, "the upload ends before its trailer"));
            };
            let (content, last) = (content.to_vec(), *last);
            let bytes = content.len() as u64;
            if self.answers.taken() + bytes > bound {
                let reason = format!("more than the {bound} bytes that the node takes under this request");
                let by_quota = bound == admitted.place.room() && bound < asked;
                let code = if by_quota { RefusalCode::QuotaExceeded } else { RefusalCode::ContentTooLarge };
                return Err(refused(code, reason));
            }
            if bytes > 0 {
                tokio::select! {
                    billed = self.answers.bill(bytes) => billed?,
                    () = self.incoming.gone() => return Err(Ending::Gone),
                }
                let (back, written) = blocking(move || {
                    let written = spool.take(&content);
                    (spool, written)
                })
                .await?;
                spool = back;
                written.map_err(|error| disk(&error))?;
                self.answers.count(bytes);
                self.answers.acknowledge().await?;
            }
            if !goes_on {
                break Trailer::from_bytes(&last);
            }
            buffer.clear();
            buffer.extend_from_slice(&last);
        };

        let (content, size) = spool.content();
        // r[impl publish.stream.trailer]
        if trailer != (Trailer { content, size }) {
            let reason = format!("{size} bytes of {content} came, the trailer says otherwise");
            return Err(refused(RefusalCode::WrongContent, reason));
        }
        let known = super::super::describe::size(&node, content).await.map_err(Ending::Refused)?;
        if known.is_some() {
            let _ = blocking(move || drop(spool)).await;
            return Ok(Durable { content, size });
        }
        let (contents, publisher) = (node.store.folder().to_owned(), self.request.signer());
        blocking(move || spool.finish(&contents, &publisher)).await?.map_err(store)?;
        admitted.place.keep(size);
        Ok(Durable { content, size })
    }
}

impl Upload<'_> {
    /// What the channel's deposit has left. If that does not pay for so many bytes, the chain is looked at again, for an
    /// agent asks for what its channel holds, and may have topped up since: a stream is read once, and cannot come again
    /// with more.
    async fn deposit_for(&self, bytes: u64, channel: Option<&PaidChannel>) -> Amount {
        let Some(channel) = channel else { return UNBOUNDED };
        if self.tariff().affordable(channel.deposit_left()).get() < bytes {
            look_again(self.session, channel).await;
        }
        channel.deposit_left()
    }
}

fn nothing_affordable(tariff: Tariff, allowed: Amount, deposit: Amount) -> Ending {
    let quantum = tariff.quantum().unwrap_or(UNBOUNDED);
    let refusal = if allowed <= deposit {
        Refusal::new(RefusalCode::PriceTooHigh, format!("the price is {quantum} $ARO per MiB")).with_amount(quantum)
    } else {
        let missing = quantum.saturating_sub(deposit);
        Refusal::new(RefusalCode::DepositExhausted, "the channel's deposit is used up").with_amount(missing)
    };
    Ending::Refused(refusal)
}

const UNBOUNDED: Amount = Amount::new(u64::MAX);
/// Content bytes that are billed and written at once.
const BATCH: usize = BATCH_BYTES as usize;
