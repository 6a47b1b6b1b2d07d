//! The smallest host: a payment in a few lines, on memory, without HTTP. The README shows this program.

use std::sync::Arc;
use std::time::Duration;

use pgw_core::currency::Currency;
use pgw_core::email::Email;
use pgw_core::gateway::Gateway;
use pgw_core::idempotency::IdempotencyKey;
use pgw_core::money::Money;
use pgw_core::payment::Customer;
use pgw_core::payment::plan::{NewPayment, NewRefund, RequestedAmount};
use pgw_core::text::{CustomerName, PaymentMethod};
use pgw_core::worker::Worker;
use pgw_storage_memory::{MemoryNotifier, MemoryQueue, MemoryStorage};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder()
        .with_storage(Arc::new(MemoryStorage::new()))
        .with_queue(Arc::new(MemoryQueue::new()))
        .with_notifier(Arc::new(MemoryNotifier::new()))
        .build()?; // test mode has the sandbox processor
    let worker = Worker::new(&gateway).start();

    let customer = Customer {
        email: Email::parse("ada@example.com")?,
        name: CustomerName::parse("Ada Lovelace")?,
        id: None,
    };
    let amount = Money::parse_major("49.99", Currency::USD)?;
    let new = NewPayment::new(amount, customer, PaymentMethod::parse("tok_visa")?)
        .with_idempotency_key(IdempotencyKey::parse("order-1001")?);
    let pgw = gateway.host();
    let id = pgw.create_payment(new).await?.payment().id;
    let paid = pgw.wait_for(id, None, Duration::from_secs(5)).await?;
    println!("{id} is {}", paid.payment.status);

    let part = RequestedAmount::Decimal("20".into());
    let refund = pgw.refund_payment(id, NewRefund { amount: part, ..NewRefund::default() }).await?;
    let state = pgw.wait_for(id, Some(refund.operation), Duration::from_secs(5)).await?;
    println!(
        "{id} is {}, {} minor units refunded",
        state.payment.status, state.payment.refunded_minor
    );

    worker.shutdown().await;
    Ok(())
}
