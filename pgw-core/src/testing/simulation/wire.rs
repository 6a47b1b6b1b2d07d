//! The way to the processor: what each call meets on it, drawn from the seed. The sandbox at its end keeps the truth.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::payment::{Failure, OperationState, ProcessorName};
use crate::processor::{
    Answer, Capabilities, Finding, Instruction, LookUp, News, Notification, NotificationError,
    Processor, ProcessorError,
};
use crate::sandbox::{Decline, Fault, Sandbox, SandboxFaults};
use crate::testing::random::Random;

use super::witness::Witness;

/// Draws the fault of each call until the weather clears.
#[derive(Debug)]
pub(super) struct Script {
    dice: Random,
    clear: AtomicBool,
    outage: Mutex<Fault>,
}

impl Script {
    pub(super) fn new(dice: Random) -> Arc<Self> {
        Arc::new(Self { dice, clear: AtomicBool::new(false), outage: Mutex::default() })
    }

    /// Draws whether the processor is down for the next while, and how.
    pub(super) fn change(&self) {
        let outage = match self.dice.below(12) {
            0 | 1 => Fault::NotSent,
            2 => Fault::TimeoutBefore,
            3 => Fault::ResetAfter,
            _ => Fault::None,
        };
        *self.outage.lock().unwrap_or_else(PoisonError::into_inner) = outage;
    }

    fn outage(&self) -> Option<Fault> {
        let outage = *self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        (outage != Fault::None).then_some(outage)
    }

    /// Ends all faults.
    pub(super) fn clear(&self) {
        self.clear.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_clear(&self) -> bool {
        self.clear.load(Ordering::Relaxed)
    }
}

impl SandboxFaults for Script {
    fn on_submit(&self, _instruction: &Instruction) -> Fault {
        let draw = self.dice.below(100);
        if self.is_clear() {
            return Fault::None;
        }
        if let Some(outage) = self.outage() {
            return outage;
        }
        match draw {
            0..=4 => Fault::TimeoutBefore,
            5..=9 => Fault::TimeoutAfter,
            10..=13 => Fault::ResetAfter,
            14..=16 => Fault::ServerErrorAfter,
            17..=18 => Fault::Garbage,
            19..=23 => Fault::NotSent,
            24..=27 => Fault::PendingThenOk,
            28..=30 => Fault::PendingThenFail,
            31..=35 => Fault::RequiresAction,
            36..=38 => {
                Fault::Decline(self.dice.pick(&Decline::ALL).copied().unwrap_or(Decline::Generic))
            }
            39 => Fault::AmountMismatch,
            _ => Fault::None,
        }
    }

    fn on_query(&self, _query: &LookUp) -> Fault {
        let draw = self.dice.below(100);
        if self.is_clear() {
            return Fault::None;
        }
        if let Some(outage) = self.outage() {
            return outage;
        }
        match draw {
            0..=3 => Fault::TimeoutBefore,
            4..=7 => Fault::ResetAfter,
            8..=10 => Fault::Garbage,
            11..=13 => Fault::NotSent,
            _ => Fault::None,
        }
    }
}

/// The network between a process and the sandbox. A call that is on it arrives even when its caller is gone.
pub(super) struct Wire {
    sandbox: Sandbox,
    script: Arc<Script>,
    witness: Arc<Witness>,
    dice: Random,
    timeout: Duration,
}

impl Wire {
    pub(super) fn new(
        sandbox: Sandbox,
        script: Arc<Script>,
        witness: Arc<Witness>,
        dice: Random,
        timeout: Duration,
    ) -> Self {
        Self { sandbox, script, witness, dice, timeout }
    }

    /// Time on the way to the processor's door, which ends with the caller.
    async fn dawdle(&self) {
        let slow = self.dice.hits(60);
        // Now and then longer than the deadline.
        let wait = self.dice.wait(self.timeout + self.timeout / 2);
        if slow && !self.script.is_clear() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wire").field(&self.sandbox).finish()
    }
}

#[async_trait]
impl Processor for Wire {
    fn name(&self) -> &ProcessorName {
        self.sandbox.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.sandbox.capabilities()
    }

    async fn submit(&self, instruction: &Instruction) -> Result<Answer, ProcessorError> {
        self.dawdle().await;
        self.witness.submitted(instruction, self.timeout);
        let transit = self.dice.wait(TRANSIT_MAX);
        let (sandbox, instruction) = (self.sandbox.clone(), instruction.clone());
        let witness = Arc::clone(&self.witness);
        // On a task of its own: what is on the wire arrives, whoever crashes meanwhile.
        let call = tokio::spawn(async move {
            tokio::time::sleep(transit).await;
            let result = sandbox.submit(&instruction).await;
            witness.tell(
                instruction.payment,
                &format!("{} came to {}", instruction.key, brief(&result)),
            );
            result
        });
        call.await.expect("the sandbox does not panic and the call is never aborted")
    }

    async fn look_up(&self, query: &LookUp) -> Result<Finding, ProcessorError> {
        self.dawdle().await;
        let result = self.sandbox.look_up(query).await;
        self.witness.tell_owner(query.key, &format!("{} looked up: {}", query.key, found(&result)));
        result
    }

    async fn cancel_by_key(&self, query: &LookUp) -> Result<Finding, ProcessorError> {
        self.dawdle().await;
        self.witness.undone(query.key, self.timeout);
        let result = self.sandbox.cancel_by_key(query).await;
        self.witness.tell_owner(query.key, &format!("{} undone: {}", query.key, found(&result)));
        result
    }

    fn parse_notification(
        &self,
        headers: &[(&str, &[u8])],
        body: &[u8],
    ) -> Result<Vec<Notification>, NotificationError> {
        let mut told = self.sandbox.parse_notification(headers, body)?;
        if headers.iter().any(|(name, _)| *name == LIE_HEADER) {
            for notification in &mut told {
                // Only about what is settled: a processor that contradicts itself, as they do.
                if self.witness.state(notification.key).is_some_and(OperationState::is_settled) {
                    turn(&mut notification.news);
                }
            }
        }
        for notification in &told {
            let line = format!("{} in a notification: {:?}", notification.key, notification.news);
            self.witness.tell(notification.payment, &line);
        }
        Ok(told)
    }
}

fn found(result: &Result<Finding, ProcessorError>) -> String {
    match result {
        Ok(Finding::Found(answer)) => name(answer).to_owned(),
        Ok(Finding::NotFound) => "not found".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn brief(result: &Result<Answer, ProcessorError>) -> String {
    match result {
        Ok(answer) => name(answer).to_owned(),
        Err(error) => error.to_string(),
    }
}

const fn name(answer: &Answer) -> &'static str {
    match answer {
        Answer::Succeeded { .. } => "succeeded",
        Answer::Failed { .. } => "failed",
        Answer::Pending { .. } => "pending",
        Answer::RequiresAction { .. } => "requires_action",
    }
}

fn turn(news: &mut News) {
    if let News::Outcome(Answer::Succeeded { reference, .. }) = news {
        let failure = Failure::new("reversed", "It was reported as done before.");
        *news = News::Outcome(Answer::Failed { reference: reference.clone(), failure });
    }
}

/// On a notification: say the opposite of it.
pub(super) const LIE_HEADER: &str = "x-simulated-lie";

/// Longest a call is on the wire after it was sent. Less than the grace that follows each deadline: what is sent at the
/// last moment has arrived when silence is judged.
const TRANSIT_MAX: Duration = Duration::from_millis(900);
