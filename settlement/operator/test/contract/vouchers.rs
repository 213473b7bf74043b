//! Vouchers rise or repeat, outlive what they replace, and go only as they were read.

use aro_proto::{Amount, Refusal, RefusalCode};
use settlement_operator::vouchers::{Claim, MAX_REASON, Quarantined, StoredVoucher};

use super::{NOW, Store, accepted, all, expiring, id, offer, offer_at, stored};

// r[verify settlement.handoff.rising]
pub async fn vouchers_rise_or_repeat_and_never_fall(store: Store) {
    for cumulative in [5, 5, 8] {
        assert_eq!(offer(&store, accepted(2, cumulative, false)).await.refusal, None);
    }
    let falling = offer(&store, accepted(2, 7, false)).await;
    let refusal = falling.refusal.unwrap();
    assert_eq!((refusal.code(), refusal.amount), (RefusalCode::VoucherNotRising, Some(Amount::new(8))));
    assert_eq!(falling.watermark, Some(Amount::new(8)));
    let other_bytes = offer(&store, expiring(2, 8, NOW + 9_000_000, false)).await;
    assert_eq!(other_bytes.refusal.unwrap().code(), RefusalCode::VoucherEqualDiffers);
    assert_eq!(
        stored(&store, 2).await,
        Some(StoredVoucher { heard: NOW, ..StoredVoucher::new(&accepted(2, 8, false), NOW) })
    );
}

pub async fn a_batch_is_judged_in_order_and_reads_back_in_order(store: Store) {
    let refusal = Refusal::new(RefusalCode::ChannelUnusable, "elsewhere");
    let mut offers: Vec<_> =
        [5, 9, 7].map(|cumulative| (id(2), Ok(Claim::Rise(accepted(2, cumulative, false))))).into();
    offers.push((id(3), Err(refusal.clone())));
    offers.push((id(4), Ok(Claim::Settled)));
    offers.push((id(1), Ok(Claim::Rise(accepted(1, u64::MAX, true)))));
    let (rulings, closes) = store.commit(offers, NOW).await.unwrap();
    let refused: Vec<bool> = rulings.iter().map(|ruling| ruling.refusal.is_some()).collect();
    assert_eq!(refused, [false, false, true, true, false, false]);
    assert_eq!(rulings[3].refusal, Some(refusal));
    assert!(closes);
    let cumulative = |stored: Option<StoredVoucher>| stored.map(|stored| stored.cumulative().get());
    let read = store.get(&[id(2), id(3), id(1), id(2)]).await.unwrap();
    assert_eq!(read.into_iter().map(cumulative).collect::<Vec<_>>(), [Some(9), None, Some(u64::MAX), Some(9)]);
    assert_eq!(all(&store).await.iter().map(StoredVoucher::channel).collect::<Vec<_>>(), [id(1), id(2)]);
}

pub async fn refusals_alone_are_answered_with_the_watermark(store: Store) {
    offer(&store, accepted(2, 5, false)).await;
    let refused = |channel| (id(channel), Err(Refusal::new(RefusalCode::VoucherBadSignature, "forged")));
    let (rulings, closes) = store.commit(vec![refused(2), refused(3)], NOW).await.unwrap();
    assert_eq!((rulings[0].watermark, rulings[1].watermark, closes), (Some(Amount::new(5)), None, false));
    assert_eq!(all(&store).await.len(), 1);
}

pub async fn pages_cover_every_voucher_once(store: Store) {
    for channel in 1..=7 {
        offer(&store, accepted(channel, 5, false)).await;
    }
    let mut seen = Vec::new();
    loop {
        let page = store.page(seen.last().copied(), 3).await.unwrap();
        seen.extend(page.iter().map(StoredVoucher::channel));
        if page.len() < 3 {
            break;
        }
    }
    assert_eq!(seen, (1..=7).map(id).collect::<Vec<_>>());
}

pub async fn repeated_voucher_can_still_ask_to_close(store: Store) {
    for (close, now) in [(false, NOW), (true, NOW + 5), (false, NOW + 9)] {
        assert_eq!(offer_at(&store, accepted(2, 5, close), now).await.refusal, None);
    }
    let kept = stored(&store, 2).await.unwrap();
    assert_eq!((kept.close, kept.since, kept.heard), (true, NOW, NOW + 5), "the last told nothing new");
    offer_at(&store, accepted(2, 6, false), NOW + 11).await;
    let kept = stored(&store, 2).await.unwrap();
    assert_eq!((kept.close, kept.since, kept.heard), (true, NOW, NOW + 11), "a wish to close stays");
}

// r[verify settlement.close.said_anew]
pub async fn wish_in_doubt_counts_again_when_it_is_said_anew(store: Store) {
    for (channel, close) in [(2, true), (3, true), (4, true), (5, false)] {
        offer(&store, accepted(channel, 5, close)).await;
    }
    assert_eq!(store.doubt_wishes().await.unwrap(), 3);
    offer(&store, accepted(2, 5, true)).await;
    offer(&store, accepted(3, 5, false)).await;
    offer(&store, accepted(4, 6, false)).await;
    let wishes = async || all(&store).await.iter().map(|kept| (kept.close, kept.doubted)).collect::<Vec<_>>();
    assert_eq!(wishes().await, [(true, false), (true, true), (true, true), (false, false)]);
    let (_, closes) = store.commit(vec![(id(4), Ok(Claim::Rise(accepted(4, 7, true))))], NOW).await.unwrap();
    assert!(closes, "whoever closes is told");
    assert_eq!(wishes().await[2], (true, false), "said with a better voucher");
    assert!(stored(&store, 3).await.unwrap().is_to_close(true) && !stored(&store, 3).await.unwrap().is_to_close(false));
    assert_eq!(store.doubt_wishes().await.unwrap(), 3, "every start doubts them all");
}

// r[verify settlement.handoff.lasting]
pub async fn better_voucher_that_expires_loses_no_older_money(store: Store) {
    offer(&store, accepted(2, 5, false)).await;
    offer(&store, expiring(2, 9, NOW + 100, false)).await;
    offer(&store, expiring(2, 11, NOW + 200, false)).await;
    let kept = stored(&store, 2).await.unwrap();
    let due = |now| kept.due(now).voucher.cumulative.get();
    assert_eq!((due(NOW + 199), due(NOW + 200)), (11, 5));

    let early = offer_at(&store, accepted(2, 7, false), NOW + 199).await;
    assert_eq!(early.refusal.unwrap().code(), RefusalCode::VoucherNotRising);
    let below = offer_at(&store, accepted(2, 4, false), NOW + 200).await;
    assert_eq!(below.refusal.unwrap().amount, Some(Amount::new(5)));
    let after = offer_at(&store, accepted(2, 7, false), NOW + 200).await;
    assert_eq!((after.refusal, after.watermark), (None, Some(Amount::new(7))), "what has expired bars nothing");
    let kept = stored(&store, 2).await.unwrap();
    assert_eq!((kept.cumulative(), kept.lasting), (Amount::new(7), None));

    offer(&store, expiring(3, 9, NOW + 100, false)).await;
    assert_eq!(offer_at(&store, accepted(3, 2, false), NOW + 100).await.watermark, Some(Amount::new(2)));
}

// r[verify settlement.handoff.durable]
pub async fn known_voucher_is_acknowledged_only_while_it_is_stored(store: Store) {
    offer(&store, accepted(2, 5, false)).await;
    let known = async || store.commit(vec![(id(2), Ok(Claim::Known(Amount::new(5))))], NOW).await.unwrap().0.remove(0);
    assert_eq!(known().await.refusal, None);
    store.prune(&all(&store).await).await.unwrap();
    let gone = known().await;
    assert_eq!((gone.watermark, gone.refusal.unwrap().code()), (None, RefusalCode::OverCapacity));
    assert_eq!(all(&store).await, []);
}

pub async fn pruning_spares_what_has_changed_since_it_was_read(store: Store) {
    for channel in [2, 3, 4] {
        offer(&store, accepted(channel, 5, false)).await;
    }
    let read = all(&store).await;
    offer(&store, accepted(2, 6, false)).await;
    offer(&store, accepted(3, 5, true)).await;
    store.prune(&read).await.unwrap();
    let left: Vec<_> = all(&store).await.iter().map(|kept| (kept.channel(), kept.cumulative().get())).collect();
    assert_eq!(left, [(id(2), 6), (id(3), 5)]);
}

pub async fn quarantine_lasts_until_a_higher_voucher(store: Store) {
    offer(&store, accepted(2, 5, false)).await;
    offer(&store, accepted(3, 5, false)).await;
    let entry = |channel, cumulative| Quarantined {
        channel: id(channel),
        cumulative: Amount::new(cumulative),
        reason: "é".repeat(MAX_REASON),
        at: NOW,
    };
    store.quarantine(&entry(2, 4)).await.unwrap();
    store.quarantine(&entry(9, 4)).await.unwrap();
    assert_eq!(store.quarantined().await.unwrap(), [], "only what is stored");
    store.quarantine(&entry(2, 5)).await.unwrap();
    assert!(stored(&store, 2).await.unwrap().quarantined && !stored(&store, 3).await.unwrap().quarantined);
    let kept = store.quarantined().await.unwrap();
    assert_eq!((kept.len(), kept[0].channel, kept[0].at), (1, id(2), NOW));
    assert_eq!(kept[0].reason, "é".repeat(MAX_REASON / 2), "bounded, and cut between characters");

    offer(&store, accepted(2, 5, true)).await;
    assert_eq!(store.quarantined().await.unwrap().len(), 1, "the same again is no better");
    offer(&store, accepted(2, 6, false)).await;
    assert_eq!(store.quarantined().await.unwrap(), []);
    assert!(!stored(&store, 2).await.unwrap().quarantined);
    store.quarantine(&entry(3, 5)).await.unwrap();
    store.prune(&[stored(&store, 3).await.unwrap()]).await.unwrap();
    assert_eq!(store.quarantined().await.unwrap(), []);
}

pub async fn writers_at_once_leave_the_highest_voucher_of_each_channel(store: Store) {
    let mut writers = tokio::task::JoinSet::new();
    for round in 1..=20_u64 {
        let store = Store::clone(&store);
        writers.spawn(async move {
            // Each in another order, so that careless locks would wait for each other.
            let mut channels: Vec<u8> = (1..=8).collect();
            channels.rotate_left(usize::try_from(round % 8).unwrap());
            let offers =
                channels.iter().map(|channel| (id(*channel), Ok(Claim::Rise(accepted(*channel, round, false)))));
            let (rulings, _) = store.commit(offers.collect(), NOW).await.unwrap();
            rulings.iter().all(|ruling| match &ruling.refusal {
                None => ruling.watermark == Some(Amount::new(round)),
                Some(refusal) => refusal.code() == RefusalCode::VoucherNotRising,
            })
        });
    }
    assert!(writers.join_all().await.into_iter().all(|honest| honest));
    let best: Vec<u64> = all(&store).await.iter().map(|kept| kept.cumulative().get()).collect();
    assert_eq!(best, [20; 8]);
}
