//! What must be true of each payment: its row, its events, its audit rows and the processor's books tell the same story.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::access::{AuditAction, AuditObject};
use crate::event::{Event, EventType};
use crate::id::{ErasureId, PaymentId};
use crate::payment::{
    Cause, Operation, OperationKind, OperationState, Payment, PaymentState, PaymentStatus, status,
};
use crate::sandbox::{EntryState, LedgerEntry};

use super::{Broken, History, Outside, Rows};

pub(super) fn check(
    state: &PaymentState,
    history: &History,
    outside: &Outside,
    broken: &mut Vec<Broken>,
) {
    check_totals(state, broken);
    check_rest(state, broken);
    let events = history.events.get(&state.payment.id).map(Vec::as_slice).unwrap_or_default();
    check_sequence(&state.payment, events, broken);
    check_story(state, events, broken);
    check_audit(state, history, broken);
    check_books(state, &outside.ledger, broken);
}

/// Of one creation under one key there is one payment.
pub(super) fn check_keys(rows: &Rows, broken: &mut Vec<Broken>) {
    let mut made = BTreeMap::new();
    for operation in rows.payments.iter().flat_map(|state| &state.operations) {
        let Some(key) = &operation.idempotency_key else { continue };
        if let Some(other) = made.insert(key.clone(), operation.id) {
            broken
                .push(("one key, one operation", format!("{key:?}: {other} and {}", operation.id)));
        }
    }
}

fn check_totals(state: &PaymentState, broken: &mut Vec<Broken>) {
    let (payment, totals) = (&state.payment, status::totals(&state.operations));
    let row = status::Totals {
        status: payment.status,
        authorized_minor: payment.authorized_minor,
        captured_minor: payment.captured_minor,
        capture_reserved_minor: payment.capture_reserved_minor,
        refunded_minor: payment.refunded_minor,
        refund_reserved_minor: payment.refund_reserved_minor,
        unknown_operations: payment.unknown_operations,
        needs_review: payment.needs_review && payment.open_conflicts == 0,
    };
    if row != totals {
        let id = payment.id;
        broken.push((
            "a payment adds up to its operations",
            format!("{id}: {row:?}, not {totals:?}"),
        ));
    }
    let fits = payment.refunded_minor <= payment.captured_minor
        && payment.captured_minor <= payment.authorized_minor;
    if !fits {
        broken.push((LIMITS, format!("{}: {row:?}", payment.id)));
    }
}

fn check_rest(state: &PaymentState, broken: &mut Vec<Broken>) {
    for operation in state.operations.iter().filter(|operation| !operation.state.is_settled()) {
        broken.push((
            "at rest everything is settled",
            format!("{} is {:?}", operation.id, operation.state),
        ));
    }
}

fn check_sequence(payment: &Payment, events: &[Event], broken: &mut Vec<Broken>) {
    let numbers: Vec<u64> = events.iter().filter_map(|event| event.sequence).collect();
    if !numbers.iter().copied().eq(1..=payment.sequence) {
        broken.push((
            "sequences have no gaps and no doubles",
            format!("{}: {numbers:?}, and the row says {}", payment.id, payment.sequence),
        ));
    }
}

/// Folds the events to what a receiver would believe, and compares.
fn check_story(state: &PaymentState, events: &[Event], broken: &mut Vec<Broken>) {
    let payment = &state.payment;
    let mut told = Value::Null;
    let mut refunds: BTreeMap<String, (String, i64)> = BTreeMap::new();
    let mut disputed = false;
    for event in events {
        let Ok(mut body) = serde_json::from_slice::<Value>(&event.body) else {
            broken.push(("every event can be read", event.id.to_string()));
            continue;
        };
        if is_erased(payment) && String::from_utf8_lossy(&event.body).contains(CANARY) {
            broken.push(("nothing is left of who was erased", event.id.to_string()));
        }
        let object = body.pointer_mut("/data/object").map(Value::take).unwrap_or_default();
        if object.get("object").and_then(Value::as_str) == Some("refund") {
            let minor = object.get("amount_minor").and_then(Value::as_i64).unwrap_or(0);
            refunds.insert(text(&object, "id"), (text(&object, "status"), minor));
        } else {
            told = object;
        }
        disputed |= event.event_type == EventType::PaymentDisputed;
    }
    let refunded: i64 =
        refunds.values().filter(|(status, _)| status == "succeeded").map(|(_, minor)| minor).sum();
    let captured = told.get("captured_minor").and_then(Value::as_i64).unwrap_or(-1);
    let status = match refunded {
        0 => text(&told, "status"),
        some if some < captured => PaymentStatus::PartiallyRefunded.as_str().to_owned(),
        _ => PaymentStatus::Refunded.as_str().to_owned(),
    };
    let believed = (status.as_str(), captured, refunded, disputed);
    let row =
        (payment.status.as_str(), payment.captured_minor, payment.refunded_minor, payment.disputed);
    if believed != row {
        broken.push((STORY, format!("{}: told {believed:?}, is {row:?}", payment.id)));
    }
    for refund in state.operations.iter().filter(|o| o.kind == OperationKind::Refund) {
        let id = crate::id::RefundId::from(refund.id).to_string();
        let told = refunds.get(&id).map(|(status, _)| status.as_str());
        if told != Some(refund.state.as_str()) {
            broken.push((STORY, format!("{id}: told {told:?}, is {:?}", refund.state)));
        }
    }
}

fn text(object: &Value, member: &str) -> String {
    object.get(member).and_then(Value::as_str).unwrap_or("nothing").to_owned()
}

fn check_audit(state: &PaymentState, history: &History, broken: &mut Vec<Broken>) {
    let id = state.payment.id;
    let rows = |action| {
        let of = |row: &&crate::access::AuditRow| {
            row.object == AuditObject::Payment(id) && row.action == action
        };
        history.audit.iter().filter(of).count()
    };
    let operations = |of: &dyn Fn(&Operation) -> bool| {
        state.operations.iter().filter(|operation| of(operation)).count()
    };
    let attempts: usize =
        state.operations.iter().map(|operation| operation.attempts as usize).sum();
    let expected = [
        (AuditAction::PaymentCreate, 1),
        (AuditAction::PaymentCapture, operations(&|o| o.kind == OperationKind::Capture)),
        (AuditAction::PaymentRefund, operations(&|o| o.kind == OperationKind::Refund)),
        (
            AuditAction::PaymentCancel,
            operations(&|o| o.kind == OperationKind::Cancel && o.cause == Cause::Request),
        ),
        (
            AuditAction::PaymentExpire,
            operations(&|o| o.kind == OperationKind::Cancel && o.cause == Cause::Expiry),
        ),
        (AuditAction::OperationDispatch, attempts),
    ];
    for (action, expected) in expected {
        let found = rows(action);
        if found != expected {
            broken.push((
                "every mutation has its audit row",
                format!("{id}: {found} rows of {}, not {expected}", action.as_str()),
            ));
        }
    }
}

/// The processor's books say the same of each operation.
fn check_books(state: &PaymentState, ledger: &[LedgerEntry], broken: &mut Vec<Broken>) {
    let id = state.payment.id;
    for operation in &state.operations {
        let entries = || ledger.iter().filter(|entry| entry.key == operation.id);
        let executed = entries().count();
        if executed > 1 {
            broken.push((
                "each operation is executed at most once",
                format!("{} of {id}: {executed} times", operation.id),
            ));
        }
        let happened = entries().any(|entry| entry.state == EntryState::Succeeded);
        let agrees = match operation.state {
            // What was dropped before it was ever sent is nobody's business but ours.
            OperationState::Succeeded => happened || is_local_cancel(operation),
            OperationState::Failed => !happened || is_released(operation, ledger),
            _ => true,
        };
        if !agrees {
            let states: Vec<_> = entries().map(|entry| &entry.state).collect();
            broken.push((
                "our view is the processor's",
                format!(
                    "{} ({}) of {id} is {:?}, the processor says {states:?}",
                    operation.id,
                    operation.kind.as_str(),
                    operation.state
                ),
            ));
        }
    }
    let charges = ledger
        .iter()
        .filter(|e| e.payment == id && e.kind.is_initial() && e.state == EntryState::Succeeded)
        .count();
    if charges > 1 {
        broken.push(("a payment is charged once", format!("{id}: {charges} times")));
    }
    let [authorized, captured, refunded] = moved(ledger, id);
    if refunded > captured || captured > authorized {
        broken.push((
            LIMITS,
            format!("{id}: {refunded} of {captured} of {authorized} at the processor"),
        ));
    }
}

/// Whether the customer got an authorization through just before its cancel did: withdrawn for us, held and released again at
/// the processor, which comes to the same.
fn is_released(operation: &Operation, ledger: &[LedgerEntry]) -> bool {
    operation.is_withdrawn()
        && operation.kind == OperationKind::Authorize
        && ledger.iter().any(|entry| {
            entry.payment == operation.payment
                && entry.kind == OperationKind::Cancel
                && entry.state == EntryState::Succeeded
        })
}

fn is_local_cancel(operation: &Operation) -> bool {
    operation.kind == OperationKind::Cancel && operation.attempts == 0
}

/// What was held, taken and given back, by the processor's books.
fn moved(ledger: &[LedgerEntry], payment: PaymentId) -> [i64; 3] {
    let sum = |kinds: &[OperationKind]| -> i64 {
        ledger
            .iter()
            .filter(|e| e.payment == payment && e.state == EntryState::Succeeded)
            .filter(|e| kinds.contains(&e.kind))
            .map(|e| e.amount.minor())
            .sum()
    };
    use OperationKind::{Authorize, Capture, Charge, Refund};
    [sum(&[Charge, Authorize]), sum(&[Charge, Capture]), sum(&[Refund])]
}

const LIMITS: &str = "refunds never exceed captures, nor captures the authorization";
const STORY: &str = "every visible change has its event";

/// Whether the payment's customer was erased and its rows are rewritten.
fn is_erased(payment: &Payment) -> bool {
    let customer = payment.customer.id.as_ref();
    customer.is_some_and(|id| id.as_str().parse::<ErasureId>().is_ok())
}

/// In everything personal of a simulated customer.
const CANARY: &str = "anary";
