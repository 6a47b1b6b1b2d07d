//! The audit log: every verb that changes something leaves a row that says what, the rows are sealed, and the seals verify.

use std::time::Duration;

use pgw_core::access::{
    AuditAction, AuditField, AuditObject, AuditRow, AuditSeal, Pepper, Role, SealKey,
};
use pgw_core::changes::{Changes, Write};
use pgw_core::gateway::{AuditFault, Gateway, NewApiKey, Run, SealFault};
use pgw_core::id::AuditId;
use pgw_core::page::{PageFrom, PageRequest};
use pgw_core::payment::plan::{NewCapture, NewRefund, RequestedAmount};
use pgw_core::scope::{MerchantId, Scope};
use pgw_core::storage::{AuditFilter, DeliveryFilter, Storage};
use pgw_core::testing::sample::Samples;
use pgw_core::testing::transport::Reply;
use pgw_core::text::{Description, Reason};
use pgw_core::webhook::plan::EndpointUpdate;
use pgw_core::webhook::{EndpointStatus, EndpointUrl};

use crate::world::{DAY, World, pass};

/// Every row, oldest first.
async fn rows(storage: &dyn Storage) -> Vec<AuditRow> {
    let (merchant, filter) = (MerchantId::default(), AuditFilter::default());
    let (mut rows, mut request) = (Vec::new(), PageRequest::first(PageRequest::LIMIT_MAX));
    loop {
        let page = storage.audit(&merchant, &filter, request).await.unwrap();
        rows.extend(page.data);
        match page.next_cursor {
            Some(cursor) => request = request.with_from(PageFrom::After(cursor)),
            None => break,
        }
    }
    rows.reverse();
    rows
}

/// The changes of the last row of an action, as `field: old > new`.
fn said(rows: &[AuditRow], action: AuditAction) -> Vec<String> {
    let row = rows.iter().rev().find(|row| row.action == action);
    let row = row.unwrap_or_else(|| panic!("{action:?} left no row"));
    let text = |value: Option<&str>| value.unwrap_or("-").to_owned();
    row.changes
        .iter()
        .filter(|change| change.field() != AuditField::Operation)
        .map(|it| format!("{}: {} > {}", it.field().as_str(), text(it.before()), text(it.after())))
        .collect()
}

async fn move_payments(world: &World) {
    let worker = world.unhurried_worker();
    let host = world.verbs();
    let held = world.authorize("tok_visa").await;
    let part = RequestedAmount::Decimal("20".into());
    let capture = NewCapture { amount: part.clone(), ..NewCapture::default() };
    let captured = host.capture_payment(held, capture).await.unwrap().operation;
    world.settled(held, Some(captured)).await;
    let refund = NewRefund { amount: RequestedAmount::Decimal("5".into()), ..NewRefund::default() };
    let refunded = host.refund_payment(held, refund).await.unwrap().operation;
    world.settled(held, Some(refunded)).await;
    let acting = world.create("tok_requires_action").await.payment().id;
    world.settled(acting, None).await;
    host.confirm_payment(acting).await.unwrap();
    worker.shutdown().await;
    let dropped = world.create("tok_visa").await.payment().id;
    host.cancel_payment(dropped, None).await.unwrap();
    world.create("tok_visa").await;
}

async fn tend_endpoints(world: &World) {
    let host = world.verbs();
    let id = world.endpoint().await.id;
    let update = EndpointUpdate {
        url: Some(EndpointUrl::parse("https://hooks.example/secret-token").unwrap()),
        description: Some(Description::parse("ada@example.com").ok()),
        filters: Some(vec!["payment.*".parse().unwrap()]),
        timeout: Some(Some(Duration::from_secs(5))),
        status: Some(EndpointStatus::Disabled { reason: Reason::parse("Ada said so").unwrap() }),
        ..EndpointUpdate::default()
    };
    host.update_endpoint(id, update).await.unwrap();
    // Rows of one instant are in no order.
    pass(Duration::from_secs(1)).await;
    let enable =
        EndpointUpdate { status: Some(EndpointStatus::Enabled), ..EndpointUpdate::default() };
    host.update_endpoint(id, enable).await.unwrap();
    host.rotate_secret(id, DAY).await.unwrap();
    host.test_endpoint(id).await.unwrap();
    pass(DAY * 5).await;
    let failed = host.deliveries(&DeliveryFilter::default(), PageRequest::default()).await.unwrap();
    let delivery = failed.data.iter().find(|it| it.attempts > 0).unwrap().id;
    host.retry_delivery(delivery).await.unwrap();
    host.delete_endpoint(id).await.unwrap();
}

async fn tend_keys(world: &World) {
    let new = NewApiKey {
        role: Role::Finance,
        name: Description::parse("books").unwrap(),
        expires_in: None,
    };
    let (key, _) = world.verbs().create_api_key(new).await.unwrap();
    world.verbs().revoke_api_key(key.id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_verb_that_changes_something_says_what() {
    let world = World::answering(|_| Reply::Status(500));
    move_payments(&world).await;
    let _worker = world.unhurried_worker();
    tend_endpoints(&world).await;
    tend_keys(&world).await;
    let rows = rows(&world.storage).await;
    for (action, expected) in [
        (AuditAction::PaymentCreate, vec![]),
        (
            AuditAction::PaymentCapture,
            vec!["operation_status: - > queued", "amount_minor: - > 2000"],
        ),
        (AuditAction::PaymentRefund, vec!["operation_status: - > queued", "amount_minor: - > 500"]),
        (
            AuditAction::PaymentConfirm,
            vec![
                "status: requires_action > processing",
                "operation_status: requires_action > queued",
            ],
        ),
        (
            AuditAction::PaymentCancel,
            vec![
                "status: pending > canceled",
                "operation_status: - > succeeded",
                "amount_minor: - > 4999",
            ],
        ),
        (AuditAction::EndpointCreate, vec![]),
        (AuditAction::EndpointRotateSecret, vec!["secret_generation: 1 > 2"]),
        (AuditAction::EndpointTest, vec![]),
        (AuditAction::EndpointDelete, vec!["status: enabled > deleted"]),
        (AuditAction::KeyCreate, vec![]),
    ] {
        assert_eq!(said(&rows, action), expected, "{action:?}");
    }
    let revoked = said(&rows, AuditAction::KeyRevoke);
    assert!(revoked.len() == 1 && revoked[0].starts_with("revoked_at: - > 20"), "{revoked:?}");
    let retried = said(&rows, AuditAction::DeliveryRetry);
    assert!(retried.iter().any(|line| line.starts_with("attempts: ")), "{retried:?}");
    let updated: Vec<_> =
        rows.iter().filter(|it| it.action == AuditAction::EndpointUpdate).collect();
    let fields: Vec<_> = updated[0].changes.iter().map(|it| it.field().as_str()).collect();
    assert_eq!(fields, ["status", "url", "description", "event_types", "timeout_ms"]);
    let refunds = rows.iter().filter(|row| {
        row.changes
            .iter()
            .any(|it| it.field() == AuditField::RefundedMinor && it.after() == Some("500"))
    });
    assert_eq!(refunds.count(), 1, "the refund's outcome says what it made of the payment");
    // Nothing of a person and nothing secret is in a row.
    let shown = format!("{rows:?}");
    for canary in ["ada@example.com", "Ada said so", "secret-token", "hooks.example", "whsec"] {
        assert!(!shown.contains(canary), "{canary}");
    }
}

/// An action that is added must be thought of: who does it, and which test sees its row.
#[test]
fn every_action_has_a_test_that_sees_its_row() {
    for action in AuditAction::ALL {
        let test = match action {
            AuditAction::PaymentCreate
            | AuditAction::PaymentCapture
            | AuditAction::PaymentCancel
            | AuditAction::PaymentRefund
            | AuditAction::PaymentConfirm
            | AuditAction::EndpointCreate
            | AuditAction::EndpointUpdate
            | AuditAction::EndpointRotateSecret
            | AuditAction::EndpointTest
            | AuditAction::EndpointDelete
            | AuditAction::DeliveryRetry
            | AuditAction::KeyCreate
            | AuditAction::KeyRevoke => "every_verb_that_changes_something_says_what",
            AuditAction::PaymentExpire
            | AuditAction::OperationDispatch
            | AuditAction::OperationMove
            | AuditAction::PaymentResolve => "the simulation: every move is audited",
            AuditAction::EndpointReseal => "what_is_sealed_anew_says_with_which_key",
            AuditAction::EndpointDisable => "the simulation: what ended is audited and told",
            AuditAction::NetworkDeny | AuditAction::NetworkAllow => {
                "a_denied_network_is_shut_out_at_once_until_it_is_let_in_again"
            }
            AuditAction::GatewayFreeze | AuditAction::GatewayUnfreeze => {
                "a_frozen_gateway_reads_and_changes_nothing_for_callers"
            }
            AuditAction::CustomerExport => "an_export_holds_everything_and_nothing_of_others",
            AuditAction::CustomerErase
            | AuditAction::ConsentGive
            | AuditAction::ConsentWithdraw => "consents_are_a_history_that_an_erasure_takes_over",
            AuditAction::AccessRefuse => "every_refusal_is_in_the_log, of pgw-http",
            _ => panic!("{action:?} has no test that sees its row"),
        };
        assert!(!test.is_empty());
    }
}

/// A gateway whose log is sealed.
fn sealing() -> World {
    World::sealing(Pepper::new(pgw_core::secret::Secret::new("p".repeat(32))).unwrap())
}

fn key() -> SealKey {
    SealKey::of(&Pepper::new(pgw_core::secret::Secret::new("p".repeat(32))).unwrap())
}

async fn seals(storage: &dyn Storage) -> Vec<AuditSeal> {
    storage.audit_seals(&MerchantId::default(), 0, 1_000).await.unwrap()
}

async fn write(gateway: &Gateway, rows: impl IntoIterator<Item = AuditRow>) {
    for row in rows {
        let changes = Changes::new(row.scope.clone()).write(Write::Audit(Box::new(row)));
        gateway.storage().commit(changes).await.unwrap();
    }
}

/// A row of this moment.
fn row(world: &World, samples: &Samples) -> AuditRow {
    let object = AuditObject::Key(samples.api_key().id);
    let id = AuditId::mint(world.gateway.env());
    let at = world.gateway.env().now();
    AuditRow { id, at, scope: Scope::default(), ..samples.audit_row(object) }
}

#[tokio::test(start_paused = true)]
async fn rows_are_sealed_once_they_are_old_enough_and_verify() {
    let (world, samples) = (sealing(), Samples::new(1));
    let (merchant, rows) = (MerchantId::default(), 2_500);
    write(&world.gateway, (0..rows).map(|_| row(&world, &samples))).await;
    let report = world.gateway.verify_audit(&merchant, None, |_| {}).await.unwrap();
    assert_eq!((report.sealed, report.unsealed, report.head), (0, rows, None));
    let _worker = world.worker();
    pass(Duration::from_secs(4)).await;
    assert_eq!(seals(&world.storage).await, [], "they are too young");
    pass(Duration::from_secs(8)).await;
    let chain = seals(&world.storage).await;
    let counts: Vec<_> = chain.iter().map(|seal| (seal.number, seal.rows.len())).collect();
    assert_eq!(counts, [(1, 1_000), (2, 1_000), (3, 500)]);
    let mut steps = Vec::new();
    let progress = |so_far: &pgw_core::gateway::AuditReport| steps.push(so_far.sealed);
    let report = world.gateway.verify_audit(&merchant, None, progress).await.unwrap();
    assert_eq!((report.fault, report.sealed, report.unsealed, report.late), (None, rows, 0, 0));
    assert!(steps.is_sorted() && steps.last() == Some(&rows));

    // The end that was kept: as it is, of another chain, and beyond the end.
    let head = report.head.unwrap();
    let kept =
        async |kept| world.gateway.verify_audit(&merchant, Some(kept), |_| {}).await.unwrap().fault;
    assert_eq!(kept(head).await, None);
    let fault = |number, because| Some(AuditFault::Seal { number, because });
    let other = pgw_core::access::SealHead { mac: [7; 32], ..head };
    assert_eq!(kept(other).await, fault(3, SealFault::Replaced));
    let longer = pgw_core::access::SealHead { number: 4, ..head };
    assert_eq!(kept(longer).await, fault(4, SealFault::CutOff));
}

#[tokio::test(start_paused = true)]
async fn rows_that_come_late_are_found_and_sealed() {
    let (world, samples) = (sealing(), Samples::new(2));
    let late: Vec<AuditRow> = (0..12_000).map(|_| row(&world, &samples)).collect();
    let _worker = world.worker();
    for _ in 0..30 {
        write(&world.gateway, [row(&world, &samples)]).await;
        pass(Duration::from_secs(5)).await;
    }
    assert!(seals(&world.storage).await.len() > 20);
    // As a transaction of two minutes commits them; more than one seal holds, and more than are remembered
    // at once.
    write(&world.gateway, late).await;
    let merchant = MerchantId::default();
    let verify = async || world.gateway.verify_audit(&merchant, None, |_| {}).await.unwrap();
    let report = verify().await;
    assert_eq!((report.fault, report.late), (None, 12_000));
    pass(Duration::from_secs(300)).await;
    let report = verify().await;
    assert_eq!((report.fault, report.late, report.unsealed), (None, 0, 0));
    assert_eq!(report.sealed, 12_030);
    let chain = seals(&world.storage).await;
    assert_eq!(chain.iter().map(|seal| seal.rows.len()).sum::<usize>(), 12_030);
}

#[tokio::test(start_paused = true)]
async fn what_is_added_to_a_day_that_was_sealed_is_no_late_row() {
    let (world, samples) = (sealing(), Samples::new(3));
    let forged = row(&world, &samples);
    let _worker = world.unhurried_worker();
    pass(Duration::from_secs(3_600)).await;
    write(&world.gateway, [row(&world, &samples)]).await;
    pass(DAY * 2).await;
    let id = forged.id;
    write(&world.gateway, [forged]).await;
    pass(Duration::from_secs(3_600)).await;
    let report = world.gateway.verify_audit(&MerchantId::default(), None, |_| {}).await.unwrap();
    assert!(matches!(report.fault, Some(AuditFault::RowInserted { id: found, .. }) if found == id));
}

#[tokio::test(start_paused = true)]
async fn many_sealers_at_once_and_killed_make_one_chain() {
    let (world, samples) = (sealing(), Samples::new(4));
    let mut workers = Vec::new();
    for n in 0..60_u64 {
        workers.push(world.worker());
        if n % 3 == 2 {
            // Dropped wherever it is.
            drop(workers.remove(0));
        }
        write(&world.gateway, (0..40).map(|_| row(&world, &samples))).await;
        pass(Duration::from_millis(900 + n)).await;
    }
    pass(Duration::from_secs(120)).await;
    let report = world.gateway.verify_audit(&MerchantId::default(), None, |_| {}).await.unwrap();
    assert_eq!((report.fault, report.sealed, report.late), (None, 2_400, 0));
    let chain = seals(&world.storage).await;
    let count: usize = chain.iter().map(|seal| seal.rows.len()).sum();
    assert_eq!(count, 2_400, "each row is in one seal");
    assert!(chain.iter().all(|seal| seal.is_genuine(&key())));
}

#[tokio::test(start_paused = true)]
async fn without_a_pepper_nothing_is_sealed() {
    let (world, samples) = (World::new(), Samples::new(5));
    let _worker = world.worker();
    write(&world.gateway, [row(&world, &samples)]).await;
    pass(DAY).await;
    assert_eq!(seals(&world.storage).await, []);
    let error = world.gateway.verify_audit(&MerchantId::default(), None, |_| {}).await;
    assert!(error.unwrap_err().to_string().contains("with_key_pepper"));
}

#[tokio::test(start_paused = true)]
async fn a_bulk_of_replays_leaves_a_row_for_each() {
    let world = World::answering(|_| Reply::Status(410));
    let _worker = world.unhurried_worker();
    world.endpoint().await;
    for _ in 0..3 {
        world.create("tok_visa").await;
    }
    pass(DAY).await;
    let before = rows(&world.storage).await.len();
    let (host, all) = (world.verbs(), DeliveryFilter::default());
    let retried = host.retry_deliveries(&all, None, Run::Real).await.unwrap().retried;
    let after = rows(&world.storage).await;
    let written = after[before..].iter().filter(|row| row.action == AuditAction::DeliveryRetry);
    assert!(retried > 0 && written.count() == retried);
}
