//! What was learned from a processor is never lost to a conflict, and never asked for twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pgw_core::builder::ProcessorSettings;
use pgw_core::changes::{Changes, Guard, Write};
use pgw_core::env::Env;
use pgw_core::gateway::Gateway;
use pgw_core::payment::{PaymentStatus, ProcessorName};
use pgw_core::processor::{
    Answer, Capabilities, Finding, Instruction, LookUp, Notification, NotificationError, Processor,
    ProcessorError,
};
use pgw_core::sandbox::Sandbox;
use pgw_core::scope::{Mode, Scope};
use pgw_core::storage::Storage as _;
use pgw_core::worker::Worker;
use pgw_storage_postgres::PgStorage;

use crate::fixtures::{Leg, Under};
use crate::world::{HEALTHY, keyed};

/// A processor during whose every call somebody changes the payment.
#[derive(Debug)]
struct Disturbed {
    sandbox: Sandbox,
    pg: PgStorage,
    calls: AtomicU32,
}

#[async_trait]
impl Processor for Disturbed {
    fn name(&self) -> &ProcessorName {
        self.sandbox.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.sandbox.capabilities()
    }

    async fn submit(&self, instruction: &Instruction) -> Result<Answer, ProcessorError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let (scope, id) = (&instruction.scope, instruction.payment);
        let state = self.pg.payment(scope, id).await.expect(HEALTHY).expect("it is there");
        let mut payment = state.payment;
        payment.version += 1;
        let version = payment.version - 1;
        let changes = Changes::new(scope.clone())
            .guard(Guard::Payment { id, version })
            .write(Write::Payment(Box::new(payment)));
        self.pg.commit(changes).await.expect("nobody else changes it now");
        self.sandbox.submit(instruction).await
    }

    async fn look_up(&self, query: &LookUp) -> Result<Finding, ProcessorError> {
        self.sandbox.look_up(query).await
    }

    async fn cancel_by_key(&self, query: &LookUp) -> Result<Finding, ProcessorError> {
        self.sandbox.cancel_by_key(query).await
    }

    fn parse_notification(
        &self,
        headers: &[(&str, &[u8])],
        body: &[u8],
    ) -> Result<Vec<Notification>, NotificationError> {
        self.sandbox.parse_notification(headers, body)
    }
}

#[tokio::test]
async fn a_conflict_after_a_processors_call_is_planned_anew_with_the_outcome_in_hand() {
    let pg = Under::test(Leg::Pool).await.storage;
    let sandbox = Sandbox::new(Env::system());
    let processor =
        Arc::new(Disturbed { sandbox: sandbox.clone(), pg: pg.clone(), calls: AtomicU32::new(0) });
    let gateway = Gateway::builder()
        .with_storage(Arc::new(pg.clone()))
        .with_queue(Arc::new(pg.queue()))
        .with_notifier(Arc::new(pg.notifier()))
        .with_processor(Mode::Test, Arc::clone(&processor) as _, ProcessorSettings::default())
        .build()
        .expect("it has all its parts");
    let worker = Worker::new(&gateway).start();
    let host = gateway.host();
    let id = host.create_payment(keyed("once")).await.expect(HEALTHY).payment().id;
    let state = host.wait_for(id, None, Duration::from_secs(30)).await.expect(HEALTHY);
    worker.shutdown().await;
    assert_eq!(state.payment.status, PaymentStatus::Succeeded);
    assert_eq!(processor.calls.load(Ordering::SeqCst), 1, "the processor was called again");
    assert_eq!(sandbox.executions(state.operations[0].id), 1, "it was charged twice");
    // Created, dispatched, disturbed, succeeded: every version is accounted for.
    let stored = pg.payment(&Scope::default(), id).await.expect(HEALTHY).expect("it is there");
    assert_eq!(stored.payment.version, 4);
}
