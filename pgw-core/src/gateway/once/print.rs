//! The fingerprint of what each verb is asked, without the key: equal exactly when the same thing is asked again.

use std::time::Duration;

use crate::access::Pepper;
use crate::gateway::{NewApiKey, NewDeniedNetwork, RevokedKeys, Run};
use crate::id::{DeliveryId, EndpointId, PaymentId};
use crate::idempotency::{Fingerprint, Fingerprinter};
use crate::page::Cursor;
use crate::payment::plan::{Resolution, Resolve};
use crate::privacy::{CustomerDigest, NewConsent};
use crate::storage::DeliveryFilter;
use crate::text::Reason;
use crate::timestamp::Timestamp;
use crate::webhook::plan::{EndpointUpdate, NewEndpoint};
use crate::webhook::{
    CustomHeaders, DeliveryOptions, EndpointStatus, EventFilter, Ordering, Profiles,
};

pub(super) fn new_endpoint(new: &NewEndpoint, pepper: &Pepper) -> Fingerprint {
    let NewEndpoint { url, description, filters, profiles, options, headers } = new;
    let DeliveryOptions { timeout, concurrency, rate_per_s, ordering } = options;
    let concurrency = concurrency.map(|most| i64::from(most.get()));
    let rate = rate_per_s.map(|rate| i64::from(rate.get()));
    let print = Fingerprinter::new("create endpoint")
        .text(url.as_str())
        .optional(description.as_ref().map(|text| text.as_str()))
        .text(&listed(filters))
        .text(&named(*profiles))
        .text(ordering.as_str())
        .optional(
            Some(headers).filter(|it| !it.is_empty()).map(|it| hidden(it, pepper)).as_deref(),
        );
    let print = number(print, timeout.map(millis));
    number(number(print, concurrency), rate).finish()
}

pub(super) fn update_endpoint(
    id: EndpointId,
    update: &EndpointUpdate,
    pepper: &Pepper,
) -> Fingerprint {
    let EndpointUpdate { url, description, filters, profiles, .. } = update;
    let EndpointUpdate { timeout, concurrency, rate_per_s, ordering, headers, status, .. } = update;
    let print = Fingerprinter::new("update endpoint")
        .text(&id.to_string())
        .optional(url.as_ref().map(|url| url.as_str()))
        .optional(filters.as_ref().map(|filters| listed(filters)).as_deref())
        .optional(profiles.map(named).as_deref())
        .optional(ordering.map(Ordering::as_str))
        .optional(headers.as_ref().map(|headers| hidden(headers, pepper)).as_deref())
        .optional(status.as_ref().map(status_name));
    // What is left as it is, what is removed and what is set differ.
    let print = given(print, description, |print, text| {
        print.optional(text.as_ref().map(|text| text.as_str()))
    });
    let print = given(print, timeout, |print, timeout| number(print, timeout.map(millis)));
    let print = given(print, concurrency, |print, most| {
        number(print, most.map(|most| i64::from(most.get())))
    });
    given(print, rate_per_s, |print, rate| number(print, rate.map(|rate| i64::from(rate.get()))))
        .finish()
}

pub(super) fn rotate_secret(id: EndpointId, overlap: Duration) -> Fingerprint {
    Fingerprinter::new("rotate secret").text(&id.to_string()).number(millis(overlap)).finish()
}

pub(super) fn test_endpoint(id: EndpointId) -> Fingerprint {
    Fingerprinter::new("test endpoint").text(&id.to_string()).finish()
}

pub(super) fn retry_delivery(id: DeliveryId) -> Fingerprint {
    Fingerprinter::new("retry delivery").text(&id.to_string()).finish()
}

pub(super) fn retry_deliveries(
    filter: &DeliveryFilter,
    after: Option<Cursor>,
    run: Run,
) -> Fingerprint {
    let DeliveryFilter { status, endpoint, event_type, created_from, created_before } = filter;
    let print = Fingerprinter::new("retry deliveries")
        .optional(status.map(|status| status.as_str()))
        .optional(endpoint.map(|id| id.to_string()).as_deref())
        .optional(event_type.map(|event_type| event_type.as_str()))
        .number(i64::from(run == Run::Dry));
    let print = number(print, created_from.map(Timestamp::as_micros));
    onwards(number(print, created_before.map(Timestamp::as_micros)), after)
}

pub(super) fn recover_endpoint(
    id: EndpointId,
    since: Timestamp,
    after: Option<Cursor>,
) -> Fingerprint {
    let print = Fingerprinter::new("recover endpoint").text(&id.to_string());
    onwards(print.number(since.as_micros()), after)
}

pub(super) fn new_api_key(new: &NewApiKey) -> Fingerprint {
    let NewApiKey { role, name, expires_in } = new;
    let print = Fingerprinter::new("create API key").text(role.as_str()).text(name.as_str());
    number(print, expires_in.map(millis)).finish()
}

pub(super) fn revoke_api_keys(
    which: RevokedKeys,
    reason: &Reason,
    after: Option<Cursor>,
) -> Fingerprint {
    let print = Fingerprinter::new("revoke API keys").text(reason.as_str());
    let print = match which {
        RevokedKeys::All => print.number(0),
        RevokedKeys::Matching(filter) => {
            let print = print.number(1).optional(filter.role.map(|role| role.as_str()));
            let print = number(print, filter.created_from.map(Timestamp::as_micros));
            number(print, filter.created_before.map(Timestamp::as_micros))
        }
    };
    onwards(print, after)
}

/// Of a keyed digest: a hash of an address is soon turned back.
pub(super) fn deny_network(new: &NewDeniedNetwork, pepper: &Pepper) -> Fingerprint {
    let NewDeniedNetwork { network, reason, expires_in } = new;
    let print = Fingerprinter::new("deny network")
        .text(&pepper.print(&network.to_string()))
        .optional(reason.as_ref().map(|reason| reason.as_str()));
    number(print, expires_in.map(millis)).finish()
}

/// Of the customer's digest: a hash of the id itself would say who it was after an erasure.
pub(super) fn give_consent(customer: CustomerDigest, new: &NewConsent) -> Fingerprint {
    let NewConsent { purpose, terms, source, given_at } = new;
    let print = Fingerprinter::new("give consent")
        .text(&customer.to_string())
        .text(purpose.as_str())
        .text(terms.as_str())
        .optional(source.as_ref().map(|source| source.as_str()));
    number(print, given_at.map(Timestamp::as_micros)).finish()
}

pub(super) fn confirm_payment(id: PaymentId) -> Fingerprint {
    Fingerprinter::new("confirm payment").text(&id.to_string()).finish()
}

pub(super) fn resolve(id: PaymentId, command: &Resolve) -> Fingerprint {
    let Resolve { operation, outcome, reason } = command;
    let outcome = match outcome {
        Resolution::Succeeded => 0,
        Resolution::Failed => 1,
        Resolution::Dismissed => 2,
    };
    Fingerprinter::new("resolve payment")
        .text(&id.to_string())
        .text(&operation.to_string())
        .number(outcome)
        .text(reason.as_str())
        .finish()
}

fn onwards(print: Fingerprinter, after: Option<Cursor>) -> Fingerprint {
    print.optional(after.map(|after| after.to_string()).as_deref()).finish()
}

/// A number that may be absent; absent and zero differ.
fn number(print: Fingerprinter, number: Option<i64>) -> Fingerprinter {
    match number {
        Some(number) => print.number(1).number(number),
        None => print.number(0),
    }
}

/// A field that may be left as it is.
fn given<T>(
    print: Fingerprinter,
    field: &Option<T>,
    add: impl FnOnce(Fingerprinter, &T) -> Fingerprinter,
) -> Fingerprinter {
    match field {
        Some(value) => add(print.number(1), value),
        None => print.number(0),
    }
}

/// Values of headers may be passwords.
fn hidden(headers: &CustomHeaders, pepper: &Pepper) -> String {
    pepper.print(headers.to_secret().expose())
}

fn listed(filters: &[EventFilter]) -> String {
    filters.iter().map(|filter| format!("{filter},")).collect()
}

fn named(profiles: Profiles) -> String {
    profiles.iter().map(|profile| format!("{},", profile.as_str())).collect()
}

const fn status_name(status: &EndpointStatus) -> &'static str {
    match status {
        EndpointStatus::Enabled => "enabled",
        EndpointStatus::Disabled { .. } => "disabled",
        EndpointStatus::Deleted => "deleted",
    }
}

/// What is longer than 292 million years is one and the same.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
