//! Whether an upload may begin: who asks, how much, and who pays.

use std::sync::Arc;

use aro_proto::{Amount, ByteCount, Charge, ContentId, Refusal, RefusalCode, Tariff};
use tokio::sync::SemaphorePermit;

use super::super::deposit;
use super::super::describe::unpayable;
use super::super::fetch::with_price;
use super::answers::Bill;
use super::{Ending, Upload, refused};
use crate::channels::PaidChannel;
use crate::content::{Place, ShelfError};

/// A place here and on the connection.
pub(super) struct Admitted<'a> {
    pub(super) place: Place,
    pub(super) _on_connection: SemaphorePermit<'a>,
}

impl<'a> Upload<'a> {
    /// Checks the publisher and the size. What costs nothing to check comes first.
    // r[impl publish.authorised]
    pub(super) fn check(&self) -> Result<(), Ending> {
        let (config, publish) = (&self.session.node.config.publish, self.request.message());
        if !config.allows(&self.request.signer()) {
            let reason = format!("this node takes no uploads from {}", self.request.signer());
            return Err(refused(RefusalCode::PublishDenied, reason));
        }
        if publish.content.is_some() && publish.size > config.max_content_bytes {
            let reason = format!("{} bytes, this node takes at most {}", publish.size, config.max_content_bytes);
            return Err(refused(RefusalCode::ContentTooLarge, reason));
        }
        Ok(())
    }

    /// The channel that pays for up to `bytes`; none if they are free.
    pub(super) async fn payer(&self, bytes: u64) -> Result<Option<Arc<PaidChannel>>, Ending> {
        let tariff = self.tariff();
        if tariff.charge(ByteCount::new(bytes)) == Charge::ZERO {
            return Ok(None);
        }
        let price = tariff.price(ByteCount::new(bytes)).unwrap_or(Amount::new(u64::MAX));
        let channel = self.session.channel().await;
        let channel = channel.map_err(|refusal| Ending::Refused(with_price(refusal, price)))?;
        if let Some(refusal) = self.session.node.freshness.refusal(std::time::Instant::now()) {
            return Err(Ending::Refused(refusal));
        }
        // r[impl request.signature.bound]
        if self.request.signer() != channel.signer() {
            return Err(refused(RefusalCode::Unauthorised, "the request is not signed by the channel's signer"));
        }
        Ok(Some(channel))
    }

    /// A place for the upload, within the bounds of connection, publisher and node.
    pub(super) fn enter(&self, content: Option<ContentId>, size: u64) -> Result<Admitted<'a>, Ending> {
        let session: &'a _ = self.session;
        let Ok(on_connection) = session.uploads.try_acquire() else {
            return Err(refused(RefusalCode::OverCapacity, "too many uploads at once on this connection"));
        };
        let entered = session.node.shelf.enter(self.request.signer(), content, size);
        let place = entered.map_err(|error| {
            let code = match error {
                ShelfError::Quota { .. } => RefusalCode::QuotaExceeded,
                ShelfError::Busy | ShelfError::TooMany => RefusalCode::OverCapacity,
            };
            refused(code, error.to_string())
        })?;
        Ok(Admitted { place, _on_connection: on_connection })
    }

    /// Holds the price of `bytes` against the request, and reserves it in the channel.
    // r[impl request.max_price]
    pub(super) async fn reserve(&mut self, bytes: u64, channel: Option<Arc<PaidChannel>>) -> Result<Amount, Ending> {
        let (bytes, tariff) = (ByteCount::new(bytes), self.tariff());
        let price = tariff.price(bytes).ok_or_else(|| Ending::Refused(unpayable()))?;
        let allowed = self.request.message().max_price;
        if price > allowed {
            let reason = format!("the price is {price} $ARO, the request allows {allowed}");
            return Err(Ending::Refused(Refusal::new(RefusalCode::PriceTooHigh, reason).with_amount(price)));
        }
        let Some(channel) = channel.filter(|_| tariff.charge(bytes) != Charge::ZERO) else { return Ok(price) };
        let stream = deposit::reserve(self.session, &channel, tariff, bytes).await;
        let stream = stream.map_err(Ending::Refused)?;
        self.answers.bill = Some(Bill { channel, stream, taken: None });
        Ok(price)
    }

    /// What this node asks for uploads.
    pub(super) fn tariff(&self) -> Tariff {
        self.session.node.config.publish.tariff
    }
}
