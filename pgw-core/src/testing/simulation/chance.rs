//! What a world is like: everything about it that its seed decides once.

use std::time::Duration;

use crate::builder::{ProcessorSettings, Settings};
use crate::processor::Resolution;
use crate::retry::RetryPolicy;
use crate::testing::faults::Rates;
use crate::testing::random::Random;
use crate::worker::WorkerSettings;

/// The properties of a world.
#[derive(Debug, Clone)]
pub(super) struct Chance {
    pub(super) resolution: Resolution,
    pub(super) clocks: Clocks,
    pub(super) processes: usize,
    pub(super) workers: usize,
    pub(super) clients: usize,
    pub(super) actions: u64,
    pub(super) processor: ProcessorSettings,
    pub(super) worker: WorkerSettings,
    pub(super) settings: Settings,
}

/// Whether the clocks of processes jump. The two values are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clocks {
    Steady,
    Jumping,
}

impl Chance {
    pub(super) fn draw(dice: &Random) -> Self {
        let (resolution, clocks) = resolution(dice);
        let seconds = |from: u64, to: u64| Duration::from_secs(from + dice.below(to - from + 1));
        let timeout = seconds(2, 6);
        Self {
            resolution,
            clocks,
            processes: if dice.hits(600) { 2 } else { 1 },
            workers: if dice.hits(400) { 2 } else { 1 },
            clients: 2 + usize::try_from(dice.below(3)).unwrap_or(0),
            actions: 10 + dice.below(31),
            processor: ProcessorSettings {
                timeout,
                concurrency_max: 1 + usize::try_from(dice.below(8)).unwrap_or(0),
                breaker_failures: 4,
                breaker_pause: Duration::from_secs(2),
            },
            worker: WorkerSettings {
                operations_max: 1 + usize::try_from(dice.below(8)).unwrap_or(0),
                deliveries_max: 1 + usize::try_from(dice.below(8)).unwrap_or(0),
                lease: seconds(3, 12),
                poll: seconds(1, 3),
                reap: seconds(2, 6),
                drain: seconds(1, 8),
            },
            settings: Settings {
                send_again: RetryPolicy::exponential(
                    Duration::from_millis(500),
                    Duration::from_secs(4),
                    4,
                ),
                probe: RetryPolicy::exponential(Duration::from_secs(1), Duration::from_secs(8), 5),
                deliver_again: RetryPolicy::custom(
                    [1, 2, 4, 8].into_iter().map(Duration::from_secs).collect(),
                ),
                webhook_timeout: seconds(2, 5),
                ..Settings::default()
            },
        }
    }
}

fn resolution(dice: &Random) -> (Resolution, Clocks) {
    let clocks = if dice.hits(700) { Clocks::Jumping } else { Clocks::Steady };
    match dice.below(10) {
        0..=4 => {
            let lag = Duration::from_millis(500 + dice.below(4_500));
            (Resolution::Lookup { lag }, clocks)
        }
        5 => (Resolution::Replay { window: Duration::from_secs(24 * 60 * 60) }, clocks),
        // A window that ends within the run is told apart only by a clock that does not jump: what a clock jumps must be
        // less than the margin that is kept, a quarter of the window.
        6 => (Resolution::Replay { window: Duration::from_secs(60) }, Clocks::Steady),
        7 | 8 => (Resolution::CancelByKey, clocks),
        _ => (Resolution::EvidenceOnly, clocks),
    }
}

/// The weather of the next while.
pub(super) fn weather(dice: &Random) -> Rates {
    let fair = Rates {
        crash: 1,
        slow: 60,
        slow_max: Duration::from_millis(400),
        read_fails: 10,
        commit_fails: 15,
        commit_lost: 10,
        commit_applied_unheard: 15,
        queue_fails: 10,
        hint_lost: 100,
        hint_twice: 50,
    };
    match dice.below(12) {
        0 => Rates { read_fails: 1_000, commit_fails: 1_000, ..fair },
        1 => Rates { queue_fails: 1_000, ..fair },
        2 => Rates { hint_lost: 1_000, ..fair },
        // Longer than leases and deadlines.
        3 => Rates { slow: 300, slow_max: Duration::from_secs(15), ..fair },
        4 => Rates { slow: 700, slow_max: Duration::from_secs(2), ..fair },
        5 => Rates { commit_lost: 150, commit_applied_unheard: 250, ..fair },
        6 | 7 => Rates { crash: 6, ..fair },
        _ => fair,
    }
}
