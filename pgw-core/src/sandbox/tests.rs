//! The sandbox as a processor: its tokens, its ledger's rules, and each way to resolve an unknown outcome.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use tokio::time::timeout;

use super::*;
use crate::currency::Currency;
use crate::env::{Clock, Entropy};
use crate::money::Money;
use crate::payment::{Finality, OperationKind as Kind};
use crate::processor::{Confirmation, News};
use crate::scope::Scope;
use crate::text::PaymentMethod;
use crate::timestamp::Timestamp;

#[derive(Debug)]
struct ManualClock(AtomicI64);

impl ManualClock {
    fn advance(&self, by: Duration) {
        let micros = i64::try_from(by.as_micros()).expect("tests move by seconds");
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::Relaxed))
    }
}

#[derive(Debug, Default)]
struct Counting(AtomicU8);

impl Entropy for Counting {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill_with(|| self.0.fetch_add(1, Ordering::Relaxed));
    }
}

/// A sandbox, its clock, and one payment.
struct Shop {
    sandbox: Sandbox,
    clock: Arc<ManualClock>,
    env: Env,
    token: &'static str,
    payment: PaymentId,
    initial: OperationId,
}

impl Shop {
    fn new(token: &'static str, resolution: Resolution) -> Self {
        let clock = Arc::new(ManualClock(AtomicI64::new(1_768_564_800_000_000)));
        let env = Env::new(Arc::<ManualClock>::clone(&clock), Arc::new(Counting::default()));
        let sandbox = Sandbox::new(env.clone()).with_resolution(resolution);
        let (payment, initial) = (PaymentId::mint(&env), OperationId::mint(&env));
        Self { sandbox, clock, env, token, payment, initial }
    }

    fn with(token: &'static str) -> Self {
        Self::new(token, LOOKUP)
    }

    fn call(&self, kind: Kind, minor: i64) -> Instruction {
        let key = if kind.is_initial() { self.initial } else { OperationId::mint(&self.env) };
        Instruction {
            key,
            scope: Scope::default(),
            payment: self.payment,
            kind,
            amount: usd(minor),
            payment_method: PaymentMethod::parse(self.token).expect("a token"),
            finality: Finality::Open,
            reference: None,
            initial_key: self.initial,
            confirmation: Confirmation::None,
        }
    }

    async fn submit(&self, kind: Kind, minor: i64) -> Answer {
        self.sandbox.submit(&self.call(kind, minor)).await.expect("an answer")
    }

    async fn charge(&self) -> Result<Answer, ProcessorError> {
        self.sandbox.submit(&self.call(Kind::Charge, 5000)).await
    }

    async fn confirm(&self) -> Answer {
        let call =
            Instruction { confirmation: Confirmation::Confirmed, ..self.call(Kind::Charge, 5000) };
        self.sandbox.submit(&call).await.expect("an answer")
    }

    async fn look_up(&self) -> Finding {
        let query = query(self.initial, Kind::Charge);
        self.sandbox.look_up(&query).await.expect("a finding")
    }

    async fn cancel_by_key(&self, key: OperationId, kind: Kind) -> Finding {
        self.sandbox.cancel_by_key(&query(key, kind)).await.expect("a finding")
    }

    fn totals(&self) -> [i64; 3] {
        let (sandbox, payment) = (&self.sandbox, self.payment);
        [
            sandbox.authorized_minor(payment),
            sandbox.captured_minor(payment),
            sandbox.refunded_minor(payment),
        ]
    }

    /// What the due notifications say, read as a gateway reads them.
    fn news(&self) -> Vec<News> {
        let mut news = Vec::new();
        for raw in self.sandbox.drain_notifications() {
            let headers: Vec<(&str, &[u8])> =
                raw.headers.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
            for notification in self.sandbox.parse_notification(&headers, &raw.body).expect("ours")
            {
                assert_eq!(notification.payment, self.payment);
                assert_eq!(notification.scope, Scope::default());
                news.push(notification.news);
            }
        }
        news
    }
}

fn query(key: OperationId, kind: Kind) -> LookUp {
    LookUp { key, reference: None, kind }
}

fn usd(minor: i64) -> Money {
    Money::from_minor(minor, Currency::USD).expect("an amount")
}

/// An answer in a word: what became of it, and how much or why.
fn word(answer: &Answer) -> String {
    match answer {
        Answer::Succeeded { amount, .. } => format!("succeeded {}", amount.minor()),
        Answer::Failed { failure, .. } => format!("failed {}", failure.code()),
        Answer::Pending { .. } => "pending".to_owned(),
        Answer::RequiresAction { .. } => "requires_action".to_owned(),
    }
}

fn found(finding: &Finding) -> String {
    match finding {
        Finding::Found(answer) => word(answer),
        Finding::NotFound => "not found".to_owned(),
    }
}

fn told(news: &[News]) -> Vec<String> {
    let say = |news: &News| match news {
        News::Outcome(answer) => word(answer),
        News::Disputed => "disputed".to_owned(),
    };
    news.iter().map(say).collect()
}

const LAG: Duration = Duration::from_secs(1);
const LOOKUP: Resolution = Resolution::Lookup { lag: LAG };
const WINDOW: Duration = Duration::from_secs(3600);
const REPLAY: Resolution = Resolution::Replay { window: WINDOW };
/// Any deadline: time is paused, so this takes none.
const DEADLINE: Duration = Duration::from_secs(300);

#[tokio::test]
async fn plain_steps_move_what_they_say() {
    let shop = Shop::with("tok_visa");
    assert_eq!(word(&shop.submit(Kind::Authorize, 5000).await), "succeeded 5000");
    assert_eq!(shop.totals(), [5000, 0, 0]);
    assert_eq!(word(&shop.submit(Kind::Capture, 2000).await), "succeeded 2000");
    assert_eq!(word(&shop.submit(Kind::Capture, 3001).await), "failed amount_too_large");
    assert_eq!(word(&shop.submit(Kind::Cancel, 5000).await), "failed already_captured");
    assert_eq!(word(&shop.submit(Kind::Refund, 2001).await), "failed amount_too_large");
    assert_eq!(word(&shop.submit(Kind::Refund, 1500).await), "succeeded 1500");
    assert_eq!(word(&shop.submit(Kind::Refund, 501).await), "failed amount_too_large");
    assert_eq!(word(&shop.submit(Kind::Refund, 500).await), "succeeded 500");
    let last = Instruction { finality: Finality::Final, ..shop.call(Kind::Capture, 1000) };
    assert_eq!(word(&shop.sandbox.submit(&last).await.expect("an answer")), "succeeded 1000");
    assert_eq!(word(&shop.submit(Kind::Capture, 1).await), "failed authorization_released");
    assert_eq!(shop.totals(), [5000, 3000, 2000]);
    let sequences: Vec<u64> = shop.sandbox.ledger().iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, (1..=10).collect::<Vec<_>>());
    assert!(shop.news().is_empty(), "what was answered is not told again");
}

#[tokio::test]
async fn steps_out_of_turn_are_refused() {
    let shop = Shop::with("tok_visa");
    for kind in [Kind::Capture, Kind::Cancel, Kind::Refund] {
        assert_eq!(word(&shop.submit(kind, 1).await), "failed unknown_payment", "{kind:?}");
    }
    let charged = Shop::with("tok_visa");
    assert_eq!(word(&charged.charge().await.expect("an answer")), "succeeded 5000");
    assert_eq!(word(&charged.submit(Kind::Capture, 1).await), "failed not_authorized");
    assert_eq!(word(&charged.submit(Kind::Cancel, 1).await), "failed already_captured");
    let yen = Money::from_minor(1, Currency::JPY).expect("an amount");
    let refund = Instruction { amount: yen, ..charged.call(Kind::Refund, 1) };
    let answer = charged.sandbox.submit(&refund).await.expect("an answer");
    assert_eq!(word(&answer), "failed currency_mismatch");
    let held = Shop::with("tok_visa");
    held.submit(Kind::Authorize, 5000).await;
    assert_eq!(word(&held.submit(Kind::Refund, 1).await), "failed not_captured");
    assert_eq!(word(&held.submit(Kind::Cancel, 5000).await), "succeeded 5000");
    assert_eq!(word(&held.submit(Kind::Cancel, 5000).await), "failed already_canceled");
    assert_eq!(word(&held.submit(Kind::Capture, 1).await), "failed authorization_released");
    let declined = Shop::with("tok_decline_generic");
    assert_eq!(word(&declined.charge().await.expect("an answer")), "failed card_declined");
    assert_eq!(word(&declined.submit(Kind::Cancel, 1).await), "failed nothing_to_cancel");
}

#[tokio::test]
async fn declines_and_unknown_tokens_move_nothing() {
    for (token, code) in [
        ("tok_decline_insufficient_funds", "insufficient_funds"),
        ("tok_decline_stolen_card", "stolen_card"),
        ("tok_nope", "invalid_payment_method"),
        ("pm_card_visa", "invalid_payment_method"),
    ] {
        let shop = Shop::with(token);
        let answer = shop.charge().await.expect("an answer");
        assert_eq!(word(&answer), format!("failed {code}"), "{token}");
        assert_eq!(shop.totals(), [0, 0, 0]);
        assert_eq!(shop.sandbox.executions(shop.initial), 1);
    }
}

#[tokio::test]
async fn a_key_is_no_protection_unless_keys_are_remembered() {
    for resolution in [LOOKUP, Resolution::CancelByKey, Resolution::EvidenceOnly] {
        let shop = Shop::new("tok_visa", resolution);
        let first = shop.charge().await.expect("an answer");
        let second = shop.charge().await.expect("an answer");
        assert_ne!(first, second, "their references differ");
        assert_eq!(shop.sandbox.executions(shop.initial), 2);
        assert_eq!(shop.totals(), [10_000, 10_000, 0], "charged twice");
    }
}

#[tokio::test]
async fn a_remembered_key_gives_the_first_result_within_the_window() {
    let shop = Shop::new("tok_visa", REPLAY);
    let first = shop.charge().await.expect("an answer");
    shop.clock.advance(WINDOW - Duration::from_micros(1));
    assert_eq!(shop.charge().await.expect("an answer"), first);
    assert_eq!(shop.sandbox.executions(shop.initial), 1);
    shop.clock.advance(Duration::from_micros(1));
    assert_ne!(shop.charge().await.expect("an answer"), first);
    assert_eq!(shop.sandbox.executions(shop.initial), 2);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_are_replayed_or_looked_up_and_told_later() {
    for token in ["tok_reset_after_charge", "tok_5xx_after_charge", "tok_garbage_body"] {
        let shop = Shop::new(token, REPLAY);
        assert!(matches!(shop.charge().await, Err(ProcessorError::Unclear(_))), "{token}");
        assert_eq!(word(&shop.charge().await.expect("a replay")), "succeeded 5000", "{token}");
        assert_eq!(shop.sandbox.executions(shop.initial), 1, "{token}");
    }
    let shop = Shop::with("tok_timeout_after_charge");
    assert!(timeout(DEADLINE, shop.charge()).await.is_err(), "never answered");
    assert_eq!(found(&shop.look_up().await), "not found", "within the lag");
    assert!(shop.news().is_empty());
    shop.clock.advance(LAG);
    assert_eq!(found(&shop.look_up().await), "succeeded 5000");
    shop.clock.advance(Sandbox::PENDING_FOR);
    assert_eq!(told(&shop.news()), ["succeeded 5000"]);
    assert!(shop.news().is_empty(), "each once");
    assert_eq!(
        word(&shop.submit(Kind::Refund, 5000).await),
        "succeeded 5000",
        "later steps are plain"
    );
    assert_eq!(shop.totals(), [5000, 5000, 5000]);
}

#[tokio::test(start_paused = true)]
async fn lost_calls_leave_no_trace() {
    let shop = Shop::with("tok_timeout_before_charge");
    assert!(timeout(DEADLINE, shop.charge()).await.is_err(), "never answered");
    shop.clock.advance(Duration::from_secs(60));
    assert_eq!(found(&shop.look_up().await), "not found");
    assert_eq!(shop.sandbox.executions(shop.initial), 0);
    assert!(shop.news().is_empty());
    assert_eq!(word(&shop.charge().await.expect("the second arrives")), "succeeded 5000");

    let shop = Shop::with("tok_unreachable");
    for _ in 0..2 {
        assert!(matches!(shop.charge().await, Err(ProcessorError::NotSent(_))));
    }
    assert!(shop.sandbox.ledger().is_empty());

    let shop = Shop::with("tok_slow_5000");
    assert!(timeout(Duration::from_secs(4), shop.charge()).await.is_err(), "dropped on its way");
    assert!(shop.sandbox.ledger().is_empty());
    let answer = timeout(Duration::from_secs(6), shop.charge()).await.expect("in time");
    assert_eq!(word(&answer.expect("an answer")), "succeeded 5000");
}

#[tokio::test]
async fn the_customer_acts_once() {
    let shop = Shop::with("tok_requires_action");
    assert_eq!(word(&shop.charge().await.expect("an answer")), "requires_action");
    assert_eq!(shop.totals(), [0, 0, 0]);
    let first = shop.confirm().await;
    assert_eq!(word(&first), "succeeded 5000");
    assert_eq!(shop.confirm().await, first, "confirming again gives the result again");
    assert_eq!(shop.sandbox.executions(shop.initial), 1);
    assert_eq!(shop.totals(), [5000, 5000, 0]);
    assert!(shop.sandbox.complete_action(shop.initial).is_none());

    let shop = Shop::with("tok_requires_action");
    assert_eq!(word(&shop.confirm().await), "failed nothing_to_confirm");
    shop.charge().await.expect("an answer");
    let answer = shop.sandbox.complete_action(shop.initial).expect("it waited");
    assert_eq!(told(&shop.news()), ["succeeded 5000"]);
    assert_eq!(shop.confirm().await, answer);
    assert!(shop.news().is_empty());

    let shop = Shop::with("tok_requires_action");
    shop.charge().await.expect("an answer");
    assert_eq!(word(&shop.submit(Kind::Cancel, 5000).await), "succeeded 5000");
    assert_eq!(word(&shop.confirm().await), "failed canceled");
    assert_eq!(shop.totals(), [0, 0, 0]);
}

#[tokio::test]
async fn what_is_pending_is_decided_by_time() {
    for (token, outcome, charged) in [
        ("tok_pending_then_ok", "succeeded 5000", 5000),
        ("tok_pending_then_fail", "failed declined_later", 0),
    ] {
        let shop = Shop::with(token);
        assert_eq!(word(&shop.charge().await.expect("an answer")), "pending");
        shop.clock.advance(LAG);
        assert_eq!(found(&shop.look_up().await), "pending");
        assert!(shop.news().is_empty());
        shop.clock.advance(Sandbox::PENDING_FOR);
        assert_eq!(found(&shop.look_up().await), outcome);
        assert_eq!(shop.totals()[1], charged);
        assert_eq!(told(&shop.news()), [outcome]);
        assert!(shop.news().is_empty());
    }
}

#[tokio::test]
async fn a_pending_refund_holds_its_amount_until_it_fails() {
    let shop = Shop::with("tok_refund_pending_then_fail");
    assert_eq!(word(&shop.charge().await.expect("an answer")), "succeeded 5000");
    assert_eq!(word(&shop.submit(Kind::Refund, 3000).await), "pending");
    assert_eq!(word(&shop.submit(Kind::Refund, 2001).await), "failed amount_too_large");
    assert_eq!(shop.totals(), [5000, 5000, 0]);
    shop.clock.advance(Sandbox::PENDING_FOR);
    assert_eq!(told(&shop.news()), ["failed declined_later"]);
    assert_eq!(word(&shop.submit(Kind::Refund, 2001).await), "pending");
    assert_eq!(shop.totals(), [5000, 5000, 0]);
}

#[tokio::test]
async fn a_pending_cancel_loses_against_the_customer() {
    let faults = Arc::new(Scripted::default());
    let shop = Shop::with("tok_requires_action").with_faults(&faults);
    shop.charge().await.expect("an answer");
    let cancel = shop.call(Kind::Cancel, 5000);
    faults.set(cancel.key, Fault::PendingThenOk);
    assert_eq!(word(&shop.sandbox.submit(&cancel).await.expect("an answer")), "pending");
    assert!(shop.sandbox.complete_action(shop.initial).is_some());
    shop.clock.advance(Sandbox::PENDING_FOR);
    assert_eq!(told(&shop.news()), ["succeeded 5000", "failed already_captured"]);
    assert_eq!(shop.totals(), [5000, 5000, 0]);
}

#[tokio::test]
async fn another_amount_is_what_the_ledger_holds() {
    for (asked, moved) in [(5000, 4999), (2, 1), (1, 2)] {
        let shop = Shop::with("tok_amount_mismatch");
        let answer = shop.submit(Kind::Charge, asked).await;
        assert_eq!(word(&answer), format!("succeeded {moved}"));
        assert_eq!(shop.totals()[1], moved);
    }
}

#[tokio::test]
async fn a_dispute_is_told_once_paid() {
    let shop = Shop::with("tok_dispute");
    shop.submit(Kind::Authorize, 5000).await;
    shop.clock.advance(Sandbox::PENDING_FOR);
    assert!(shop.news().is_empty(), "nothing was paid");
    shop.submit(Kind::Capture, 2000).await;
    shop.submit(Kind::Capture, 2000).await;
    assert!(shop.news().is_empty(), "not yet");
    shop.clock.advance(Sandbox::PENDING_FOR);
    assert_eq!(told(&shop.news()), ["disputed"]);
    shop.clock.advance(WINDOW);
    assert!(shop.news().is_empty());
}

#[tokio::test]
async fn cancel_by_key_undoes_what_it_can() {
    let shop = Shop::new("tok_visa", Resolution::CancelByKey);
    shop.charge().await.expect("an answer");
    let undone = shop.cancel_by_key(shop.initial, Kind::Charge).await;
    assert_eq!(found(&undone), "failed canceled_by_key");
    assert_eq!(shop.totals(), [0, 0, 0]);
    assert_eq!(word(&shop.charge().await.expect("an answer")), "failed canceled_by_key");
    assert_eq!(shop.sandbox.executions(shop.initial), 1);

    let shop = Shop::new("tok_visa", Resolution::CancelByKey);
    assert_eq!(found(&shop.cancel_by_key(shop.initial, Kind::Charge).await), "not found");
    assert_eq!(word(&shop.charge().await.expect("an answer")), "failed canceled_by_key");
    assert_eq!(found(&shop.cancel_by_key(shop.initial, Kind::Charge).await), "not found");
    assert_eq!(shop.sandbox.executions(shop.initial), 0);

    let shop = Shop::new("tok_visa", Resolution::CancelByKey);
    shop.charge().await.expect("an answer");
    let refund = shop.call(Kind::Refund, 1000);
    shop.sandbox.submit(&refund).await.expect("an answer");
    let refunded = shop.cancel_by_key(refund.key, Kind::Refund).await;
    assert_eq!(found(&refunded), "succeeded 1000", "money given back does not return");
    let charged = shop.cancel_by_key(shop.initial, Kind::Charge).await;
    assert_eq!(found(&charged), "succeeded 5000", "it was refunded from");
    assert_eq!(shop.totals(), [5000, 5000, 1000]);
}

#[tokio::test]
async fn captures_are_undone_as_far_as_refunds_allow() {
    let shop = Shop::new("tok_visa", Resolution::CancelByKey);
    shop.submit(Kind::Authorize, 5000).await;
    let [first, second] = [shop.call(Kind::Capture, 3000), shop.call(Kind::Capture, 2000)];
    for capture in [&first, &second] {
        shop.sandbox.submit(capture).await.expect("an answer");
    }
    shop.submit(Kind::Refund, 2500).await;
    let undone = shop.cancel_by_key(first.key, Kind::Capture).await;
    assert_eq!(found(&undone), "succeeded 3000", "2000 would be left for 2500");
    let undone = shop.cancel_by_key(second.key, Kind::Capture).await;
    assert_eq!(found(&undone), "failed canceled_by_key");
    assert_eq!(shop.totals(), [5000, 3000, 2500]);
}

#[tokio::test(start_paused = true)]
async fn what_was_undone_while_pending_stays_undone() {
    let shop = Shop::new("tok_pending_then_ok", Resolution::CancelByKey);
    shop.charge().await.expect("an answer");
    let undone = shop.cancel_by_key(shop.initial, Kind::Charge).await;
    assert_eq!(found(&undone), "failed canceled_by_key");
    shop.clock.advance(Sandbox::PENDING_FOR);
    assert_eq!(told(&shop.news()), ["failed canceled_by_key"]);
    assert_eq!(shop.totals(), [0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn evidence_only_means_that_asking_is_of_no_use() {
    let shop = Shop::new("tok_timeout_after_charge", Resolution::EvidenceOnly);
    assert!(timeout(DEADLINE, shop.charge()).await.is_err());
    shop.clock.advance(WINDOW);
    let query = query(shop.initial, Kind::Charge);
    let asked = shop.sandbox.look_up(&query).await;
    assert!(matches!(asked, Err(ProcessorError::Unclear(_))));
    let canceled = shop.sandbox.cancel_by_key(&query).await;
    assert!(matches!(canceled, Err(ProcessorError::Unclear(_))));
    assert_eq!(told(&shop.news()), ["succeeded 5000"]);
    assert_eq!(shop.sandbox.capabilities().resolution, Resolution::EvidenceOnly);
}

/// Faults by key, and one for every question.
#[derive(Debug, Default)]
struct Scripted {
    calls: Mutex<BTreeMap<OperationId, Fault>>,
    questions: Mutex<Fault>,
}

impl Scripted {
    fn set(&self, key: OperationId, fault: Fault) {
        self.calls.lock().expect("not poisoned").insert(key, fault);
    }
}

impl SandboxFaults for Scripted {
    fn on_submit(&self, instruction: &Instruction) -> Fault {
        let calls = self.calls.lock().expect("not poisoned");
        calls.get(&instruction.key).copied().unwrap_or_default()
    }

    fn on_query(&self, _: &LookUp) -> Fault {
        *self.questions.lock().expect("not poisoned")
    }
}

impl Shop {
    fn with_faults(mut self, faults: &Arc<Scripted>) -> Self {
        self.sandbox = self.sandbox.with_faults(Arc::<Scripted>::clone(faults));
        self
    }
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_hook_combine_with_those_of_the_token() {
    let faults = Arc::new(Scripted::default());
    let shop = Shop::new("tok_decline_fraud", LOOKUP).with_faults(&faults);
    faults.set(shop.initial, Fault::ResetAfter);
    assert!(matches!(shop.charge().await, Err(ProcessorError::Unclear(_))));
    assert_eq!(shop.sandbox.executions(shop.initial), 1);
    shop.clock.advance(Sandbox::PENDING_FOR);
    assert_eq!(told(&shop.news()), ["failed fraud_suspected"]);

    let shop = Shop::new("tok_timeout_after_charge", LOOKUP).with_faults(&faults);
    faults.set(shop.initial, Fault::PendingThenOk);
    assert!(timeout(DEADLINE, shop.charge()).await.is_err());
    shop.clock.advance(LAG);
    assert_eq!(found(&shop.look_up().await), "pending");

    // Every shop mints the same ids.
    let faults = Arc::new(Scripted::default());
    let shop = Shop::new("tok_visa", LOOKUP).with_faults(&faults);
    shop.submit(Kind::Authorize, 5000).await;
    let capture = shop.call(Kind::Capture, 5000);
    faults.set(capture.key, Fault::RequiresAction);
    let answer = shop.sandbox.submit(&capture).await.expect("an answer");
    assert_eq!(word(&answer), "succeeded 5000", "only a payment can ask the customer to act");
}

#[tokio::test(start_paused = true)]
async fn questions_have_faults_of_their_own() {
    let faults = Arc::new(Scripted::default());
    let shop = Shop::with("tok_visa").with_faults(&faults);
    shop.charge().await.expect("an answer");
    shop.clock.advance(LAG);
    let query = query(shop.initial, Kind::Charge);
    let ask = async |fault| {
        *faults.questions.lock().expect("not poisoned") = fault;
        timeout(DEADLINE, shop.sandbox.look_up(&query)).await
    };
    assert!(matches!(ask(Fault::NotSent).await, Ok(Err(ProcessorError::NotSent(_)))));
    assert!(matches!(ask(Fault::Garbage).await, Ok(Err(ProcessorError::Unclear(_)))));
    assert!(ask(Fault::TimeoutBefore).await.is_err());
    assert!(ask(Fault::TimeoutAfter).await.is_err());
    let slow = ask(Fault::Slow(Duration::from_secs(9))).await.expect("in time").expect("a finding");
    assert_eq!(found(&slow), "succeeded 5000");
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_on_its_way_was_not_executed() {
    let shop = Shop::with("tok_visa");
    let slow = shop.sandbox.clone().with_latency(Duration::from_secs(2));
    let call = shop.call(Kind::Charge, 5000);
    assert!(timeout(Duration::from_secs(1), slow.submit(&call)).await.is_err());
    assert_eq!(shop.sandbox.executions(shop.initial), 0);
    let answer = timeout(Duration::from_secs(3), slow.submit(&call)).await.expect("in time");
    assert_eq!(word(&answer.expect("an answer")), "succeeded 5000");
    assert_eq!(shop.sandbox.executions(shop.initial), 1, "clones share the ledger");
}

#[tokio::test]
async fn notifications_are_signed() {
    let shop = Shop::with("tok_dispute");
    shop.charge().await.expect("an answer");
    shop.clock.advance(Sandbox::PENDING_FOR);
    let raw = shop.sandbox.drain_notifications().pop().expect("the dispute");
    let headers: Vec<(&str, &[u8])> =
        raw.headers.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
    let parsed = shop.sandbox.parse_notification(&headers, &raw.body).expect("ours");
    assert_eq!(parsed.len(), 1);
    assert_eq!(parsed[0].key, shop.initial);
    let mut forged = raw.body.to_vec();
    forged[20] ^= 1;
    let refused = Err(NotificationError::NotAuthentic);
    assert_eq!(shop.sandbox.parse_notification(&headers, &forged), refused);
    assert_eq!(shop.sandbox.parse_notification(&[], &raw.body), refused);
    let other = shop.sandbox.clone().with_secret(Secret::new("another"));
    assert_eq!(other.parse_notification(&headers, &raw.body), refused);
    assert!(!format!("{:?}", shop.sandbox).contains("secret"));
}

#[tokio::test]
async fn the_same_calls_give_the_same_ledger() {
    let mut ledgers = Vec::new();
    for _ in 0..2 {
        let shop = Shop::with("tok_pending_then_ok");
        shop.charge().await.expect("an answer");
        shop.clock.advance(Sandbox::PENDING_FOR);
        shop.submit(Kind::Refund, 100).await;
        ledgers.push((shop.sandbox.ledger(), format!("{:?}", shop.sandbox.drain_notifications())));
    }
    assert_eq!(ledgers[0], ledgers[1]);
}
