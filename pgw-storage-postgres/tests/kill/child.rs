//! A worker process: a gateway whose processor and whose webhooks' receiver are its parent.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pgw_core::gateway::Gateway;
use pgw_core::payment::{ProcessorName, Reference};
use pgw_core::processor::{
    Answer, Capabilities, Finding, Instruction, LookUp, Notification, NotificationError, Processor,
    ProcessorError,
};
use pgw_core::queue::{Claim, Depth, Job, Lane, Queue, QueueError, Settlement};
use pgw_core::scope::Mode;
use pgw_core::testing::keys::key_ring;
use pgw_core::webhook::{
    EndpointUrl, TransportError, TransportErrorKind, WebhookRequest, WebhookResponse,
    WebhookTransport,
};
use pgw_core::worker::Worker;
use pgw_storage_postgres::{PgQueue, PgStorage};

use crate::wire::{Request, Wire};
use crate::world;

/// Works until it is killed, or until its standard input ends: then it drains, so that it never outlives its parent.
pub(crate) fn work(url: &str, schema: &str, socket: &str, number: &str) {
    world::runtime().block_on(async {
        let wire = Wire {
            socket: PathBuf::from(socket),
            worker: number.parse().expect("a worker has a number"),
        };
        let pg = world::connect(url, &schema.parse().expect("a valid name")).await;
        let gateway = gateway(&pg, &wire);
        let told_to_stop = async {
            let read = || io::copy(&mut io::stdin(), &mut io::sink());
            // However it ends, there is nobody at the other end any more.
            let _ = tokio::task::spawn_blocking(read).await;
        };
        let worker = Worker::new(&gateway).with_settings(world::worker_settings());
        let drained = worker.run(told_to_stop).await;
        assert_eq!(drained.returned, 0, "all that was under way fits into the drain");
    });
}

/// As the parent has it too: it creates what the worker then charges.
pub(crate) fn gateway(pg: &PgStorage, wire: &Wire) -> Gateway {
    let outside = Arc::new(Outside {
        name: ProcessorName::parse("bank").expect("a valid name"),
        wire: wire.clone(),
    });
    let queue = TellingQueue { inner: pg.queue(), wire: wire.clone() };
    Gateway::builder()
        .with_storage(Arc::new(pg.clone()))
        .with_queue(Arc::new(queue))
        .with_notifier(Arc::new(pg.notifier()))
        .with_processor(Mode::Test, Arc::clone(&outside) as _, world::processor_settings())
        .with_transport(outside, key_ring())
        .with_settings(world::settings())
        .build()
        .expect("it has all its parts")
}

/// The processor and the webhooks' receiver, at the other end of the wire.
#[derive(Debug)]
struct Outside {
    name: ProcessorName,
    wire: Wire,
}

impl Outside {
    async fn ask(&self, request: &Request) -> Result<String, ProcessorError> {
        self.wire.ask(request).await.map_err(|error| ProcessorError::Unclear(Arc::new(error)))
    }
}

fn read(answer: &str) -> Result<Answer, ProcessorError> {
    let read = || {
        let (minor, reference) = answer.split_once(' ')?;
        let amount = world::usd(minor.parse().ok()?);
        Some(Answer::Succeeded { reference: Some(Reference::new(reference)?), amount })
    };
    read().ok_or_else(|| ProcessorError::Unclear(Arc::new(io::Error::other(answer.to_owned()))))
}

#[async_trait]
impl Processor for Outside {
    fn name(&self) -> &ProcessorName {
        &self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { resolution: world::RESOLUTION }
    }

    async fn submit(&self, instruction: &Instruction) -> Result<Answer, ProcessorError> {
        let request = Request::Charge {
            key: instruction.key,
            payment: instruction.payment,
            minor: instruction.amount.minor(),
        };
        read(&self.ask(&request).await?)
    }

    async fn look_up(&self, query: &LookUp) -> Result<Finding, ProcessorError> {
        match self.ask(&Request::Find { key: query.key }).await?.as_str() {
            "nothing" => Ok(Finding::NotFound),
            found => read(found).map(Finding::Found),
        }
    }

    async fn cancel_by_key(&self, _query: &LookUp) -> Result<Finding, ProcessorError> {
        Err(ProcessorError::Unclear(Arc::new(io::Error::from(io::ErrorKind::Unsupported))))
    }

    fn parse_notification(
        &self,
        _headers: &[(&str, &[u8])],
        _body: &[u8],
    ) -> Result<Vec<Notification>, NotificationError> {
        Err(NotificationError::Unsupported)
    }
}

#[async_trait]
impl WebhookTransport for Outside {
    fn check(&self, _url: &EndpointUrl) -> Result<(), TransportError> {
        Ok(())
    }

    async fn send(&self, request: &WebhookRequest) -> Result<WebhookResponse, TransportError> {
        let answer = self.wire.ask(&Request::webhook(request)).await.ok();
        let status = answer.and_then(|answer| answer.parse().ok());
        let status = status.ok_or_else(|| TransportError::new(TransportErrorKind::Reset))?;
        Ok(WebhookResponse { status, body_start: Bytes::new(), retry_after: None })
    }
}

/// A queue that tells the parent when it has nothing to give: what the parent waits for need not be asked for all the time.
#[derive(Debug)]
struct TellingQueue {
    inner: PgQueue,
    wire: Wire,
}

#[async_trait]
impl Queue for TellingQueue {
    async fn push(&self, jobs: &[(Job, Duration)]) -> Result<(), QueueError> {
        self.inner.push(jobs).await
    }

    async fn restore(&self, jobs: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> {
        self.inner.restore(jobs).await
    }

    async fn claim(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, QueueError> {
        let claims = self.inner.claim(lane, max, lease).await?;
        if claims.is_empty() {
            // Of a parent that is gone the end of the standard input tells.
            let _ = self.wire.ask(&Request::Idle).await;
        }
        Ok(claims)
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<bool>, QueueError> {
        self.inner.extend(claims, lease).await
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        self.inner.settle(settlements).await
    }

    async fn leave(&self, lane: Lane) -> Result<(), QueueError> {
        self.inner.leave(lane).await
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        self.inner.depth(lane).await
    }
}
