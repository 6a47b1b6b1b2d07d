//! Event bodies as pgw-core renders them, with random texts in every place that a caller can fill.

use std::collections::BTreeMap;

use pgw_core::currency::Currency;
use pgw_core::event::EventType;
use pgw_core::id::EventId;
use pgw_core::metadata::Metadata;
use pgw_core::money::Money;
use pgw_core::payment::{Failure, OperationKind, Payment};
use pgw_core::representation::{self, API_VERSION, EventHead};
use pgw_core::testing::random::Random;
use pgw_core::testing::sample::Samples;
use pgw_core::text::{CustomerName, Description, Reason};

use crate::words;

/// An event's id and body.
pub(crate) fn draw(random: &Random) -> (String, Vec<u8>) {
    let samples = Samples::new(random.number());
    let payment = draw_payment(&samples, random);
    let event_type = *random.pick(EventType::ALL).expect("there are event types");
    let object = if event_type.as_str().starts_with("refund.") {
        let mut refund = samples.operation(&payment, OperationKind::Refund);
        refund.reason = Reason::parse(&draw_text(random)).ok();
        refund.failure = draw_failure(random);
        representation::refund(samples.scope(), &refund)
    } else {
        representation::payment(&payment)
    };
    let id = EventId::mint(samples.env());
    let head = EventHead {
        id,
        api_version: API_VERSION,
        event_type,
        timestamp: samples.now(),
        sequence: Some(payment.sequence),
        merchant_id: samples.scope().merchant.as_str(),
    };
    (id.to_string(), representation::event_body(&head, &object).bytes.to_vec())
}

fn draw_payment(samples: &Samples, random: &Random) -> Payment {
    let mut payment = samples.payment();
    let currencies: Vec<Currency> = Currency::all().collect();
    let currency = *random.pick(&currencies).expect("there are currencies");
    let minor = i64::try_from(random.below(1_000_000_000)).unwrap_or(0);
    payment.amount = Money::from_minor(minor, currency).expect("ten digits are an amount");
    payment.captured_minor = minor;
    payment.metadata = draw_metadata(random);
    payment.failure = draw_failure(random);
    // A text of spaces alone is none.
    payment.description = Description::parse(&draw_text(random)).ok();
    if let Ok(name) = CustomerName::parse(&draw_text(random)) {
        payment.customer.name = name;
    }
    payment
}

fn draw_metadata(random: &Random) -> Metadata {
    let pairs: BTreeMap<String, String> = (0..words::spread(random, 0, Metadata::PAIRS_MAX))
        .map(|_| {
            let key = match random.below(3) {
                // An array index, which JavaScript puts before the rest.
                0 => random.below(10_000).to_string(),
                _ => format!("k{}", words::plain(random, words::within(random, 0, 39))),
            };
            let chars = words::spread(random, 0, Metadata::VALUE_CHARS_MAX);
            (key, words::plain(random, chars))
        })
        .collect();
    Metadata::from_pairs(pairs).expect("short keys, each once, and no digits in a row")
}

fn draw_failure(random: &Random) -> Option<Failure> {
    random.hits(200).then(|| Failure::new("card_declined", &words::text(random, 100)))
}

/// Short enough for every field, also after normalisation, which makes some characters three.
fn draw_text(random: &Random) -> String {
    words::plain(random, words::within(random, 1, 60))
}
