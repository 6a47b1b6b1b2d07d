//! Time and randomness of the samples: the same for the same seed. Clocks that tests move are elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::env::{Clock, Entropy, Env};
use crate::timestamp::Timestamp;

/// Time and randomness that depend on nothing but a seed: each look at the clock moves it by 1 ms.
#[must_use]
pub fn seeded_env(seed: u64) -> Env {
    Env::new(
        Arc::new(TickingClock(AtomicI64::new(START_MICROS))),
        Arc::new(SeededBytes(AtomicU64::new(seed))),
    )
}

/// A clock that only moves when it is looked at.
#[derive(Debug)]
struct TickingClock(AtomicI64);

impl Clock for TickingClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.fetch_add(TICK_MICROS, Ordering::Relaxed))
    }
}

/// `SplitMix64` (Steele, Lea, Flood 2014): one addition per draw, so it is a single atomic.
#[derive(Debug)]
struct SeededBytes(AtomicU64);

impl Entropy for SeededBytes {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let word = (z ^ (z >> 31)).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// 2026-01-01T00:00:00Z.
const START_MICROS: i64 = 1_767_225_600_000_000;
/// One millisecond: ids of version 7 count in these, so they follow the times.
const TICK_MICROS: i64 = 1_000;
