//! Values: every row comes back exactly as it was written, at the edges of what its types allow.

use std::net::IpAddr;
use std::num::{NonZeroU8, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::fixture::StorageFixture;
use super::support::{READS, apply, registered, whole};
use crate::access::{
    Actor, AuditAction, AuditChange, AuditField, AuditObject, AuditOutcome, AuditRow, Role,
    RouteName,
};
use crate::changes::{Changes, Write};
use crate::currency::Currency;
use crate::email::Email;
use crate::event::EventType;
use crate::id::{DeliveryId, KeyId, PaymentId};
use crate::metadata::Metadata;
use crate::money::Money;
use crate::page::PageRequest;
use crate::payment::{
    CaptureMethod, Cause, Failure, Fence, Finality, NextAction, Operation, OperationKind,
    OperationState, PaymentStatus, ProcessorName, Reference,
};
use crate::scope::{MerchantId, Mode};
use crate::storage::{AuditFilter, Storage};
use crate::testing::sample::{Creation, Samples, metadata, reason, scope, sealed};
use crate::text::{CustomerId, CustomerName, Description, PaymentMethod};
use crate::timestamp::Timestamp;
use crate::webhook::{
    DeliveryOptions, Endpoint, EndpointStatus, EndpointUrl, EventFilter, Health, Ordering,
    PreviousSecret, Profile, Profiles, SealedHeaders, WhenExhausted,
};

/// Money of every currency comes back as it was written, from nothing to the most there may be.
pub async fn every_amount_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(1));
    for currency in Currency::all() {
        for minor in [0, 1, Money::MINOR_MAX] {
            let mut creation = samples.creation();
            creation.payment.amount = Money::from_minor(minor, currency).expect("a valid amount");
            creation.payment.authorized_minor = minor;
            creation.payment.captured_minor = minor;
            creation.charge.amount = creation.payment.amount;
            comes_back(&*storage, &creation).await;
        }
    }
}

/// Texts come back character by character: quotes, backslashes, emoji, right-to-left, SQL and JSON.
pub async fn every_text_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(2));
    for text in TEXTS {
        let mut creation = samples.creation();
        creation.payment.description = Some(Description::parse(text).expect("a valid text"));
        creation.payment.customer.name = CustomerName::parse(text).expect("a valid name");
        creation.payment.metadata = metadata(&[("text", text), (text, "key")]);
        creation.payment.failure = Some(Failure::new("card_declined", text));
        creation.charge.reason = Some(reason(text));
        creation.charge.failure = Some(Failure::new("card_declined", text));
        comes_back(&*storage, &creation).await;
    }
}

/// Texts of the greatest length come back whole, counted in characters of four bytes.
pub async fn the_longest_texts_come_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(3));
    let long = |count: usize| "🦀".repeat(count);
    let mut creation = samples.creation();
    let payment = &mut creation.payment;
    payment.description = Description::parse(&long(Description::CHARS_MAX)).ok();
    payment.customer.name =
        CustomerName::parse(&long(CustomerName::CHARS_MAX)).expect("a valid name");
    payment.customer.id = CustomerId::parse(&"c".repeat(CustomerId::CHARS_MAX)).ok();
    payment.payment_method =
        PaymentMethod::parse(&"t".repeat(PaymentMethod::CHARS_MAX)).expect("a valid token");
    payment.processor = ProcessorName::parse(&"p".repeat(32)).expect("a valid name");
    payment.processor_reference = Reference::new(&"r".repeat(Reference::LEN_MAX));
    payment.failure = Some(Failure::new(&"f".repeat(64), &long(Failure::MESSAGE_CHARS_MAX)));
    let url = format!("https://bank.example/{}", "x".repeat(NextAction::URL_LEN_MAX - 21));
    payment.next_action = NextAction::redirect(&url);
    assert!(payment.description.is_some() && payment.next_action.is_some());
    creation.charge.reason = Some(reason(&long(500)));
    creation.charge.reference = Reference::new(&"r".repeat(Reference::LEN_MAX));
    comes_back(&*storage, &creation).await;
}

/// Addresses with every allowed character come back as they were written, case included.
pub async fn every_email_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(4));
    for text in ["a@b.example", "O'Brien+x%_@Example.COM", "!#$&*-/=?^`{|}~@b.example"] {
        let mut creation = samples.creation();
        creation.payment.customer.email = Email::parse(text).expect("a valid address");
        comes_back(&*storage, &creation).await;
    }
}

/// Metadata comes back pair by pair: none, empty values and as many as there may be.
pub async fn every_metadata_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(5));
    let most = (0..Metadata::PAIRS_MAX).map(|n| (format!("k{n:02}"), format!("v{n}\"\\ '")));
    let all = [
        Metadata::default(),
        metadata(&[("a", "")]),
        metadata(&[
            ("null", "null"),
            ("true", "false"),
            ("1", "1.0"),
            ("nested.key", "{\"a\":[]}"),
        ]),
        Metadata::from_pairs(most).expect("valid pairs"),
    ];
    for metadata in all {
        let mut creation = samples.creation();
        creation.payment.metadata = metadata;
        comes_back(&*storage, &creation).await;
    }
}

/// Every status, flag and count of a payment comes back.
pub async fn every_state_of_a_payment_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(6));
    for (n, status) in (0_u32..).zip(PaymentStatus::ALL) {
        let mut creation = samples.creation();
        let payment = &mut creation.payment;
        payment.status = status;
        payment.capture = if n % 2 == 0 { CaptureMethod::Automatic } else { CaptureMethod::Manual };
        payment.authorized_minor = 10_000;
        payment.captured_minor = 6_000;
        payment.capture_reserved_minor = 4_000;
        payment.refunded_minor = 1_500;
        payment.refund_reserved_minor = 4_500;
        payment.unknown_operations = n;
        payment.needs_review = n % 2 == 0;
        payment.open_conflicts = n * 3;
        payment.disputed = n % 3 == 0;
        payment.version = u64::from(n) + 5;
        payment.description = None;
        payment.customer.id = None;
        comes_back(&*storage, &creation).await;
    }
}

/// Every kind and state of an operation comes back, with all of its fields and with none that may be absent.
pub async fn every_state_of_an_operation_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(7));
    for kind in OperationKind::ALL {
        for state in OperationState::ALL {
            let mut creation = samples.creation();
            creation.charge.kind = kind;
            creation.charge.state = state;
            comes_back(&*storage, &creation).await;
            let mut creation = samples.creation();
            let bare = creation.charge.clone();
            creation.charge = Operation {
                kind,
                state,
                cause: Cause::Expiry,
                finality: Finality::Final,
                attempts: i32::MAX as u32,
                probes: 77,
                fence: Some(Fence(samples.env().u64() | 1 << 63)),
                first_dispatched_at: Some(samples.now()),
                deadline: Some(samples.now()),
                confirmed: true,
                needs_review: true,
                reference: Reference::new("ch_1"),
                failure: Some(Failure::new("card_declined", "No.")),
                reason: Some(reason("duplicate")),
                idempotency_key: Some(samples.key()),
                ..bare
            };
            comes_back(&*storage, &creation).await;
        }
    }
}

/// "Tells one claim or dispatch from every other": all 64 bits of a fence come back.
pub async fn every_fence_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(8));
    for fence in [0, 1, i64::MAX as u64, 1 << 63, u64::MAX] {
        let mut creation = samples.creation();
        creation.charge.fence = Some(Fence(fence));
        comes_back(&*storage, &creation).await;
    }
}

/// Times come back to the microsecond, from 1970 to the end of 9999.
pub async fn every_time_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(9));
    let ends = [Timestamp::EPOCH, Timestamp::from_micros(1), Timestamp::MAX];
    let odd = Timestamp::from_micros(1_768_564_799_999_999);
    for at in ends.into_iter().chain([odd]) {
        let mut creation = samples.creation();
        creation.payment.created_at = at;
        creation.payment.updated_at = at;
        creation.payment.expires_at = Timestamp::MAX;
        creation.charge.created_at = at;
        creation.charge.updated_at = at;
        creation.charge.deadline = Some(at);
        creation.event.created_at = at;
        comes_back(&*storage, &creation).await;
    }
}

/// "The body, signed and sent byte for byte": any bytes, none and many.
pub async fn every_body_comes_back_byte_for_byte(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(10));
    let endpoint = registered(&*storage, samples.endpoint()).await;
    let all: Vec<u8> = (0..=255).collect();
    for body in [Vec::new(), b"{ \"b\":1.0,\r\n\"a\":\"\\u00e9\"}".to_vec(), all, vec![0; 200_000]]
    {
        let mut creation = samples.creation();
        creation.event.body = Bytes::from(body);
        comes_back(&*storage, &creation).await;
        let id = DeliveryId::new(creation.event.id, endpoint.id);
        let work = super::support::delivery(&*storage, &samples, id).await;
        assert_eq!(work.event.body, creation.event.body, "the body to be signed differs");
    }
}

/// Merchants of every allowed name are kept apart, in both modes.
pub async fn every_merchant_is_kept_apart(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(11));
    let longest = "m".repeat(MerchantId::LEN_MAX);
    let names = ["a", "A", "a-", "a_", "a.", "-", "_", "..", "NULL", longest.as_str()];
    let mut made = Vec::new();
    for name in names {
        for mode in [Mode::Test, Mode::Live] {
            let there = samples.of(scope(name, mode));
            let creation = there.creation();
            comes_back(&*storage, &creation).await;
            made.push((there, creation));
        }
    }
    for (there, creation) in made {
        let all = super::support::listed(&*storage, &there, &Default::default()).await;
        assert_eq!(all, [creation.payment], "{} sees another's payments", there.scope().merchant);
    }
}

/// Endpoints come back: every status, filter and profile, the secret and the one before it, an address with everything in it.
pub async fn every_endpoint_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(12));
    let exact = EventType::ALL.iter().copied().map(EventFilter::exactly);
    let families = ["payment.*", "refund.*", "endpoint.*", "test.*", "*"];
    let filters: Vec<EventFilter> =
        exact.chain(families.map(crate::testing::sample::filter)).collect();
    let statuses = [
        EndpointStatus::Enabled,
        EndpointStatus::Disabled { reason: reason("it's \"gone\" \\ 🦀") },
        EndpointStatus::Deleted,
    ];
    let sets =
        [vec![Profile::Standard], vec![Profile::Seed, Profile::Stripe], Profile::ALL.to_vec()];
    let url = format!("https://x.example:8443/{}?a=%20&b='", "y".repeat(1_900));
    let previous = |until| PreviousSecret { secret: sealed(2), until };
    let previous = [None, Some(previous(samples.now())), Some(previous(Timestamp::MAX))];
    for ((status, profiles), previous) in statuses.into_iter().zip(sets).zip(previous) {
        let endpoint = Endpoint {
            status,
            generation: if previous.is_some() { 7 } else { 1 },
            previous,
            profiles: Profiles::new(profiles).expect("not empty"),
            filters: filters.clone(),
            url: EndpointUrl::parse(&url).expect("a valid address"),
            description: Some(Description::parse(TEXTS[0]).expect("a valid text")),
            version: 41,
            ..samples.endpoint()
        };
        registered(&*storage, endpoint.clone()).await;
        let found = storage.endpoint(samples.scope(), endpoint.id).await.expect(READS);
        assert_eq!(found, Some(endpoint));
    }
}

/// Endpoints come back: every order, the options at either end or none, headers, health.
pub async fn every_option_of_an_endpoint_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(15));
    let options = |timeout, concurrency, rate_per_s, ordering| DeliveryOptions {
        timeout,
        concurrency: NonZeroU8::new(concurrency),
        rate_per_s: NonZeroU32::new(rate_per_s),
        ordering,
    };
    let (skip, park) = (WhenExhausted::Skip, WhenExhausted::Park);
    let (least, most) = (DeliveryOptions::TIMEOUT_MIN, DeliveryOptions::TIMEOUT_MAX);
    let sets = [
        DeliveryOptions::default(),
        options(Some(least), 1, 1, Ordering::ByPayment(skip)),
        options(
            Some(most),
            DeliveryOptions::CONCURRENCY_MAX,
            DeliveryOptions::RATE_MAX,
            Ordering::ByPayment(park),
        ),
    ];
    let health = [
        Health::Healthy,
        Health::Failing { since: samples.now(), pauses: 0 },
        Health::Failing { since: Timestamp::MAX, pauses: u32::MAX },
    ];
    let names = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
    let headers = [
        None,
        Some(SealedHeaders { names: names(&["x-tenant"]), sealed: sealed(1) }),
        Some(SealedHeaders {
            names: names(&["authorization", "!#$%&'*+-.^_`|~"]),
            sealed: sealed(3),
        }),
    ];
    for ((options, health), headers) in sets.into_iter().zip(health).zip(headers) {
        let endpoint = Endpoint { options, health, headers, ..samples.endpoint() };
        registered(&*storage, endpoint.clone()).await;
        let found = storage.endpoint(samples.scope(), endpoint.id).await.expect(READS);
        assert_eq!(found, Some(endpoint));
    }
}

/// API keys come back: every role, the digest bit by bit, times or none.
pub async fn every_api_key_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(13));
    for (n, role) in (0_u8..).zip(Role::ALL) {
        let mut key = samples.api_key();
        key.role = role;
        key.name = Description::parse(TEXTS[usize::from(n)]).expect("a valid text");
        key.digest = std::array::from_fn(|i| if n % 2 == 0 { 0xff } else { i as u8 });
        key.expires_at = (n % 2 == 0).then_some(Timestamp::MAX);
        key.revoked_at = (n % 3 == 0).then(|| samples.now());
        key.revoked_because = (n % 3 == 0).then(|| reason(TEXTS[usize::from(n)]));
        let write = Write::ApiKey(Box::new(key.clone()));
        apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
        let found = storage.api_key(key.prefix).await.expect(READS).expect("it was written");
        assert_eq!(found.digest, key.digest);
        assert_eq!(
            (&found.name, found.expires_at, found.revoked_at),
            (&key.name, key.expires_at, key.revoked_at)
        );
        assert_eq!(found, key);
    }
}

/// Audit rows come back: every actor, action, object, origin and change.
pub async fn every_audit_row_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(14));
    let env = samples.env();
    let delivery = DeliveryId::new(samples.event(EventType::TestPing).id, samples.endpoint().id);
    let objects = [
        AuditObject::Payment(PaymentId::mint(env)),
        AuditObject::Endpoint(delivery.endpoint()),
        AuditObject::Delivery(delivery),
        AuditObject::Key(KeyId::mint(env)),
        AuditObject::Network("192.0.2.0/24".parse().expect("a valid network")),
        AuditObject::Network("2001:db8::7".parse().expect("a valid network")),
        AuditObject::Gateway,
        AuditObject::Route(RouteName::parse("PATCH /payments/{id}/refund").expect("a valid name")),
    ];
    let actors = [
        Actor::Host,
        Actor::Worker,
        Actor::Processor,
        Actor::Key(KeyId::mint(env)),
        Actor::Anonymous,
        Actor::Other(Arc::from("o'neill\\\"~")),
    ];
    let origins: [Option<IpAddr>; 3] =
        [None, Some([192, 0, 2, 1].into()), Some([0xfe80, 0, 0, 0, 0, 0, 0, 1].into())];
    let mut rows: Vec<AuditRow> = Vec::new();
    let longest = "é".repeat(AuditChange::VALUE_MAX / 2);
    let values = [None, Some(""), Some("\"[a, b]\" \\"), Some(longest.as_str())];
    let change = |(n, field): (usize, &AuditField)| {
        AuditChange::new(*field, values[n % 4], values[n / 4 % 4])
    };
    let changes: Box<[AuditChange]> = AuditField::ALL.iter().enumerate().map(change).collect();
    for (n, action) in AuditAction::ALL.iter().copied().enumerate() {
        let row = AuditRow {
            actor: actors[n % actors.len()].clone(),
            action,
            outcome: if n % 2 == 0 { AuditOutcome::Success } else { AuditOutcome::Failure },
            origin: origins[n % origins.len()],
            request_id: (n % 2 == 0).then(|| Arc::from(format!("req-{n}"))),
            changes: if n % 3 == 0 { Box::default() } else { changes.clone() },
            ..samples.audit_row(objects[n % objects.len()].clone())
        };
        let write = Write::Audit(Box::new(row.clone()));
        apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
        rows.insert(0, row);
    }
    let page = PageRequest::first(PageRequest::LIMIT_MAX);
    let found = storage
        .audit(&samples.scope().merchant, &AuditFilter::default(), page)
        .await
        .expect(READS)
        .data;
    assert_eq!(found, rows);
}

/// Conflicts come back in every state they can be about.
pub async fn every_conflict_comes_back(fixture: &dyn StorageFixture) {
    let (storage, samples) = (fixture.storage().await, Samples::new(15));
    let creation = super::support::created(&*storage, &samples).await;
    let mut expected = Vec::new();
    for settled in [OperationState::Succeeded, OperationState::Failed] {
        for found in OperationState::ALL {
            let mut conflict = samples.conflict(&creation.charge);
            conflict.settled = settled;
            conflict.found = found;
            conflict.reference = Reference::new("ch_x").filter(|_| found.is_settled());
            conflict.closed_at =
                found.is_settled().then(|| conflict.created_at.plus(Duration::from_micros(1)));
            let write = Write::Conflict(Box::new(conflict.clone()));
            apply(&*storage, Changes::new(samples.scope().clone()).write(write)).await;
            expected.push(conflict);
        }
    }
    let found = storage.conflicts(samples.scope(), creation.payment.id).await.expect(READS);
    assert_eq!(found, expected);
}

/// Creates a payment and asserts that each of its rows is what was written.
async fn comes_back(storage: &dyn Storage, creation: &Creation) {
    apply(storage, creation.changes()).await;
    whole(storage, creation).await;
    let (scope, id) = (&creation.payment.scope, creation.payment.id);
    let events = storage.payment_events(scope, id, 0, 9).await.expect(READS);
    assert_eq!(events, std::slice::from_ref(&creation.event));
    let found = storage.payment(scope, id).await.expect(READS).expect("it was written").payment;
    // The types hide personal data from `Debug`, so a difference there would print as none.
    let (found, written) = (found.customer, &creation.payment.customer);
    assert_eq!(found.email.as_str(), written.email.as_str());
    assert_eq!(found.name.as_str(), written.name.as_str());
}

/// Texts that break what treats text carelessly.
const TEXTS: [&str; 8] = [
    "it's \"quoted\" \\ `back`",
    "'; drop table payments; --",
    "%_%?$1:name{}\\u0000\\n",
    "{\"json\": [1, null]}",
    "👩‍💻🇺🇳 é 한 Ω",
    "\u{202e}right to left\u{202c} \u{feff}x",
    "tab-less, two  spaces, \u{2028} line separator",
    "null",
];
