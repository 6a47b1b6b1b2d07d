//! A customer with a marker wherever a host or a caller can put something personal, and a look for these in everything that can be read. What is
//! personal must be found before an erasure and nowhere after it.

use std::time::Duration;

use crate::currency::Currency;
use crate::email::Email;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::id::PaymentId;
use crate::idempotency::IdempotencyKey;
use crate::metadata::Metadata;
use crate::money::Money;
use crate::page::{PageFrom, PageRequest};
use crate::payment::plan::{NewCapture, NewPayment, NewRefund, RequestedAmount};
use crate::payment::{CaptureMethod, Customer};
use crate::representation;
use crate::scope::Scope;
use crate::storage::{AuditFilter, DeliveryFilter, PaymentFilter};
use crate::text::{CustomerId, CustomerName, Description, PaymentMethod, Reason};

/// Somebody.
#[derive(Debug, Clone)]
pub struct Person {
    name: String,
}

impl Person {
    /// Somebody whose every marker holds this word of lower-case letters and digits.
    #[must_use]
    pub fn new(word: &str) -> Self {
        Self { name: word.to_owned() }
    }

    /// Every marker: what must be gone.
    #[must_use]
    pub fn markers(&self) -> Vec<String> {
        let fields = ["id", "mail", "name", "text", "key", "value", "why"];
        fields.iter().map(|field| format!("{}-{field}", self.name)).collect()
    }

    /// The markers that are not in these bytes.
    #[must_use]
    pub fn missing_in(&self, bytes: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(bytes);
        self.markers().into_iter().filter(|marker| !text.contains(marker)).collect()
    }

    /// Whether these bytes hold anything of the person.
    #[must_use]
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        String::from_utf8_lossy(bytes).contains(&format!("{}-", self.name))
    }

    /// The customer's id.
    ///
    /// # Panics
    /// When the word is none.
    #[must_use]
    pub fn id(&self) -> CustomerId {
        CustomerId::parse(&format!("{}-id", self.name)).expect("a word")
    }

    /// The key of a request; keys are kept, so it holds no marker.
    fn key(&self, what: &str) -> IdempotencyKey {
        IdempotencyKey::parse(&format!("{what}-of-{}", self.name)).expect("a word")
    }

    /// A payment of 49.99 USD, under a key of its own for each `what`.
    ///
    /// # Panics
    /// When the word is none.
    #[must_use]
    pub fn payment(&self, what: &str, token: &str) -> NewPayment {
        let name = &self.name;
        let customer = Customer {
            email: Email::parse(&format!("{name}-mail@example.com")).expect("a word"),
            name: CustomerName::parse(&format!("{name}-name")).expect("a word"),
            id: Some(self.id()),
        };
        let amount = Money::from_minor(4_999, Currency::USD).expect("a valid amount");
        let method = PaymentMethod::parse(token).expect("a token");
        let mut new = NewPayment::new(amount, customer, method);
        new.description = Some(Description::parse(&format!("{name}-text")).expect("a word"));
        let pair = (format!("{name}-key"), format!("{name}-value"));
        new.metadata = Metadata::from_pairs([pair]).expect("one short pair");
        new.idempotency_key = Some(self.key(what));
        new
    }

    /// Pays, captures, is declined and gets some back, with a worker running; the payments.
    ///
    /// # Errors
    /// What the gateway's verbs fail with.
    ///
    /// # Panics
    /// When the word is none.
    pub async fn live(&self, gateway: &Gateway) -> Result<Vec<PaymentId>, Error> {
        let host = gateway.host();
        let minute = Duration::from_secs(60);
        let charged = host.create_payment(self.payment("charge", "tok_visa")).await?;
        let held = self.payment("hold", "tok_visa").with_capture(CaptureMethod::Manual);
        let held = host.create_payment(held).await?;
        let token = "tok_decline_insufficient_funds";
        let declined = host.create_payment(self.payment("decline", token)).await?;
        let ids = [charged, held, declined].map(|receipt| receipt.payment().id);
        for id in ids {
            host.wait_for(id, None, minute).await?;
        }
        let half = RequestedAmount::Decimal("20.00".into());
        let capture = NewCapture { amount: half.clone(), ..NewCapture::default() };
        let capture = NewCapture { idempotency_key: Some(self.key("capture")), ..capture };
        let captured = host.capture_payment(ids[1], capture).await?;
        host.wait_for(ids[1], Some(captured.operation), minute).await?;
        let reason = Reason::parse(&format!("{}-why", self.name)).expect("a word");
        let refund = NewRefund {
            amount: half,
            reason: Some(reason),
            idempotency_key: Some(self.key("refund")),
        };
        let refunded = host.refund_payment(ids[0], refund).await?;
        host.wait_for(ids[0], Some(refunded.operation), minute).await?;
        Ok(ids.to_vec())
    }
}

/// Everything of the default scope that the gateway's verbs give, as the wire shows it.
///
/// # Errors
/// What the verbs fail with.
pub async fn everything_read(gateway: &Gateway) -> Result<Vec<u8>, Error> {
    let (host, scope, mut all) = (gateway.host(), Scope::default(), Vec::new());
    let mut page = PageRequest::first(PageRequest::LIMIT_MAX);
    loop {
        let found = host.payments(&PaymentFilter::default(), page).await?;
        for payment in &found.data {
            all.extend(representation::payment(payment));
            let Some(state) = host.payment(payment.id).await? else { continue };
            for operation in &state.operations {
                all.extend(representation::payment_with_operation(&state, operation));
                all.extend(representation::refund(&scope, operation));
                if let Some(key) = &operation.idempotency_key
                    && let Some(answer) = host.stored_answer(key).await?
                {
                    all.extend(answer.body);
                }
            }
            for event in host.payment_events(payment.id, 0, 1_000).await? {
                all.extend(event.body);
            }
        }
        let Some(next) = found.next_cursor else { break };
        page = page.with_from(PageFrom::After(next));
    }
    for event in gateway.storage().feed(&scope, 0, 1_000).await? {
        all.extend(event.body);
    }
    let page = PageRequest::first(PageRequest::LIMIT_MAX);
    for delivery in host.deliveries(&DeliveryFilter::default(), page).await?.data {
        if let Some(work) = host.delivery(delivery.id).await? {
            all.extend(work.event.body);
        }
        for attempt in host.attempts(delivery.id, 100).await? {
            all.extend(representation::attempt(&attempt));
        }
    }
    for row in gateway.storage().audit(&scope.merchant, &AuditFilter::default(), page).await?.data {
        all.extend(format!("{row:?}").into_bytes());
    }
    Ok(all)
}
