//! Random valid commands, for the property tests.

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use pgw_core::access::Caller;
use pgw_core::crypto::Sealed;
use pgw_core::currency::Currency;
use pgw_core::email::Email;
use pgw_core::id::EndpointId;
use pgw_core::metadata::Metadata;
use pgw_core::money::Money;
use pgw_core::payment::plan::{NewPayment, Plan, Stamp, create};
use pgw_core::payment::{CaptureMethod, Customer, ProcessorName};
use pgw_core::scope::Scope;
use pgw_core::text::{CustomerId, CustomerName, Description, PaymentMethod};
use pgw_core::timestamp::Timestamp;
use pgw_core::webhook::plan::{NewEndpoint, create_endpoint};
use pgw_core::webhook::{
    CustomHeaders, DeliveryOptions, Endpoint, EndpointUrl, Ordering, SealedHeaders, WhenExhausted,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use uuid::Uuid;

/// Runs a plan at a fixed time, with ids that count.
pub(crate) fn stamped<T>(counter: &mut u128, plan: impl FnOnce(&mut Stamp<'_>) -> T) -> T {
    let caller = Caller::host(Scope::default());
    let mut ids = || {
        *counter += 1;
        Uuid::from_u128(*counter)
    };
    let now = Timestamp::from_micros(1_790_000_000_000_000);
    plan(&mut Stamp { now, caller: &caller, ids: &mut ids })
}

pub(crate) fn created(new: NewPayment, counter: &mut u128) -> Plan {
    let processor = ProcessorName::parse("sandbox").unwrap();
    stamped(counter, |stamp| create(new, &processor, stamp)).unwrap()
}

/// Any text of visible characters and spaces that is not refused, all of Unicode.
fn text(max: usize) -> impl Strategy<Value = String> {
    vec(any::<char>().prop_filter("control characters are refused", |c| !c.is_control()), 1..max)
        .prop_map(|chars| chars.into_iter().collect())
}

fn money() -> impl Strategy<Value = Money> {
    let currencies: Vec<Currency> = Currency::all().collect();
    let minor = prop_oneof![1..1_000_000_i64, 1..=Money::MINOR_MAX];
    (minor, proptest::sample::select(currencies))
        .prop_map(|(minor, currency)| Money::from_minor(minor, currency).unwrap())
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let name = prop_oneof![text(12), "[0-9]{1,11}", Just("__proto__".to_owned())];
    vec((name, prop_oneof![text(20), Just(String::new())]), 0..8)
        .prop_filter_map("valid pairs", |pairs| Metadata::from_pairs(pairs).ok())
}

prop_compose! {
    /// A payment that could be asked for.
    pub(crate) fn new_payment()(
        amount in money(),
        name in text(40).prop_filter_map("a name", |text| CustomerName::parse(&text).ok()),
        id in option::of("[A-Za-z0-9_.:@-]{1,40}".prop_filter_map("an id", |t| CustomerId::parse(&t).ok())),
        description in option::of(text(60).prop_filter_map("a text", |t| Description::parse(&t).ok())),
        metadata in metadata(),
        manual in any::<bool>(),
    ) -> NewPayment {
        let customer = Customer { email: Email::parse("ada+x@example.com").unwrap(), name, id };
        let mut new = NewPayment::new(amount, customer, PaymentMethod::parse("tok_visa").unwrap());
        new.description = description;
        new.metadata = metadata;
        new.capture = if manual { CaptureMethod::Manual } else { CaptureMethod::Automatic };
        new
    }
}

fn options() -> impl Strategy<Value = DeliveryOptions> {
    let ordering = prop_oneof![
        Just(Ordering::AsDue),
        Just(Ordering::ByPayment(WhenExhausted::Skip)),
        Just(Ordering::ByPayment(WhenExhausted::Park)),
    ];
    (
        option::of(1_000..=60_000_u64),
        0..=DeliveryOptions::CONCURRENCY_MAX,
        0..=DeliveryOptions::RATE_MAX,
        ordering,
    )
        .prop_map(|(timeout_ms, concurrency, rate, ordering)| DeliveryOptions {
            timeout: timeout_ms.map(Duration::from_millis),
            concurrency: NonZeroU8::new(concurrency),
            rate_per_s: NonZeroU32::new(rate),
            ordering,
        })
}

prop_compose! {
    /// An endpoint as it is when it was just created.
    pub(crate) fn endpoint()(
        description in option::of(text(60).prop_filter_map("a text", |t| Description::parse(&t).ok())),
        options in options(),
        headers in vec(("[0-9A-Za-z!#$%&'*+.^_`|~-]{1,20}", "[!-~]{1,20}"), 0..4)
            .prop_filter_map("headers", |pairs| CustomHeaders::parse(pairs).ok()),
    ) -> Endpoint {
        endpoint_of(description, options, &headers)
    }
}

/// An endpoint whose envelopes no key opens.
pub(crate) fn endpoint_of(
    description: Option<Description>,
    options: DeliveryOptions,
    headers: &CustomHeaders,
) -> Endpoint {
    let sealed = Sealed::parse("v1.k1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").unwrap();
    let names = headers.names().map(Into::into).collect();
    let headers = Some(SealedHeaders { names, sealed: sealed.clone() });
    let url = EndpointUrl::parse("https://hooks.example/in").unwrap();
    let new = NewEndpoint { description, options, ..NewEndpoint::new(url) };
    let id = EndpointId::from_uuid(Uuid::from_u128(7));
    stamped(&mut 0, |stamp| create_endpoint(id, new, sealed, headers, stamp)).1
}
