//! Write-aheads: which were committed and not used yet, and whether what is sent has one of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::env::runtime_now;
use crate::id::OperationId;
use crate::payment::{Operation, OperationState};
use crate::processor::Confirmation;

/// The write-aheads of a world.
#[derive(Debug, Default)]
pub(super) struct WriteAheads(BTreeMap<OperationId, Row>);

/// What an operation's row said last, and the write-aheads of it that nothing was sent for.
#[derive(Debug)]
struct Row {
    state: OperationState,
    attempts: u32,
    probes: u32,
    unused: Vec<WriteAhead>,
}

#[derive(Debug, Clone, Copy)]
struct WriteAhead {
    of: Effect,
    committed_at: Instant,
}

/// What is sent to the processor and may have an effect there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Call(Confirmation),
    Undo,
}

impl WriteAheads {
    /// An operation was written just now.
    pub(super) fn written(&mut self, operation: &Operation) {
        let Operation { state, attempts, probes, .. } = *operation;
        let new = Row { state, attempts: 0, probes, unused: Vec::new() };
        let row = self.0.entry(operation.id).or_insert(new);
        let stays_unknown = [row.state, state] == [OperationState::Unknown; 2];
        let of = if attempts > row.attempts {
            let confirms = operation.confirmed;
            Some(Effect::Call(if confirms { Confirmation::Confirmed } else { Confirmation::None }))
        } else {
            (stays_unknown && probes > row.probes).then_some(Effect::Undo)
        };
        let committed_at = runtime_now();
        row.unused.extend(of.map(|of| WriteAhead { of, committed_at }));
        (row.state, row.attempts, row.probes) = (state, attempts, probes);
    }

    /// Something goes out. It uses up a write-ahead of its own, committed no longer ago than `timeout`; the rule that is broken when
    /// there is none.
    ///
    /// Whether the row still is as the write-ahead left it is not asked here. The worker made sure, but then a call takes its time to
    /// the processor's door. Meanwhile what the processor tells of an earlier call may move the row on, and the customer may confirm:
    /// no look at the row is so late that nothing comes after it. It does no harm. An earlier call with the same key has arrived then,
    /// so this one is a replay, which gives that call's result again, or a confirmation, which completes it once; and an undo of what
    /// has failed undoes nothing. What is answered to it is weighed by the row's fence.
    pub(super) fn sent(
        &mut self,
        key: OperationId,
        effect: Effect,
        timeout: Duration,
    ) -> Result<(), &'static str> {
        let none = "nothing is sent before its write-ahead is committed";
        let unused = &mut self.0.get_mut(&key).ok_or(none)?.unused;
        let now = runtime_now();
        // The oldest that is in time, so that whatever else is under way finds its own.
        let fits = |ahead: &WriteAhead| ahead.of == effect && now <= ahead.committed_at + timeout;
        if let Some(at) = unused.iter().position(fits) {
            unused.remove(at);
            return Ok(());
        }
        let is_late = unused.iter().any(|ahead| ahead.of == effect);
        Err(if is_late { "nothing is sent after its deadline" } else { none })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payment::OperationKind;
    use crate::testing::sample::Samples;

    const TIMEOUT: Duration = Duration::from_secs(5);
    const CALL: Effect = Effect::Call(Confirmation::None);
    const CONFIRMATION: Effect = Effect::Call(Confirmation::Confirmed);

    fn unknown() -> (WriteAheads, Operation) {
        let samples = Samples::new(1);
        let mut row = samples.operation(&samples.payment(), OperationKind::Authorize);
        (row.state, row.attempts, row.probes) = (OperationState::Queued, 0, 0);
        row.confirmed = false;
        let mut aheads = WriteAheads::default();
        aheads.written(&row);
        assert!(sent(&mut aheads, row.id, CALL).is_err(), "only queued");
        (row.state, row.attempts) = (OperationState::Dispatched, 1);
        aheads.written(&row);
        assert_eq!(sent(&mut aheads, row.id, CALL), Ok(()));
        row.state = OperationState::Unknown;
        aheads.written(&row);
        (aheads, row)
    }

    fn sent(
        aheads: &mut WriteAheads,
        key: OperationId,
        effect: Effect,
    ) -> Result<(), &'static str> {
        aheads.sent(key, effect, TIMEOUT)
    }

    fn write(aheads: &mut WriteAheads, row: &Operation, change: impl FnOnce(&mut Operation)) {
        let mut row = row.clone();
        change(&mut row);
        aheads.written(&row);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_ahead_is_for_one_call() {
        let (mut aheads, row) = unknown();
        assert!(sent(&mut aheads, row.id, CALL).is_err());
        write(&mut aheads, &row, |row| (row.attempts, row.probes) = (2, 1));
        assert!(sent(&mut aheads, row.id, CONFIRMATION).is_err(), "of another kind");
        assert!(sent(&mut aheads, row.id, Effect::Undo).is_err(), "of another kind");
        assert_eq!(sent(&mut aheads, row.id, CALL), Ok(()));
        assert!(sent(&mut aheads, row.id, CALL).is_err());
        write(&mut aheads, &row, |row| (row.attempts, row.probes) = (2, 2));
        assert_eq!(sent(&mut aheads, row.id, Effect::Undo), Ok(()));
        assert!(sent(&mut aheads, row.id, Effect::Undo).is_err());
        let other = OperationId::from_uuid(uuid::Uuid::from_u128(7));
        assert!(sent(&mut aheads, other, CALL).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_ahead_holds_until_its_deadline_wherever_the_row_goes() {
        let (mut aheads, row) = unknown();
        write(&mut aheads, &row, |row| row.attempts = 2);
        write(&mut aheads, &row, |row| {
            (row.state, row.attempts) = (OperationState::RequiresAction, 2);
        });
        write(&mut aheads, &row, |row| {
            (row.state, row.attempts, row.confirmed) = (OperationState::Queued, 2, true);
        });
        assert!(sent(&mut aheads, row.id, CONFIRMATION).is_err(), "not dispatched yet");
        tokio::time::advance(TIMEOUT).await;
        write(&mut aheads, &row, |row| (row.attempts, row.confirmed) = (3, true));
        assert_eq!(sent(&mut aheads, row.id, CALL), Ok(()));
        tokio::time::advance(TIMEOUT + Duration::from_millis(1)).await;
        assert_eq!(
            sent(&mut aheads, row.id, CONFIRMATION),
            Err("nothing is sent after its deadline")
        );
    }
}
