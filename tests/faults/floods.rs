//! A node that floods bad vouchers must not cost the others their goodput.
//!
//! Measured in the operator's dearest work, signature verifications: what a good node gets of them while another
//! sends nothing but forgeries, over many connections, as fast as it can. Counted, not timed.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aro_proto::RefusalCode;
use aro_proto::limits::MAX_HANDOFF;
use aro_proto::message::HandoffVoucher;
use aro_tests::line::{Line, Reply};
use tokio::task::JoinSet;

use crate::scene::{BASE_FEE, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_node_keeps_above_95_percent_of_its_goodput_while_another_floods_bad_vouchers() {
    let mut scene = Scene::new(&[64, 8]).await;
    let operator = scene.start().await;
    let forgeries: Vec<HandoffVoucher> = (0..MAX_HANDOFF)
        .map(|index| {
            let mut forged = scene.stage.voucher(scene.channels[1][index % 8], 1_000);
            forged.signature[index % 64] ^= 1;
            forged
        })
        .collect();
    let flood = Arc::new(Flood::default());
    let mut flooders = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (flood, forgeries) = (Arc::clone(&flood), forgeries.clone());
        let (id, address, key) = (operator.id(), operator.local_addr(), scene.nodes[1].id.clone());
        let chain = scene.stage.chain_ids();
        flooders.spawn(async move {
            while !flood.is_over.load(Ordering::SeqCst) {
                // An address of its own, as a stranger would have.
                let Ok(line) = Line::dial(FLOODER, id, address, &key, chain).await else { continue };
                while let Ok(reply) = line.hand(&forgeries).await {
                    flood.count(&reply);
                }
            }
        });
    }

    let channels = scene.channels[0].clone();
    let (mut offered, mut accepted) = (0_u64, 0_u64);
    let mut amount = 0;
    while offered < LEAST_VOUCHERS || flood.handoffs.load(Ordering::SeqCst) < LEAST_HANDOFFS {
        let vouchers: Vec<_> = (0..MAX_HANDOFF)
            .map(|index| {
                amount += u64::from(index % channels.len() == 0);
                scene.stage.voucher(channels[index % channels.len()], amount)
            })
            .collect();
        offered += u64::try_from(vouchers.len()).unwrap();
        let verdicts = scene.hand(&operator, 0, &vouchers).await;
        accepted += verdicts.iter().map(|verdict| u64::from(verdict.refusal.is_none())).sum::<u64>();
    }
    flood.is_over.store(true, Ordering::SeqCst);
    flooders.shutdown().await;

    let forged = flood.verified.load(Ordering::SeqCst);
    assert!(accepted * 100 >= offered * 95, "{accepted} of {offered} good vouchers were accepted");
    assert!(forged > 0, "the flood was heard");
    assert!(
        accepted * 100 >= (accepted + forged) * 95,
        "{forged} forgeries were verified while {accepted} good vouchers were"
    );

    scene.calm(&operator).await;
    // 64 channels of one node settle in at most 8 transactions, even of 9 each.
    scene.audit(8 * BASE_FEE).await;
}

#[derive(Default)]
struct Flood {
    is_over: AtomicBool,
    /// Handoffs that were answered, with whatever word.
    handoffs: AtomicU64,
    /// Forgeries that the operator took the trouble to verify.
    verified: AtomicU64,
}

impl Flood {
    fn count(&self, reply: &Reply) {
        self.handoffs.fetch_add(1, Ordering::SeqCst);
        let Reply::Ack(ack) = reply else { return };
        let bad = ack.verdicts.iter().filter(|verdict| {
            verdict.refusal.as_ref().is_some_and(|refusal| refusal.code() == RefusalCode::VoucherBadSignature)
        });
        self.verified.fetch_add(u64::try_from(bad.count()).unwrap(), Ordering::SeqCst);
    }
}

const FLOODER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Connections of the flooder at once.
const CONNECTIONS: usize = 6;
/// Good vouchers that are handed over during the flood.
const LEAST_VOUCHERS: u64 = 8_192;
/// Handoffs full of forgeries that the operator must have answered by then.
const LEAST_HANDOFFS: u64 = 32;
