//! Errors for machines: every error says what happened in one word, who acts, what to do next, whether and when to try
//! again, the amount where it speaks of one, and what a command ends with. Each variant is here; a new one does not compile
//! until it is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use agent_client::{
    BudgetExceeded, BuildError, Cap, ChannelCap, ErrorReport, FetchError, LedgerError, Misbehaviour, MoneyError,
    NotApproved, Place, PolicyError, SourceError, WalletError,
};
use aro_proto::identity::{Beyond, DelegationError};
use aro_proto::merkle::VerifyError;
use aro_proto::wire::EncodeError;
use aro_proto::{AgentId, Amount, ByteCount, ChannelId, ContentId, NodeId, Refusal, RefusalCode, WhoActs};
use settlement_chain::keyfile::KeyfileError;
use settlement_chain::reads::ReadError;
use settlement_chain::submit::SubmitError;
use settlement_chain::{Address, ChainError, Signature};

const NODE: NodeId = NodeId::from_bytes([1; 32]);
const CHANNEL: ChannelId = ChannelId::from_bytes([2; 32]);
const CONTENT: ContentId = ContentId::from_bytes([3; 32]);
const OWNER: Address = Address::new_from_array([4; 32]);

/// What a report must say: code, who acts, exit code, amount, whether it is about something.
type Expected = (&'static str, WhoActs, u8, Option<u64>, bool);

fn units(amount: u64) -> Amount {
    Amount::new(amount)
}

fn home() -> PathBuf {
    "home".into()
}

fn broken() -> io::Error {
    io::Error::other("broken")
}

fn exceeded() -> BudgetExceeded {
    BudgetExceeded { cap: Cap::Total, needed: units(7), left: units(3), sufficient: units(9) }
}

fn not_approved() -> NotApproved {
    NotApproved { amount: units(8), threshold: units(2) }
}

fn unreachable() -> ReadError {
    ChainError::Unreachable("gone".into()).into()
}

fn refused(code: RefusalCode, amount: Option<u64>) -> FetchError {
    let refusal = Refusal::new(code, "no");
    FetchError::Refused(match amount {
        Some(amount) => refusal.with_amount(units(amount)),
        None => refusal,
    })
}

fn misbehaved(what: Misbehaviour) -> FetchError {
    FetchError::Misbehaved { node: NODE, what }
}

fn no_source<const N: usize>(errors: [FetchError; N]) -> FetchError {
    FetchError::NoSource { causes: errors.map(|error| SourceError { node: NODE, error }).into() }
}

fn fetch_errors() -> Vec<(FetchError, Expected)> {
    use FetchError as E;
    use WhoActs::{Authorise, GiveUp, Pay, RetryElsewhere, RetryHere};
    let place = || "host:1".to_owned();
    let too_long = EncodeError::TooLong("Fetch");
    let proof = VerifyError::AfterError;
    let price = Misbehaviour::Price { claimed: units(8), computed: units(7) };
    let (theirs, ours) = ("a".to_owned(), "b".to_owned());
    vec![
        (E::NotFound { content: CONTENT }, ("NotFound", RetryElsewhere, 3, None, true)),
        (E::PriceTooHigh { price: units(9), allowed: units(5) }, ("PriceTooHigh", Authorise, 4, Some(9), false)),
        (E::NoChannel { node: NODE }, ("NoChannel", Pay, 4, None, true)),
        (
            E::DepositExhausted { channel: Some(CHANNEL), missing: units(6) },
            ("DepositExhausted", Pay, 4, Some(6), true),
        ),
        (E::ChannelUnusable { channel: CHANNEL }, ("ChannelUnusable", Pay, 4, None, true)),
        (refused(RefusalCode::OverCapacity, None), ("OverCapacity", RetryHere, 6, None, false)),
        (refused(RefusalCode::Unpaid, Some(4)), ("Unpaid", Pay, 4, Some(4), false)),
        (refused(RefusalCode::Unauthorised, None), ("Unauthorised", Authorise, 5, None, false)),
        (
            E::Proof { group: None, offset: 0, proven: ByteCount::new(0), node: NODE, source: proof },
            ("Proof", RetryElsewhere, 7, None, true),
        ),
        (misbehaved(price), ("Misbehaved", RetryElsewhere, 3, Some(8), true)),
        (misbehaved(Misbehaviour::Quote), ("Misbehaved", RetryElsewhere, 3, None, true)),
        (E::WrongChain { what: "mint", theirs, ours }, ("WrongChain", GiveUp, 3, None, false)),
        (E::WrongNodeKey { node: NODE, place: place() }, ("WrongNodeKey", RetryElsewhere, 3, None, true)),
        (E::Unreachable { place: place(), why: "gone".into() }, ("Unreachable", RetryHere, 6, None, true)),
        (E::Timeout { doing: "waiting", waited_ms: 5 }, ("Timeout", RetryHere, 6, None, false)),
        (E::BudgetExceeded(exceeded()), ("BudgetExceeded", Authorise, 4, Some(7), false)),
        (E::NotApproved(not_approved()), ("NotApproved", Authorise, 4, Some(8), false)),
        (E::TooLarge { size: 2, limit: 1 }, ("TooLarge", GiveUp, 3, None, false)),
        (E::Request(too_long), ("Request", GiveUp, 2, None, false)),
        (E::Source(Arc::new(broken())), ("Source", GiveUp, 1, None, false)),
        (E::Sink(Arc::new(broken())), ("Sink", GiveUp, 1, None, false)),
        (E::Wallet(Arc::new(WalletError::Ending)), ("Ending", RetryHere, 6, None, false)),
        (E::Chain(Arc::new(unreachable())), ("Chain", RetryHere, 6, None, false)),
        (E::Chain(Arc::new(ReadError::NotSetUp(OWNER))), ("Chain", GiveUp, 3, None, false)),
        (E::Money(Arc::new(MoneyError::UnknownNode(NODE))), ("UnknownNode", GiveUp, 3, None, true)),
        (no_source([E::NotFound { content: CONTENT }]), ("NoSource", RetryElsewhere, 3, None, false)),
        (
            no_source([
                E::PriceTooHigh { price: units(9), allowed: units(5) },
                E::Timeout { doing: "waiting", waited_ms: 1 },
            ]),
            ("NoSource", RetryHere, 6, Some(9), false),
        ),
    ]
}

/// Names every variant, so that a new one is missed by nobody.
fn fetch_variant(error: &FetchError) -> usize {
    use FetchError as E;
    match error {
        E::NotFound { .. } => 0,
        E::PriceTooHigh { .. } => 1,
        E::NoChannel { .. } => 2,
        E::DepositExhausted { .. } => 3,
        E::ChannelUnusable { .. } => 4,
        E::Refused(_) => 5,
        E::Proof { .. } => 6,
        E::Misbehaved { .. } => 7,
        E::WrongChain { .. } => 8,
        E::WrongNodeKey { .. } => 9,
        E::Unreachable { .. } => 10,
        E::Timeout { .. } => 11,
        E::BudgetExceeded(_) => 12,
        E::TooLarge { .. } => 13,
        E::Request(_) => 14,
        E::Source(_) => 15,
        E::Sink(_) => 16,
        E::Wallet(_) => 17,
        E::Chain(_) => 18,
        E::Money(_) => 19,
        E::NotApproved(_) => 20,
        E::NoSource { .. } => 21,
    }
}

fn money_errors() -> Vec<(MoneyError, Expected)> {
    use MoneyError as E;
    use WhoActs::{Authorise, GiveUp, Pay, RetryHere};
    let signature = Signature::default();
    vec![
        (E::Read(unreachable()), ("Chain", RetryHere, 6, None, false)),
        (E::Submit(SubmitError::Expired { signature }), ("Transaction", RetryHere, 6, None, false)),
        (E::Submit(SubmitError::Uncertain { signature, trouble: None }), ("Transaction", RetryHere, 6, None, false)),
        (E::Submit(SubmitError::MissingSigner(OWNER)), ("Transaction", Authorise, 5, None, false)),
        (E::Wallet(WalletError::UnknownChannel(CHANNEL)), ("UnknownChannel", Authorise, 5, None, true)),
        (E::OwnerNeeded { owner: OWNER }, ("OwnerNeeded", Authorise, 5, None, false)),
        (
            E::Cap { cap: ChannelCap::Node, needed: units(5), left: units(1) },
            ("ChannelCap", Authorise, 4, Some(5), false),
        ),
        (E::UnknownSession(AgentId::from_bytes([5; 32])), ("UnknownSession", GiveUp, 3, None, false)),
        (E::Delegation(DelegationError::Scope), ("Delegation", GiveUp, 2, None, false)),
        (E::Ending, ("Ending", RetryHere, 6, None, false)),
        (E::Budget(exceeded()), ("BudgetExceeded", Pay, 4, Some(7), false)),
        (E::NotApproved(not_approved()), ("NotApproved", Authorise, 4, Some(8), false)),
        (E::ZeroAmount, ("ZeroAmount", GiveUp, 2, None, false)),
        (
            E::NotEnough { needed: units(4), there: units(1), place: Place::Available },
            ("NotEnough", Pay, 4, Some(4), false),
        ),
        (E::UnknownNode(NODE), ("UnknownNode", GiveUp, 3, None, true)),
        (E::Grace { asked_s: 1, min_s: 2, max_s: 3 }, ("Grace", GiveUp, 2, None, false)),
        (E::AlreadyOpen(CHANNEL), ("AlreadyOpen", GiveUp, 3, None, true)),
        (E::UnknownChannel(CHANNEL), ("UnknownChannel", GiveUp, 3, None, true)),
        (E::NotOurs(CHANNEL), ("UnknownChannel", GiveUp, 3, None, true)),
        (E::NotOpen(CHANNEL), ("NotOpen", GiveUp, 3, None, true)),
        (E::StillOpen(CHANNEL), ("StillOpen", GiveUp, 3, None, true)),
        (E::InGrace { channel: CHANNEL, left_s: 9 }, ("InGrace", RetryHere, 6, None, true)),
    ]
}

fn money_variant(error: &MoneyError) -> usize {
    use MoneyError as E;
    match error {
        E::Read(_) => 0,
        E::Submit(_) => 1,
        E::Wallet(_) => 2,
        E::OwnerNeeded { .. } => 3,
        E::Cap { .. } => 4,
        E::UnknownSession(_) => 5,
        E::Delegation(_) => 6,
        E::Ending => 7,
        E::Budget(_) => 8,
        E::ZeroAmount => 9,
        E::NotEnough { .. } => 10,
        E::UnknownNode(_) => 11,
        E::Grace { .. } => 12,
        E::AlreadyOpen(_) => 13,
        E::UnknownChannel(_) => 14,
        E::NotOurs(_) => 15,
        E::NotOpen(_) => 16,
        E::StillOpen(_) => 17,
        E::InGrace { .. } => 18,
        E::NotApproved(_) => 19,
    }
}

fn wallet_errors() -> Vec<(WalletError, Expected)> {
    use WalletError as E;
    use WhoActs::{Authorise, RetryHere};
    let not_a_key = KeyfileError::NotAKey { path: home() };
    let amounts = (units(5), units(6));
    let beyond = [
        (Beyond::Scope { node: NODE }, ("DelegationScope", Authorise, 5, None, true)),
        (Beyond::Cap { asked: units(9), cap: units(8) }, ("DelegationCap", Authorise, 5, Some(9), false)),
        (Beyond::Expired { expires_at: 1, now: 2 }, ("DelegationExpired", Authorise, 5, None, false)),
    ];
    let mut errors = vec![
        (E::Missing(home()), ("WalletMissing", Authorise, 5, None, false)),
        (E::Exists(home()), ("WalletExists", Authorise, 5, None, false)),
        (E::Key(not_a_key), ("KeyFile", Authorise, 5, None, false)),
        (E::Folder { path: home(), source: broken() }, ("WalletFile", Authorise, 5, None, false)),
        (E::Ledger(LedgerError::Busy { path: home() }), ("WalletInUse", RetryHere, 6, None, false)),
        (E::Ledger(LedgerError::Foreign { path: home() }), ("WalletForeign", Authorise, 5, None, false)),
        (E::Shared(Arc::new(LedgerError::Full { path: home() })), ("DiskFull", Authorise, 5, None, false)),
        (E::OtherPermit, ("OtherPermit", Authorise, 5, None, false)),
        (E::ChannelInUse(CHANNEL), ("ChannelInUse", RetryHere, 6, None, true)),
        (E::PurseInUse, ("PurseInUse", RetryHere, 6, None, false)),
        (E::Ending, ("Ending", RetryHere, 6, None, false)),
        (E::Delegation { path: home(), source: DelegationError::Malformed }, ("Delegation", Authorise, 5, None, false)),
        (E::OtherSession(home()), ("Delegation", Authorise, 5, None, false)),
        (E::OtherChain, ("Delegation", Authorise, 5, None, false)),
        (E::UnknownChannel(CHANNEL), ("UnknownChannel", Authorise, 5, None, true)),
        (
            E::NotRising { channel: CHANNEL, asked: amounts.0, signed: amounts.1 },
            ("NotRising", Authorise, 5, Some(5), true),
        ),
        (
            E::AboveDeposit { channel: CHANNEL, asked: amounts.1, deposit: amounts.0 },
            ("AboveDeposit", Authorise, 5, Some(6), true),
        ),
        (E::NotPermitted { permitted: amounts.0, rise: amounts.1 }, ("NotPermitted", Authorise, 5, Some(6), false)),
    ];
    errors.extend(beyond.map(|(beyond, expected)| (E::Beyond(beyond), expected)));
    errors
}

fn wallet_variant(error: &WalletError) -> usize {
    use WalletError as E;
    match error {
        E::Missing(_) => 0,
        E::Exists(_) => 1,
        E::Key(_) => 2,
        E::Folder { .. } => 3,
        E::Ledger(_) => 4,
        E::ChannelInUse(_) => 5,
        E::PurseInUse => 6,
        E::Ending => 7,
        E::Delegation { .. } => 8,
        E::OtherSession(_) => 9,
        E::OtherChain => 10,
        E::Beyond(_) => 11,
        E::UnknownChannel(_) => 12,
        E::NotRising { .. } => 13,
        E::AboveDeposit { .. } => 14,
        E::NotPermitted { .. } => 15,
        E::Shared(_) => 16,
        E::OtherPermit => 17,
    }
}

fn build_errors() -> Vec<(BuildError, Expected)> {
    use WhoActs::{Authorise, GiveUp, RetryHere};
    vec![
        (BuildError::Needs("wallet"), ("Internal", GiveUp, 1, None, false)),
        (BuildError::Chain(unreachable()), ("Chain", RetryHere, 6, None, false)),
        (BuildError::Policy(PolicyError::Window(1)), ("Budget", Authorise, 2, None, false)),
        (BuildError::Wallet(WalletError::OtherChain), ("Delegation", Authorise, 5, None, false)),
    ]
}

fn build_variant(error: &BuildError) -> usize {
    match error {
        BuildError::Needs(_) => 0,
        BuildError::Chain(_) => 1,
        BuildError::Wallet(_) => 2,
        BuildError::Policy(_) => 3,
    }
}

/// Holds each error's report against what it must say, and sees that every variant is in the table.
fn check<E>(errors: &[(E, Expected)], report: fn(&E) -> ErrorReport, variant: fn(&E) -> usize, variants: usize) {
    let mut seen = BTreeMap::new();
    for (error, (code, who_acts, exit_code, amount, has_subject)) in errors {
        *seen.entry(variant(error)).or_insert(0) += 1;
        let report = report(error);
        assert_eq!((report.code, report.who_acts, report.exit_code), (*code, *who_acts, *exit_code), "{report:?}");
        assert_eq!(report.amount.map(Amount::get), *amount, "{report:?}");
        assert_eq!(report.subject != agent_client::Subject::default(), *has_subject, "{report:?}");
        assert!(!report.message.is_empty() && !report.next_step.is_empty(), "{report:?}");
        let is_retryable = matches!(who_acts, WhoActs::RetryHere | WhoActs::RetryElsewhere);
        assert_eq!(report.retryable, is_retryable, "{report:?}");
        // When to try again is said exactly where trying the same again here helps.
        assert_eq!(report.retry_after_ms.is_some_and(|ms| ms > 0), *who_acts == WhoActs::RetryHere, "{report:?}");

        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        for field in ["code", "who_acts", "message", "next_step", "amount", "retryable", "retry_after_ms"] {
            assert!(json.get(field).is_some(), "{field} in {json}");
        }
        assert_eq!(json["who_acts"], who_acts.name());
        assert!(json.get("exit_code").is_none(), "the process itself says it");
    }
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), (0..variants).collect::<Vec<_>>(), "each variant is here");
}

#[test]
fn every_variant_of_every_error_answers_every_question() {
    check(&fetch_errors(), FetchError::report, fetch_variant, 22);
    check(&money_errors(), MoneyError::report, money_variant, 20);
    check(&wallet_errors(), WalletError::report, wallet_variant, 18);
    check(&build_errors(), BuildError::report, build_variant, 4);
}

#[test]
fn what_is_known_of_the_time_to_wait_is_said() {
    let in_grace = MoneyError::InGrace { channel: CHANNEL, left_s: 9 };
    assert_eq!(in_grace.retry_after_ms(), Some(9_000));
    let uncertain = SubmitError::Uncertain { signature: Signature::default(), trouble: None };
    assert!(MoneyError::Submit(uncertain).retry_after_ms().is_some_and(|ms| ms >= 10_000));
    let report = in_grace.report();
    assert_eq!(serde_json::to_value(&report).unwrap()["channel"], CHANNEL.to_string());
}
