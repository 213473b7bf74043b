//! What could break: figures that do not say what was done, so that nobody is woken, or for nothing.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

mod fixture;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use aro_proto::Amount;
use fixture::{NOW, World};
use settlement_operator::doctor::{ChainSubject, Level, examine_chain, worst};
use settlement_operator::{Operator, OperatorConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    page
}

fn figure(page: &str, series: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} is not in\n{page}")).parse().unwrap()
}

#[tokio::test]
async fn scraped_figures_are_what_was_done() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let config = OperatorConfig {
        metrics_listen: Some((Ipv4Addr::LOCALHOST, 0).into()),
        withdraw_fees_above: Some(Amount::new(1)),
        ..world.config(dir.path())
    };
    let (key, authority) = (world.operator_key.clone(), world.authority.insecure_clone());
    let operator = Operator::start(config, key, authority, Arc::new(world.chain.clone())).await.unwrap();
    let address = operator.metrics_addr().unwrap();
    let figures = |series: &'static [(&'static str, u64)]| async move {
        let page = scrape(address).await;
        for (name, expected) in series {
            assert_eq!(figure(&page, name), *expected, "{name}");
        }
        page
    };
    figures(&[
        ("aro_settle_vouchers_accepted_total", 0),
        ("aro_settle_rounds_total{lane=\"urgent\",outcome=\"failed\"}", 0),
    ])
    .await;

    let client = world.client(&operator).await;
    let [rich, poor, closing, asked] = world.open(4, 1_000_000).await[..] else { panic!("four channels") };
    let mut vouchers = vec![world.voucher(rich, 5_000), world.voucher(poor, 7), world.voucher(closing, 30)];
    vouchers.push(world.closing(asked, 2_000));
    vouchers.push(world.voucher(rich, 1_000_001));
    client.hand(&vouchers).await.ack();
    world.request_close(closing).await;
    let report = operator.settle_once().await.unwrap();
    assert_eq!((report.settled.len(), report.closed.len(), report.reclaimed.len()), (2, 1, 1), "{report:?}");

    let page = figures(&[
        ("aro_settle_connections", 1),
        ("aro_settle_vouchers_accepted_total", 4),
        ("aro_settle_vouchers_refused_total{reason=\"VoucherAboveDeposit\"}", 1),
        ("aro_settle_stored_vouchers", 4),
        ("aro_settle_unsettled_base_units", 7),
        ("aro_settle_closing_channels", 1),
        ("aro_settle_closing_base_units", 0),
        ("aro_settle_due_total{reason=\"worth\"}", 1),
        ("aro_settle_due_total{reason=\"closing\"}", 1),
        ("aro_settle_due_total{reason=\"asked\"}", 1),
        ("aro_settle_transactions_total{kind=\"settle\",outcome=\"landed\"}", 1),
        ("aro_settle_transactions_total{kind=\"close\",outcome=\"landed\"}", 1),
        ("aro_settle_transactions_total{kind=\"reclaim\",outcome=\"landed\"}", 1),
        ("aro_settle_fees_lamports_total{part=\"base\"}", 15_000),
        ("aro_settle_credited_base_units_total", 7_030),
        ("aro_settle_earned_base_units", 0),
        ("aro_settle_lease_held", 1),
        ("aro_settle_quarantined_entries", 0),
        ("aro_settle_rpc_errors_total{server=\"0\"}", 0),
    ])
    .await;
    assert!(figure(&page, "aro_settle_authority_lamports") > 0);
    assert!(figure(&page, "aro_settle_rpc_calls_total{server=\"0\"}") > 10);
    let withdrawn = report.withdrawn.expect("above the threshold");
    assert_eq!(withdrawn.amount, 75 + 30, "150 basis points of 5,000 and 2,000, and nothing of 30");
    assert_eq!(world.operator_fees().await, 0);
    operator.shutdown().await;
}

#[tokio::test]
async fn doctor_finds_all_well_and_then_what_is_at_risk() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let operator = world.start(dir.path()).await;
    let subject = ChainSubject {
        program: world.program,
        authority: settlement_chain::Signer::pubkey(&world.authority),
        now: NOW,
        lamports_per_day: None,
    };
    let chain: &dyn settlement_chain::ChainClient = &world.chain;
    let servers = [("this".to_owned(), chain)];
    let findings = examine_chain(&servers, &subject).await;
    let not_ok: Vec<_> = findings.iter().filter(|finding| finding.level != Level::Ok).collect();
    assert!(not_ok.is_empty(), "{not_ok:?}");
    let (findings, _) = operator.examine().await;
    assert_eq!(worst(&findings), Level::Ok, "{findings:?}");

    let channel = world.open(1, 1_000_000).await[0];
    world.client(&operator).await.hand(&[world.voucher(channel, 500_000)]).await.ack();
    world.request_close(channel).await;
    let (findings, _) = operator.examine().await;
    let closing = findings.iter().find(|finding| finding.check == "closing").unwrap();
    assert_eq!(closing.level, Level::Fail);
    assert!(closing.message.contains("0.5 $ARO") && closing.message.contains("900 s"), "{}", closing.message);
    assert_eq!(operator.settle_once().await.unwrap().settled.len(), 1);
    assert_eq!(worst(&operator.examine().await.0), Level::Ok);

    let stranger = ChainSubject { authority: settlement_chain::Address::new_from_array([9; 32]), ..subject };
    let later = ChainSubject { now: NOW + 61, ..stranger };
    let findings = examine_chain(&servers, &later).await;
    let level = |check: &str| findings.iter().find(|finding| finding.check == check).unwrap().level;
    assert_eq!(["operator account", "purse"].map(level), [Level::Fail, Level::Fail]);
    assert_eq!(["nodes", "clock"].map(level), [Level::Warn, Level::Warn]);
}
