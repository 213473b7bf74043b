//! Reserving a request's price in its channel, whose deposit the agent may have topped up since the last look at the chain.

use aro_proto::channel::StreamKey;
use aro_proto::{ByteCount, Refusal, RefusalCode, Tariff};
use tokio::time::timeout;

use crate::channels::{PaidChannel, follow};
use crate::transport::Session;

/// Reserves the price of so many content bytes. What the deposit lacks is looked for on the chain before it is refused.
pub(super) async fn reserve(
    session: &Session,
    channel: &PaidChannel,
    tariff: Tariff,
    bytes: ByteCount,
) -> Result<StreamKey, Refusal> {
    let begin = || channel.begin(tariff, bytes).map_err(|error| error.refusal());
    match begin() {
        Err(refusal) if refusal.code() == RefusalCode::DepositExhausted => {
            look_again(session, channel).await;
            begin()
        }
        begun => begun,
    }
}

/// Learns how the channel stands on chain, within the session's patience. While it is read for a deposit that the agent has
/// announced, that is waited for: another read would take from those that are left for it. If the chain does not answer, or
/// nothing may be read any more, what is known stays.
// r[impl request.deposit.looked]
pub(super) async fn look_again(session: &Session, channel: &PaidChannel) {
    let id = channel.id();
    let looked = async {
        if channel.awaits_deposit() {
            channel.deposit_comes().await;
        } else if session.may_read_chain()
            && let Err(error) = follow::look_up(&session.node, id).await
        {
            tracing::warn!(channel = %id, %error, "a channel could not be read anew");
        }
    };
    if timeout(session.exchange_timeout(), looked).await.is_err() {
        tracing::warn!(channel = %id, "the chain does not answer in time");
    }
}
