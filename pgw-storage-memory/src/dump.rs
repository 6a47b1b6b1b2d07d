//! The dump: every row as text. What `Debug` hides of a row is added as a hash, so that a change of it shows.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use pgw_core::payment::Payment;

use crate::payment_row::NONE;
use crate::tables::{Tables, at, next_row};

pub(crate) fn dump(tables: &Tables) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |parts: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{parts}");
    };
    for (number, scope) in tables.scopes.iter().enumerate() {
        line(format_args!("scope {number} {:?} feed {:?}", scope.scope, scope.feed));
        for (consumer, position) in &scope.cursors {
            line(format_args!("cursor {number} {consumer:?} {position}"));
        }
        for row in scope.payments.rows() {
            line(format_args!("listed payment {}", tables.payments[at(row)].id));
        }
        for row in scope.refunds.rows() {
            line(format_args!("listed refund {}", tables.operations[at(row)].id));
        }
    }
    for row in 0..next_row(&tables.payments) {
        let state = tables.state(row);
        line(format_args!("{:?} hidden {:016x}", state.payment, hidden(&state.payment)));
        for (operation, row) in state.operations.iter().zip(tables.operations_of(row)) {
            let reason = operation.reason.as_ref().map(|reason| hash(reason.as_str().as_bytes()));
            let due = tables.operations[at(row)].due.time();
            line(format_args!("{operation:?} reason {reason:?} due {due:?}"));
        }
        for conflict in tables.conflicts.get(&row).into_iter().flatten() {
            line(format_args!("{conflict:?}"));
        }
    }
    for row in 0..next_row(&tables.events) {
        let event = tables.event(row);
        line(format_args!("{event:?} at {} body {:016x}", event.created_at, hash(&event.body)));
    }
    for row in 0..next_row(&tables.keys) {
        let key = &tables.keys[at(row)];
        let record = tables.key_record(row);
        let answer = record.as_ref().and_then(|record| record.claim.answer.as_ref());
        let answer = answer.map(|answer| hash(&answer.body));
        line(format_args!("key {} {:?} {record:?} body {answer:?}", key.scope, key.key));
    }
    for endpoint in &tables.endpoints {
        let secret = hash(endpoint.secret.as_str().as_bytes());
        let url = hash(endpoint.url.as_str().as_bytes());
        let previous = endpoint.previous.as_ref();
        let previous = previous.map(|previous| hash(previous.secret.as_str().as_bytes()));
        line(format_args!("{endpoint:?} url {url:016x} secrets {secret:016x} {previous:?}"));
    }
    line(format_args!("pauses {:?}", tables.pauses));
    for row in &tables.deliveries {
        line(format_args!("{:?} due {:?}", row.delivery, row.due.time()));
        for attempt in &row.attempts {
            line(format_args!("{attempt:?}"));
        }
    }
    for ((scope, _), key) in &tables.api_keys {
        let (digest, version) = (hash(&key.digest), key.version);
        let ends = (key.created_at, key.expires_at, key.revoked_at);
        let because = &key.revoked_because;
        line(format_args!(
            "{scope} {key:?} {:?} {version} {ends:?} {because:?} {digest:016x}",
            key.prefix
        ));
    }
    line(format_args!("{:?}", tables.shield));
    for row in 0..next_row(&tables.audit) {
        line(format_args!("{:?}", tables.audit_row(row)));
    }
    for seal in tables.seals.values().flatten() {
        line(format_args!("{seal:?} {:?} {:016x}", seal.rows, hash(&seal.mac)));
    }
    for row in &tables.erasures.rows {
        line(format_args!("{:?}", row.progress()));
    }
    for consent in tables.erasures.consents.values() {
        let source = consent.source.as_ref().map(|source| hash(source.as_str().as_bytes()));
        line(format_args!("{consent:?} source {source:?}"));
    }
    line(format_args!("marks {:?}", tables.erasures.marks));
    line(format_args!("due operations {:?}", tables.due_operations));
    line(format_args!("due deliveries {:?}", tables.due_deliveries));
    line(format_args!("expiring {:?}", tables.expiring));
    line(format_args!("unstamped {:?}", tables.unstamped));
    line(format_args!("claims {:?} late {:?}", tables.claims, tables.late_answers));
    let keyed = tables.operations.iter().filter(|operation| operation.key != NONE).count();
    line(format_args!("keyed operations {keyed}"));
    text
}

/// A hash of what a payment's `Debug` does not show.
fn hidden(payment: &Payment) -> u64 {
    let mut hasher = DefaultHasher::new();
    payment.customer.email.hash(&mut hasher);
    payment.customer.name.hash(&mut hasher);
    payment.customer.id.hash(&mut hasher);
    payment.description.hash(&mut hasher);
    payment.payment_method.hash(&mut hasher);
    for pair in payment.metadata.iter() {
        pair.hash(&mut hasher);
    }
    hasher.finish()
}

/// The same for the same bytes, in every run of one build.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
