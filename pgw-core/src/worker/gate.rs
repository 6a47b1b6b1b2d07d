//! The gate to a processor: its deadline, its concurrency cap and its breaker.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::builder::ProcessorSettings;
use crate::env::runtime_now;
use crate::payment::plan::Timing;
use crate::payment::{Operation, OperationState};
use crate::processor::{Answer, Processor, Resolution};

/// A processor and what guards it.
pub(crate) struct Gate {
    processor: Arc<dyn Processor>,
    settings: ProcessorSettings,
    places: Semaphore,
    breaker: Mutex<Breaker>,
}

impl Gate {
    pub(crate) fn new(processor: Arc<dyn Processor>, settings: ProcessorSettings) -> Self {
        Self {
            places: Semaphore::new(settings.concurrency_max),
            breaker: Mutex::new(Breaker::default()),
            processor,
            settings,
        }
    }

    pub(crate) fn processor(&self) -> &dyn Processor {
        &*self.processor
    }

    pub(crate) const fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// A place among the calls at once; `Err` says how long the breaker keeps the gate shut.
    pub(crate) async fn enter(&self) -> Result<SemaphorePermit<'_>, Duration> {
        let place = self.places.acquire().await.expect("the semaphore is never closed");
        let now = runtime_now();
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        match breaker.open_until {
            Some(until) if now < until => Err(until - now),
            Some(_) => {
                // One call is let through to see; the others wait for what becomes of it.
                breaker.open_until = Some(now + self.settings.breaker_pause);
                Ok(place)
            }
            None => Ok(place),
        }
    }

    /// The processor answered, whatever it said.
    pub(crate) fn answered(&self) {
        *self.breaker.lock().unwrap_or_else(PoisonError::into_inner) = Breaker::default();
    }

    /// It did not.
    pub(crate) fn silent(&self) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        breaker.failures = breaker.failures.saturating_add(1);
        if breaker.failures >= self.settings.breaker_failures {
            breaker.open_until = Some(runtime_now() + self.settings.breaker_pause);
        }
    }

    /// Whether what a call or a notification says may have been true only before we undid the operation by its key: then the
    /// undo, asked again until it answers, decides. A refusal stays true.
    pub(crate) fn is_outdated(&self, operation: &Operation, answer: &Answer) -> bool {
        self.processor.capabilities().resolution == Resolution::CancelByKey
            && operation.state == OperationState::Unknown
            && operation.probes >= 1
            && !matches!(answer, Answer::Failed { .. })
    }

    /// How long after a dispatch "not found" counts: the deadline and the processor's lag.
    pub(crate) fn conclusive_after(&self) -> Duration {
        let lag = match self.processor.capabilities().resolution {
            Resolution::Lookup { lag } => lag,
            Resolution::Replay { .. } | Resolution::CancelByKey | Resolution::EvidenceOnly => {
                Duration::ZERO
            }
        };
        self.settings.timeout.saturating_add(lag).saturating_add(GRACE)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("processor", &self.processor.name()).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

/// When an outcome that is not known yet is asked about first. Early, because "it happened" counts at any time.
pub(crate) const FIRST_PROBE_IN: Duration = Duration::from_secs(1);

/// When what an answer or notification leaves open is asked about.
pub(crate) const AFTER_AN_ANSWER: Timing =
    Timing { retry_in: Some(Duration::ZERO), probe_in: FIRST_PROBE_IN, probes: 0 };

/// How much later than the deadline a dispatched row falls due, so that the worker that waits for the answer
/// can still commit it.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::sandbox::Sandbox;

    fn gate(settings: ProcessorSettings) -> Gate {
        Gate::new(Arc::new(Sandbox::new(Env::system())), settings)
    }

    #[tokio::test(start_paused = true)]
    async fn a_processor_that_is_silent_is_left_alone_for_a_while() {
        let settings = ProcessorSettings::default();
        let gate = gate(settings);
        for _ in 0..settings.breaker_failures {
            drop(gate.enter().await.expect("not yet"));
            gate.silent();
        }
        assert_eq!(gate.enter().await.map(drop), Err(settings.breaker_pause));
        tokio::time::advance(settings.breaker_pause).await;
        let probe = gate.enter().await;
        assert!(probe.is_ok(), "one call is let through to see");
        assert!(gate.enter().await.is_err(), "and only one");
        gate.answered();
        assert!(gate.enter().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_calls_at_once_than_the_processor_bears() {
        let gate = gate(ProcessorSettings { concurrency_max: 2, ..ProcessorSettings::default() });
        let (one, _two) = (gate.enter().await, gate.enter().await);
        let third = tokio::time::timeout(Duration::from_secs(60), gate.enter()).await;
        assert!(third.is_err(), "there are two places");
        drop(one);
        assert!(gate.enter().await.is_ok());
    }
}
