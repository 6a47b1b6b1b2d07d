//! The other faulty parts: queue, notifier, processor, transport.
#![deny(clippy::missing_trait_methods)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Faults, Faulty, Weight, how, made};
use crate::notifier::{Hint, Notifier, NotifierError, Subscription};
use crate::payment::ProcessorName;
use crate::processor::{
    Answer, Capabilities, Finding, Instruction, LookUp, Notification, NotificationError, Processor,
    ProcessorError,
};
use crate::queue::{Claim, Depth, Job, Lane, Queue, QueueError, Settlement, Verdict};
use crate::testing::crash::Life;
use crate::webhook::{
    EndpointUrl, TransportError, WebhookRequest, WebhookResponse, WebhookTransport,
};

macro_rules! queue_call {
    ($self:ident, $name:literal, $call:expr) => {{
        $self.enter(Weight::LIGHT).await;
        if $self.faults.hits(|rates| rates.queue_fails) {
            $self.leave($name, "unavailable", Weight::LIGHT).await;
            return Err(QueueError::Unavailable(made()));
        }
        let result = $call.await;
        $self.leave($name, how(&result), Weight::LIGHT).await;
        result
    }};
}

#[async_trait]
impl Queue for Faulty<dyn Queue> {
    async fn push(&self, jobs: &[(Job, Duration)]) -> Result<(), QueueError> {
        queue_call!(self, "push", self.inner.push(jobs))
    }

    async fn restore(&self, jobs: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> {
        queue_call!(self, "restore", self.inner.restore(jobs))
    }

    async fn claim(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, QueueError> {
        let claim = async {
            let result = self.inner.claim(lane, max, lease).await;
            for claim in result.as_deref().unwrap_or_default() {
                self.faults.watched(|watch| watch.claimed(claim, lease));
            }
            result
        };
        queue_call!(self, "claim", claim)
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<bool>, QueueError> {
        let extend = async {
            let result = self.inner.extend(claims, lease).await;
            for (claim, was_held) in claims.iter().zip(result.as_deref().unwrap_or_default()) {
                self.faults.watched(|watch| watch.extended(claim, lease, *was_held));
            }
            result
        };
        queue_call!(self, "extend", extend)
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        let settle = async {
            let result = self.inner.settle(settlements).await;
            for (done, was_held) in settlements.iter().zip(result.as_deref().unwrap_or_default()) {
                // What a commit settled is not asked about where the rows are the queue.
                if !matches!(done.verdict, Verdict::Committed { .. }) {
                    self.faults.watched(|watch| watch.settled(&done.claim, *was_held));
                }
            }
            result
        };
        queue_call!(self, "settle", settle)
    }

    async fn leave(&self, lane: Lane) -> Result<(), QueueError> {
        queue_call!(self, "leave", self.inner.leave(lane))
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        queue_call!(self, "depth", self.inner.depth(lane))
    }
}

#[async_trait]
impl Notifier for Faulty<dyn Notifier> {
    async fn publish(&self, hints: &[Hint]) -> Result<(), NotifierError> {
        self.enter(Weight::LIGHT).await;
        if self.faults.hits(|rates| rates.hint_lost) {
            self.leave("publish", "unavailable", Weight::LIGHT).await;
            return Err(NotifierError::Unavailable(made()));
        }
        let result = self.inner.publish(hints).await;
        if result.is_ok() && self.faults.hits(|rates| rates.hint_twice) {
            self.inner.publish(hints).await?;
        }
        self.leave("publish", how(&result), Weight::LIGHT).await;
        result
    }

    async fn subscribe(&self) -> Result<Box<dyn Subscription>, NotifierError> {
        self.enter(Weight::LIGHT).await;
        if self.faults.hits(|rates| rates.hint_lost) {
            self.leave("subscribe", "unavailable", Weight::LIGHT).await;
            return Err(NotifierError::Unavailable(made()));
        }
        let inner = self.inner.subscribe().await?;
        self.leave("subscribe", "ok", Weight::LIGHT).await;
        let (faults, life) = (Arc::clone(&self.faults), self.life.clone());
        Ok(Box::new(FaultySubscription { inner, faults, life }))
    }
}

#[derive(Debug)]
struct FaultySubscription {
    inner: Box<dyn Subscription>,
    faults: Arc<Faults>,
    life: Life,
}

#[async_trait]
impl Subscription for FaultySubscription {
    async fn next(&mut self) -> Hint {
        loop {
            let hint = self.inner.next().await;
            self.life.go_on().await;
            // Nothing is awaited between hearing a hint and giving it, so dropping the future loses none.
            if !self.faults.hits(|rates| rates.hint_lost) {
                self.faults.note("hint", "heard");
                return hint;
            }
        }
    }
}

#[async_trait]
impl Processor for Faulty<dyn Processor> {
    fn name(&self) -> &ProcessorName {
        self.inner.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn submit(&self, instruction: &Instruction) -> Result<Answer, ProcessorError> {
        self.enter(Weight::HEAVY).await;
        let result = self.inner.submit(instruction).await;
        self.leave("submit", how(&result), Weight::HEAVY).await;
        result
    }

    async fn look_up(&self, query: &LookUp) -> Result<Finding, ProcessorError> {
        self.enter(Weight::HEAVY).await;
        let result = self.inner.look_up(query).await;
        self.leave("look_up", how(&result), Weight::HEAVY).await;
        result
    }

    async fn cancel_by_key(&self, query: &LookUp) -> Result<Finding, ProcessorError> {
        self.enter(Weight::HEAVY).await;
        let result = self.inner.cancel_by_key(query).await;
        self.leave("cancel_by_key", how(&result), Weight::HEAVY).await;
        result
    }

    fn parse_notification(
        &self,
        headers: &[(&str, &[u8])],
        body: &[u8],
    ) -> Result<Vec<Notification>, NotificationError> {
        self.inner.parse_notification(headers, body)
    }
}

#[async_trait]
impl WebhookTransport for Faulty<dyn WebhookTransport> {
    fn check(&self, url: &EndpointUrl) -> Result<(), TransportError> {
        self.inner.check(url)
    }

    async fn send(&self, request: &WebhookRequest) -> Result<WebhookResponse, TransportError> {
        self.enter(Weight::HEAVY).await;
        self.faults.watched(|watch| watch.sending(&self.life));
        let result = self.inner.send(request).await;
        self.leave("send", how(&result), Weight::HEAVY).await;
        result
    }
}
